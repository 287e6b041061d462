"""The report's sections, each a function from data to HTML; empty where there is nothing to say."""

import base64
import statistics
from collections.abc import Sequence

from tools.collect import harmonic_mean
from tools.reporting import html
from tools.reporting.charts import Chart
from tools.reporting.data import (
    BaseNew,
    Data,
    Number,
    Source,
    base_to_new,
    number_of,
    picture,
    training_curve,
)
from tools.reporting.figures import (
    Styles,
    ablation_changes,
    accuracy_by_severity,
    base_against_new,
    class_changes,
    slug,
    training_curves,
)
from tools.robust.summary import Evaluation
from tools.robust.table import Comparison, Row, compare, kinds_of, noise_seen

FULL_CONFIG = "vit_b16"  # whose ablations the folder beside it holds
PARTS = ("base", "new", "all")


class Page:
    """Sections and the figures that they made."""

    def __init__(self, data: Data):
        self.data = data
        self.styles = Styles(data)
        self.charts: list[Chart] = []

    def _figures(self, charts: Sequence[Chart | None]) -> str:
        self.charts += [chart for chart in charts if chart is not None]
        return html.figures(charts)

    def _name(self, method: str, note: str = "") -> str:
        return html.name_cell(method, self.styles.number(method) % 12, note)

    def _legend(self, methods: Sequence[str]) -> str:
        items = "".join(
            f"<li>{html.mark(self.styles.number(m), self.styles.is_highlight(m))}"
            f"{html.text(m)}</li>"
            for m in methods
        )
        return f'<ul class="legend">{items}</ul>'

    def _in_order(self, comparison: Comparison) -> list[Row]:
        return sorted(comparison.rows, key=lambda row: self.data.methods.index(row.method))

    # What was run

    def overview(self) -> str:
        """Counts, and what stands out."""
        data = self.data
        runs = [source.run for source in data.sources]
        seeds = sorted({run.seed for run in runs})
        tiles = [
            (len(runs), "finished runs"),
            (len(data.methods), "methods"),
            (", ".join(data.datasets), "data"),
            (", ".join(map(str, seeds)), "seeds" if len(seeds) > 1 else "seed"),
            (", ".join(sorted({run.backbone for run in runs})), "backbone"),
            (", ".join(map(str, sorted({run.shots for run in runs}))), "shots"),
        ]
        shown = "".join(
            f"<li><b>{html.text(value)}</b>{html.text(name)}</li>" for value, name in tiles
        )
        points = "".join(f"<li>{point}</li>" for point in self._findings())
        warnings = [
            f"Not finished, left out: {folder.as_posix()}" for folder in data.unfinished
        ] + data.notes
        return html.section(
            "overview",
            "What was run",
            f'<ul class="tiles">{shown}</ul>',
            f"<ul>{points}</ul>" if points else "",
            "".join(f"<p class='wrong'>{html.text(warning)}</p>" for warning in warnings),
        )

    def _findings(self) -> list[str]:
        """What the tables say, in sentences; every figure stands in a table too."""
        found = []
        for dataset in self.data.datasets:
            rows = [row for row in base_to_new(self.data, dataset, all_rules=False) if row.hm]
            if len(rows) < 2:
                continue
            best = max(rows, key=lambda row: row.hm.value)
            text = f"{dataset}: highest harmonic mean {best.hm.value:.1f}%, {best.method}"
            others = [row for row in rows if row is not best]
            text += f"; next {_named_hm(max(others, key=lambda row: row.hm.value))}"
            wanted = (self.data.highlight, self.data.baseline)
            for row in others:
                if row.method.split(" (")[0] in wanted:
                    text += f"; {_named_hm(row)}"
            found.append(html.text(text + "."))
        for comparison in self.data.comparisons:
            for group, words in (("text", "text"), ("image", "image")):
                rows = [row for row in comparison.rows if row.values(group, "accuracy")]
                if len(rows) < 2:
                    continue
                best = max(rows, key=lambda row: statistics.fmean(row.values(group, "accuracy")))
                value = statistics.fmean(best.values(group, "accuracy"))
                drop = statistics.fmean(best.values(group, "drop"))
                text = (
                    f"{comparison.dataset}, {comparison.part} classes, {words} noise: highest mean "
                    f"corruption accuracy {value:.1f}%, {best.method} ({drop:.1f} points below its "
                    "clean accuracy)"
                )
                for row in rows:
                    if row is not best and row.method.split(" (")[0] == self.data.highlight:
                        value = statistics.fmean(row.values(group, "accuracy"))
                        drop = statistics.fmean(row.values(group, "drop"))
                        text += f"; {row.method} {value:.1f}% ({drop:.1f} below)"
                found.append(html.text(text + "."))
        seeds = {source.run.seed for source in self.data.sources}
        if len(seeds) < 3:
            found.append(
                f"{'One seed' if len(seeds) == 1 else 'Two seeds'}: methods a few points apart are "
                "not told apart by this."
            )
        return found

    # Base to new

    def base_new(self) -> str:
        """Tables of base, new and harmonic mean, and the scatter of each data set."""
        blocks, charts = [], []
        for dataset in self.data.datasets:
            rows = base_to_new(self.data, dataset)
            if not rows or not any(row.new for row in rows):
                continue
            blocks.append(self._base_new_table(dataset, rows))
            charts.append(base_against_new(self.data, self.styles, dataset))
        if not blocks:
            return ""
        intro = html.paragraph(
            "Each method learned from images of the base classes and was tested on test images of "
            "both halves. Accuracy in %, mean and standard deviation over seeds; the best of a "
            "column, among each method's own protocol, is bold. “a / b” is that protocol: rule a "
            "on base, b on new classes. It knows which half it is tested on; rows with one rule "
            "everywhere do not."
        )
        return html.section("base-new", "Base to new", intro, *blocks, self._figures(charts))

    def _base_new_table(self, dataset: str, rows: Sequence[BaseNew]) -> str:
        own = [row for row in rows if not row.rule.endswith("everywhere")]

        def best(read) -> float:
            return max((number.value for row in own if (number := read(row))), default=-1.0)

        top = [best(lambda r: r.base), best(lambda r: r.new), best(lambda r: r.hm)]
        lines = []
        for row in rows:
            is_own = row in own
            numbers = [row.base, row.new, row.hm]
            cells = [
                self._name(row.method) if is_own else html.name_cell("", note=row.method),
                html.element("td", html.text(row.rule or "-"), class_="left"),
                html.cell(len(row.seeds[0]) if row.seeds[0] == row.seeds[1]
                          else f"{len(row.seeds[0])} / {len(row.seeds[1])}"),
            ]  # fmt: skip
            cells += [
                html.number_cell(n, is_best=is_own and n is not None and n.value == high)
                for n, high in zip(numbers, top, strict=True)
            ]
            cells.append(html.element("td", _ids(row.sources), class_="left"))
            lines.append((cells, is_own and self.styles.is_highlight(row.method)))
        headers = ("|method", "|rule", "seeds", "base", "new", "HM", "|runs")
        return html.table(headers, lines, caption=dataset)

    def other_tasks(self) -> str:
        """Runs on all classes: few-shot, cross-dataset, domain generalisation."""
        blocks = []
        for dataset in self.data.datasets:
            if not self.data.of(dataset, "all"):
                continue
            lines = []
            for method in self.data.methods:
                sources = self.data.of(dataset, "all", method)
                if sources:
                    lines.append(
                        (
                            [
                                self._name(method),
                                html.cell(len(sources)),
                                html.number_cell(number_of(sources, "accuracy")),
                                html.number_cell(number_of(sources, "macro_f1")),
                                html.element("td", _ids(sources), class_="left"),
                            ],
                            self.styles.is_highlight(method),
                        )
                    )
            headers = ("|method", "seeds", "accuracy", "macro F1", "|runs")
            blocks.append(html.table(headers, lines, caption=dataset))
        return html.section("all-classes", "All classes", *blocks)

    # Robustness

    def robustness(self) -> str:
        """Means, curves over severities, and accuracy by kind of noise."""
        blocks = []
        for comparison in self.data.comparisons:
            name = f"{comparison.dataset}, {comparison.part} classes"
            charts = [
                accuracy_by_severity(comparison, self.styles, group)
                for group in ("text", "image", "both")
            ]
            blocks += [
                f"<h3>{html.text(name)}</h3>",
                self._robustness_table(comparison),
                self._notes(comparison),
                self._legend([row.method for row in self._in_order(comparison)]),
                self._figures(charts),
                self._by_kind(comparison),
            ]
        if not blocks:
            return ""
        intro = (
            "The same noise for every model: images corrupted as the model sees them, prompts "
            "perturbed before they are tokenised, at severities 1 to 5. Mean corruption accuracy "
            "in %: over kinds, severities and noise seeds. Drop: clean minus noisy, in points. "
            "Same: share of answers that noise leaves as they are. ECE: calibration error. Means "
            "leave out kinds of noise that any of the compared methods trained with. A learned "
            "context cannot be misspelt: there, text noise meets the class name and the words "
            "that are not learned."
        )
        return html.section("robustness", "Under noise", html.paragraph(intro), *blocks)

    def _robustness_table(self, comparison: Comparison) -> str:
        groups = list(dict.fromkeys(g for row in comparison.rows for m in row.means for g in m))
        names = {"learned": "tokens"}
        caption = f"{comparison.images:,} test images, backbone {comparison.backbone}"
        accuracies = self._measures(
            comparison,
            [("clean", "", "accuracy"), *((names.get(g, g), g, "accuracy") for g in groups)],
            f"Mean corruption accuracy: {caption}",
        )
        both = [g for g in ("text", "image") if g in groups]
        others = [(f"drop, {g}", g, "drop") for g in both]
        others += [(f"same, {g}", g, "consistency") for g in both]
        others += [("ECE, clean", "", "ece"), *((f"ECE, {g}", g, "ece") for g in both)]
        return accuracies + self._measures(
            comparison, others, "Drop, answers that stay the same, calibration error"
        )

    def _measures(
        self, comparison: Comparison, columns: Sequence[tuple[str, str, str]], caption: str
    ) -> str:
        """A table with columns of (title, group of noise or "" for clean, measure)."""
        lines = []
        for row in self._in_order(comparison):
            cells = [
                self._name(row.method, row.rule if len(_rules(row)) > 1 else ""),
                html.cell(len(row.evaluations)),
            ]
            for _, group, measure in columns:
                number = _noisy(row, group, measure) if group else _clean(row, measure)
                best = number is not None and _is_best(comparison, row, group, measure)
                cells.append(html.number_cell(number, is_best=best))
            lines.append((cells, self.styles.is_highlight(row.method)))
        headers = ("|method", "runs", *(name for name, *_ in columns))
        return html.table(headers, lines, caption=caption)

    def _notes(self, comparison: Comparison) -> str:
        notes = [
            f"{group.capitalize()} noise in the means: {', '.join(kinds)}."
            for group, kinds in kinds_of(comparison).items()
        ]
        seen = noise_seen(comparison.seen)
        if seen:
            notes.append(
                f"Left out of the means because a compared method trained with it: {seen}. "
                "Marked † below."
            )
        if comparison.left_out:
            notes.append(f"Left out: {comparison.left_out} cells that only some models have.")
        share = statistics.fmean(row.clean[0] for row in comparison.rows) / 100
        error = 100 * (share * (1 - share) / comparison.images) ** 0.5
        notes.append(
            f"With {comparison.images:,} images, chance alone moves an accuracy by about "
            f"{error:.1f} points (standard error)."
        )
        items = "".join(f"<li>{html.text(note)}</li>" for note in notes)
        return f'<ul class="notes">{items}</ul>'

    def _by_kind(self, comparison: Comparison) -> str:
        """Accuracy by kind, with those seen in training, shaded by the drop."""
        unfiltered = next(
            c
            for c in compare(self.data.evaluations, all_kinds=True)
            if (c.dataset, c.part, c.backbone, c.images)
            == (comparison.dataset, comparison.part, comparison.backbone, comparison.images)
        )
        seen = {*comparison.seen["text_kinds"], *comparison.seen["image_kinds"]}
        kinds = [
            (group, kind)
            for group in ("text", "image")
            for kind in dict.fromkeys(
                k
                for row in unfiltered.rows
                for m in row.means
                if group in m
                for k in m[group].kinds
            )
        ]
        lines = []
        for row in self._in_order(unfiltered):
            cells = [self._name(row.method), html.number_cell(_clean(row, "accuracy"))]
            clean = statistics.fmean(row.clean)
            for group, kind in kinds:
                number = _kind_number(row, group, kind)
                shown = html.number_cell(number)
                if number is not None and clean:
                    heat = max(0.0, min(0.6, (clean - number.value) / clean))
                    shown = shown.replace("<td ", f'<td style="--heat:{heat:.3f}" ', 1)
                cells.append(shown)
            lines.append((cells, False))
        headers = [
            "|method",
            "clean",
            *(f"{kind.replace('_', ' ')}{'†' if kind in seen else ''}" for _, kind in kinds),
        ]
        caption = "Accuracy by kind of noise, mean over severities; the darker, the larger the drop"
        return html.table(headers, lines, caption=caption, class_="heat")

    # Pictures

    def pictures(self) -> str:
        """Test images clean and noisy, with what each model says."""
        blocks = []
        for comparison in self.data.comparisons:
            cards = self._cards(comparison)
            prompts = self._prompts(comparison)
            if cards or prompts:
                name = f"{comparison.dataset}, {comparison.part} classes"
                blocks.append(f"<h3>{html.text(name)}</h3>{prompts}{cards}")
        if not blocks:
            return ""
        intro = (
            "A few test images as the models see them, chosen by their file names, and each "
            "model's first answer; the first run of a method speaks for it. Green is right."
        )
        return html.section("pictures", "Pictures and answers", html.paragraph(intro), *blocks)

    def _cards(self, comparison: Comparison) -> str:
        speakers = [(row.method, row.evaluations[0]) for row in self._in_order(comparison)]
        by_image: dict[str, list[tuple[str, Evaluation, dict]]] = {}
        for method, evaluation in speakers:
            for example in evaluation.part["examples"]:
                by_image.setdefault(example["image"], []).append((method, evaluation, example))
        cards = []
        for image, found in by_image.items():
            _, first, example = found[0]
            kinds = [view["kind"] for view in example["views"]]
            heads = ["<th></th>"]
            for view in example["views"]:
                content = picture(first.path.parent / view["picture"])
                label = view["kind"].replace("_", " ")
                if content is None:
                    shown = "<span class='missing'>picture gone</span>"
                else:
                    data = base64.b64encode(content).decode()
                    alt = html.text(f"{example['class']}, {label}")
                    shown = f'<img src="data:image/jpeg;base64,{data}" alt="{alt}">'
                heads.append(f'<th scope="col">{shown}{html.text(label)}</th>')
            lines = []
            for method, _, own in found:
                views = {view["kind"]: view for view in own["views"]}
                cells = [self._name(method)]
                for kind in kinds:
                    cells.append(_answer(views.get(kind), own["class"]))
                lines.append(f"<tr>{''.join(cells)}</tr>")
            severity = max(view["severity"] for view in example["views"])
            title = (
                f"<h4>{html.text(example['class'])}<span>{html.text(image)}, noise at severity "
                f"{severity}</span></h4>"
            )
            table = (
                f"<table><thead><tr>{''.join(heads)}</tr></thead>"
                f"<tbody>{''.join(lines)}</tbody></table>"
            )
            cards.append(
                f'<div class="card">{title}<div class="scroll" tabindex="0">{table}</div></div>'
            )
        return f'<div class="cards">{"".join(cards)}</div>' if cards else ""

    def _prompts(self, comparison: Comparison) -> str:
        """What text noise makes of a prompt, for the first method of each wording."""
        lines, wordings = [], set()
        for row in self._in_order(comparison):
            part = row.evaluations[0].part
            if part["template"] in wordings or not part.get("text_examples"):
                continue
            wordings.add(part["template"])
            lines += [
                (
                    [
                        html.name_cell(row.method if not i else ""),
                        html.element("td", html.text(example["kind"]), class_="left"),
                        *(
                            html.element("td", f"<code>{html.text(p)}</code>", class_="left")
                            for p in example["prompts"]
                        ),
                    ],
                    False,
                )
                for i, example in enumerate(part["text_examples"])
            ]
        if not lines:
            return ""
        number = max(len(cells) for cells, _ in lines) - 2
        headers = ("|method", "|noise", *(f"|class {i + 1}" for i in range(number)))
        caption = "Prompts under text noise: the words that a method does not learn"
        return html.details("What text noise does to the prompts",
                            html.table(headers, lines, caption=caption))  # fmt: skip

    # Ablations

    def ablations(self) -> str:
        """Runs of one trainer with several configurations, against the whole method."""
        blocks, charts = [], []
        for dataset in self.data.datasets:
            rows = base_to_new(self.data, dataset, all_rules=False)
            for trainer in dict.fromkeys(row.method.split(" (")[0] for row in rows):
                own = [row for row in rows if row.method.split(" (")[0] == trainer]
                full = next((row for row in own if _config(row) == FULL_CONFIG), None)
                if full is None or len(own) < 2 or full.hm is None:
                    continue
                block, chart = self._ablation(dataset, trainer, full, own)
                blocks.append(block)
                charts.append(chart)
        if not blocks:
            return ""
        intro = html.paragraph(
            "One change to the whole method at a time; differences in percentage points, seed by "
            "seed, mean and standard deviation."
        )
        return html.section("ablations", "Ablations", intro, *blocks, self._figures(charts))

    def _ablation(
        self, dataset: str, trainer: str, full: BaseNew, own: Sequence[BaseNew]
    ) -> tuple[str, Chart]:
        lines, changes = [], []
        for row in sorted(own, key=lambda row: (row is not full, row.method)):
            cells = [html.name_cell(_config(row)), html.cell(len(row.seeds[0]))]
            cells += [html.number_cell(number) for number in (row.base, row.new, row.hm)]
            differences = [_difference(row, full, half) for half in ("base", "new", "hm")]
            cells += [html.cell("") if row is full else html.number_cell(n, 2) for n in differences]
            lines.append((cells, row is full))
            if row is not full and all(differences):
                changes.append((_config(row), *(n.value for n in differences)))
        headers = ("|configuration", "seeds", "base", "new", "HM", "Δ base", "Δ new", "Δ HM")
        table = html.table(headers, lines, caption=f"{trainer} on {dataset}")
        chart = ablation_changes(
            f"{trainer} on {dataset}: what each part is worth",
            slug("ablations", dataset, trainer),
            changes,
            FULL_CONFIG,
        )
        return table, chart

    # Classes, training, cost, sources

    def classes(self) -> str:
        """Which classes gained and which lost."""
        charts = []
        chosen = [m for m in self.data.methods if self.styles.is_highlight(m)][:1]
        baseline = next(
            (m for m in self.data.methods if m.split(" (")[0] == self.data.baseline), None
        )
        if baseline is None:
            return ""
        chosen = chosen or [m for m in self.data.methods if m != baseline][:1]
        for dataset in self.data.datasets:
            for part in PARTS:
                for method in chosen:
                    charts.append(class_changes(self.data, dataset, part, method, baseline))
        shown = self._figures(charts)
        return html.section("classes", "Class by class", shown)

    def training(self) -> str:
        """Loss and accuracy during training."""
        charts = [
            training_curves(self.data, self.styles, dataset, meter)
            for dataset in self.data.datasets
            for meter in ("loss", "acc")
        ]
        shown = self._figures(charts)
        if not shown:
            return ""
        trained = [
            method
            for method in self.data.methods
            if any(s.method == method and training_curve(s) for s in self.data.sources)
        ]
        return html.section("training", "Training", self._legend(trained), shown)

    def cost(self) -> str:
        """What training and testing took."""
        blocks = []
        for dataset in self.data.datasets:
            lines = []
            for method in self.data.methods:
                sources = [
                    s
                    for s in self.data.sources
                    if (s.run.dataset, s.method) == (dataset, method)
                    and not s.results["config"].get("RUN", {}).get("MODEL_DIR")
                    and s.run.part != "new"
                ]
                if sources:
                    lines.append((self._cost_line(method, sources), False))
            headers = (
                "|method", "learned values", "epochs", "training s", "test s", "peak memory MB",
                "|device",
            )  # fmt: skip
            if lines:
                blocks.append(html.table(headers, lines, caption=dataset))
        intro = html.paragraph(
            "Wall time and memory as each run recorded them, on whatever else the machine was "
            "doing. Memory: of the whole process on a CPU, of tensors on a GPU."
        )
        return html.section("cost", "Cost", intro, *blocks) if blocks else ""

    def _cost_line(self, method: str, sources: Sequence[Source]) -> list[str]:
        devices = ", ".join(sorted({s.results.get("device") or "?" for s in sources}))
        return [
            self._name(method),
            html.number_cell(number_of(sources, "num_trainable"), 0),
            html.number_cell(number_of(sources, "epochs"), 0),
            html.number_cell(number_of(sources, "train_seconds")),
            html.number_cell(number_of(sources, "test_seconds")),
            html.number_cell(number_of(sources, "peak_memory_mb"), 0),
            html.element("td", html.text(devices), class_="left"),
        ]

    def provenance(self) -> str:
        """Every file that a number comes from."""
        lines = [
            (
                [
                    html.element("th", source.id, id=source.id, scope="row"),
                    html.cell(source.method),
                    html.cell(source.run.dataset),
                    html.cell(source.run.part),
                    html.cell(source.run.seed),
                    html.number_cell(number_of([source], "accuracy"), 2),
                    html.element("td", f"<code>{html.text(source.path)}</code>"),
                ],
                False,
            )
            for source in self.data.sources
        ]
        headers = ("|run", "|method", "|data set", "|classes", "|seed", "|accuracy", "|file")
        runs = html.table(headers, lines, class_="sources")
        noise = [
            f"<li><code>{html.text(path)}</code></li>"
            for path in dict.fromkeys(e.path.as_posix() for e in self.data.evaluations)
        ]
        versions = sorted(
            {
                ", ".join(f"{name} {v}" for name, v in source.results["versions"].items())
                for source in self.data.sources
            }
        )
        intro = html.paragraph(
            "Every number in the tables above is computed from these files and from nothing else; "
            "point at a number to see which, and the values that went into it."
        )
        more = [html.paragraph(f"Versions: {'; '.join(versions)}.")]
        if noise:
            more.append(html.details(f"{len(noise)} files of figures under noise",
                                     f"<ul>{''.join(noise)}</ul>"))  # fmt: skip
        return html.section("sources", "Where the numbers come from", intro, runs, *more)


