"""Check data that a file gave against a description of what it should hold.

A description is a type, a `Number`, or nests them: ``{"key": ...}`` (a key that ends in ``?`` may
be missing or null, further keys are left alone), ``[...]`` (a list of such items), ``Each(...)`` (a
mapping with any names). What a file says is used only where it is what the description asks for.
"""

import math
from dataclasses import dataclass
from typing import Any

LARGE = 2**62  # bounds from here on keep absurd numbers out and are not worth naming


@dataclass(frozen=True)
class Number:
    """A finite number in a range, both ends included; ``whole``: an integer."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is such a number; True and False are none."""
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or abs(value) > 1e300:
            return False
        return math.isfinite(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        name = "a whole number" if self.whole else "a number"
        if self.low <= -LARGE:
            return name
        return f"{name} from {self.low:g}" + ("" if self.high >= LARGE else f" to {self.high:g}")


@dataclass(frozen=True)
class Each:
    """A mapping from any names to items of one description."""

    item: Any


PERCENT = Number(0, 100 + 1e-6)  # a share of the last digit may be too much after rounding
COUNT = Number(0, LARGE, whole=True)
WHOLE = Number(-LARGE, LARGE, whole=True)
NAMES = {str: "a text", dict: "a mapping", list: "a list", bool: "true or false"}


def mismatch(value: Any, description: Any, name: str = "") -> str:
    """Return what is wrong with ``value``, naming the entry; "" where nothing is.

    >>> mismatch({"accuracy": 770}, {"accuracy": PERCENT})
    'accuracy is 770, not a number from 0 to 100'
    """
    if isinstance(description, Number):
        return "" if description.holds(value) else _wrong(name, value, str(description))
    if isinstance(description, dict):
        if not isinstance(value, dict):
            return _wrong(name, value, NAMES[dict])
        for key, inner in description.items():
            known = key.removesuffix("?")
            found = value.get(known)
            if found is None and (known != key or inner is None):
                continue
            path = f"{name}/{known}" if name else known
            if known not in value:
                return f"{path} is missing"
            if problem := mismatch(found, inner, path):
                return problem
        return ""
    if isinstance(description, Each):
        if not isinstance(value, dict):
            return _wrong(name, value, NAMES[dict])
        items = [(f"{name}/{_brief(key)}", item) for key, item in value.items()]
        return next(filter(None, (mismatch(v, description.item, key) for key, v in items)), "")
    if isinstance(description, list):
        if not isinstance(value, list):
            return _wrong(name, value, NAMES[list])
        pairs = ((f"{name}/{i}", item) for i, item in enumerate(value))
        return next(filter(None, (mismatch(v, description[0], key) for key, v in pairs)), "")
    return "" if isinstance(value, description) else _wrong(name, value, NAMES[description])


def _wrong(name: str, value: Any, expected: str) -> str:
    return f"{name or 'the content'} is {_brief(value)}, not {expected}"


def _brief(value: Any) -> str:
    if isinstance(value, dict | list):
        return NAMES[type(value)]
    text = value if isinstance(value, str) and value.isprintable() else repr(value)[:200]
    text = f"{value!r}" if isinstance(value, str) and not value.strip() else text
    return text if len(text) <= 60 else f"{text[:57]}..."
