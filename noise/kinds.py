"""Check names of noise kinds, severities and rates; errors say what would be right."""

import operator
from collections.abc import Mapping
from typing import TypeVar

from common.errors import UsageError
from common.names import nearest

Kind = TypeVar("Kind")

SEVERITIES = (1, 2, 3, 4, 5)


def get_kind(kinds: Mapping[str, Kind], name: str, what: str) -> Kind:
    """Return ``kinds[name]``; UsageError names the nearest and all known names if there is none."""
    if isinstance(name, str) and name in kinds:
        return kinds[name]
    near = nearest(str(name), kinds, count=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(f"Unknown {what} kind {name!r}.{hint} Known: {', '.join(kinds)}.")


def check_severity(severity: int) -> int:
    """Return the severity as an int; UsageError unless it is a whole number from 0 (none) to 5."""
    try:
        value = operator.index(severity)
    except TypeError:
        value = -1
    if not 0 <= value <= SEVERITIES[-1]:
        raise UsageError(f"Severity {severity!r} does not exist: give 1 to 5, or 0 for no noise.")
    return value


def check_rate(rate: float, at_most: float | None = 1.0) -> float:
    """Return the rate as a float; UsageError unless 0 <= rate (<= ``at_most``)."""
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value < float("inf") or (at_most is not None and value > at_most):
        wanted = "a finite number from 0" if at_most is None else f"a number from 0 to {at_most:g}"
        raise UsageError(f"Noise rate {rate!r} is out of range: give {wanted}.")
    return value
