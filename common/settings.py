"""Describe settings once: default, type, range, meaning, and where a value matters.

Whoever owns settings declares them, which adds them with their defaults to a configuration (a
yacs node, Dassl.pytorch's too) and keeps the descriptions by dotted name:

>>> from yacs.config import CfgNode
>>> cfg = CfgNode()
>>> declare(cfg, "TRAINER.MINE", {
...     "ALPHA": Setting(0.7, "class logits", ge=0, le=1),
...     "NOISE.KINDS": Setting(["char"], "kinds of noise", choices=("char", "word"), length=(1, 9)),
... })
>>> cfg.TRAINER.MINE.NOISE.KINDS
['char']
>>> cfg.TRAINER.MINE.ALPHA = 1.5
>>> check_settings(cfg)
Traceback (most recent call last):
    ...
common.errors.UsageError: TRAINER.MINE.ALPHA 1.5: takes a number from 0 to 1 (class logits)

A description is plain data, so the settings reference in the docs and the tests of limits are made
from it. What several settings must fulfil together is checked in code, by a trainer's
``check_cfg``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from yacs.config import CfgNode

from common.errors import UsageError

SCOPES = {
    "model": "an evaluation must have the training's value",
    "inference": "an evaluation may have another value than the training; that is said",
    "data": "what is tested and reported: an evaluation may have its own",
    "training": "has no effect on an evaluation",
    "neutral": "never has an effect on results: places, messages, speed",
    "unused": "taken because upstream's files have it; no trainer of this project reads it",
}
ORDERS = ("increasing", "consecutive")
MAX_TEXT = 4096  # characters
MAX_INT = 2**53  # beyond, files and other programs do not hold whole numbers exactly
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Setting:
    """The description of one setting.

    Attributes:
        default: the value where none is given; a list or tuple makes it a setting of that type, a
            dict (with ``table``) a table.
        help: what it does, with units; no full stop.
        kind: bool, int, float or str; of lists and tables that of each item. Taken from the default
            where left out.
        ge, gt, le, lt: bounds of the number, or of each item. Numbers are always finite.
        choices: the values that are allowed.
        length: of a list: the number of its items, or the smallest and largest number.
        order: of a list: "increasing" (an item may repeat) or "consecutive" (each one more).
        optional: None is a value, too.
        table: values by name (of a data set); names may be added.
        true: what True stands for in a text setting, where upstream's files write it; False is "".
        below: name of a table beside this setting. A file that gives this one without the table
            gives the table's entry "default", as upstream's files do; elsewhere this setting goes
            before the table.
        scope: where the value matters, one of ``SCOPES``.
        is_file: it names a file, whose content is part of a run's identity.

    Raises:
        ValueError: the description contradicts itself.
    """

    default: Any
    help: str
    _: KW_ONLY
    kind: type | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple = ()
    length: int | tuple[int, int] | None = None
    order: str = ""
    optional: bool = False
    table: bool = False
    true: str | None = None
    below: str = ""
    scope: str = "model"
    is_file: bool = False

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", _kind_of(self.default))
        object.__setattr__(self, "choices", tuple(self.choices))
        if self.kind not in _WORDS:
            raise ValueError(f"{self.help!r}: a setting's kind is bool, int, float or str")
        if self.scope not in SCOPES or self.order not in ("", *ORDERS) or not self.help:
            raise ValueError(f"{self.help!r}: unknown scope or order, or no help")
        problem = self.problem(self.default)
        if problem:
            raise ValueError(f"{self.help!r}: its default {self.default!r} {problem}")

    @property
    def is_list(self) -> bool:
        """Whether the value is a list or a tuple."""
        return isinstance(self.default, (list, tuple))

    def value(self) -> Any:
        """Return the default, a copy that is free to change."""
        if self.table:
            return dict(self.default)
        return list(self.default) if isinstance(self.default, list) else self.default

    def convert(self, value: Any) -> Any:
        """Return ``value`` in the default's type where that loses nothing, else as it is.

        A whole number becomes a float, a list a tuple and the other way round.
        """
        if self.true is not None and isinstance(value, bool):
            return self.true if value else ""
        if self.is_list and isinstance(value, (list, tuple)):
            return type(self.default)(value)
        if type(self.default) is float and type(value) is int and abs(value) <= MAX_INT:
            return float(value)
        return value

    def problem(self, value: Any) -> str:
        """Return what is wrong with ``value``, "takes ..."; "" where nothing is."""
        return "" if self._accepts(value) else f"takes {self.range_text()}"

    def _accepts(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.table:
            return isinstance(value, dict) and all(
                isinstance(name, str) and 0 < len(name) <= MAX_TEXT and self._accepts_item(item)
                for name, item in value.items()
            )
        if not self.is_list:
            return self._accepts_item(value)
        if not isinstance(value, (list, tuple)) or not all(map(self._accepts_item, value)):
            return False
        low, high = self._lengths()
        if not low <= len(value) <= high:
            return False
        steps = [b - a for a, b in zip(value, value[1:], strict=False)] if self.order else []
        return all(step >= 0 if self.order == "increasing" else step == 1 for step in steps)

    def _accepts_item(self, value: Any) -> bool:
        if self.kind is float:
            if type(value) not in (int, float) or not _is_finite(value):
                return False
        elif type(value) is not self.kind:
            return False
        if type(value) is int and abs(value) > MAX_INT and self.kind is int:
            return False
        if self.kind is str and (len(value) > MAX_TEXT or "\0" in value):
            return False
        if self.choices:
            return value in self.choices
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def _lengths(self) -> tuple[int, int]:
        if self.length is None:
            return 0, 1000
        return (self.length, self.length) if isinstance(self.length, int) else self.length

    def range_text(self) -> str:
        """Return in words which values are allowed.

        >>> Setting(0.9, "momentum", ge=0, lt=1).range_text()
        'a number from 0 to below 1'
        >>> Setting((224, 224), "height, width", length=2, ge=1).range_text()
        'a list of 2 items, each a whole number, at least 1'
        """
        assert self.kind is not None
        if self.choices:
            words = "one of " + ", ".join(_shown(choice) for choice in self.choices)
        else:
            words = _WORDS[self.kind] + self._bounds_text()
        if self.table:
            words = f"a table of names, each with {words}"
        elif self.is_list:
            low, high = self._lengths()
            count = f"{low}" if low == high else f"{low} to {high}"
            count = "" if self.length is None else f" of {count} items"
            order = f" in {self.order} order" if self.order else ""
            words = f"a list{count}{order}, each {words}"
        return f"{words}, or None" if self.optional else words

    def _bounds_text(self) -> str:
        low = self.ge if self.ge is not None else self.gt
        high = self.le if self.le is not None else self.lt
        if low is not None and high is not None:
            above = "from" if self.ge is not None else "above"
            below = "to" if self.le is not None else "to below"
            return f" {above} {low:,} {below} {high:,}"
        if low is not None:
            return f", at least {low:,}" if self.ge is not None else f" above {low:,}"
        if high is not None:
            return f", at most {high:,}" if self.le is not None else f" below {high:,}"
        return ""


def _kind_of(default: Any) -> type | None:
    if isinstance(default, dict):
        default = list(default.values())
    if isinstance(default, (list, tuple)):
        return type(default[0]) if default else None
    return None if default is None else type(default)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _shown(value: Any) -> str:
    return repr(value) if value == "" else str(value)


_DESCRIPTIONS: dict[str, Setting] = {}


def declare(cfg: CfgNode, node: str, settings: Mapping[str, Setting]) -> None:
    """Add settings with their defaults to a configuration and keep their descriptions.

    Args:
        cfg: changed; nodes that are missing on the way are made, what stands in others stays.
        node: dotted name of the node that they belong to; "" for the top level.
        settings: descriptions by name; a name may be dotted, too.
    """
    for key, setting in settings.items():
        name = f"{node}.{key}" if node else key
        *parents, leaf = name.split(".")
        place = cfg
        for part in parents:
            if part not in place:
                place[part] = CfgNode()
            place = place[part]
        value = setting.value()
        place[leaf] = CfgNode(value, new_allowed=True) if setting.table else value
        _DESCRIPTIONS[name] = setting


def describe_as(settings: Mapping[str, Setting]) -> None:
    """Keep these descriptions, by dotted name, in place of any declared since."""
    _DESCRIPTIONS.update(settings)


def describe(name: str) -> Setting | None:
    """Return the description of a setting, or of the table that it is an entry of."""
    found = _DESCRIPTIONS.get(name)
    if found is None:
        table = _DESCRIPTIONS.get(name.rpartition(".")[0])
        found = table if table is not None and table.table else None
    return found


def problem(name: str, value: Any) -> str:
    """Return what is wrong with a value of the setting, or table entry, of that name.

    Of settings that nobody described, as trainers written for Dassl add them, only numbers are
    looked at: they must be finite.

    Returns:
        "NAME VALUE: takes ...", or "" where nothing is wrong.
    """
    setting = describe(name)
    if setting is None:
        is_wrong = isinstance(value, float) and not math.isfinite(value)
        return f"{name} {value}: takes a finite number" if is_wrong else ""
    if setting.table and name not in _DESCRIPTIONS:
        name, value = name.rpartition(".")[0], {name.rpartition(".")[2]: value}
    wrong = setting.problem(value)
    return f"{name} {shorten(value)}: {wrong} ({setting.help})" if wrong else ""


def described() -> dict[str, Setting]:
    """Return the descriptions of all settings that were declared so far, by dotted name."""
    return dict(_DESCRIPTIONS)


def convert(name: str, value: Any) -> Any:
    """Return ``value`` in the type of the setting of that name (`Setting.convert`)."""
    setting = _DESCRIPTIONS.get(name)
    return value if setting is None else setting.convert(value)


def check_settings(cfg: Mapping) -> None:
    """Refuse values of a wrong type, out of range, or not finite (`problem`).

    Raises:
        UsageError: names each such setting, its value and what it takes.
    """
    problems = [line for name, value in leaves(cfg) if (line := problem(name, value))]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UsageError("; ".join(problems[:3]) + more)


def shorten(value: Any, limit: int = 60) -> str:
    """Return how a value is written in messages: its beginning where it is long."""
    try:
        text = repr(dict(value)) if isinstance(value, CfgNode) else repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def leaves(cfg: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of everything in a configuration; tables are one value."""
    for key, value in cfg.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name not in _DESCRIPTIONS:
            yield from leaves(value, name + ".")
        else:
            yield name, value


# Settings that the train.py of CoOp and of MMRL add to Dassl's, and one of this project's.
ADDED = {
    "TASK": Setting(
        "B2N",
        "protocol: B2N base-to-new, FS few-shot on all classes, CD cross-dataset",
        choices=("B2N", "FS", "CD"),
        scope="data",
    ),
    "DATASET.SUBSAMPLE_CLASSES": Setting(
        "all",
        "classes: all, the first half (base) or the second (new)",
        choices=("all", "base", "new"),
        scope="data",
    ),
    "DATASET.TEMPLATE": Setting(
        "",
        'hand-written prompt with "{}" for the class name; empty: the data set\'s own',
        scope="inference",
    ),
}


def declare_added(cfg: CfgNode) -> None:
    """Declare ``ADDED`` where the configuration lacks them, as Dassl.pytorch's does."""
    for name, setting in ADDED.items():
        node, _, key = name.rpartition(".")
        if key not in (cfg[node] if node else cfg):
            declare(cfg, "", {name: setting})
