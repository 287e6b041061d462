"""Feed damaged input to the program: it must refuse it in one line or run, in bounded time.

A target is a generator of damaged inputs and a function that tries one::

    def test_settings_files(tmp_path):
        fuzz("settings", lambda rng: mutate(rng, GOOD), attempt)

Everything follows from a seed. ``ANPROMPT_FUZZ`` (default 30) is the number of inputs per target,
``ANPROMPT_FUZZ_SEED`` (default 0) the first seed; a failure names the seed that repeats it. All
targets with many inputs, and the counts::

    ANPROMPT_FUZZ=1000 python -m pytest tests/fuzz -s
"""

import contextlib
import json
import os
import random
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import UsageError, one_line

CASES = int(os.environ.get("ANPROMPT_FUZZ", "30"))
SEED = int(os.environ.get("ANPROMPT_FUZZ_SEED", "0"))
SECONDS = 20  # for one input, on a busy machine


class TooSlow(BaseException):
    """One input took too long; no handler of the program may take it for an error of its own."""


def fuzz(
    name: str,
    make: Callable[[random.Random], Any],
    attempt: Callable[[Any], None],
    cases: int | None = None,
) -> Counter:
    """Try many inputs, and return how many were refused and how many ran.

    Args:
        name: of the target; its inputs follow from it and the seed.
        make: returns an input.
        attempt: does with it what a user would. Refusing is a ``UsageError`` of one line, or an
            ``OSError``, which commands show as one.
        cases: how many; ``ANPROMPT_FUZZ`` where left out.

    Raises:
        AssertionError: another exception, or an input that took too long; names its seed.
    """
    outcomes: Counter = Counter()
    failures = []
    for seed in range(SEED, SEED + (CASES if cases is None else cases)):
        rng = random.Random(f"{name} {seed}")
        repeat = f"ANPROMPT_FUZZ=1 ANPROMPT_FUZZ_SEED={seed}"
        try:
            with warnings.catch_warnings(), time_limit(SECONDS):
                warnings.simplefilter("ignore")
                attempt(make(rng))
        except (UsageError, OSError) as error:
            line = one_line(error)
            outcomes["refused"] += 1
            if not line or len(line) > 2000:
                failures.append(f"{repeat}: {len(line)} letters: {line[:150]}")
        except TooSlow:
            failures.append(f"{repeat}: more than {SECONDS} seconds")
        except Exception:
            failures.append(f"{repeat}: {traceback.format_exc(limit=-4)}")
        else:
            outcomes["ran"] += 1
    print(
        f"\nfuzz {name}: {outcomes['refused']} refused, {outcomes['ran']} ran, {len(failures)} bad"
    )
    assert not failures, f"{name}: {len(failures)} bad, among them\n" + "\n".join(failures[:3])
    return outcomes


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TooSlow`` in what runs for longer."""

    def stop(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mutate(rng: random.Random, content: bytes, tokens: tuple[bytes, ...] = ()) -> bytes:
    """Return bytes with one to four damages: flipped, cut, repeated, swapped, or tokens put in."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        length = min(int(rng.expovariate(0.1)) + 1, len(data) - start)
        kind = rng.choice(["flip", "cut", "end", "repeat", "noise", "token", "zero"])
        if kind == "flip" and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[start : start + length]
        elif kind == "end":
            del data[start:]
        elif kind == "repeat":
            data[start:start] = data[start : start + length] * rng.choice([1, 2, 50])
        elif kind == "noise":
            data[start : start + length] = rng.randbytes(length)
        elif kind == "zero":
            data[start : start + length] = bytes(length)
        elif kind == "token" and tokens:
            data[start:start] = rng.choice(tokens)
    return bytes(data)


def odd_value(rng: random.Random) -> Any:
    """Return a value that a careful program has to think of."""
    return rng.choice(
        [
            None, True, False, 0, -1, 1, 10**30, -(10**30), 0.5, 1e308, float("nan"), float("inf"),
            "", " ", "x" * 5000, "../x", "/etc/passwd", "a\0b", "\ud800", "C:\\x", "{}", "\n\n",
            [], {}, [[]], {"": None}, [[[[[[[[]]]]]]]], list(range(50)),
        ]
    )  # fmt: skip


def mutate_json(rng: random.Random, value: Any) -> str:
    """Return JSON text of a value in which one to three places hold something else."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        place, parent, key = value, None, None
        while isinstance(place, (dict, list)) and place and rng.random() < 0.8:
            parent = place
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place = place[key]
        if parent is None:
            if rng.random() < 0.2:
                value = odd_value(rng)
            continue
        action = rng.choice(["put", "put", "remove", "add", "copy"])
        if action == "put":
            parent[key] = odd_value(rng)
        elif action == "remove":
            del parent[key]
        elif action == "copy":
            parent[rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))] = (
                place
            )
        elif isinstance(parent, list):
            parent.insert(rng.randint(0, len(parent)), odd_value(rng))
        else:
            parent[rng.choice(["x", "", "train"])] = odd_value(rng)
    return json.dumps(value)
