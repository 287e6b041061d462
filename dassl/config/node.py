"""Configuration nodes: yacs, with mistakes answered in one line and files that are plain data."""

import ast
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from common.errors import UsageError
from common.names import nearest
from common.reading import MissingFile, parse_yaml, read_text
from common.settings import MAX_INT, convert, describe, leaves, problem, shorten

BASE = "_BASE_"  # in a YAML file: another one, whose settings it starts from
SUFFIXES = (".yaml", ".yml")
MAX_FILE = 1 << 16  # bytes of a YAML file; reading takes a third of a second at most
MAX_LITERAL = 2000  # characters of a value that may be more than text

logger = logging.getLogger(__name__)

# Dotted name -> (value, what messages say it comes from).
Pairs = dict[str, tuple[Any, str]]


class Config(CfgNode):
    """A yacs node. Merging an unknown key or a wrong value raises :class:`UsageError`.

    Values of described settings (``common.settings``) are checked as they are merged. Groups may be
    plain yacs nodes, as trainers written for Dassl add them. Files are YAML and never run code,
    whereas yacs executes files that end in ``.py``.
    """

    def clone(self) -> "Config":
        """Return a copy that is free to change."""
        copy: Config = _copied(self)
        copy.defrost()
        return copy

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Overwrite values with those of a YAML file.

        A file that names another as ``_BASE_`` (seen from itself) says what differs from that one.
        A table (values by data set) that files give stands in place of the default one; an empty
        one (``{}``) also of the base's.

        Raises:
            UsageError: missing or unreadable file, no YAML, unknown key (with the nearest known),
                wrong value.
        """
        self.merge_pairs(read_file(cfg_filename))

    def merge_pairs(self, pairs: Pairs) -> None:
        """Overwrite values with those of files (`read_file`); errors as `merge_from_file`."""
        pairs = dict(pairs)
        given = {table for name in pairs if (table := _table_of(name))}
        for name, (value, where) in list(pairs.items()):
            setting = describe(name)
            below = f"{name.rpartition('.')[0]}.{setting.below}" if setting else ""
            if setting and setting.below and below not in given:
                del pairs[name]
                pairs[f"{below}.default"] = value, where
        self._merge(pairs, replaced=given)

    def merge_from_other_cfg(self, cfg_other: Mapping) -> None:
        """Overwrite values with those of another configuration; errors as for a file."""
        given = "the given configuration"
        self._merge({name: (value, given) for name, value in leaves(cfg_other)})

    def merge_from_list(self, cfg_list: list) -> None:
        """Overwrite values given as alternating keys and values, as on the command line.

        Raises:
            UsageError: as :meth:`merge_from_file`; also a key without a value.
        """
        if len(cfg_list) % 2:
            raise UsageError(
                f"options come in pairs of KEY VALUE, but {shorten(cfg_list[-1])} stands alone at "
                "the end"
            )
        pairs = zip(cfg_list[0::2], cfg_list[1::2], strict=True)
        self._merge({str(key): (value, "the command line") for key, value in pairs})

    def _merge(self, pairs: Pairs, replaced: set[str] | None = None) -> None:
        """Check all pairs, then take them over; the tables ``replaced`` start empty."""
        pairs = {key: pair for key, pair in pairs.items() if not self._is_without_effect(key, pair)}
        checked = [(key, self._converted(key, *pair)) for key, pair in pairs.items()]
        for table in replaced or ():
            _lookup(self, table).clear()
        for key, value in checked:
            setting = describe(key)
            if isinstance(value, dict) and setting is not None and setting.table:
                value = CfgNode(dict(value), new_allowed=True)
            elif isinstance(value, CfgNode):  # an empty group in the file changes nothing
                continue
            _assign(self, key, value)

    def _is_without_effect(self, key: str, pair: tuple[Any, str]) -> bool:
        """Whether a setting is left out; said in a line, as for settings that nothing reads."""
        value, where = pair
        others = getattr(self.get("TRAINER"), "_others", {})
        if key in others or key.rpartition(".")[0] in others:  # a setting, or a table's entry
            method = others.get(key) or others[key.rpartition(".")[0]]
            logger.info("%s: %s has no effect: it is a setting of %s", where, key, method)
            return True
        setting = describe(key)
        if setting is None or setting.scope != "unused" or not _is_known(self, key):
            return False
        if _decoded(value) != setting.default:
            logger.info("%s: %s has no effect here (%s)", where, key, setting.help)
        return False

    def _converted(self, key: str, value: Any, where: str) -> Any:
        """``value`` in the type that ``key`` has."""
        if not _is_known(self, key):
            raise UsageError(f"{where}: unknown config key {self._unknown(key)}")
        given, value = value, _decoded(value)
        setting, current = describe(key), _lookup(self, key)
        if setting is None:
            return _in_type_of(current, key, value, where)
        is_text = setting.kind is str and not setting.is_list
        if is_text and isinstance(given, str) and not isinstance(value, (str, bool, type(None))):
            value = given  # a folder called 2024
        value = convert(key, value)
        said = problem(key, value)
        if said:
            raise UsageError(f"{where}: {said}")
        return value

    def _unknown(self, key: str) -> str:
        known = [name for name, _ in leaves(self)]
        near = nearest(key, known) or nearest(key.split(".")[-1], known)
        hint = f"; nearest known: {', '.join(near)}" if near else ""
        path = key.split(".")
        if path[0] == "TRAINER" and len(path) > 2 and path[1] not in self.get("TRAINER", {}):
            hint += (
                f". A trainer of your own declares the settings TRAINER.{shorten(path[1])[1:-1]} "
                "in its extend_cfg (docs/ADDING_A_METHOD.md)"
            )
        return shorten(key)[1:-1] + hint


class Methods(Config):
    """The TRAINER node: the trainer's name and one group of settings for each method declared.

    Reading a group that nobody declared is a mistake of whoever wrote the trainer, and answered in
    one line.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            raise UndeclaredMethod(
                f"TRAINER.{name}: nobody declared these settings. A trainer of your own declares "
                "them in its extend_cfg (docs/ADDING_A_METHOD.md)"
            ) from None


