"""Sections behind the figures: ablations, classes, training, cost, files."""

from collections.abc import Sequence

from anprompt.results.report import html
from anprompt.results.report.context import Context, left, seeds
from anprompt.results.report.data import (
    ALL_CLASSES,
    BASE_TO_NEW,
    WHOLE,
    BaseNew,
    Source,
    curve_of,
    number_of,
    per_class,
    rows_of,
)
from anprompt.results.report.figures import ablation_changes, class_changes, slug, training_curves
from anprompt.results.report.noise import clean, noisy
from anprompt.results.report.numbers import Number, harmonic, mean, minus, over

CALL = {"base": "base", "new": "new", "hm": "HM"}


def ablations(page: Context) -> str:
    """Runs with one change to a method, against the whole method."""
    blocks, charts, said = [], [], []
    data = page.data
    for table in data.tables(BASE_TO_NEW):
        changed = [s for s in data.sources if s.is_ablation and s.table == (BASE_TO_NEW, *table)]
        for trainer, backbone in dict.fromkeys((s.run.trainer, s.run.backbone) for s in changed):
            own = [s for s in changed if (s.run.trainer, s.run.backbone) == (trainer, backbone)]
            whole = [
                s
                for s in data.sources
                if (s.table, s.config, s.run.trainer, s.run.backbone)
                == ((BASE_TO_NEW, *table), WHOLE, trainer, backbone)
            ]
            rows = [_row(config, own) for config in sorted({s.config for s in own})]
            title = f"{trainer} on {page.title(BASE_TO_NEW, table)}"
            full = _row(WHOLE, whole)
            block, chart, sentence = _ablation(title, trainer, full, rows)
            blocks += [block, _ablations_under_noise(page, trainer, [*whole, *own])]
            charts.append(chart)
            said += sentence
    if not blocks:
        return ""
    intro = html.paragraph(
        "One change to the whole method at a time; differences in percentage points, seed by "
        "seed, mean and standard deviation. docs/ROBUSTNESS.md says what each changes."
    )
    return html.section(
        "ablations", "Ablations", intro, html.findings(said), *blocks, page.figures(charts)
    )


def _row(config: str, sources: Sequence[Source]) -> BaseNew:
    own = [s for s in sources if s.config == config]
    halves = (
        sorted((s for s in own if s.run.part == part), key=lambda s: s.run.seed)
        for part in ("base", "new")
    )
    return rows_of(config, *halves)[0]


def _ablation(
    title: str, trainer: str, full: BaseNew, rows: Sequence[BaseNew]
) -> tuple[str, object, list[str]]:
    lines, changes = [], []
    for row in (full, *rows):
        cells = [html.name_cell(f"{trainer}, whole" if row is full else row.method)]
        cells += [html.number_cell(number) for number in (row.base, row.new, row.hm)]
        differences = [_difference(row, full, half) for half in ("base", "new", "hm")]
        for number in differences:
            cells.append("<td></td>" if row is full else html.number_cell(number, signed=True))
        cells.append(html.counts_cell(seeds(row.base_sources), seeds(row.new_sources)))
        lines.append((cells, row is full))
        if row is not full and all(differences):
            changes.append((row.method, *differences))
    headers = ("|configuration", "base", "new", "HM", "Δ base", "Δ new", "Δ HM", "seeds")
    table = html.table(headers, lines, caption=f"{title}: accuracy in %, Δ in points")
    if not changes:
        return table, None, []
    chart = ablation_changes(
        f"{title}: what each part is worth", slug("ablations", title), changes, "the whole method"
    )
    lost = [change for change in changes if change[3].value < 0]
    worst = min(changes, key=lambda change: change[3].value)
    best = max(changes, key=lambda change: change[3].value)
    sentence = (
        f"{html.text(title)}: {len(lost)} of {len(changes)} changes lower the harmonic mean. "
        f"Lowest: {html.text(worst[0])}, {html.number_text(worst[3], signed=True)} points; "
        f"highest: {html.text(best[0])}, {html.number_text(best[3], signed=True)}."
    )
    number = min(len(change[3].values) for change in changes)
    if number < 3:
        sentence += f" From {'one seed' if number == 1 else 'two seeds'}: weigh it accordingly."
    return table, chart, [sentence]


def _difference(row: BaseNew, full: BaseNew, half: str) -> Number | None:
    """How much a row is above the whole method, seed by seed."""
    own, whole = _by_seed(row, half), _by_seed(full, half)
    return mean(minus(own[seed], whole[seed]) for seed in sorted(own.keys() & whole.keys()))


