"""Read JSON and YAML that somebody else wrote: bad content is a ``UsageError`` that names the file.

Files of unknown origin are bounded: their size, the depth of nesting, and (YAML) aliases, which can
make a few lines mean gigabytes. YAML is plain data; a key given twice is refused, because the
second would win in silence.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from common.errors import UsageError, one_line

MAX_BYTES = 256 << 20  # descriptions of ImageNet's classes take some 10 MB
MAX_YAML_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_NODES = 200_000  # values of a YAML file once its aliases are resolved


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return a regular file's content.

    Raises:
        UsageError: it cannot be read, is no regular file (a pipe would wait for ever), or is larger
            than ``limit`` bytes.
    """
    try:
        # Without waiting: opening a pipe that nobody writes to would hang.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: not a regular file")
            if status.st_size > limit:
                raise UsageError(f"{path}: {status.st_size:,} bytes; at most {limit:,} are read")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        if isinstance(error, UsageError):
            raise
        if isinstance(error, OSError):
            error.filename = os.fspath(path)
        raise _as_read_error(path, error) from error


def _as_read_error(path: str | Path, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return MissingFile(f"{path}: no such file")
    if isinstance(error, OSError):
        return UsageError(one_line(error))
    return UsageError(f"{str(path)!r}: not a file's name ({error})")


class MissingFile(UsageError, FileNotFoundError):
    """There is no such file."""

    def __str__(self) -> str:
        return str(self.args[0])


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Return a UTF-8 file's text, without the byte order mark that some editors put first.

    Raises:
        UsageError: as `read_bytes`, or the text is not UTF-8.
    """
    content = read_bytes(path, limit)
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not UTF-8 text (byte {error.start}); save it with the encoding UTF-8"
        ) from error


def read_json(path: str | Path, limit: int = MAX_BYTES) -> Any:
    """Return a JSON file's content; NaN and infinities are refused.

    Raises:
        UsageError: as `read_text`, or not valid JSON.
    """
    text = read_text(path, limit)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        _check_json_depth(content)
        return content
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise UsageError(f"{path}: not valid JSON ({reason})") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a finite number")


def _check_json_depth(content: Any) -> None:
    """Refuse what is nested so deeply that whoever walks through it may run out of stack."""
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
    if level:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")


def read_yaml(path: str | Path, limit: int = MAX_YAML_BYTES) -> Any:
    """Return a YAML file's content: plain data, no key twice.

    Raises:
        UsageError: as `read_text`, or not valid YAML, or nested or aliased beyond all use.
    """
    return parse_yaml(read_text(path, limit), str(path))


def parse_yaml(text: str, path: str = "<text>") -> Any:
    """Return what a YAML text holds; ``path`` is what messages call it.

    Raises:
        UsageError: as `read_yaml`.
    """
    loader = _Loader(text)
    try:
        # First: composing recurses, in C, where too deep a nesting crashes.
        has_aliases = _check_events(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if has_aliases:
            _check_extent(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or one_line(error)
        raise UsageError(f"{path}{where}: not valid YAML ({problem})") from error
    except (RecursionError, ValueError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise UsageError(f"{path}: not valid YAML ({reason})") from error
    finally:
        loader.dispose()


def _check_events(text: str) -> bool:
    """Refuse what is too large or too deep as it is written; return whether it has aliases."""
    depth = count = 0
    has_aliases = False
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.ScalarEvent):
            count += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            has_aliases = True
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if count > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES:,} values")
    return has_aliases


def _check_extent(root: yaml.Node) -> None:
    """Refuse what would be too large or too deep with its aliases written out.

    Nodes come in post-order; a node inside itself is refused as well.
    """
    extents: dict[int, tuple[int, int]] = {}  # by node: nodes in it, levels
    open_nodes: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, is_done = stack.pop()
        children = _children(node)
        if is_done:
            open_nodes.discard(id(node))
            known = [extents[id(child)] for child in children]
            size = 1 + sum(size for size, _ in known)
            depth = 1 + max((depth for _, depth in known), default=0)
            if size > MAX_NODES:
                raise ValueError(f"more than {MAX_NODES:,} values once its aliases are resolved")
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
            extents[id(node)] = size, depth
        elif id(node) in open_nodes:
            raise ValueError("an alias that contains itself")
        elif id(node) not in extents:
            open_nodes.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in children)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain data only; a key twice in one mapping is refused."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
