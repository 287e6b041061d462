"""Sections on accuracy without noise: what was run, base to new, all classes, transfer."""

from collections.abc import Callable, Sequence
from pathlib import Path

from anprompt.results.report import html
from anprompt.results.report.context import Context, left, links, seeds, words
from anprompt.results.report.data import (
    ALL_CLASSES,
    BASE_TO_NEW,
    TRANSFER,
    BaseNew,
    base_to_new,
    number_of,
)
from anprompt.results.report.figures import accuracy_by_shots, base_against_new
from anprompt.results.report.noise import noisy
from anprompt.results.report.numbers import Number, mean, minus

FEW_UNFINISHED = 3  # more than these are folded away


def overview(page: Context) -> str:
    """Counts, and what stands out."""
    data = page.data
    runs = [source.run for source in data.sources]
    all_seeds = sorted({run.seed for run in runs})
    tiles = [
        (len(runs), "finished runs"),
        (len(data.methods), "methods"),
        (", ".join(sorted({run.dataset for run in runs})), "data"),
        (", ".join(map(str, all_seeds)), "seeds" if len(all_seeds) > 1 else "seed"),
        (", ".join(sorted({run.backbone for run in runs})), "backbone"),
        (", ".join(map(str, sorted({run.shots for run in runs}))), "images per class"),
    ]
    shown = "".join(f"<li><b>{html.text(value)}</b>{html.text(name)}</li>" for value, name in tiles)
    return html.section(
        "overview",
        "What was run",
        f'<ul class="tiles">{shown}</ul>',
        html.findings(_highlights(page)),
        _listed("Not finished, left out", [(path, "") for path in page.data.unfinished]),
        _listed("In no table", page.data.left_out),
    )


def _listed(title: str, folders: Sequence[tuple[Path, str]]) -> str:
    """Runs that the page does not show, and why; folded where they are many."""
    items = "".join(
        f"<li><code>{html.text(folder.as_posix())}</code> {html.text(reason)}</li>"
        for folder, reason in folders
    )
    shown = f'<ul class="wrong">{items}</ul>' if items else ""
    title = f"{title}: {len(folders)}"
    if len(folders) > FEW_UNFINISHED:
        return html.details(title, shown)
    return f"<p class='wrong'>{title}</p>{shown}" if shown else ""


def _highlights(page: Context) -> list[str]:
    """The first of each table, and how the highlighted method fares; sentences."""
    found = []
    for table in page.data.tables(BASE_TO_NEW):
        rows = _ranked(base_to_new(page.data, table, all_rules=False))
        if len(rows) > 1:
            title = html.text(page.title(BASE_TO_NEW, table))
            found.append(
                f"{title}, base to new: highest harmonic mean "
                + _placed(page, [(row.method, row.hm) for row in rows])
            )
    for comparison in page.data.comparisons:
        for group in ("text", "image"):
            pairs = [(row.method, noisy(row, group, "accuracy")) for row in comparison.rows]
            pairs = sorted(
                ((m, n) for m, n in pairs if n), key=lambda pair: pair[1].value, reverse=True
            )
            if len(pairs) > 1:
                title = html.text(page.comparison_title(comparison))
                found.append(
                    f"{title}, {group} noise: highest mean accuracy under noise "
                    + _placed(page, pairs)
                )
    found += _few_seeds(page)
    return found


def _few_seeds(page: Context) -> list[str]:
    """A caution where methods have fewer than three seeds in some table."""
    seeds: dict[tuple, set[int]] = {}
    for source in page.data.sources:
        if source.run.learns:
            key = (source.table, source.run.part, source.method)
            seeds.setdefault(key, set()).add(source.run.seed)
    least = min(map(len, seeds.values()), default=3)
    if least > 2:
        return []
    methods = {method for *_, method in seeds}
    few = {method for (*_, method), own in seeds.items() if len(own) < 3}
    number = "One seed" if least == 1 else "Two seeds"
    who = "" if few == methods else f" of {words(sorted(few))}"
    return [f"{number}{html.text(who)}: methods a few points apart are not told apart by this."]


def _placed(page: Context, pairs: Sequence[tuple[str, Number]]) -> str:
    """The best of ranked methods, the next, and the highlighted and the baseline where they are
    neither."""

    def one(pair: tuple[str, Number]) -> str:
        return f"{html.text(pair[0])}, {html.number_text(pair[1], unit='%')}"

    text = f"{one(pairs[0])}; next {one(pairs[1])}"
    for place, pair in enumerate(pairs[2:], start=3):
        if page.is_trainer(pair[0], page.data.highlight):
            text += f"; {one(pair)}, is number {place} of {len(pairs)}"
        elif page.is_trainer(pair[0], page.data.baseline):
            text += f"; {one(pair)}"
    return f"{text}."