def _named_hm(row: BaseNew) -> str:
    return f"{row.method} {row.hm.value:.1f}%"


def _ids(sources: Sequence[Source]) -> str:
    return " ".join(f'<a href="#{source.id}">{source.id}</a>' for source in sources)


def _rules(row: Row) -> set[str]:
    return {rule for e in row.evaluations for rule in e.part["clean"]}


def _clean(row: Row, measure: str) -> Number:
    sources = tuple(
        f"{e.path.as_posix()}#parts/{e.part_name}/clean/{e.headline_rule}/{measure}"
        for e in row.evaluations
    )
    return Number(row.clean if measure == "accuracy" else row.clean_ece, sources)


def _noisy(row: Row, group: str, measure: str) -> Number | None:
    values = row.values(group, measure)
    if not values:
        return None
    sources = tuple(f"{e.path.as_posix()}#parts/{e.part_name}/cells" for e in row.evaluations)
    return Number(tuple(values), sources, f"mean over the cells of {group}: {measure}")


def _kind_number(row: Row, group: str, kind: str) -> Number | None:
    if not all(group in means and kind in means[group].by_kind for means in row.means):
        return None
    values = tuple(means[group].by_kind[kind] for means in row.means)
    sources = tuple(f"{e.path.as_posix()}#parts/{e.part_name}/cells" for e in row.evaluations)
    return Number(values, sources, f"mean over the cells of {group}/{kind}: accuracy")


