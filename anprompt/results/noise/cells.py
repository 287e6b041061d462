"""Cells of noise: which count, and what they add up to."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noise.cells import GROUPS, Cell

SEEN = ("text_kinds", "image_kinds", "seeds")


@dataclass(frozen=True)
class Measured(Cell):
    """A cell with its figures under one inference rule, by measure."""

    figures: Mapping[str, float] = field(default_factory=dict, compare=False)


Choice = Callable[[Measured], bool]


def measured(part: dict[str, Any], rule: str) -> list[Measured]:
    """Return the cells of a part under one inference rule."""
    pairs = ((Cell.from_key(key), rules[rule]) for key, rules in part["cells"].items())
    return [Measured(c.group, c.kind, c.severity, c.seed, figures) for c, figures in pairs]


def seen_by_any(headers: Iterable[dict[str, Any]]) -> dict[str, list]:
    """Return kinds and seeds of noise that at least one of several models met in training."""
    seen: dict[str, list] = {name: [] for name in SEEN}
    for header in headers:
        for key, values in seen.items():
            found = header["noise_in_training"][key]
            values += [value for value in dict.fromkeys(found) if value not in values]
    return seen


def unseen_in_training(seen: dict[str, list]) -> Choice:
    """Choose the cells whose kinds, and whose seed of text noise, no training has met."""
    seeds = set(seen["seeds"])

    def choose(cell: Measured) -> bool:
        if cell.text_kind in seen["text_kinds"] or cell.image_kind in seen["image_kinds"]:
            return False
        return not (cell.text_kind and cell.seed in seeds)

    return choose


def everything(cell: Measured) -> bool:
    """Choose every cell."""
    return True


def mean_over_cells(cells: Iterable[Measured], measure: str) -> float:
    """Return mean over kinds of the means over severities of the means over seeds."""
    values: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        severities = values.setdefault(cell.kind, {})
        severities.setdefault(cell.severity, []).append(cell.figures[measure])
    return statistics.fmean(
        statistics.fmean(statistics.fmean(own) for own in severities.values())
        for severities in values.values()
    )


def by_group(cells: Iterable[Measured], choose: Choice = everything) -> dict[str, list[Measured]]:
    """Return the cells that are chosen, by group of noise; groups without any are left out.

    Every attack at every bound is a group of its own, "pgd 4/255": a mean over them would say
    nothing. Noise on learned tokens and attacks are chosen always, also of models trained with
    them; `anprompt.results.attacked_training` has who was trained on attacked images.
    """
    groups: dict[str, list[Measured]] = {group: [] for group in GROUPS if group != "adversarial"}
    for cell in cells:
        if cell.group == "adversarial":
            groups.setdefault(f"{cell.kind} {cell.severity}/255", []).append(cell)
        elif GROUPS[cell.group].of in ("tokens", "attack") or choose(cell):
            groups[cell.group].append(cell)
    return {group: own for group, own in groups.items() if own}


def of_severity(severity: int) -> Choice:
    return lambda cell: cell.severity == severity


def kinds_of(cells: Iterable[Measured]) -> list[str]:
    return list(dict.fromkeys(cell.kind for cell in cells))


def is_attack(group: str) -> bool:
    """Return whether a group is an attack at a bound, "pgd 4/255"."""
    return group.endswith("/255")