def _ranked(rows: Sequence[BaseNew]) -> list[BaseNew]:
    return sorted((row for row in rows if row.hm), key=lambda row: row.hm.value, reverse=True)


# Base to new


def base_new(page: Context) -> str:
    """Tables of base, new and harmonic mean, and the scatter of each data set."""
    blocks, charts, said = [], [], []
    for table in page.data.tables(BASE_TO_NEW):
        rows = base_to_new(page.data, table)
        if not any(row.new for row in rows):
            continue
        title = page.title(BASE_TO_NEW, table)
        own = [row for row in rows if row.is_protocol]
        said += _base_new_says(page, title, own)
        blocks.append(_base_new_table(page, title, rows))
        charts.append(base_against_new(own, page.styles, title))
    if not blocks:
        return ""
    intro = html.paragraph(
        "Each method learned from images of the base classes and was tested on test images of both "
        "halves. Accuracy in %, mean and standard deviation over seeds; HM is the harmonic mean of "
        "base and new; the best of a column, among each method's own protocol, is bold. “a / b” "
        "is that protocol: rule a on base, b on new classes. It knows which half it is tested on; "
        "rows with one rule everywhere do not."
    )
    legend = page.legend(page.data.methods)
    return html.section(
        "base-new", "Base to new", intro, html.findings(said), *blocks, legend, page.figures(charts)
    )


def _base_new_says(page: Context, title: str, rows: Sequence[BaseNew]) -> list[str]:
    ranked = _ranked(rows)
    if len(ranked) < 2:
        return []
    first, second = ranked[:2]
    lead = minus(first.hm, second.hm)
    chance = max(_standard_error(row) for row in (first, second))
    more = "more" if lead.value > 2 * chance else "no more"
    said = [
        f"{html.text(title)}: {html.text(first.method)} is first by harmonic mean, "
        f"{html.number_text(lead)} points ahead of {html.text(second.method)}: {more} than twice "
        f"what chance alone moves an accuracy on so many images by (standard error {chance:.1f})."
    ]
    base = next((r for r in ranked if page.is_trainer(r.method, page.data.baseline)), None)
    if base is None:
        return said
    others = [row for row in ranked if row is not base]
    for half, read in (("base", lambda r: r.base), ("new", lambda r: r.new)):
        changes = [
            f"{html.text(row.method)} {html.number_text(minus(read(row), read(base)), signed=True)}"
            for row in others
        ]
        said.append(
            f"On {half} classes, points above or below {html.text(base.method)}: "
            f"{', '.join(changes)}."
        )
    return said


def _standard_error(row: BaseNew) -> float:
    """By how many points chance alone moves the accuracies that a harmonic mean is made of."""
    errors = []
    for number, sources in ((row.base, row.base_sources), (row.new, row.new_sources)):
        share = number.value / 100
        images = sources[0].results.get("num_test") or 1
        errors.append(100 * (share * (1 - share) / images) ** 0.5)
    return sum(errors) / len(errors)


def _base_new_table(page: Context, title: str, rows: Sequence[BaseNew]) -> str:
    reads: tuple[Callable[[BaseNew], Number | None], ...] = (
        lambda row: row.base, lambda row: row.new, lambda row: row.hm,
    )  # fmt: skip
    best = [
        max((n.value for row in rows if row.is_protocol and (n := read(row))), default=-1.0)
        for read in reads
    ]
    lines = []
    for row in rows:
        own = row.is_protocol
        cells = [page.name(row.method) if own else html.name_cell("", note=row.rule)]
        for read, high in zip(reads, best, strict=True):
            number = read(row)
            is_best = own and number is not None and number.value == high
            cells.append(html.number_cell(number, is_best=is_best))
        cells.append(left((row.rule or "-") if own else ""))
        cells.append(html.counts_cell(seeds(row.base_sources), seeds(row.new_sources)))
        cells.append(links([s.id for s in row.sources]))
        lines.append((cells, own and page.styles.is_highlight(row.method)))
    headers = ("|method", "base", "new", "HM", "|rule", "seeds", "|runs")
    return html.table(headers, lines, caption=f"{title}: accuracy in %")


# All classes