class UndeclaredMethod(UsageError, AttributeError):
    """A group of settings under TRAINER that no trainer declared."""


def _copied(node: Any) -> Any:
    """A copy of a node and all below it, faster than ``copy.deepcopy``."""
    if isinstance(node, CfgNode):
        copy = CfgNode.__new__(type(node))
        copy.__dict__.update(node.__dict__)
        for key, value in node.items():
            dict.__setitem__(copy, key, _copied(value))
        return copy
    return list(node) if type(node) is list else node


def read_file(path: str | Path) -> Pairs:
    """Return the settings of a YAML file and of those that it starts from, by dotted name.

    Raises:
        UsageError: a file is missing, unreadable or no YAML.
    """
    return _file_pairs(Path(path), ())


def _file_pairs(path: Path, below: tuple[Path, ...]) -> Pairs:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: not a YAML file; configurations end in {' or '.join(SUFFIXES)}")
    try:
        content = _parsed(read_text(path, MAX_FILE), str(path))
    except MissingFile as error:
        raise UsageError(f"no such config file: {path}{_hint(path)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no settings (KEY: value lines)")
    content = dict(content)
    place = path.resolve()
    if place in below or len(below) > 10:
        raise UsageError(f"{path}: {BASE} leads in a circle")
    base = content.pop(BASE, None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{path}: {BASE} takes the name of a YAML file, got {shorten(base)}")
    pairs = _file_pairs(path.parent / base, (*below, place)) if base else {}
    own = dict(_flat(content, str(path)))
    emptied = {name for name, (value, _) in own.items() if value == {} and name == _table_of(name)}
    kept = {name: pair for name, pair in pairs.items() if _table_of(name) not in emptied}
    return {**kept, **own}


# A sweep reads the same few files hundreds of times.
_parsed = functools.lru_cache(maxsize=256)(parse_yaml)


def _hint(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = nearest(path.stem, [other.stem for other in path.parent.glob("*.y*ml")])
    return f"; nearest in {path.parent}: {', '.join(near)}" if near else ""


def _flat(content: dict, path: str, prefix: str = "") -> Iterator[tuple[str, tuple[Any, str]]]:
    for key, value in content.items():
        if not isinstance(key, str) or not key or "." in key:
            raise UsageError(f"{path}: {shorten(key)} is not the name of a setting or group")
        if isinstance(value, dict) and value:
            yield from _flat(value, path, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", (value, path)


def _table_of(name: str) -> str:
    """The table that a name is, or is an entry of; "" for other settings."""
    setting = describe(name)
    if setting is None or not setting.table:
        return ""
    parent = name.rpartition(".")[0]
    above = describe(parent)
    return parent if above is not None and above.table else name


def _decoded(value: Any) -> Any:
    """What a text stands for, as yacs has it: a number, a list, None; else the text itself."""
    if not isinstance(value, str) or len(value) > MAX_LITERAL:
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about backslashes and the like in what is plain text
            return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return value


def _in_type_of(current: Any, key: str, value: Any, where: str) -> Any:
    """The value of a setting that nobody described, in the type that it has."""
    if type(current) is float and type(value) is int and abs(value) <= MAX_INT:
        value = float(value)
    fits = current is None or value is None or type(current) is type(value)
    if isinstance(current, CfgNode) or isinstance(value, dict):
        fits = current is None or (isinstance(current, CfgNode) and value == {})
    elif isinstance(current, (list, tuple)) and isinstance(value, (list, tuple)):
        value, fits = type(current)(value), True
    if not fits:
        raise UsageError(
            f"{where}: {key} takes {_kind(current)}, got {shorten(value)} ({_kind(value)})"
        )
    said = problem(key, value)
    if said:
        raise UsageError(f"{where}: {said}")
    return CfgNode(value) if isinstance(value, dict) else value


def _is_known(node: Any, key: str) -> bool:
    """Whether a dotted key exists below ``node``, or may be added there."""
    for part in key.split("."):
        if not isinstance(node, CfgNode):
            return False
        if part not in node:
            return node.is_new_allowed()
        node = node[part]
    return True


def _kind(value: Any) -> str:
    return "a group of settings" if isinstance(value, dict) else type(value).__name__


def _lookup(root: CfgNode, key: str) -> Any:
    node: Any = root
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            return None
        node = node[part]
    return node


def _assign(root: CfgNode, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for part in parents:
        # New groups appear only where new keys are allowed, and allow them too.
        root = root.setdefault(part, CfgNode(new_allowed=True))
    root[leaf] = value
