"""Sections on accuracy: what was run, base to new, all classes, transfer, under attacks."""

import statistics
from collections.abc import Sequence

from anprompt.results.apart import is_apart
from anprompt.results.marks import RULE
from anprompt.results.report.blocks import Block, Section, Sentence, Shown, joined, listed, words
from anprompt.results.report.context import Context
from anprompt.results.report.figures import accuracy_by_shots, base_against_new
from anprompt.results.statistics import standard_error
from anprompt.results.table import Row, Table
from anprompt.results.value import Value, minus

FEW = 3  # with more data sets than these, sentences are about the average alone
HM = 2  # the column with the harmonic mean of base and new


def overview(page: Context) -> Section:
    """Return counts, and what stands out."""
    runs = page.data.runs
    seeds, shots = ({getattr(run, name) for run in runs} for name in ("seed", "shots"))
    tiles = [
        (str(len(runs)), "finished runs"),
        (str(len(page.names)), "methods"),
        (", ".join(sorted({run.dataset for run in runs})), "data"),
        (", ".join(map(str, sorted(seeds))), "seeds" if len(seeds) > 1 else "seed"),
        (", ".join(sorted({run.backbone for run in runs})), "backbone"),
        (", ".join(str(n) if n > 0 else "all" for n in sorted(shots)), "images per class"),
    ]
    left_out = [(folder.as_posix(), reason) for folder, reason in page.data.left_out]
    blocks = [
        Block("tiles", tiles),
        Block("findings", [*_highlights(page), *_few_seeds(page)]),
        *listed("Not finished, left out", [(p.as_posix(), "") for p in page.data.unfinished]),
        *listed("In no table", left_out),
    ]
    return Section("overview", "Overview", "What was run", blocks)


def _highlights(page: Context) -> list[Sentence]:
    """Return the first of each table, and how the highlighted method fares."""
    found = []
    for table in _said(page.data.tables.get("base2new", [])):
        rows = [row for row in table.rows if row.is_protocol and not is_apart(row.method)]
        title = f"{_subject(table)}, base to new: highest harmonic mean"
        known = [(row.name, value) for row in rows if (value := row.values[HM])]
        best = max(known, key=lambda pair: pair[1].number)[0] if known else ""
        top = next((row for row in rows if row.name == best), None)
        error = _standard_error(top) if top and table.subject else None
        found += page.first(title, known, error)
    for table in _said(page.data.tables.get("fewshot", [])):
        title = f"{_subject(table)}, {table.columns[-1].name}: highest accuracy"
        rows = [row for row in table.rows if not is_apart(row.method)]
        found += page.first(title, ((row.name, _last(row)) for row in rows), None)
    for comparison in page.data.comparisons:
        cleans = [value.number for row in comparison.rows if (value := row.value(""))]
        error = standard_error(statistics.fmean(cleans), comparison.images)
        for group in ("text", "image"):
            title = f"{page.comparison_title(comparison)}, {group} noise: highest mean accuracy"
            own = (row for row in comparison.rows if not is_apart(row.method))
            pairs = ((row.method.name, row.value(group)) for row in own)
            found += page.first(title, pairs, error)
    return found


def _said(tables: Sequence[Table]) -> list[Table]:
    """Return the tables that have sentences: the average's where there are many data sets."""
    averages = [table for table in tables if not table.subject]
    return averages if averages and len(tables) > FEW + 1 else list(tables)


def _subject(table: Table) -> str:
    return table.subject or f"Average of {len(table.averaged)} data sets"


def _last(row: Row) -> Value | None:
    """Return a row's number in the last column; what learns nothing has one for all columns."""
    return row.values[-1] if row.method.learns else next(filter(None, row.values), None)


def _standard_error(row: Row) -> float | None:
    """Return the mean standard error of the accuracies that a harmonic mean is made of."""
    errors = []
    for subset, value in zip(("base", "new"), row.values, strict=False):
        images = {run.num_test for run in row.runs if run.subset == subset}
        if value is None or len(images) != 1:
            return None
        errors.append(standard_error(value.number, images.pop() or 1))
    return statistics.fmean(errors)


def _few_seeds(page: Context) -> list[Sentence]:
    """Return a caution where methods have fewer than three seeds in some table."""
    seeds: dict[tuple, set[int]] = {}
    for run in page.data.runs:
        if run.learns and run.folder in page.data.method_of:
            name = page.data.method_of[run.folder].name
            key = (run.dataset, run.subset, run.trained_on[0], run.shots, name)
            seeds.setdefault(key, set()).add(run.seed)
    least = min(map(len, seeds.values()), default=3)
    if least > 2:
        return []
    few = {name for (*_, name), own in seeds.items() if len(own) < 3}
    number = "One seed" if least == 1 else "Two seeds"
    who = "" if few == {name for *_, name in seeds} else f" of {words(sorted(few))}"
    if page.data.evidence.has_any:
        said = "the intervals are about the test images, not about what other seeds would give"
    else:
        said = "methods a few points apart are not told apart by this"
    return [(f"{number}{who}: {said}.",)]


