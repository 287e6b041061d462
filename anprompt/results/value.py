"""Numbers that know which entries of which files they are computed from.

A value's source is a text "file#key/in/it", or a list of an operation and its operands, so that a
program can compute it again:

- ``mean``, ``hm`` (harmonic mean), ``minus`` (first less second), ``over`` (first by second),
  ``count`` (how many operands), ``percent`` (100 times);
- ``mce``, ``relative_mce``, ``er``: what `noise.metrics` makes of ImageNet-C's cells and of the
  clean accuracy; ``er`` also of the accuracy on ImageNet and that on one of its variants;
- ``mcnemar``: p of McNemar's test on the answers behind two accuracies;
- ``noisy``: the mean over kinds of the means over severities of the means over seeds of cells of
  robustness.json, whose keys are "group/kind/severity/seed"; ``{a,b}`` stands for a and b.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Source = str | list


@dataclass(frozen=True)
class Value:
    """A number with its source.

    Attributes:
        by_seed: of a mean over seeds what it is the mean of, in the order of the source's operands.
        seeds: that stand behind the number, of those that are no mean over seeds.
        interval: of a difference, its 95% bounds (`anprompt.results.evidence`).
        printed_std: the deviation that was published with the number.
    """

    number: float
    source: Source
    by_seed: Mapping[int, float] = field(default_factory=dict)
    seeds: frozenset[int] = frozenset()
    interval: tuple[float, float] | None = None
    printed_std: float | None = None

    @property
    def is_separated(self) -> bool:
        """Whether it is a difference whose interval leaves out zero."""
        return bool(self.interval and (self.interval[0] > 0 or self.interval[1] < 0))

    @property
    def std(self) -> float | None:
        """Return population standard deviation over seeds; None for a single one."""
        several = len(self.by_seed) > 1
        return statistics.pstdev(self.by_seed.values()) if several else self.printed_std

    @property
    def n(self) -> int:
        """Return how many seeds stand behind the number."""
        return len(self.by_seed) or len(self.seeds)

    def of_seeds(self) -> dict[int, "Value"]:
        """Return each seed's own value."""
        operands = zip(self.by_seed.items(), self.source[1:], strict=True)
        return {seed: Value(number, source) for (seed, number), source in operands}

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "value": self.number,
            "std": self.std,
            "n": self.n,
            **({"interval": self.interval} if self.interval else {}),
            "by_seed": {str(seed): number for seed, number in self.by_seed.items()},
            "source": self.source,
        }


def leaves(source: Source) -> list[str]:
    """Return the entries of files that an expression is computed from, in order."""
    if isinstance(source, str):
        return [source]
    return [entry for part in source[1:] for entry in leaves(part)]


def mean(values: Iterable[Value | None]) -> Value | None:
    """Return the mean; None if any value is missing or there is none."""
    found = list(values)
    known = [value for value in found if value is not None]
    if not found or len(known) < len(found):
        return None
    number = statistics.fmean(value.number for value in known)
    return Value(number, ["mean", *(value.source for value in known)])


def over_seeds(by_seed: Mapping[int, Value | None]) -> Value | None:
    """Return the mean over seeds; None if any seed's value is missing or there is none."""
    whole = mean(by_seed.values())
    if whole is None:
        return None
    numbers = {seed: value.number for seed, value in by_seed.items() if value is not None}
    return replace(whole, by_seed=numbers)


def seed_by_seed(
    compute: Callable[..., Value | None], *values: Value | None, common: bool = False
) -> Value | None:
    """Return the mean over seeds of what is computed from each seed's own values.

    None if a value is missing, or the seeds differ. ``common``: the seeds that all have instead.
    """
    known = [value.of_seeds() for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    seeds = set.intersection(*(set(own) for own in known))
    if not common and any(seeds != own.keys() for own in known):
        return None
    return over_seeds({seed: compute(*(own[seed] for own in known)) for seed in sorted(seeds)})


def mean_of(*values: Value) -> Value | None:
    """Return the mean of operands, for `seed_by_seed`."""
    return mean(values)


def minus(a: Value | None, b: Value | None) -> Value | None:
    """Return the first less the second; None where one is missing."""
    if a is None or b is None:
        return None
    return Value(a.number - b.number, ["minus", a.source, b.source])


def over(a: Value | None, b: Value | None) -> Value | None:
    """Return the first divided by the second; None where one is missing or the second is zero."""
    if a is None or b is None or not b.number:
        return None
    return Value(a.number / b.number, ["over", a.source, b.source])


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1/base + 1/new), and 0 where either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def harmonic(a: Value | None, b: Value | None) -> Value | None:
    """Return the harmonic mean; None where one is missing."""
    if a is None or b is None:
        return None
    return Value(harmonic_mean(a.number, b.number), ["hm", a.source, b.source])


def percent(value: Value) -> Value:
    """Return a share as percent."""
    return Value(100 * value.number, ["percent", value.source])


def count(sources: Sequence[str]) -> Value:
    """Return how many entries there are."""
    return Value(len(sources), ["count", *sources])


def ends(counts: Iterable[Value]) -> tuple[Value, ...]:
    """Return the smallest and the largest count; one where they are the same, () for none."""
    found = sorted(counts, key=lambda value: value.number)
    both = found[:1] + found[-1:]
    return tuple(both if both and both[0].number != both[-1].number else both[:1])


def cell_patterns(keys: Iterable[str]) -> list[str]:
    """Return few patterns for keys of cells: "image/{blur,jpeg}/{1,2}/{-}".

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
        for own, severities in by_seeds.items():
            alike.setdefault((group, tuple(severities), own), []).append(kind)
    return [
        f"{group}/{{{','.join(names)}}}/{{{','.join(severities)}}}/{{{','.join(own)}}}"
        for (group, severities, own), names in alike.items()
    ]
