"""Damage to files, the same for the same random generator."""

import json
import os
import random
from collections.abc import Iterator
from typing import Any

CASES = int(os.environ.get("ANPROMPT_FUZZ", "60"))  # of each test; more than a glance: 2000

SEED = int(os.environ.get("ANPROMPT_FUZZ_SEED", "1"))

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 101, 770, 1e308, 10**400, -(10**30), 0.5, "", "x", [], {}, [1],
    {"a": 1}, [[]], ["x"], {"accuracy": 5}, "<img src=x onerror=alert(1)>", "=1+1",
    "\\input{secret}", "\x1b[31m", "\ud800", "a/b", "../../../etc/passwd", "9" * 500, "a" * 3000,
]  # fmt: skip
KEYS = ["a/b/c/d", "text/x/1/1", "image/blur/9999/1", "<b>", "\x00k", "seed", "finished"]


def _paths(node: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _paths(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _paths(value, (*path, number))


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """One entry removed, renamed or replaced; entries near the top more often."""
    root = json.loads(content)
    paths = list(_paths(root))
    depth = rng.choice([1, 2, 3, 6, 9])
    path = rng.choice([path for path in paths if len(path) <= depth])
    node = root
    for key in path[:-1]:
        node = node[key]
    how = rng.random()
    if how < 0.15:
        del node[path[-1]]
    elif how < 0.25 and isinstance(node, dict):
        node[rng.choice(KEYS)] = node.pop(path[-1])
    else:
        node[path[-1]] = rng.choice(VALUES)
    text = json.dumps(root)
    if how > 0.97:
        text = text.replace("1", rng.choice(["NaN", "Infinity", "1" * 5000]), 1)
    return text.encode("utf-8")


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, overwritten, repeated in part, nested without end, empty, or with a byte order mark."""
    how = rng.randrange(7)
    size = len(content)
    if how == 0:
        return content[: rng.randrange(size + 1)]
    if how == 1:
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 20)):
            changed[rng.randrange(size)] = rng.randrange(256)
        return bytes(changed)
    if how == 2:
        return b"\xef\xbb\xbf" + content
    if how == 3:
        return rng.choice([b"[", b'{"a":', b"- "]) * rng.choice([10, 100, 1000, 100_000])
    if how == 4:
        return rng.choice([b"", b"\x00" * 99, b"null", b"\xff\xfe"])
    start, place = rng.randrange(size), rng.randrange(size)
    return content[:place] + content[start : start + rng.randrange(200)] + content[place:]


def damaged(content: bytes, is_json: bool, rng: random.Random) -> bytes:
    """Damage of either kind."""
    how = damaged_json if is_json and rng.random() < 0.75 else damaged_bytes
    return how(content, rng)
