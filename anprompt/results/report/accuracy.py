"""Sections on accuracy without noise: what was run, base to new, all classes, transfer."""

import statistics
from collections.abc import Sequence

from anprompt.results.report.blocks import (
    Block,
    Findings,
    Folded,
    Legend,
    Numbers,
    Paths,
    Section,
    Sentence,
    Shown,
    Text,
    Tiles,
    joined,
    words,
)
from anprompt.results.report.context import Context
from anprompt.results.report.figures import accuracy_by_shots, base_against_new
from anprompt.results.table import Row, Table
from anprompt.results.value import Value, minus, standard_error

FEW = 3  # more unfinished runs than these are folded away; more data sets have no sentences each
HM = 2  # the column with the harmonic mean of base and new


def overview(page: Context) -> Section:
    """Counts, and what stands out."""
    data = page.data
    seeds = sorted({run.seed for run in data.runs})
    shots = sorted({run.shots for run in data.runs})
    tiles = [
        (str(len(data.runs)), "finished runs"),
        (str(len(data.methods)), "methods"),
        (", ".join(sorted({run.dataset for run in data.runs})), "data"),
        (", ".join(map(str, seeds)), "seeds" if len(seeds) > 1 else "seed"),
        (", ".join(sorted({run.backbone for run in data.runs})), "backbone"),
        (", ".join(map(str, shots)), "images per class"),
    ]
    left_out = [(folder.as_posix(), reason) for folder, reason in data.left_out]
    blocks: list[Block] = [
        Tiles(tiles),
        Findings([*_highlights(page), *_few_seeds(page)]),
        *_listed("Not finished, left out", [(path.as_posix(), "") for path in data.unfinished]),
        *_listed("In no table", left_out),
    ]
    return Section("overview", "Overview", "What was run", blocks)


def _listed(title: str, items: Sequence[tuple[str, str]]) -> list[Block]:
    """Runs that the page does not show, and why; folded where they are many."""
    title = f"{title}: {len(items)}"
    if len(items) > FEW:
        return [Folded(title, [Paths("", items)])]
    return [Paths(title, items)] if items else []


def _highlights(page: Context) -> list[Sentence]:
    """The first of each table, and how the highlighted method fares."""
    found = []
    for table in _said(page.data.tables.get("base2new", [])):
        places = page.ranked((row.name, row.values[HM]) for row in _own(table))
        if sum(len(names) for names, _ in places) > 1:
            error = _standard_error([row for row in _own(table) if row.name in places[0][0]])
            chance = f" (standard error {error:.1f})" if error else ""
            start = f"{_subject(table)}, base to new: highest harmonic mean{chance} "
            found.append((start, *page.placed(places)))
    for comparison in page.data.comparisons:
        for group in ("text", "image"):
            places = page.ranked((row.method.name, row.value(group)) for row in comparison.rows)
            if sum(len(names) for names, _ in places) > 1:
                top = [row for row in comparison.rows if row.method.name in places[0][0]]
                cleans = [value.number for row in top if (value := row.value(""))]
                error = standard_error(statistics.fmean(cleans), comparison.images)
                title = page.comparison_title(comparison)
                start = (
                    f"{title}, {group} noise: highest mean accuracy under noise (standard error "
                    f"of one accuracy {error:.1f}) "
                )
                found.append((start, *page.placed(places)))
    return found


def _said(tables: Sequence[Table]) -> list[Table]:
    """The tables that have sentences: the average's where there are many data sets."""
    of_data = [table for table in tables if table.subject]
    averages = [table for table in tables if not table.subject]
    return averages if averages and len(of_data) > FEW else [*averages, *of_data]


def _subject(table: Table) -> str:
    return table.subject or f"Average of {len(table.averaged)} data sets"


def _own(table: Table) -> list[Row]:
    """Each method under its own protocol's rules."""
    return [row for row in table.rows if row.is_protocol]


def _few_seeds(page: Context) -> list[Sentence]:
    """A caution where methods have fewer than three seeds in some table."""
    seeds: dict[tuple, set[int]] = {}
    for run in page.data.runs:
        if run.learns and run.folder in page.data.method_of:
            name = page.data.method_of[run.folder].name
            key = (run.dataset, run.subset, run.trained_on[0], run.shots, name)
            seeds.setdefault(key, set()).add(run.seed)
    least = min(map(len, seeds.values()), default=3)
    if least > 2:
        return []
    methods = {name for *_, name in seeds}
    few = {name for (*_, name), own in seeds.items() if len(own) < 3}
    number = "One seed" if least == 1 else "Two seeds"
    who = "" if few == methods else f" of {words(sorted(few))}"
    return [(f"{number}{who}: methods a few points apart are not told apart by this.",)]


def _first(tables: Sequence[Table]) -> list[Table]:
    """Tables, averages over data sets before the rest."""
    return sorted(tables, key=lambda table: bool(table.subject))


