"""Numbers that know which entries of which files they are computed from.

A number's source is a text "file#key/in/it", or a list of an operation and its operands, so that a
program can compute it again:

- ``mean``, ``hm`` (harmonic mean), ``minus`` (first less second), ``over`` (first by second),
  ``count`` (how many operands), ``percent`` (100 times);
- ``noisy``: the mean over kinds of the means over severities of the means over seeds of cells of
  robustness.json, whose keys are "group/kind/severity/seed"; ``{a,b}`` stands for a and b.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from anprompt.results.run import harmonic_mean

Expression = str | list


@dataclass(frozen=True)
class Number:
    """A value and its source.

    Attributes:
        values: of a mean, what it is the mean of: one per run.
    """

    value: float
    source: Expression
    values: tuple[float, ...] = ()

    @property
    def std(self) -> float | None:
        """Population standard deviation over runs; None for a single one."""
        return statistics.pstdev(self.values) if len(self.values) > 1 else None


def mean(numbers: Iterable[Number | None]) -> Number | None:
    """The mean over runs; None if any is missing or there is none."""
    found = list(numbers)
    if not found or None in found:
        return None
    values = tuple(number.value for number in found)
    return Number(statistics.fmean(values), ["mean", *(n.source for n in found)], values)


def minus(a: Number | None, b: Number | None) -> Number | None:
    if a is None or b is None:
        return None
    return Number(a.value - b.value, ["minus", a.source, b.source])


def over(a: Number | None, b: Number | None) -> Number | None:
    if a is None or b is None or not b.value:
        return None
    return Number(a.value / b.value, ["over", a.source, b.source])


def harmonic(a: Number | None, b: Number | None) -> Number | None:
    if a is None or b is None:
        return None
    return Number(harmonic_mean(a.value, b.value), ["hm", a.source, b.source])


def percent(number: Number) -> Number:
    """A share as percent."""
    return Number(100 * number.value, ["percent", number.source])


def count(sources: Sequence[str]) -> Number:
    """How many entries there are."""
    return Number(len(sources), ["count", *sources])


def value_at(content: Any, key: str) -> Any:
    """An entry of nested JSON by its path, "rules/mix/accuracy"; None where there is none.

    Names may hold slashes themselves ("per_class/F-16A/B").
    """
    if isinstance(content, list):
        number, _, rest = key.partition("/")
        if not number.isdigit() or int(number) >= len(content):
            return None
        content, key = content[int(number)], rest
        return value_at(content, key) if key else content
    if not isinstance(content, dict):
        return None
    if key in content:
        return content[key]
    for i, character in enumerate(key):
        if character == "/" and key[:i] in content:
            found = value_at(content[key[:i]], key[i + 1 :])
            if found is not None:
                return found
    return None


def cell_patterns(keys: Iterable[str]) -> list[str]:
    """Keys of cells, "group/kind/severity/seed", in few patterns: "image/{blur,jpeg}/{1,2}/{-}".

    Every pattern stands for all its combinations, and no key is in two.
    """
    kinds: dict[tuple[str, str], dict[str, list[str]]] = {}
    for key in keys:
        group, kind, severity, seed = key.split("/")
        kinds.setdefault((group, kind), {}).setdefault(severity, []).append(seed)
    alike: dict[tuple, list[str]] = {}
    for (group, kind), by_severity in kinds.items():
        by_seeds: dict[tuple[str, ...], list[str]] = {}
        for severity, seeds in by_severity.items():
            by_seeds.setdefault(tuple(seeds), []).append(severity)
        for seeds, severities in by_seeds.items():
            alike.setdefault((group, tuple(severities), seeds), []).append(kind)
    return [
        f"{group}/{{{','.join(names)}}}/{{{','.join(severities)}}}/{{{','.join(seeds)}}}"
        for (group, severities, seeds), names in alike.items()
    ]
