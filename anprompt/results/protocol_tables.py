"""The tables of each protocol, from runs."""

from collections.abc import Callable, Iterable

from anprompt.results.aggregate import (
    Grid,
    Row,
    average,
    common_datasets,
    count_range,
    make_grid,
    restrict,
)
from anprompt.results.assign import Placed
from anprompt.results.run import Run, Stat, harmonic_mean
from anprompt.results.table import IMAGENET_VARIANTS, PROTOCOLS, Figure, Line, Table, in_order

HALVES = ("base", "new")
BASE2NEW_COLUMNS = ["base", "new", "HM of means", "mean of HMs"]
HM_NOTE = (
    "HM of means: harmonic mean of the base and new that stand in the row, as papers print it. "
    "mean of HMs: each run's own harmonic mean, averaged."
)


def protocols_with_runs(placed: Placed) -> list[str]:
    """Protocols to show when none is asked for.

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
    all_rules: bool = False,
    split_configs: bool = False,
    methods: list[str] | None = None,
) -> list[Table]:
    """All tables of a protocol; none where there are no runs.

    Args:
        all_rules: also a row for each inference rule used for everything.
        split_configs: rows of their own for a trainer's configurations, always.
        methods: trainers, in the order to show them.

    Raises:
        ValueError: runs that cannot stand in one row (see ``make_grid``).
    """

    def grid(runs: Iterable, unit: Callable) -> Grid:
        return make_grid(runs, (lambda cell: "") if split_configs else unit, all_rules, methods)

    if protocol == "base2new":
        runs = [((run.dataset, run.part), run) for run in placed.base2new]
        return _base2new(grid(runs, lambda cell: cell[0]))
    if protocol == "fewshot":
        runs = [((run.dataset, _shots(run)), run) for run in placed.fewshot]
        return _fewshot(grid(runs, lambda cell: cell))
    return [
        _transfer(protocol, source, grid(runs, lambda cell: ""))
        for source, runs in _by_source(protocol, placed).items()
    ]


def _line(row: Row, seeds: str, figures: Iterable[Stat | float | None]) -> Line:
    trainer, _, backbone, shots, _ = row.key
    return Line(
        method=row.name,
        trainer=trainer,
        figures=tuple(_figure(figure) for figure in figures),
        rule=row.label,
        seeds=seeds,
        backbone=backbone,
        shots=shots,
        learns=row.learns,
    )


def _figure(value: Stat | Figure | None) -> Figure | None:
    return value if isinstance(value, Figure) else Figure.of(value)


def hm_figures(base: Stat | None, new: Stat | None) -> tuple[Figure | None, Stat | None]:
    """HM of means, and mean of HMs.

    None unless both halves have the same seeds: anything else compares unlike runs.
    """
    if not (base and new) or base.by_seed.keys() != new.by_seed.keys():
        return None, None
    seeds = {s: harmonic_mean(value, new.by_seed[s]) for s, value in base.by_seed.items()}
    of_means = Figure(harmonic_mean(base.mean, new.mean), None, frozenset(seeds))
    return of_means, Stat(seeds)


def _base2new(grid: Grid) -> list[Table]:
    tables = []
    datasets = in_order(grid.datasets)
    for dataset in datasets:
        lines = []
        for row in grid.rows:
            base, new = (row.stats.get((dataset, half)) for half in HALVES)
            if base or new:
                counts = [len(stat.by_seed) if stat else 0 for stat in (base, new)]
                seeds = str(counts[0]) if counts[0] == counts[1] else f"{counts[0]} / {counts[1]}"
                lines.append(_line(row, seeds, (base, new, *hm_figures(base, new))))
        title = f"{PROTOCOLS['base2new']}: {dataset}"
        tables.append(Table("base2new", title, BASE2NEW_COLUMNS, lines, dataset))
    common, note = common_datasets(grid.rows, lambda row: HALVES, datasets)
    if len(common) > 1:
        tables.append(_base2new_average(grid, common))
    return _with_notes(tables, [*_note_on_average(common, datasets, note), *grid.notes])


def _with_notes(tables: list[Table], notes: list[str]) -> list[Table]:
    """Tables, the last one with notes that are about all of them."""
    if tables:
        tables[-1].notes += notes
    return tables


def _note_on_average(common: list[str], datasets: list[str], note: str) -> list[str]:
    if len(datasets) > 1 and len(common) < 2:
        return [f"No average over data sets: no two of them are complete. {note}".strip()]
    return [note] if note else []


def _base2new_average(grid: Grid, common: list[str]) -> Table:
    lines = []
    for row in grid.rows:
        cells = [row.stats.get((d, half)) for d in common for half in HALVES]
        both = average(cells)  # None unless some seeds are everywhere
        figures: tuple = (None, None, None, None)
        if both:
            cells = [restrict(stat, both.by_seed) for stat in cells]
            base, new = average(cells[::2]), average(cells[1::2])
            pairs = zip(cells[::2], cells[1::2], strict=True)
            hms = average(hm_figures(*pair)[1] for pair in pairs)
            figures = (base, new, hm_figures(base, new)[0], hms)
        lines.append(_line(row, str(len(both.by_seed)) if both else "0", figures))
    title = f"{PROTOCOLS['base2new']}: average of {len(common)} data sets"
    return Table("base2new", title, BASE2NEW_COLUMNS, lines, "", common)


def _shots(run: Run) -> str:
    if not run.learns:
        return "0"
    return str(run.shots) if run.shots > 0 else "all"


def _shots_title(column: str) -> str:
    return f"{column} shot{'' if column == '1' else 's'}"


def _fewshot(grid: Grid) -> list[Table]:
    found = {column for row in grid.rows for _, column in row.stats}
    columns = sorted(found, key=lambda column: int(column) if column.isdigit() else 10**9)
    titles = [_shots_title(column) for column in columns]
    datasets = in_order(grid.datasets)
    tables = []
    for dataset in datasets:
        cells = [(dataset, column) for column in columns]
        lines = [
            _line(row, row.seeds(cells), [row.stats.get(cell) for cell in cells])
            for row in grid.rows
            if any(cell in row.stats for cell in cells)
        ]
        title = f"{PROTOCOLS['fewshot']}: {dataset}"
        tables.append(Table("fewshot", title, titles, lines, dataset))
    own = {
        (row.name, row.rule): [c for c in columns if any(c == found for _, found in row.stats)]
        for row in grid.rows
    }
    common, note = common_datasets(grid.rows, lambda row: own[row.name, row.rule], datasets)
    if len(common) > 1:
        tables.append(_fewshot_average(grid, columns, common))
    return _with_notes(tables, [*_note_on_average(common, datasets, note), *grid.notes])


def _fewshot_average(grid: Grid, columns: list[str], common: list[str]) -> Table:
    lines = []
    for row in grid.rows:
        stats = [average(row.stats.get((d, column)) for d in common) for column in columns]
        counts = {len(stat.by_seed) for stat in stats if stat} or {0}
        lines.append(_line(row, count_range(counts), stats))
    title = f"{PROTOCOLS['fewshot']}: average of {len(common)} data sets"
    return Table("fewshot", title, list(map(_shots_title, columns)), lines, "", common)


def _by_source(protocol: str, placed: Placed) -> dict[str, list]:
    """Runs of each source: its own test and those on targets, in the cells of ``make_grid``.

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
    columns = [f"{source} (source)", *targets, f"average of {len(common)}" if common else "average"]
    lines = []
    for row in grid.rows:
        cells = [(dataset, "") for dataset in (source, *targets)]
        stats = [row.stats.get(cell) for cell in cells]
        mean = average(row.stats.get((dataset, "")) for dataset in common)
        lines.append(_line(row, row.seeds(cells), [*stats, mean]))
    title = f"{PROTOCOLS[protocol]}: trained on {source}"
    notes = [*([note] if note else []), *grid.notes]
    return Table(protocol, title, columns, lines, source, common, notes)
