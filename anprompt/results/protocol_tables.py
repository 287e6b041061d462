"""The tables of each protocol, from runs."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from anprompt.results.aggregate import (
    NO_SEED,
    Grid,
    GridRow,
    average,
    common_datasets,
    make_grid,
    seeds_left_out,
)
from anprompt.results.apart import apart_notes, last
from anprompt.results.assign import Placed
from anprompt.results.cell import ALL, Cell, by_shots, shots_of
from anprompt.results.measures import MEASURES, Measure
from anprompt.results.method import shots_in_words
from anprompt.results.run import HEADLINE, Run
from anprompt.results.statistics import standard_error
from anprompt.results.table import IMAGENET_VARIANTS, PROTOCOLS, Column, Row, Table, in_order
from anprompt.results.value import Value, count, ends, harmonic, over_seeds, seed_by_seed
from anprompt.runs.recorded import ALL_IMAGES

HALVES = ("base", "new")
OF_AVERAGES = "Averages are over the seeds that all of their data sets have"
NO_HM = "no harmonic mean, as the halves have other seeds"
BASE2NEW_COLUMNS = [Column(name) for name in ("base", "new", "HM of means", "mean of HMs")]


def protocols_with_runs(placed: Placed) -> list[str]:
    """Return protocols to show when none is asked for.

    Domain generalisation needs a test on one of its data sets; source trainings alone show as
    cross-dataset if they were made for it.
    """
    of_layout = [run for run in placed.sources if run.layout == "crossdata"]
    has = {
        "base2new": placed.base2new,
        "crossdata": placed.targets["crossdata"] or (of_layout and not placed.targets["domaingen"]),
        "domaingen": placed.targets["domaingen"],
        "fewshot": placed.fewshot,
    }
    return [protocol for protocol in PROTOCOLS if has[protocol]]


def make_tables(
    protocol: str,
    placed: Placed,
    *,
    all_rules: bool = False,
    split_configs: bool = False,
    methods: list[str] | None = None,
    metric: str = "accuracy",
) -> list[Table]:
    """Return all tables of a protocol; none where there are no runs.

    Args:
        all_rules: also a row for each inference rule used for everything.
        split_configs: rows of their own for a trainer's configurations, always.
        methods: trainers, in the order to show them.
        metric: one of `anprompt.results.measures`.

    Raises:
        UsageError: runs that cannot stand in one row (see ``make_grid``).
    """

    def grid(runs: Iterable, unit: Callable, order: Callable = lambda cell: cell) -> Grid:
        unit = (lambda cell: "") if split_configs else unit
        return make_grid(
            runs, unit, order=order, all_rules=all_rules, methods=methods, metric=metric
        )

    if protocol == "base2new":
        runs = [((run.dataset, run.subset), run) for run in placed.base2new]
        tables = _base2new(grid(runs, lambda cell: cell[0]))
    elif protocol == "fewshot":
        runs = [((run.dataset, _shots(run)), run) for run in placed.fewshot]
        tables = _fewshot(grid(runs, lambda cell: cell))
    else:
        # The rules of a row are named in this order: the source's, then the targets'.
        tables = [
            _transfer(
                protocol,
                source,
                grid(runs, lambda cell: "", lambda cell, first=source: (cell[0] != first, cell)),
            )
            for source, runs in _by_source(protocol, placed).items()
        ]
    for table in tables:
        table.notes += [*(_few_images(table) if metric == "accuracy" else []), *apart_notes(table)]
        table.rows = table.rows if methods else last(table.rows)
    for table in tables if MEASURES[metric].best == "highest" else ():
        table.notes += _without_harmonic_mean(table)
    return [_of_measure(table, MEASURES[metric]) for table in tables]


def _few_images(table: Table) -> list[str]:
    """Return what chance does to one run's accuracies, where that is a point or more."""
    runs = {run.file: run for row in table.rows for run in row.runs}.values()
    told = []
    for subset in dict.fromkeys(run.subset for run in runs) if table.subject else ():
        own = [run for run in runs if run.subset == subset]
        number = own[0].num_test
        if len({(run.dataset, run.num_test) for run in own}) > 1 or not number:
            continue  # of a transfer, or not all on the same images
        accuracies = [v.number for run in own if (v := run.value("accuracy")) is not None]
        if not accuracies:
            continue
        error = statistics.fmean(standard_error(accuracy, number) for accuracy in accuracies)
        if round(error, 1) >= 1:
            told.append(f"{number:,} images of {subset} classes: {error:.1f} points")
    start = f"{table.subject}, standard error of one run's accuracy: "
    return [f"{start}{'; '.join(told)}."] if told else []


