"""Sections on noise: means, curves over severities, kinds, pictures and prompts."""

import base64
import statistics
from collections.abc import Sequence

from anprompt.results.report import html
from anprompt.results.report.context import Context, left, words
from anprompt.results.report.data import picture
from anprompt.results.report.figures import accuracy_by_severity
from anprompt.results.report.noise import clean, hardest_kind, noisy, of_kind, standard_error
from anprompt.results.report.numbers import Number, count, minus, percent
from anprompt.robustness.summary import Evaluation, Mean
from anprompt.robustness.table import Comparison, Row, kinds_of, noise_seen

COLUMNS = {"learned": "learned tokens"}
FULL_SHADE = 0.6  # a drop by this share of the clean accuracy is as dark as it gets


def robustness(page: Context) -> str:
    """Means, curves over severities, and accuracy by kind of noise."""
    blocks = []
    for comparison in page.data.comparisons:
        title = page.comparison_title(comparison)
        charts = [
            accuracy_by_severity(comparison, page.styles, group, title)
            for group in ("text", "image", "both")
        ]
        rows = page.in_order(comparison)
        blocks += [
            f"<h3>{html.text(title)}</h3>",
            html.findings(_says(page, comparison)),
            _means(page, comparison),
            _notes(comparison),
            page.legend([row.method for row in rows]),
            page.figures(charts),
            _by_kind(page, comparison),
        ]
    if not blocks:
        return ""
    intro = (
        "The same noise for every model: images corrupted as the model sees them, prompts "
        "perturbed before they are tokenised, at severities 1 to 5. Mean accuracy under noise in "
        "%: over kinds, severities and noise seeds. Drop: clean minus noisy, in points. Same: "
        "share of answers in % that noise leaves as they are. ECE: expected calibration error in "
        "%. Means leave out kinds of noise that any of the compared methods trained with. A "
        "learned context cannot be misspelt: there, text noise meets the class name and the words "
        "that are not learned."
    )
    return html.section("robustness", "Under noise", html.paragraph(intro), *blocks)


def _says(page: Context, comparison: Comparison) -> list[str]:
    said = []
    for group in ("text", "image"):
        rows = [row for row in comparison.rows if noisy(row, group, "accuracy")]
        if len(rows) < 2:
            continue
        ranked = sorted(rows, key=lambda r: noisy(r, group, "accuracy").value, reverse=True)
        first, second = ranked[:2]
        steadiest = min(rows, key=lambda r: noisy(r, group, "drop").value)
        lead = minus(noisy(first, group, "accuracy"), noisy(second, group, "accuracy"))
        text = (
            f"{group.capitalize()} noise: {html.text(first.method)} keeps most, "
            f"{html.number_text(noisy(first, group, 'accuracy'), unit='%')} on average, "
            f"{html.number_text(lead)} points ahead of {html.text(second.method)}; smallest drop "
            f"from clean: {html.text(steadiest.method)}, "
            f"{html.number_text(noisy(steadiest, group, 'drop'))} points."
        )
        for place, row in enumerate(ranked[1:], start=2):
            if page.styles.is_highlight(row.method):
                text += (
                    f" {html.text(row.method)} is number {place} of {len(ranked)}: "
                    f"{html.number_text(noisy(row, group, 'accuracy'), unit='%')}, "
                    f"{html.number_text(noisy(row, group, 'drop'))} below its clean accuracy."
                )
        hardest = hardest_kind(rows, group)
        if hardest:
            kind, number = hardest
            text += (
                f" Hardest for the methods together: {html.text(kind.replace('_', ' '))}, "
                f"{html.number_text(number, unit='%')} on average."
            )
        said.append(text)
    errors = [standard_error(row, comparison.images) for row in comparison.rows]
    said.append(
        f"With {comparison.images:,} images, chance alone moves an accuracy by about "
        f"{statistics.fmean(errors):.1f} points (standard error); all methods see the same images "
        "and noise."
    )
    return said


def _means(page: Context, comparison: Comparison) -> str:
    groups = list(dict.fromkeys(g for row in comparison.rows for m in row.means for g in m))
    caption = (
        f"Mean accuracy under noise, in % ({comparison.images:,} test images, backbone "
        f"{comparison.backbone})"
    )
    accuracies = [("clean", "", "accuracy")]
    accuracies += [(COLUMNS.get(group, group), group, "accuracy") for group in groups]
    both = [group for group in ("text", "image") if group in groups]
    others = [(f"drop, {group}", group, "drop") for group in both]
    others += [(f"same, {group}", group, "consistency") for group in both]
    others += [("ECE, clean", "", "ece"), *((f"ECE, {group}", group, "ece") for group in both)]
    return _measures(page, comparison, accuracies, caption) + _measures(
        page, comparison, others, "Drop in points; same answers and calibration error in %"
    )


