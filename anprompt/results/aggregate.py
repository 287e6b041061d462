"""Runs of one protocol by method and cell: what may be averaged, and what may not.

A cell is a data set and a column (base or new, a number of shots). A method is a trainer with its
configuration, backbone and shots; runs that differ in one of them stand in rows of their own.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anprompt.results.comparable import (
    OF_A_HALF,
    OF_A_SEED,
    TEST_DATA,
    TRAINING_DATA,
    differing_settings,
    differing_trainings,
    not_seeds_of_one_row,
    resumed_note,
    unlike_data,
)
from anprompt.results.measures import measured
from anprompt.results.method import Method, with_names
from anprompt.results.run import HEADLINE, Run
from anprompt.results.value import Value, count, mean_of, over_seeds, seed_by_seed
from anprompt.runs.recorded import ALL_IMAGES
from common.errors import UsageError

# What a method's results depend on; data sets and protocols bring settings of their own.
_OF_A_METHOD = ("TRAINER.", "OPTIM.", "MODEL.", "INPUT.", "DATALOADER.TRAIN_X.")

Cell = tuple[str, str]
Cells = dict[Cell, dict[int, Run]]
ALL = "all"  # the column of trainings on all images; other columns of shots are numbers


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
    for cells in rows.values():
        for seeds in cells.values():
            _check_alike(list(seeds.values()))
        _check_halves_alike(cells)
    named = with_names(rows)
    place = {trainer: i for i, trainer in enumerate(methods or [])}
    found = [
        row
        for method in sorted(rows, key=lambda method: (place.get(method.trainer, 0), _key(method)))
        for row in _rows(named[method], rows[method], all_rules, metric)
    ]
    notes += (
        _shortages([run for _, run in placed])
        + _resumed(named, rows)
        + _same_images(rows)
        + _unlike_settings(rows)
    )
    return Grid(found, notes + _unlike_tests({named[m]: cells for m, cells in rows.items()}))


def _method(cell: Cell, run: Run) -> Method:
    return replace(run.method, shots=None) if _is_shots(cell[1]) else run.method


def _is_shots(column: str) -> bool:
    return column.isdigit() or column == ALL


def shots_of(column: str) -> int:
    """Return the shots that a column of few-shot tables has."""
    return ALL_IMAGES if column == ALL else int(column)


def by_shots(column: str) -> tuple[bool, int]:
    """Sort columns of few-shot tables: all images last."""
    return column == ALL, shots_of(column)


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
            parts = [f"{config} ({_places(cells)})" for config, cells in where.items()]
            notes.append(f"{method.trainer} has a configuration for each case: {'; '.join(parts)}.")
    return merged, notes


def _places(cells: list[Cell]) -> str:
    """Return cells in words; shots are named where they are columns."""
    by_dataset: dict[str, list[str]] = {}
    for dataset, column in cells:
        shots = by_dataset.setdefault(dataset, [])
        if _is_shots(column) and column not in shots:
            shots.append(column)
    shown = {
        dataset: "/".join(sorted(shots, key=by_shots)) for dataset, shots in by_dataset.items()
    }
    return ", ".join(f"{name} at {text}" if text else name for name, text in shown.items())


def _check_alike(runs: list[Run]) -> None:
    """Refuse runs that an average would mix up though they are not the same experiment.

    Settings that only one of them knows are left out, so newer versions' keys do no harm.
    """
    first = runs[0]
    for run in runs[1:]:
        what, ours, theirs = _difference(first, run)
        if what:
            raise not_seeds_of_one_row(first.folder, run.folder, what, ours, theirs)


def _check_halves_alike(cells: Cells) -> None:
    """Refuse a base and a new half that come from unlike trainings, as if they were one."""
    for (dataset, column), seeds in cells.items():
        base = cells.get((dataset, "base"), {}) if column == "new" else {}
        for seed in base.keys() & seeds.keys():
            what, ours, theirs = _unlike_training(base[seed], seeds[seed], OF_A_SEED | OF_A_HALF)
            if not what:
                data = base[seed].data, seeds[seed].data
                what, ours, theirs = unlike_data(*data, (*TEST_DATA, *TRAINING_DATA))
            if what:
                raise UsageError(
                    f"{base[seed].folder} and {seeds[seed].folder} would stand in one row, but "
                    f"{what} is {ours} for base and {theirs} for new classes; remove the one that "
                    "is out of date"
                )


def _unlike_training(
    first: Run, other: Run, expected: Collection[str]
) -> tuple[str, object, object]:
    """Return the first setting that differs, but for ``expected`` ones, and its two values."""
    found = differing_settings(first.settings, other.settings, expected)
    found += differing_trainings(first.trained_with, other.trained_with, expected)
    for key, ours, theirs in found:
        return key, repr(ours), repr(theirs)
    if None not in (first.epochs, other.epochs) and first.epochs != other.epochs:
        return "the number of epochs", first.epochs, other.epochs
    return "", None, None


def _difference(first: Run, other: Run) -> tuple[str, object, object]:
    what = _unlike_training(first, other, OF_A_SEED)
    if what[0]:
        return what
    if first.classnames and other.classnames and first.classnames != other.classnames:
        pairs = zip(first.classnames, other.classnames, strict=False)
        for number, (ours, theirs) in enumerate(pairs):
            if ours != theirs:
                return f"class {number}", repr(ours), repr(theirs)
        return "the number of classes", len(first.classnames), len(other.classnames)
    if None not in (first.num_test, other.num_test) and first.num_test != other.num_test:
        return "the number of test images", first.num_test, other.num_test
    return unlike_data(first.data, other.data)


def _unlike_settings(rows: dict[Method, Cells]) -> list[str]:
    """Return notes on rows whose columns were trained with other settings under one name."""
    notes = []
    for method, cells in rows.items():
        runs = [(cell, next(iter(seeds.values()))) for cell, seeds in cells.items()]
        (first_cell, first), *others = [(cell, run) for cell, run in runs if run.settings] or runs
        told: dict[str, dict[str, list[Cell]]] = {}
        for cell, run in others:
            if run.config != first.config:
                continue
            for key, ours, theirs in differing_settings(first.settings, run.settings, ()):
                if key.startswith(_OF_A_METHOD):
                    values = told.setdefault(key, {str(ours): [first_cell]})
                    values.setdefault(str(theirs), []).append(cell)
        for key, values in told.items():
            parts = [f"{value} ({_places(where)})" for value, where in values.items()]
            notes.append(f"{method.trainer}: {key} is not the same everywhere: {', '.join(parts)}.")
    return notes


def _shortages(runs: Iterable[Run]) -> list[str]:
    """Return notes on data sets that have fewer images than their trainings asked for."""
    return list(
        dict.fromkeys(
            f"{run.dataset}: the smallest class was trained with {run.shortage}."
            for run in runs
            if run.shortage
        )
    )


def _resumed(named: Mapping[Method, Method], rows: dict[Method, Cells]) -> list[str]:
    """Return notes on trainings that went on from another run's, and what was new in them."""
    found = {
        resumed_note(
            f"{named[method].name} trained on {run.trained_on[0] or run.dataset}, seed {run.seed}",
            run.resumed,
        )
        for method, cells in rows.items()
        for seeds in cells.values()
        for run in seeds.values()
        if run.resumed
    }
    return sorted(found)