def _is_best(comparison: Comparison, row: Row, group: str, measure: str) -> bool:
    """Whether a row has the best figure of a column. The smallest drop and ECE are no merit of
    their own: a method that always gives one answer has them too."""
    if len(comparison.rows) < 2 or measure != "accuracy":
        return False

    def value(other: Row) -> float:
        values = other.values(group, measure) if group else other.clean
        return statistics.fmean(values) if values else -1.0

    return value(row) == max(map(value, comparison.rows))


def _answer(view: dict | None, truth: str) -> str:
    if view is None:
        return "<td></td>"
    probability = f"{100 * view['probability']:.0f}%"
    right = view["answer"] == truth
    mark = "✓" if right else "✗"
    return html.element(
        "td",
        f"{mark} {html.text(view['answer'] if not right else probability)}",
        class_="right" if right else "wrong",
        title=f"{view['answer']}, {probability}",
    )


def _config(row: BaseNew) -> str:
    """The configuration of a row's runs, without the backbone that its folder may name."""
    run = row.sources[0].run
    return run.config.removesuffix(f"-{run.backbone.replace('/', '_').replace(':', '_')}")


def _difference(row: BaseNew, full: BaseNew, half: str) -> Number | None:
    """How much a row is above the whole method, seed by seed."""
    if half == "hm":
        pairs = [_by_seed(r, "base", "new") for r in (row, full)]
    else:
        pairs = [_by_seed(r, half) for r in (row, full)]
    seeds = sorted(set(pairs[0]) & set(pairs[1]))
    if not seeds:
        return None
    values = tuple(pairs[0][seed][0] - pairs[1][seed][0] for seed in seeds)
    sources = tuple(" minus ".join(", ".join(pair[seed][1]) for pair in pairs) for seed in seeds)
    return Number(values, sources, "difference to the whole method")


def _by_seed(row: BaseNew, *halves: str) -> dict[int, tuple[float, list[str]]]:
    """Accuracy (of both halves: its harmonic mean) and its files, by seed."""
    found: dict[int, tuple[float, list[str]]] = {}
    for seed in sorted({s.run.seed for s in row.sources}):
        own = [s for s in row.sources if s.run.seed == seed and s.run.part in halves]
        if len(own) == len(halves):
            values = [s.results["accuracy"] for s in own]
            value = values[0] if len(values) == 1 else harmonic_mean(*values)
            found[seed] = (value, [f"{s.path}#accuracy" for s in own])
    return found