def _by_seed(row: BaseNew, half: str) -> dict[int, Number]:
    base, new = (
        {s.run.seed: s.number("accuracy") for s in sources}
        for sources in (row.base_sources, row.new_sources)
    )
    if half != "hm":
        return base if half == "base" else new
    return {seed: harmonic(base[seed], new[seed]) for seed in sorted(base.keys() & new.keys())}


def _ablations_under_noise(page: Context, trainer: str, sources: Sequence[Source]) -> str:
    folders = {s.run.folder for s in sources}
    members = [e for e in page.data.evaluations if e.path.parent in folders]
    if not any(page.data.is_ablation(e) for e in members):
        return ""
    tables = []
    for comparison in page.data.compare(members):
        groups = [
            group
            for group in ("text", "image", "both")
            if any(group in means for row in comparison.rows for means in row.means)
        ]
        lines = []
        for row in sorted(comparison.rows, key=lambda r: (r.method in page.data.methods, r.method)):
            is_whole = row.method in page.data.methods
            cells = [html.name_cell(f"{trainer}, whole" if is_whole else row.method)]
            cells.append(html.number_cell(clean(row)))
            for group in groups:
                cells.append(html.number_cell(noisy(row, group, "accuracy")))
                cells.append(html.number_cell(noisy(row, group, "drop")))
            lines.append((cells, is_whole))
        headers = ["|configuration", "clean"]
        headers += [name for group in groups for name in (group, f"drop, {group}")]
        caption = (
            f"Under noise, {comparison.dataset}, {comparison.part} classes: mean accuracy in %, "
            "drop in points, over kinds that none of these trained with"
        )
        tables.append(html.table(headers, lines[::-1], caption=caption))
    return "".join(tables)


# Classes


def classes(page: Context) -> str:
    """Which classes gained and which lost."""
    data = page.data
    baseline = next((m for m in data.methods if page.is_trainer(m, data.baseline)), None)
    chosen = [m for m in data.methods if page.styles.is_highlight(m)][:1]
    chosen = chosen or [m for m in data.methods if m != baseline][:1]
    if baseline is None or not chosen:
        return ""
    charts, said = [], []
    for task, parts in ((BASE_TO_NEW, ("base", "new")), (ALL_CLASSES, ("all",))):
        for table in data.tables(task):
            title = page.title(task, table)
            for part in parts:
                charts.append(class_changes(data, table, title, part, chosen[0], baseline))
                old, new = (per_class(data.of(table, part, m, task)) for m in (baseline, chosen[0]))
                changes = {name: minus(new[name], old[name]) for name in old if name in new}
                if changes:
                    said.append(_classes_say(f"{title}, {part} classes", chosen[0], changes))
    figures = page.figures(charts)
    if not figures:
        return ""
    intro = html.paragraph(f"Accuracy of each class: {chosen[0]} against {baseline}.")
    return html.section("classes", "Class by class", intro, html.findings(said), figures)


def _classes_say(title: str, method: str, changes: dict[str, Number]) -> str:
    better = sum(number.value > 0 for number in changes.values())
    worse = sum(number.value < 0 for number in changes.values())
    text = (
        f"{html.text(title)}: {html.text(method)} is better on {better}, worse on {worse} and "
        f"equal on {len(changes) - better - worse} of {len(changes)}."
    )
    for word, name in (("gain", max(changes, key=lambda n: changes[n].value)),
                       ("loss", min(changes, key=lambda n: changes[n].value))):  # fmt: skip
        number = changes[name]
        if (number.value > 0) == (word == "gain") and number.value:
            shown = html.number_text(number, signed=True)
            text += f" Largest {word}: {html.text(name.replace('_', ' '))}, {shown} points."
    return text


# Training and cost


def training(page: Context) -> str:
    """Loss and accuracy during training."""
    data = page.data
    charts, said, trained = [], [], {}
    for task in (BASE_TO_NEW, ALL_CLASSES):
        for table in data.tables(task):
            title = page.title(task, table)
            for meter in ("loss", "acc"):
                charts.append(training_curves(data, page.styles, table, title, meter, task))
            ends = []
            for method in data.methods:
                curve = curve_of(data, table, method, "acc", task)
                if curve:
                    trained[method] = None
                    last = html.number_text(curve[max(curve)], unit="%")
                    ends.append(f"{html.text(method)} {last} (epoch {max(curve)})")
            if ends:
                said.append(
                    f"{html.text(title)}: accuracy on training batches at the end: "
                    f"{', '.join(ends)}."
                )
    figures = page.figures(charts)
    if not figures:
        return ""
    intro = html.paragraph(
        "As the logs have it: means over an epoch's batches, so the first point is not the "
        "untrained model. Methods train for different numbers of epochs; the axis is the share of "
        "each."
    )
    legend = page.legend(list(trained))
    return html.section("training", "Training", intro, html.findings(said), legend, figures)