def _without_harmonic_mean(table: Table) -> list[str]:
    """Return whose halves on a data set have unlike seeds, which are no runs of one model."""
    if table.protocol != "base2new" or not table.subject:
        return []
    names = [row.name for row in table.rows if all(row.values[:2]) and not row.values[2]]
    return [f"{table.subject}, {', '.join(dict.fromkeys(names))}: {NO_HM}."] if names else []


def _of_measure(table: Table, measure: Measure) -> Table:
    """Return a table for its measure; of what is best when low there is no harmonic mean."""
    kept = [
        j
        for j, column in enumerate(table.columns)
        if measure.best == "highest" or column not in BASE2NEW_COLUMNS[2:]
    ]
    return replace(
        table,
        measure=measure.title,
        columns=[replace(table.columns[j], digits=measure.digits, best=measure.best) for j in kept],
        rows=[replace(row, values=tuple(row.values[j] for j in kept)) for row in table.rows],
    )


def _row(
    row: GridRow,
    cells: Iterable[Cell],
    values: Iterable[Value | None],
    counts: Iterable[Value],
    between: str = "-",
) -> Row:
    return Row(
        method=row.method,
        values=tuple(values),
        rule=row.label,
        counts=tuple(counts),
        between=between,
        is_protocol=row.rule == HEADLINE,
        runs=row.runs_in(cells),
    )


def _ends(counts: Iterable[Value]) -> tuple[Value, ...]:
    """Return the smallest and the largest count, none counted as no run."""
    return ends(counts) or (count([]),)


def _harmonic_means(base: Value | None, new: Value | None) -> tuple[Value | None, Value | None]:
    """Return HM of means, and mean of HMs.

    None unless both halves have the same seeds: anything else compares unlike runs.
    """
    of_seeds = seed_by_seed(harmonic, base, new)
    of_means = harmonic(base, new) if of_seeds else None
    if of_means and of_seeds:
        of_means = replace(of_means, seeds=frozenset(of_seeds.by_seed))
    return of_means, of_seeds


def _base2new(grid: Grid) -> list[Table]:
    tables = []
    datasets = in_order(grid.datasets)
    for dataset in datasets:
        rows = []
        cells = [(dataset, half) for half in HALVES]
        for row in grid.rows:
            base, new = (row.values.get(cell) for cell in cells)
            if base or new:
                counts = [row.count(cell) for cell in cells]
                counts = counts[: 1 + (counts[0].number != counts[1].number)]
                values = (base, new, *_harmonic_means(base, new))
                rows.append(_row(row, cells, values, counts, " / "))
        title = f"{PROTOCOLS['base2new']}: {dataset}"
        tables.append(Table("base2new", title, BASE2NEW_COLUMNS, rows, dataset))
    common, note = common_datasets(grid.rows, lambda row: HALVES, datasets)
    if len(common) > 1:
        tables.append(_base2new_average(grid, common))
    return _with_notes(tables, [*_note_on_average(common, datasets, note), *grid.notes])


def _with_notes(tables: list[Table], notes: list[str]) -> list[Table]:
    """Return tables, the last one with notes that are about all of them."""
    if tables:
        tables[-1].notes += notes
    return tables