def all_classes(page: Context) -> str:
    """Runs trained and tested on all classes of a data set, by images per class."""
    data = page.data
    blocks, charts, said = [], [], []
    for dataset in sorted({dataset for dataset, _ in data.tables(ALL_CLASSES)}):
        shots = [number for name, number in data.tables(ALL_CLASSES) if name == dataset]
        methods = [
            m for m in data.methods if any(_all(page, dataset, number, m) for number in shots)
        ]
        lines = [_shots_line(page, dataset, method, shots) for method in methods]
        headers = ["|method"]
        headers += [f"{number} per class" for number in shots] if len(shots) > 1 else ["accuracy"]
        headers += ["macro F1", "seeds", "|runs"]
        blocks.append(html.table(headers, lines, caption=f"{dataset}: accuracy in %"))
        curves = {
            method: {
                number: found
                for number in shots
                if (found := number_of(_all(page, dataset, number, method), "accuracy"))
            }
            for method in methods
        }
        charts.append(accuracy_by_shots(dataset, curves, page.styles))
        most = shots[-1]
        ranked = sorted(
            ((m, curve[most]) for m, curve in curves.items() if most in curve),
            key=lambda pair: pair[1].value,
            reverse=True,
        )
        if len(ranked) > 1:
            said.append(
                f"{html.text(dataset)}, {most} images per class: highest accuracy "
                + _placed(page, ranked)
            )
    if not blocks:
        return ""
    intro = html.paragraph(
        "Trained on a few images of every class, tested on all classes. Mean and standard "
        "deviation over seeds; macro F1 at the most images per class."
    )
    figures = page.figures(charts)
    legend = page.legend(data.methods) if figures else ""
    return html.section(
        "few-shot", "All classes", intro, html.findings(said), *blocks, legend, figures
    )


def _all(page: Context, dataset: str, shots: int, method: str) -> list:
    return page.data.of((dataset, shots), "all", method, ALL_CLASSES)


def _shots_line(
    page: Context, dataset: str, method: str, shots: Sequence[int]
) -> tuple[list[str], bool]:
    by_shots = {number: _all(page, dataset, number, method) for number in shots}
    known = [sources for sources in by_shots.values() if sources]
    cells = [page.name(method)]
    cells += [html.number_cell(number_of(sources, "accuracy")) for sources in by_shots.values()]
    cells.append(html.number_cell(number_of(known[-1], "macro_f1")))
    cells.append(html.counts_cell(*(seeds(sources) for sources in known)))
    cells.append(links(list(dict.fromkeys(s.id for sources in known for s in sources))))
    return cells, page.styles.is_highlight(method)


# Transfer


def transfer(page: Context) -> str:
    """Runs trained on one data set and tested, as they are, on others."""
    data = page.data
    blocks = []
    for table in data.tables(TRANSFER):
        source = table[0]
        own = [s for s in data.sources if data.in_table(s, TRANSFER, table) and not s.is_ablation]
        targets = sorted({s.run.dataset for s in own}, key=lambda name: (name != source, name))
        others = [name for name in targets if name != source]
        lines = []
        for method in data.methods:
            by_target = {
                name: sorted(
                    (s for s in own if (s.method, s.run.dataset) == (method, name)),
                    key=lambda s: s.run.seed,
                )
                for name in targets
            }
            if not any(by_target.values()):
                continue
            numbers = {name: number_of(found, "accuracy") for name, found in by_target.items()}
            cells = [page.name(method)]
            cells += [html.number_cell(numbers[name]) for name in targets]
            if len(others) > 1:
                average = mean(numbers[name] for name in others)
                if average is not None:  # over data sets: a deviation would mislead
                    average = Number(average.value, average.source)
                cells.append(html.number_cell(average))
            found = [s for sources in by_target.values() for s in sources]
            cells.append(links([s.id for s in found]))
            lines.append((cells, page.styles.is_highlight(method)))
        headers = ["|method", *(f"{n} (source)" if n == source else n for n in targets)]
        headers += ["average of targets"] if len(others) > 1 else []
        caption = f"Trained on {page.title(TRANSFER, table)}: accuracy in %"
        blocks.append(html.table([*headers, "|runs"], lines, caption=caption))
    if not blocks:
        return ""
    intro = html.paragraph(
        "Trained on all classes of one data set, tested there and, without further training, on "
        "others. Mean and standard deviation over seeds."
    )
    return html.section("transfer", "Transfer to other data sets", intro, *blocks)
