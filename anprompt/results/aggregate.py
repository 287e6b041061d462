"""Runs of one protocol by method and cell: what may be averaged, and what may not.

A cell is a data set and a column (base or new, a number of shots). A method is a trainer with its
configuration, backbone and shots; runs that differ in one of them stand in rows of their own.
"""

import statistics
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field, replace

from anprompt.results.run import HEADLINE, Run, Stat, method_names
from anprompt.runs.folder import NEUTRAL

Cell = tuple[str, str]
Key = tuple[str, str, str, int | None, str]

# Beside what NEUTRAL has: settings that the seeds of one cell must differ in.
OF_A_SEED = {"SEED", "RUN.MODEL_DIR"}
# And those that the halves of one run differ in.
OF_A_HALF = {"DATASET.SUBSAMPLE_CLASSES", "RUN.EVAL_ONLY", "RUN.LOAD_EPOCH"}


@dataclass(frozen=True)
class Row:
    """A method under one inference rule. ``label`` says which rules a headline stands for."""

    key: Key
    name: str
    rule: str
    label: str
    learns: bool
    stats: dict[Cell, Stat]

    def seeds(self, cells: Iterable[Cell]) -> str:
        """How many seeds the cells have, as "3", or "1-3" where they differ."""
        return count_range({len(self.stats[cell].by_seed) for cell in cells if cell in self.stats})