def _note_on_average(common: list[str], datasets: list[str], note: str) -> list[str]:
    if len(datasets) > 1 and len(common) < 2:
        return [f"No average over data sets: no two of them are complete. {note}".strip()]
    return [note] if note else []


def _base2new_average(grid: Grid, common: list[str]) -> Table:
    rows = []
    cells = [(dataset, half) for dataset in common for half in HALVES]
    for row in grid.rows:
        both = average(row.values.get(cell) for cell in cells)  # None unless seeds are everywhere
        seeds = both.by_seed if both else {}
        values: tuple[Value | None, ...] = (None,) * len(BASE2NEW_COLUMNS)
        if both:
            own = [_of_seeds(row.values[cell], seeds) for cell in cells]
            base, new = average(own[::2]), average(own[1::2])
            pairs = zip(own[::2], own[1::2], strict=True)
            hms = average(_harmonic_means(*pair)[1] for pair in pairs)
            values = (base, new, _harmonic_means(base, new)[0], hms)
        rows.append(_row(row, cells, values, [row.count(cells[0], seeds)]))
    title = f"{PROTOCOLS['base2new']}: average of {len(common)} data sets"
    computed = [(row.method.name, map(row.values.get, cells)) for row in grid.rows]
    notes = seeds_left_out(computed, OF_AVERAGES)
    return Table("base2new", title, BASE2NEW_COLUMNS, rows, "", common, notes)


def _of_seeds(value: Value, seeds: Iterable[int]) -> Value | None:
    own = value.of_seeds()
    return over_seeds({seed: own[seed] for seed in seeds})


def _shots(run: Run) -> str:
    if not run.learns:
        return "0"
    return ALL if run.shots == ALL_IMAGES else str(run.shots)


def _shots_columns(columns: list[str]) -> list[Column]:
    return [
        Column("0 shots" if column == "0" else shots_in_words([shots_of(column)]))
        for column in columns
    ]


def _fewshot(grid: Grid) -> list[Table]:
    found = {column for row in grid.rows for _, column in row.values}
    shots = sorted(found, key=by_shots)
    columns = _shots_columns(shots)
    datasets = in_order(grid.datasets)
    tables = []
    for dataset in datasets:
        cells = [(dataset, column) for column in shots]
        rows = [
            _row(row, cells, map(row.values.get, cells), _ends(row.count(c) for c in known))
            for row in grid.rows
            if (known := [cell for cell in cells if cell in row.values])
        ]
        title = f"{PROTOCOLS['fewshot']}: {dataset}"
        tables.append(Table("fewshot", title, columns, rows, dataset))
    own = {
        (row.method, row.rule): [c for c in shots if any(c == known for _, known in row.values)]
        for row in grid.rows
    }
    common, note = common_datasets(grid.rows, lambda row: own[row.method, row.rule], datasets)
    if len(common) > 1:
        tables.append(_fewshot_average(grid, shots, common))
    return _with_notes(tables, [*_note_on_average(common, datasets, note), *grid.notes])


def _fewshot_average(grid: Grid, shots: list[str], common: list[str]) -> Table:
    rows = []
    computed: list[tuple[str, list[Value | None]]] = []
    columns = _shots_columns(shots)
    for row in grid.rows:
        cells = [(dataset, column) for column in shots for dataset in common]
        own = [[row.values.get((dataset, column)) for dataset in common] for column in shots]
        names = [f"{row.method.name} ({column.name})" for column in columns]
        computed += zip(names, own, strict=True)
        values = [average(of_column) for of_column in own]
        counts = [
            row.count((common[0], column), value.by_seed)
            for column, value in zip(shots, values, strict=True)
            if value
        ]
        rows.append(_row(row, cells, values, _ends(counts)))
    title = f"{PROTOCOLS['fewshot']}: average of {len(common)} data sets"
    return Table("fewshot", title, columns, rows, "", common, seeds_left_out(computed, OF_AVERAGES))