def _numbers(tables: Sequence[Table]) -> list[Block]:
    """Return tables, averages over data sets before the rest, which is folded where it is much."""
    averages = [Block("numbers", table) for table in tables if not table.subject]
    links = {"has_links": True}
    single = [Block("numbers", table, options=links) for table in tables if table.subject]
    if averages and len(single) > FEW:
        single = [Block("folded", single, f"Each of the {len(single)} data sets")]
    return [*averages, *single]


def base_new(page: Context) -> Section | None:
    """Return tables of base, new and harmonic mean, and the scatter of each data set."""
    tables = page.data.tables.get("base2new", [])
    charts = page.figures((base_against_new(table, page.styles) for table in tables), page.names)
    intro = (
        "Each method learned from images of the base classes and was tested on test images of both "
        "halves. Mean and standard deviation over seeds. HM of means is the harmonic mean of the "
        "base and new that stand in the row, mean of HMs that of each seed, averaged. “a / b” is "
        "the method's own protocol: rule a on base, b on new classes. It knows which half it is "
        f"tested on; rows with one rule everywhere do not. {RULE}"
    )
    said = [sentence for table in _said(tables) for sentence in _differences(page, table)]
    blocks = [Block("text", intro), Block("findings", said), *_numbers(tables), *charts]
    return Section("base-new", "Base to new", "Base to new", blocks) if tables else None


def _differences(page: Context, table: Table) -> list[Sentence]:
    """Return how far methods are above or below the baseline."""
    rows = [row for row in table.rows if row.is_protocol]
    base = next((row for row in rows if page.styles.is_baseline(row.name)), None)
    said: list[Sentence] = []
    for i, half in enumerate(("base", "new")) if base else ():
        changes: list[Sentence] = []
        has_intervals = False
        for row in rows if base else ():
            ours, theirs = row.values[i], base.values[i] if base else None
            change = minus(ours, theirs)
            if row is base or not change or not ours or not theirs:
                continue
            interval = page.data.evidence.interval(ours, theirs)
            has_intervals |= interval is not None
            bounds = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
            changes.append((f"{row.name} ", Shown(change, signed=True), bounds))
        if changes and base:
            how = " [95% interval]" if has_intervals else ""
            title = f"{_subject(table)}, {half} classes, points above or below {base.name}{how}: "
            said.append((title, *joined(changes), "."))
    return said


def all_classes(page: Context) -> Section | None:
    """Return runs trained and tested on all classes of a data set, by images per class."""
    tables = page.data.tables.get("fewshot", [])
    charts = page.figures((accuracy_by_shots(table, page.styles) for table in tables), page.names)
    intro = (
        "Trained on a few images of every class, tested on all classes. Mean and standard "
        f"deviation over seeds. What learns nothing stands under 0 shots. {RULE}"
    )
    f1 = Block("folded", _numbers(page.data.macro_f1), "Macro F1")
    blocks = [Block("text", intro), *_numbers(tables), f1, *charts]
    return Section("few-shot", "All classes", "All classes", blocks) if tables else None


def transfer(page: Context) -> Section | None:
    """Return runs trained on one data set and tested, as they are, on others."""
    tables = [*page.data.tables.get("crossdata", []), *page.data.tables.get("domaingen", [])]
    intro = (
        "Trained on all classes of one data set, tested there and, without further training, on "
        "others. Mean and standard deviation over seeds; averages are over targets, seed by seed. "
        f"“a / b”: rule a on the data set trained on, b on the others. {RULE}"
    )
    blocks = [Block("text", intro), *_numbers(tables)]
    return (
        Section("transfer", "Transfer", "Transfer to other data sets", blocks) if tables else None
    )


def attacks(page: Context) -> Section | None:
    """Return accuracy and, beside it, accuracy under each attack that was made."""
    intro = (
        "Beside each accuracy (natural) that under an attack on the same test images (robust). "
        "Mean and standard deviation over seeds. An attack changes every pixel by the bound in "
        "its name at most and knows the very model. Figures compare where attack, bound and "
        f"images are the same. {RULE}"
    )
    blocks = [Block("text", intro)]
    for attack, tables in page.data.attacked:
        own = _numbers(tables)
        many = len(page.data.attacked) > 1
        blocks += [Block("folded", own, f"Under {attack.name}")] if many else own
    title = "Natural and robust accuracy"
    return Section("attacks", "Attacks", title, blocks) if len(blocks) > 1 else None
