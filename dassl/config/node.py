"""Configuration nodes: yacs, with mistakes answered in one line."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from yacs.config import CfgNode

from common.errors import UsageError
from dassl.utils.tools import nearest_names


class Config(CfgNode):
    """A yacs node. Merging an unknown key or a wrong type raises :class:`UsageError`.

    An integer is taken where a float is expected (``OPTIM.LR 1``), which yacs itself refuses, and
    groups may be plain yacs nodes, as trainers written for Dassl add them.
    """

    def merge_from_file(self, cfg_filename: str) -> None:
        """Overwrite values with those of a YAML file.

        Raises:
            UsageError: missing file, no valid YAML, unknown key (with the nearest known), wrong
                type.
        """
        if not os.path.isfile(cfg_filename):
            raise UsageError(f"no such config file: {cfg_filename}")
        try:
            with open(cfg_filename, encoding="utf-8") as file:
                given = self.load_cfg(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{cfg_filename} is not a valid config file: {error}") from error
        except (AttributeError, AssertionError):  # yacs met a list or a bare word
            raise UsageError(f"{cfg_filename} holds no settings (KEY: value lines)") from None
        self._merge(_leaves(given), where=cfg_filename)

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Overwrite values with those of another configuration; errors as for a file."""
        self._merge(_leaves(cfg_other), where="the given configuration")

    def merge_from_list(self, cfg_list: list) -> None:
        """Overwrite values given as alternating keys and values, as on the command line.

        Raises:
            UsageError: as :meth:`merge_from_file`; also a key without a value.
        """
        if len(cfg_list) % 2:
            raise UsageError(
                f"options come in pairs of KEY VALUE, but {cfg_list[-1]!r} stands alone at the end"
            )
        pairs = zip(cfg_list[0::2], cfg_list[1::2], strict=True)
        self._merge(((str(key), value) for key, value in pairs), where="the command line")

    def _merge(self, pairs: Iterable[tuple[str, Any]], where: str) -> None:
        """Check all pairs of dotted key and value, then take them over."""
        checked = [(key, self._converted(key, value, where)) for key, value in pairs]
        for key, value in checked:
            if not isinstance(value, CfgNode):  # an empty group in the file changes nothing
                _assign(self, key, value)

    def _converted(self, key: str, value: Any, where: str) -> Any:
        """``value`` in the type that ``key`` has."""
        if not _is_known(self, key):
            known = [name for name, _ in _leaves(self)]
            near = nearest_names(key, known) or nearest_names(key.split(".")[-1], known)
            hint = f"; nearest known: {', '.join(near)}" if near else ""
            raise UsageError(f"{where}: unknown config key {key}{hint}")
        current = _lookup(self, key)
        value = self._decode_cfg_value(value)
        if type(current) is float and type(value) is int:
            return float(value)
        if not _fits(current, value):
            raise UsageError(
                f"{where}: {key} takes {_kind(current)}, got {value!r} ({_kind(value)})"
            )
        if isinstance(current, (list, tuple)) and value is not None:
            return type(current)(value)
        return value


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in ``node``; an empty node counts as a value."""
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, CfgNode) and value:
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def _is_known(node: Any, key: str) -> bool:
    """Whether a dotted key exists below ``node``, or may be added there."""
    for part in key.split("."):
        if not isinstance(node, CfgNode):
            return False
        if part not in node:
            return node.is_new_allowed()
        node = node[part]
    return True


def _fits(current: Any, value: Any) -> bool:
    """Whether yacs would let ``value`` replace ``current``."""
    if isinstance(current, CfgNode) or isinstance(value, CfgNode):
        return current is None or (isinstance(current, CfgNode) and isinstance(value, CfgNode))
    if current is None or value is None or type(current) is type(value):
        return True
    return isinstance(current, (list, tuple)) and isinstance(value, (list, tuple))


def _kind(value: Any) -> str:
    return "a group of settings" if isinstance(value, CfgNode) else type(value).__name__


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
