"""Runs of one protocol by method and cell: what may be averaged, and what may not.

A cell is a data set and a column (base or new, a number of shots). A method is a trainer with its
configuration, backbone and shots; runs that differ in one of them stand in rows of their own.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from anprompt.results.alike import check_alike, check_halves_alike
from anprompt.results.cell import Cell, Cells, is_shots, places
from anprompt.results.measures import measured
from anprompt.results.method import Method, with_names
from anprompt.results.row_notes import notes_on_rows
from anprompt.results.run import HEADLINE, Run
from anprompt.results.value import Value, count, mean_of, over_seeds, seed_by_seed
from common.errors import UsageError

NO_SEED = "no seed in common"


@dataclass(frozen=True)
class GridRow:
    """A method under one inference rule. ``label`` says which rules a headline stands for."""

    method: Method
    rule: str
    label: str
    values: dict[Cell, Value]
    runs: Cells = field(repr=False)

    def runs_in(self, cells: Iterable[Cell]) -> tuple[Run, ...]:
        """Return the runs of some cells."""
        return tuple(run for cell in cells for run in self.runs.get(cell, {}).values())

    def count(self, cell: Cell, among: Collection[int] | None = None) -> Value:
        """Return how many seeds a cell has; ``among``: of those."""
        value = self.values.get(cell)
        own = value.by_seed if value else {}
        seeds = [seed for seed in own if among is None or seed in among]
        return count([f"{self.runs[cell][seed].file}#seed" for seed in seeds])


@dataclass
class Grid:
    """Rows, in the order they are shown, and what is to be said about them."""

    rows: list[GridRow]
    notes: list[str] = field(default_factory=list)

    @property
    def datasets(self) -> set[str]:
        """Return all data sets that some row has."""
        return {dataset for row in self.rows for dataset, _ in row.values}


def make_grid(
    placed: Iterable[tuple[Cell, Run]],
    unit: Callable[[Cell], Hashable],
    *,
    order: Callable[[Cell], Any] = lambda cell: cell,
    all_rules: bool = False,
    methods: list[str] | None = None,
    metric: str = "accuracy",
) -> Grid:
    """Make rows of runs.

    Args:
        placed: runs and the cells they belong to.
        unit: configurations of a trainer share a row unless a unit has two of them (published
            settings have another configuration for some data sets).
        order: of cells; rules are named in it.
        methods: trainers, in the order to show them; None: by name.
        metric: the figure to show.

    Raises:
        UsageError: two runs of one cell claim the same seed, or differ in more than their seed.
    """
    placed = sorted(placed, key=lambda item: (order(item[0]), item[1].folder))
    merged, notes = _configs_to_merge(placed, unit)
    rows: dict[Method, Cells] = {}
    for cell, run in placed:
        method = _method(cell, run)
        if _any_config(method) in merged:
            method = _any_config(method)
        seeds = rows.setdefault(method, {}).setdefault(cell, {})
        if not run.learns and any(_figures(run) == _figures(known) for known in seeds.values()):
            continue  # no seed changes what learns nothing
        other = seeds.setdefault(run.seed, run)
        if other is not run:
            raise UsageError(
                f"{run.folder} and {other.folder} are the same method, data set and seed; "
                "name only the folder of one"
            )
    rows = {
        method: cells if method.learns else _of_one_seed(cells) for method, cells in rows.items()
    }
    for cells in rows.values():
        for seeds in cells.values():
            check_alike(list(seeds.values()))
        check_halves_alike(cells)
    named = with_names(rows)
    place = {trainer: i for i, trainer in enumerate(methods or [])}
    found = [
        row
        for method in sorted(rows, key=lambda method: (place.get(method.trainer, 0), _key(method)))
        for row in _rows(named[method], rows[method], all_rules, metric)
    ]
    return Grid(found, notes + notes_on_rows(named, rows))


def _of_one_seed(cells: Cells) -> Cells:
    """Return runs that no seed changes under one seed, so that those of other seeds go together."""
    first = min(seed for seeds in cells.values() for seed in seeds)
    return {
        cell: dict(zip([first], seeds.values(), strict=True)) if len(seeds) == 1 else seeds
        for cell, seeds in cells.items()
    }


def _method(cell: Cell, run: Run) -> Method:
    return replace(run.method, shots=None) if is_shots(cell[1]) else run.method


def _any_config(method: Method) -> Method:
    return replace(method, config="")


def _key(method: Method) -> str:
    return str((method.trainer, method.config, method.backbone, method.shots, method.origin))


def _figures(run: Run) -> list[float | None]:
    values = [run.value("accuracy", rule) for rule in (HEADLINE, *run.rules)]
    return [None if value is None else value.number for value in values]


def _rows(method: Method, cells: Cells, all_rules: bool, metric: str) -> list[GridRow]:
    runs = [run for seeds in cells.values() for run in seeds.values()]
    used = list(dict.fromkeys(run.headline_rule for run in runs if run.headline_rule))
    rules = {rule for run in runs for rule in run.rules}
    rows = []
    for rule in [HEADLINE, *(sorted(rules) if all_rules else [])]:
        found = {
            cell: over_seeds(
                {
                    seed: value
                    for seed, run in seeds.items()
                    if (value := measured(run, metric, rule))
                }
            )
            for cell, seeds in cells.items()
        }
        values = {cell: value for cell, value in found.items() if value is not None}
        label = " / ".join(used) if rule == HEADLINE else f"{rule} everywhere"
        rows.append(GridRow(method, rule, label, values, cells))
    return rows


def _configs_to_merge(
    placed: list[tuple[Cell, Run]], unit: Callable[[Cell], Hashable]
) -> tuple[set[Method], list[str]]:
    found: dict[Method, dict[Hashable, dict[str, list[Cell]]]] = {}
    for cell, run in placed:
        method = _method(cell, run)
        configs_of = found.setdefault(_any_config(method), {}).setdefault(unit(cell), {})
        configs_of.setdefault(method.config, []).append(cell)
    merged, notes = set(), []
    for method, by_unit in found.items():
        configs = {config for of_unit in by_unit.values() for config in of_unit}
        if len(configs) > 1 and all(len(of_unit) == 1 for of_unit in by_unit.values()):
            merged.add(method)
            where: dict[str, list[Cell]] = {config: [] for config in sorted(configs)}
            for of_unit in by_unit.values():
                for config, cells in of_unit.items():
                    where[config] += cells
            parts = [f"{config} ({places(cells)})" for config, cells in where.items()]
            notes.append(f"{method.trainer} has a configuration for each case: {'; '.join(parts)}.")
    return merged, notes


def common_datasets(
    rows: list[GridRow], columns: Callable[[GridRow], Iterable[str]], among: Iterable[str]
) -> tuple[list[str], str]:
    """Return data sets that averages are taken over: those that every row has in all columns.

    A row that has no data set complete does not count; its average is missing.

    Returns:
        the data sets, in the order given, and a note on what is left out and whose it lacks.
    """
    among = list(among)
    complete = {}
    for row in rows:
        needed = list(columns(row))
        complete[row.method.name, row.rule] = {
            dataset for dataset in among if all((dataset, c) in row.values for c in needed)
        }
    counted = {row: have for row, have in complete.items() if have}
    common = [name for name in among if counted and all(name in s for s in counted.values())]
    lacking = {
        name: list(dict.fromkeys(row for (row, _), have in counted.items() if name not in have))
        for name in among
        if counted and name not in common
    }
    if not lacking:
        return common, ""
    reasons = "; ".join(f"{name} (not: {', '.join(who)})" for name, who in lacking.items())
    over = ", ".join(common) if common else "no data set, as none is complete for every method"
    return common, f"Averages are over {over}. Left out of them: {reasons}."


def average(values: Iterable[Value | None]) -> Value | None:
    """Return the mean over cells, seed by seed, for seeds that all of them have; else None."""
    return seed_by_seed(mean_of, *values, common=True)


def seeds_left_out(computed: Iterable[tuple[str, Iterable[Value | None]]], of: str) -> list[str]:
    """Return a note on numbers that are over fewer seeds than some of what they are computed from.

    Args:
        computed: what numbers are called, and what they are computed from.
        of: what the note begins with.
    """
    names: dict[str, list[str]] = {}
    for name, values in computed:
        found = [value and set(value.by_seed) for value in values]
        known = [seeds for seeds in found if seeds]
        if not known or len(known) < len(found):
            continue  # nothing is computed, for want of runs
        common, whole = set.intersection(*known), set.union(*known)
        seeds = f"{_listed(common)} (not {_listed(whole - common)})"
        if whole != common:
            own = names.setdefault(seeds if common else f"{NO_SEED} (of {_listed(whole)})", [])
            own += [name] if name not in own else []
    told = [f"{', '.join(own)}: {seeds}" for seeds, own in names.items()]
    return [f"{of}: {'; '.join(told)}."] if told else []


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