def base_new(page: Context) -> Section | None:
    """Tables of base, new and harmonic mean, and the scatter of each data set."""
    tables = page.data.tables.get("base2new", [])
    if not tables:
        return None
    said = [sentence for table in _said(tables) for sentence in _base_new_says(page, table)]
    charts = page.figures(base_against_new(table, page.styles) for table in tables)
    intro = Text(
        "Each method learned from images of the base classes and was tested on test images of both "
        "halves. Mean and standard deviation over seeds. HM of means is the harmonic mean of the "
        "base and new that stand in the row, mean of HMs that of each seed, averaged. “a / b” is "
        "the method's own protocol: rule a on base, b on new classes. It knows which half it is "
        "tested on; rows with one rule everywhere do not. Bold: best of the rows with the same "
        "backbone, shots and seeds, ties included."
    )
    blocks: list[Block] = [intro, Findings(said)]
    blocks += [Numbers(table, has_links=True) for table in _first(tables)]
    blocks += [Legend(page.names), *charts] if charts else []
    return Section("base-new", "Base to new", "Base to new", blocks)


def _base_new_says(page: Context, table: Table) -> list[Sentence]:
    rows = {row.name: row for row in _own(table)}
    places = page.ranked((name, row.values[HM]) for name, row in rows.items())
    if sum(len(names) for names, _ in places) < 2:
        return []
    names, best = places[0]
    start = f"{_subject(table)}: {words(names)}"
    said: list[Sentence] = []
    error = _standard_error([rows[name] for name in names])
    if len(places) == 1:
        said.append((f"{start} have the same harmonic mean.",))
    else:
        lead = minus(best, places[1][1])
        assert lead is not None
        verb = "are first together" if len(names) > 1 else "is first"
        text: Sentence = (f"{start} {verb} by harmonic mean, ", Shown(lead),
                          f" points ahead of {words(places[1][0])}")  # fmt: skip
        if error is None:
            said.append((*text, "."))
        else:
            more = "more" if lead.number > 2 * error else "no more"
            said.append((*text, f": {more} than twice what chance alone moves an accuracy on so "
                         f"many images by (standard error {error:.1f})."))  # fmt: skip
    base = next((name for name in rows if page.styles.is_baseline(name)), None)
    if base is None:
        return said
    for i, half in enumerate(("base", "new")):
        changes = [
            (f"{name} ", Shown(change, signed=True))
            for name, row in rows.items()
            if name != base and (change := minus(row.values[i], rows[base].values[i]))
        ]
        if changes:
            start = f"On {half} classes, points above or below {base}: "
            said.append((start, *joined(changes), "."))
    return said


def _standard_error(rows: Sequence[Row]) -> float | None:
    """By how many points chance alone moves the accuracies that a harmonic mean is made of."""
    errors = []
    for row in rows:
        for subset, value in zip(("base", "new"), row.values, strict=False):
            images = {run.num_test for run in row.runs if run.subset == subset}
            if value is None or len(images) != 1 or None in images:
                return None
            errors.append(standard_error(value.number, images.pop() or 1))
    return statistics.fmean(errors) if errors else None


def all_classes(page: Context) -> Section | None:
    """Runs trained and tested on all classes of a data set, by images per class."""
    tables = page.data.tables.get("fewshot", [])
    if not tables:
        return None
    said: list[Sentence] = []
    for table in _said(tables):
        most = max((i for i, column in enumerate(table.columns)), default=0)
        pairs = [(row.name, _at(row, most)) for row in table.rows]
        places = page.ranked(pairs)
        if sum(len(names) for names, _ in places) > 1:
            start = f"{_subject(table)}, {table.columns[most].name}: highest accuracy "
            said.append((start, *page.placed(places)))
    charts = page.figures(accuracy_by_shots(table, page.styles) for table in tables)
    intro = Text(
        "Trained on a few images of every class, tested on all classes. Mean and standard "
        "deviation over seeds. What learns nothing stands under 0 shots. Bold: best of the rows "
        "with the same backbone and seeds, ties included."
    )
    blocks: list[Block] = [intro, Findings(said)]
    blocks += [Numbers(table, has_links=True) for table in _first(tables)]
    f1 = [Numbers(table) for table in _first(page.data.macro_f1)]
    blocks += [Folded("Macro F1", f1)] if f1 else []
    blocks += [Legend(page.names), *charts] if charts else []
    return Section("few-shot", "All classes", "All classes", blocks)


def _at(row: Row, column: int) -> Value | None:
    """A row's number in a column; what learns nothing has one for all columns."""
    return row.values[column] if row.method.learns else next(filter(None, row.values), None)


def transfer(page: Context) -> Section | None:
    """Runs trained on one data set and tested, as they are, on others."""
    tables = [*page.data.tables.get("crossdata", []), *page.data.tables.get("domaingen", [])]
    if not tables:
        return None
    intro = Text(
        "Trained on all classes of one data set, tested there and, without further training, on "
        "others. Mean and standard deviation over seeds; averages are over targets, seed by seed. "
        "“a / b”: rule a on the data set trained on, b on the others. Bold: best of the rows with "
        "the same backbone, shots and seeds, ties included."
    )
    blocks: list[Block] = [intro, *(Numbers(table, has_links=True) for table in tables)]
    return Section("transfer", "Transfer", "Transfer to other data sets", blocks)