def _same_images(rows: dict[Method, Cells]) -> list[str]:
    """Return notes on data sets whose images are all trained on, whatever the seed."""
    found = {
        dataset: f"{dataset}: all seeds train on the same images; deviations and intervals say "
        "nothing about another choice of images."
        for cells in rows.values()
        for (dataset, _), seeds in cells.items()
        if len(seeds) > 1
        and all(run.learns and run.results.get("takes_all") for run in seeds.values())
    }
    return list(found.values())


def _unlike_tests(rows: dict[Method, Cells]) -> list[str]:
    """Return notes on rows that were not tested on the same images, or with other weights of the
    backbone that they name."""
    tests: dict[Cell, dict[tuple, list[str]]] = {}
    weights: dict[str, dict[str, list[str]]] = {}

    def add(names: list[str], name: str) -> None:
        if name not in names:
            names.append(name)

    for method, cells in rows.items():
        for (dataset, column), seeds in cells.items():
            run = next(iter(seeds.values()))
            place = (dataset, "" if _is_shots(column) else column)
            if run.num_test is not None:
                test = (
                    len(run.classnames),
                    run.num_test,
                    *(run.data.get(key) for key in TEST_DATA),
                )
                sizes = tests.setdefault(place, {})
                like = next((other for other in sizes if _may_be_one(test, other)), test)
                add(sizes.setdefault(like, []), method.name)
            if run.weights:
                of_backbone = weights.setdefault(run.backbone, {})
                add(of_backbone.setdefault(run.weights, []), method.name)
    notes = []
    for place, sizes in tests.items():
        counts = [n for _, n, *_ in sizes]
        listed = []
        for (_, n, *digests), names in sizes.items():
            told = "/".join(digest[:8] for digest in digests if digest)
            same = f" ({told})" if counts.count(n) > 1 else ""
            listed.append(f"{', '.join(names)}: {n} images{same}")
        if len(sizes) > 1:
            where = " ".join(filter(None, place))
            notes.append(f"{where}: not all rows have the same test: {'; '.join(listed)}")
    for backbone, files in weights.items():
        listed = [f"{', '.join(names)}: {digest[:8]}" for digest, names in files.items()]
        if len(files) > 1:
            notes.append(f"{backbone}: not all rows have the same weights: {'; '.join(listed)}")
    return notes


def _may_be_one(test: tuple, other: tuple) -> bool:
    """Return whether two tests do not differ in anything that both recorded."""
    return all(a == b for a, b in zip(test, other, strict=True) if a and b)


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