@dataclass
class Grid:
    """Rows, in the order they are shown, and what is to be said about them."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    @property
    def datasets(self) -> set[str]:
        return {dataset for row in self.rows for dataset, _ in row.stats}


def make_grid(
    placed: Iterable[tuple[Cell, Run]],
    unit: Callable[[Cell], Hashable],
    all_rules: bool = False,
    methods: list[str] | None = None,
) -> Grid:
    """Rows of runs.

    Args:
        placed: runs and the cells they belong to.
        unit: configurations of a trainer share a row unless a unit has two of them (published
            settings have another configuration for some data sets).
        methods: trainers, in the order to show them; None: by name.

    Raises:
        ValueError: two runs of one cell claim the same seed, or differ in more than their seed.
    """
    placed = sorted(placed, key=lambda item: (*item[0], item[1].folder))
    configs, notes = _configs_to_merge(placed, unit)
    cells: dict[Key, dict[Cell, dict[int, Run]]] = {}
    for cell, run in placed:
        key = _key(cell, run)
        if (key[0], *key[2:]) in configs:
            key = (key[0], "", *key[2:])
        seeds = cells.setdefault(key, {}).setdefault(cell, {})
        other = seeds.get(run.seed)
        if other is None:
            seeds[run.seed] = run
        elif run.learns or run.accuracies != other.accuracies:
            raise ValueError(
                f"{run.folder} and {other.folder} are the same method, data set and seed; "
                "name only the folder of one"
            )
    for by_cell in cells.values():
        for seeds in by_cell.values():
            _check_alike(list(seeds.values()))
        _check_halves_alike(by_cell)
    name = method_names(set(cells))
    order = {trainer: i for i, trainer in enumerate(methods or [])}
    rows = []
    for key in sorted(cells, key=lambda key: (order.get(key[0], 0), str(key))):
        rows += _rows(key, name(key), cells[key], all_rules)
    return Grid(rows, notes + _unlike_tests(cells, name))


def _key(cell: Cell, run: Run) -> Key:
    shots = None if not run.learns or cell[1].isdigit() else run.shots
    return run.trainer, run.config, run.backbone, shots, run.origin


def _rows(key: Key, name: str, cells: dict[Cell, dict[int, Run]], all_rules: bool) -> list[Row]:
    runs = [run for seeds in cells.values() for run in seeds.values()]
    used = list(dict.fromkeys(run.headline_rule for run in runs if run.headline_rule))
    rules = {rule for run in runs for rule in run.accuracies} - {HEADLINE}
    rows = []
    for rule in [HEADLINE, *(sorted(rules) if all_rules else [])]:
        stats = {}
        for cell, seeds in cells.items():
            values = {s: run.accuracies[rule] for s, run in seeds.items() if rule in run.accuracies}
            if values:
                stats[cell] = Stat(values)
        label = " / ".join(used) if rule == HEADLINE else f"{rule} everywhere"
        rows.append(Row(key, name, rule, label, any(run.learns for run in runs), stats))
    return rows


def _configs_to_merge(
    placed: list[tuple[Cell, Run]], unit: Callable[[Cell], Hashable]
) -> tuple[set[tuple], list[str]]:
    found: dict[tuple, dict[Hashable, dict[str, list[Cell]]]] = {}
    for cell, run in placed:
        trainer, config, *rest = _key(cell, run)
        by_unit = found.setdefault((trainer, *rest), {}).setdefault(unit(cell), {})
        by_unit.setdefault(config, []).append(cell)
    merged, notes = set(), []
    for method, by_unit in found.items():
        configs = {config for of_unit in by_unit.values() for config in of_unit}
        if len(configs) > 1 and all(len(of_unit) == 1 for of_unit in by_unit.values()):
            merged.add(method)
            where = {config: [] for config in sorted(configs)}
            for of_unit in by_unit.values():
                for config, cells in of_unit.items():
                    where[config] += cells
            parts = [f"{config} ({_places(cells)})" for config, cells in where.items()]
            notes.append(f"{method[0]} has a configuration for each case: {'; '.join(parts)}.")
    return merged, notes


def _places(cells: list[Cell]) -> str:
    """Cells in words; shots are named where they are columns."""
    by_dataset: dict[str, list[str]] = {}
    for dataset, column in cells:
        shots = by_dataset.setdefault(dataset, [])
        if column.isdigit() and column not in shots:
            shots.append(column)
    shots = {dataset: "/".join(sorted(columns, key=int)) for dataset, columns in by_dataset.items()}
    return ", ".join(f"{name} at {text}" if text else name for name, text in shots.items())


def _check_alike(runs: list[Run]) -> None:
    """Refuse runs that an average would mix up though they are not the same experiment.

    Settings that only one of them knows are left out, so newer versions' keys do no harm.
    """
    first = runs[0]
    for run in runs[1:]:
        what, ours, theirs = _difference(first, run)
        if what:
            raise ValueError(
                f"{first.folder} and {run.folder} would be averaged as seeds of one row, but "
                f"{what} is {ours} in the first and {theirs} in the second; give the folder of one"
            )


def _check_halves_alike(by_cell: dict[Cell, dict[int, Run]]) -> None:
    """Refuse a base and a new half that come from unlike trainings, as if they were one."""
    for (dataset, column), seeds in by_cell.items():
        base = by_cell.get((dataset, "base"), {}) if column == "new" else {}
        for seed in base.keys() & seeds.keys():
            what, ours, theirs = _unlike_training(base[seed], seeds[seed], OF_A_SEED | OF_A_HALF)
            if what:
                raise ValueError(
                    f"{base[seed].folder} and {seeds[seed].folder} would stand in one row, but "
                    f"{what} is {ours} for base and {theirs} for new classes; remove the one that "
                    "is out of date"
                )


def _unlike_training(
    first: Run, other: Run, expected: Collection[str]
) -> tuple[str, object, object]:
    """The first setting that differs, but for ``expected`` ones, and its two values."""
    for key, value in first.settings.items():
        if key in NEUTRAL or key in expected or key not in other.settings:
            continue
        if value != other.settings[key]:
            return key, repr(value), repr(other.settings[key])
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
    return "", None, None


def _unlike_tests(
    cells: dict[Key, dict[Cell, dict[int, Run]]], name: Callable[[Key], str]
) -> list[str]:
    """Notes on rows that were not tested on the same images."""
    tests: dict[Cell, dict[tuple, list[str]]] = {}
    for key, by_cell in cells.items():
        for (dataset, column), seeds in by_cell.items():
            run = next(iter(seeds.values()))
            place = (dataset, "" if column.isdigit() else column)
            if run.num_test is not None:
                size = (len(run.classnames), run.num_test)
                names = tests.setdefault(place, {}).setdefault(size, [])
                if name(key) not in names:
                    names.append(name(key))
    return [
        f"{' '.join(filter(None, place))}: not all rows have the same test: "
        + "; ".join(f"{', '.join(names)}: {n} images" for (_, n), names in sizes.items())
        for place, sizes in tests.items()
        if len(sizes) > 1
    ]


def common_datasets(
    rows: list[Row], columns: Callable[[Row], Iterable[str]], among: Iterable[str]
) -> tuple[list[str], str]:
    """Data sets that averages are taken over: those that every row has in all of its columns.

    A row that has no data set complete does not count; its average is missing.

    Returns:
        the data sets, in the order given, and a note on what is left out and whose it lacks.
    """
    among = list(among)
    complete = {}
    for row in rows:
        needed = list(columns(row))
        complete[row.name, row.rule] = {
            dataset for dataset in among if all((dataset, c) in row.stats for c in needed)
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


def average(stats: Iterable[Stat | None]) -> Stat | None:
    """The mean over cells, seed by seed, for the seeds that all of them have; None without any."""
    stats = list(stats)
    if not stats or None in stats:
        return None
    seeds = frozenset.intersection(*(frozenset(stat.by_seed) for stat in stats))
    if not seeds:
        return None
    return Stat({s: statistics.fmean(stat.by_seed[s] for stat in stats) for s in sorted(seeds)})


def count_range(counts: set[int]) -> str:
    """Counts as "3", or "1-3" where they differ."""
    counts = counts or {0}
    return "-".join(map(str, sorted({min(counts), max(counts)})))


def restrict(stat: Stat | None, seeds: Iterable[int]) -> Stat | None:
    """A cell's figures of some seeds only."""
    return stat and replace(stat, by_seed={seed: stat.by_seed[seed] for seed in seeds})