def _by_source(protocol: str, placed: Placed) -> dict[str, list]:
    """Return runs of each source: its own test and those on targets, in the cells of ``make_grid``.

    A method that has no finished target yet is shown where others have, its cells missing.
    """
    by_source: dict[str, list] = {}
    targets = placed.targets[protocol]
    shown = {run.trained_on[0] for run in targets}
    sources = [run for run in placed.sources if not targets or run.dataset in shown]
    for run in sources + targets:
        source = run.trained_on[0] or run.dataset
        by_source.setdefault(source, []).append(((run.dataset, ""), run))
    return by_source


def _transfer(protocol: str, source: str, grid: Grid) -> Table:
    found = grid.datasets - {source}
    targets = IMAGENET_VARIANTS if protocol == "domaingen" else in_order(found)
    common, note = common_datasets(grid.rows, lambda row: [""], targets)
    names = [f"{source} (source)", *targets, f"average of {len(common)}" if common else "average"]
    cells = [(dataset, "") for dataset in (source, *targets)]
    rows = []
    computed: list[tuple[str, list[Value | None]]] = []
    for row in grid.rows:
        own = [row.values.get((dataset, "")) for dataset in common]
        computed.append((row.method.name, own))
        mean = average(own)
        counts = _ends(row.count(cell) for cell in cells if cell in row.values)
        rows.append(_row(row, cells, [*map(row.values.get, cells), mean], counts))
    title = f"{PROTOCOLS[protocol]}: trained on {source}"
    notes = [*([note] if note else []), *seeds_left_out(computed, OF_AVERAGES), *grid.notes]
    return Table(protocol, title, list(map(Column, names)), rows, source, common, notes)


def notes_on(tables: list[Table], placed: Placed, unfinished: list[Path]) -> list[str]:
    """Return what is to be said about all tables together."""
    rows = [row for table in tables for row in table.rows]
    values = [value for row in rows for value in row.values]
    backbones = sorted({row.method.backbone for row in rows if row.runs})
    shots = {row.method.shots for row in rows if row.method.shots}
    of_shots = f"; {shots_in_words(shots)}" if shots else ""
    measure = tables[0].measure
    notes = [f"Backbone {', '.join(backbones)}{of_shots}; {measure[0].lower()}{measure[1:]}."]
    if any(row.published for row in rows):
        notes.append("published: 16 images a class where columns are not shots.")
    if any(value and value.std is not None for value in values):
        notes.append("+- is the (population) standard deviation over seeds.")
    if None in values:
        said = [note for table in tables for note in table.notes]
        is_of_seeds = any(NO_SEED in note or NO_HM in note for note in said)
        reasons = "nothing published, or other seeds" if is_of_seeds else "or nothing published"
        notes.append(f"- in a column of figures: no finished run, {reasons}.")
    if any(table.protocol == "base2new" for table in tables):
        notes.append(
            "HM of means: harmonic mean of the base and new that stand in the row, as papers print "
            "it. mean of HMs: each run's own harmonic mean, averaged."
        )
    if any(row.rule for row in rows):
        notes.append("rule: which logits decide, of methods that have a choice.")
    if _has_pairs(tables, ("base2new",)):
        notes.append(
            "'a / b' is the method's own protocol, a for base and b for new classes; it knows "
            "which half it is tested on."
        )
    if _has_pairs(tables, ("crossdata", "domaingen")):
        notes.append("'a / b' of a transfer: a on the data set trained on, b on the others.")
    if any(row.method.origin for row in rows):
        notes.append("log.txt: runs of upstream's code, whose logs print one decimal.")
    notes += [f"in no table: {folder} ({reason})" for folder, reason in placed.left_out]
    notes += [f"not finished, left out: {folder}" for folder in unfinished]
    return notes


def _has_pairs(tables: list[Table], protocols: tuple[str, ...]) -> bool:
    rows = [row for table in tables if table.protocol in protocols for row in table.rows]
    return any(" / " in row.rule for row in rows)