def _measures(
    page: Context,
    comparison: Comparison,
    columns: Sequence[tuple[str, str, str]],
    caption: str,
) -> str:
    """A table with columns of (title, group of noise or "" for clean, measure)."""

    def read(row: Row, group: str, measure: str) -> Number | None:
        return noisy(row, group, measure) if group else clean(row, measure)

    # The smallest drop and ECE are no merit of their own: who always gives one answer has them too.
    best = {
        group: max((n.value for r in comparison.rows if (n := read(r, group, measure))), default=-1)
        for _, group, measure in columns
        if measure == "accuracy" and len(comparison.rows) > 1
    }
    lines = []
    for row in page.in_order(comparison):
        several = len({rule for e in row.evaluations for rule in e.part["clean"]}) > 1
        cells = [page.name(row.method, row.rule if several else "")]
        for _, group, measure in columns:
            number = read(row, group, measure)
            is_best = (
                measure == "accuracy" and number is not None and number.value == best.get(group)
            )
            cells.append(html.number_cell(number, is_best=is_best))
        cells.append(html.counts_cell(_runs(row)))
        lines.append((cells, page.styles.is_highlight(row.method)))
    return html.table(("|method", *(name for name, *_ in columns), "runs"), lines, caption=caption)


def _runs(row: Row) -> Number:
    return count([f"{e.path.as_posix()}#seed" for e in row.evaluations])