def cost(page: Context) -> str:
    """What training and testing took."""
    data = page.data
    blocks, said = [], []
    for task in (BASE_TO_NEW, ALL_CLASSES):
        for table in data.tables(task):
            found = {}
            for method in data.methods:
                sources = [
                    s
                    for s in data.sources
                    if data.in_table(s, task, table) and _is_whole(s, method)
                ]
                if sources:
                    found[method] = sources
            if not found:
                continue
            title = page.title(task, table)
            lines = [(_cost_line(page, method, own), False) for method, own in found.items()]
            headers = (
                "|method", "learned values", "epochs", "training s", "test s", "peak memory MB",
                "|device",
            )  # fmt: skip
            blocks.append(html.table(headers, lines, caption=title))
            said += _cost_says(page, title, found)
    intro = html.paragraph(
        "Wall time and memory as each run recorded them, on whatever else the machine was doing. "
        "Memory: of the whole process on a CPU, of tensors on a GPU."
    )
    if not blocks:
        return ""
    return html.section("cost", "Cost", intro, html.findings(said), *blocks)


def _is_whole(source: Source, method: str) -> bool:
    """Whether a run trained and tested (a method without training: tested) a method."""
    is_evaluation = source.results["config"].get("RUN", {}).get("MODEL_DIR")
    return (
        source.method == method
        and not source.is_ablation
        and not is_evaluation
        and source.run.part != "new"
    )


def _cost_line(page: Context, method: str, sources: Sequence[Source]) -> list[str]:
    devices = ", ".join(sorted({s.results.get("device") or "?" for s in sources}))
    return [
        page.name(method),
        html.number_cell(_plain(number_of(sources, "num_trainable")), 0),
        html.number_cell(_plain(number_of(sources, "epochs")), 0),
        html.number_cell(number_of(sources, "train_seconds")),
        html.number_cell(number_of(sources, "test_seconds")),
        html.number_cell(number_of(sources, "peak_memory_mb"), 0),
        left(devices),
    ]


def _plain(number: Number | None) -> Number | None:
    """Without a deviation where all runs have the same."""
    if number is None or number.std:
        return number
    return Number(number.value, number.source)


def _cost_says(page: Context, title: str, found: dict[str, list[Source]]) -> list[str]:
    def most(key: str) -> list[tuple[str, Number]]:
        numbers = ((method, number_of(own, key)) for method, own in found.items())
        known = [(method, n) for method, n in numbers if n is not None and n.value > 0]
        return sorted(known, key=lambda pair: pair[1].value)

    said = []
    for key, name, unit, digits in (
        ("num_trainable", "learned values", "", 0),
        ("train_seconds", "training time", " s", 1),
    ):
        ranked = most(key)
        if len(ranked) > 1:
            (low, least), (high, largest) = ranked[0], ranked[-1]
            said.append(
                f"{html.text(title)}, {name}: from {html.text(low)}, "
                f"{html.number_text(least, digits, unit)}, to {html.text(high)}, "
                f"{html.number_text(largest, digits, unit)}: "
                f"{html.number_text(over(largest, least))} times as much."
            )
    return said


# Files


def sources(page: Context) -> str:
    """Every file that a number comes from."""
    data = page.data
    lines = [
        (
            [
                html.element("th", source.id, id=source.id, scope="row"),
                html.cell(source.method),
                html.cell(source.run.dataset),
                html.cell(source.run.part),
                html.number_cell(source.number("seed"), 0),
                html.number_cell(source.number("accuracy"), 2),
                html.element("td", f"<code>{html.text(source.path)}</code>"),
            ],
            False,
        )
        for source in data.sources
    ]
    headers = ("|run", "|method", "|data set", "|classes", "|seed", "|accuracy", "|file")
    runs = html.table(headers, lines, class_="sources")
    noise = [
        f"<li><code>{html.text(path)}</code></li>"
        for path in dict.fromkeys(e.path.as_posix() for e in data.evaluations)
    ]
    versions = sorted(
        {
            ", ".join(f"{name} {v}" for name, v in source.results["versions"].items())
            for source in data.sources
        }
    )
    intro = html.paragraph(
        "Every number above is computed from these files and from nothing else; tap or click a "
        "number to see which, and how."
    )
    more = [html.paragraph(f"Versions: {'; '.join(versions)}.")]
    if noise:
        title = f"{len(noise)} files of figures under noise"
        more.append(html.details(title, f"<ul>{''.join(noise)}</ul>"))
    return html.section("sources", "Where the numbers come from", intro, runs, *more)