def _notes(comparison: Comparison) -> str:
    notes = [
        f"{group.capitalize()} noise in the means: {', '.join(kinds).replace('_', ' ')}."
        for group, kinds in kinds_of(comparison).items()
    ]
    seen = noise_seen(comparison.seen)
    if seen:
        notes.append(
            f"Left out of the means because a compared method trained with it: {seen}. "
            "Marked † below."
        )
    for group in ("text", "image", "both"):
        if any(_is_ragged(means[group]) for row in comparison.rows for means in row.means
               if group in means):  # fmt: skip
            notes.append(
                f"Not every kind of noise ({group}) was measured at every severity: curves over "
                "severities mix different kinds. Run the same evaluation again to complete it."
            )
    if comparison.left_out:
        notes.append(f"Left out: {comparison.left_out} cells that only some models have.")
    items = "".join(f"<li>{html.text(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _is_ragged(mean: Mean) -> bool:
    """Whether kinds have different severities."""
    severities: dict[str, set[str]] = {}
    for key in mean.keys:
        _, kind, severity, _ = key.split("/")
        severities.setdefault(kind, set()).add(severity)
    return len(set(map(frozenset, severities.values()))) > 1


def _by_kind(page: Context, comparison: Comparison) -> str:
    """Accuracy by kind, with those seen in training, shaded by the drop."""
    members = [e for row in comparison.rows for e in row.evaluations]
    (unfiltered,) = page.data.compare(members, all_kinds=True)
    seen = {*comparison.seen["text_kinds"], *comparison.seen["image_kinds"]}
    tables = []
    for group in ("text", "image"):
        kinds = dict.fromkeys(
            kind
            for row in unfiltered.rows
            for means in row.means
            if group in means
            for kind in means[group].kinds
        )
        if not kinds:
            continue
        lines = []
        for row in page.in_order(unfiltered):
            whole = clean(row)
            cells = [page.name(row.method), html.number_cell(whole)]
            cells += [_shaded(of_kind(row, group, kind), whole) for kind in kinds]
            lines.append((cells, False))
        names = (f"{kind.replace('_', ' ')}{'†' if kind in seen else ''}" for kind in kinds)
        caption = (
            f"Accuracy in % by kind of {group} noise, mean over severities; the darker, the larger "
            "the drop"
        )
        tables.append(
            html.table(("|method", "clean", *names), lines, caption=caption, class_="heat")
        )
    return "".join(tables)


def _shaded(number: Number | None, whole: Number) -> str:
    if number is None or not whole.value:
        return html.number_cell(number)
    lost = (whole.value - number.value) / whole.value
    return html.number_cell(number, style=f"--heat:{max(0.0, min(FULL_SHADE, lost)):.3f}")


# Pictures


def pictures(page: Context) -> str:
    """Test images clean and noisy, with what each model says."""
    blocks = []
    for comparison in page.data.comparisons:
        cards = _cards(page, comparison)
        prompts = _prompts(page, comparison)
        if cards or prompts:
            title = page.comparison_title(comparison)
            blocks += [
                f"<h3>{html.text(title)}</h3>",
                html.findings(_pictures_say(page, comparison)),
                cards,
                prompts,
            ]
    if not blocks:
        return ""
    intro = (
        "Test images as the models see them, chosen by their file names, and each model's first "
        "answer; the first run of a method speaks for it. ✓ and the probability where it is "
        "right, ✗ and the answer where it is wrong."
    )
    return html.section("pictures", "Pictures and answers", html.paragraph(intro), *blocks)


def _pictures_say(page: Context, comparison: Comparison) -> list[str]:
    """How many of the noisy pictures that all methods were shown each gets right."""
    rows = page.in_order(comparison)
    shown = [_noisy_views(row.evaluations[0]) for row in rows]
    common = set(shown[0]).intersection(*shown[1:]) if shown else set()
    if not common:
        return []
    parts = []
    for row, views in zip(rows, shown, strict=True):
        right = [key for view, (key, is_right) in views.items() if view in common and is_right]
        parts.append(f"{html.text(row.method)} {html.number_text(count(right), 0)}")
    whole = max(map(len, shown))
    of_all = "" if len(common) == whole else " that every method was shown"
    return [f"Of the {len(common)} noisy views{of_all} below, right: {', '.join(parts)}."]


def _noisy_views(evaluation: Evaluation) -> dict[tuple, tuple[str, bool]]:
    """{(image, kind, severity): (where its answer stands, whether it is right)}."""
    return {
        (example["image"], view["kind"], view["severity"]): (
            _view_key(evaluation, i, j, "answer"),
            view["answer"] == example["class"],
        )
        for i, example in enumerate(evaluation.part["examples"])
        for j, view in enumerate(example["views"])
        if view["kind"] != "clean"
    }


def _view_key(evaluation: Evaluation, example: int, view: int, name: str) -> str:
    start = f"{evaluation.path.as_posix()}#parts/{evaluation.part_name}"
    return f"{start}/examples/{example}/views/{view}/{name}"


def _cards(page: Context, comparison: Comparison) -> str:
    speakers = [(row.method, row.evaluations[0]) for row in page.in_order(comparison)]
    by_image: dict[str, list[tuple[str, Evaluation, int]]] = {}
    for method, evaluation in speakers:
        for number, example in enumerate(evaluation.part["examples"]):
            by_image.setdefault(example["image"], []).append((method, evaluation, number))
    cards = "".join(_card(page, image, found) for image, found in by_image.items())
    return f'<div class="cards">{cards}</div>' if cards else ""


def _card(page: Context, image: str, found: Sequence[tuple[str, Evaluation, int]]) -> str:
    _, first, number = found[0]
    example = first.part["examples"][number]
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
    for method, evaluation, own_number in found:
        own = evaluation.part["examples"][own_number]
        places = {(v["kind"], v["severity"]): place for place, v in enumerate(own["views"])}
        cells = [page.name(method)]
        for view in example["views"]:
            place = places.get((view["kind"], view["severity"]))
            cells.append("<td></td>" if place is None else _answer(evaluation, own_number, place))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    severity = max(view["severity"] for view in example["views"])
    title = (
        f"<h4>{html.text(example['class'].replace('_', ' '))}<span>{html.text(image)}, noise at "
        f"severity {severity}</span></h4>"
    )
    table = (
        f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return f'<div class="card">{title}<div class="scroll" tabindex="0">{table}</div></div>'


def _answer(evaluation: Evaluation, example: int, place: int) -> str:
    found = evaluation.part["examples"][example]
    view = found["views"][place]
    key = _view_key(evaluation, example, place, "probability")
    probability = html.number_text(percent(Number(view["probability"], key)), 0, unit="%")
    if view["answer"] == found["class"]:
        return html.element("td", f"✓ {probability}", class_="right")
    name = html.text(view["answer"].replace("_", " "))
    return html.element("td", f"✗ {name} {probability}", class_="wrong")


def _prompts(page: Context, comparison: Comparison) -> str:
    """What text noise makes of a prompt, once for each wording."""
    by_wording: dict[str, list[Row]] = {}
    for row in page.in_order(comparison):
        part = row.evaluations[0].part
        if part.get("text_examples"):
            by_wording.setdefault(part["template"], []).append(row)
    lines = []
    for rows in by_wording.values():
        names = words([row.method for row in rows])
        for i, example in enumerate(rows[0].evaluations[0].part["text_examples"]):
            cells = [html.element("th", names if not i else "", scope="row")]
            cells.append(left(example["kind"]))
            cells += [
                html.element("td", f"<code>{html.text(prompt)}</code>", class_="left")
                for prompt in example["prompts"]
            ]
            lines.append((cells, False))
    if not lines:
        return ""
    number = max(len(cells) for cells, _ in lines) - 2
    headers = ("|method", "|noise", *(f"|class {i + 1}" for i in range(number)))
    caption = "Prompts under text noise: the words that a method does not learn"
    table = html.table(headers, lines, caption=caption, class_="prompts")
    return html.details("What text noise does to the prompts", table)
