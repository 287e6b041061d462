"""Sections on noise: means, curves over severities, kinds, pictures and prompts."""

import statistics
from collections.abc import Sequence

from anprompt.results.noise import Comparison, Evaluation, NoiseRow, noise_seen, noise_tables
from anprompt.results.report.blocks import (
    Answer,
    Block,
    Card,
    Cards,
    Findings,
    Folded,
    Heading,
    Legend,
    Notes,
    Numbers,
    Section,
    Sentence,
    Shown,
    Text,
    Words,
    joined,
    words,
)
from anprompt.results.report.context import Context
from anprompt.results.report.data import picture
from anprompt.results.report.figures import accuracy_by_severity
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import Value, count, mean, minus, percent, standard_error

FULL_SHADE = 0.6  # a drop by this share of the clean accuracy has the strongest shade
GROUPS = ("text", "image", "both")


def robustness(page: Context) -> Section | None:
    """Means, curves over severities, and accuracy by kind of noise."""
    blocks: list[Block] = []
    for comparison in page.data.comparisons:
        title = page.comparison_title(comparison)
        rows = page.in_order(comparison)
        charts = [accuracy_by_severity(comparison, page.styles, group, title) for group in GROUPS]
        by_kind = _by_kind(page, comparison)
        blocks += [
            Heading(title),
            Findings(_says(page, comparison)),
            *_means(comparison, rows),
            Notes(_notes(comparison, by_kind)),
            Legend([row.method.name for row in rows]),
            *page.figures(charts),
            *by_kind,
        ]
    if not blocks:
        return None
    intro = Text(
        "The same noise for every model: images corrupted as the model sees them, prompts "
        "perturbed before they are tokenised, at severities 1 to 5. Mean accuracy under noise in "
        "%: over kinds, severities and noise seeds. Drop: clean minus noisy, in points. Same: "
        "share of answers in % that noise leaves as they are. ECE: expected calibration error in "
        "%. Means leave out kinds of noise that any of the compared methods trained with. A "
        "learned context cannot be misspelt: there, text noise meets the class name and the words "
        "that are not learned. Bold, in every column: the highest accuracy and same, the lowest "
        "drop and ECE of the rows with the same backbone, shots and seeds, ties included. A small "
        "drop or ECE is no merit by itself: who always gives one answer has them too."
    )
    return Section("robustness", "Under noise", "Under noise", [intro, *blocks])


def _means(comparison: Comparison, rows: Sequence[NoiseRow]) -> list[Numbers]:
    first, second = noise_tables(comparison)
    order = [row.method for row in rows]
    for table in (first, second):
        table.rows.sort(key=lambda row: order.index(row.method))
    images = f"({comparison.images:,} test images, backbone {comparison.backbone})"
    first.title, second.title = f"{first.measure} {images}", second.measure
    second.notes = []
    return [Numbers(first), Numbers(second)]


def _says(page: Context, comparison: Comparison) -> list[Sentence]:
    said: list[Sentence] = []
    for group in ("text", "image"):
        rows = {row.method.name: row for row in comparison.rows if row.value(group)}
        places = page.ranked((name, row.value(group)) for name, row in rows.items())
        if len(rows) < 2:
            continue
        names, best = places[0]
        parts: list[str | Shown] = [f"{group.capitalize()} noise: highest on average "]
        parts += [f"{words(names)}, ", Shown(best, unit="%")]
        if len(places) > 1:
            lead = minus(best, places[1][1])
            assert lead is not None
            parts += [", ", Shown(lead), f" points ahead of {words(places[1][0])}"]
        drops = page.ranked((name, _negative(row, group)) for name, row in rows.items())
        smallest = rows[drops[0][0][0]].value(group, "drop")
        assert smallest is not None
        parts += [f"; smallest drop from clean: {words(drops[0][0])}, "]
        parts += [Shown(smallest), " points."]
        for i, (own, number) in enumerate(places[1:], start=1):
            for name in filter(page.styles.is_highlight, own):
                before = sum(len(above) for above, _ in places[:i])
                drop = rows[name].value(group, "drop")
                assert drop is not None
                parts += [f" {name} is number {before + 1} of {len(rows)}: "]
                parts += [Shown(number, unit="%"), ", ", Shown(drop), " below its clean accuracy."]
        hardest = _hardest_kind(list(rows.values()), group)
        if hardest:
            kind = hardest[0].replace("_", " ")
            parts += [f" Hardest kind, mean over methods: {kind}, "]
            parts += [Shown(hardest[1], unit="%"), " on average."]
        said.append(tuple(parts))
    cleans = [value.number for row in comparison.rows if (value := row.value(""))]
    error = statistics.fmean(standard_error(number, comparison.images) for number in cleans)
    said.append((
        f"With {comparison.images:,} images, chance alone moves an accuracy by about {error:.1f} "
        "points (standard error); all methods see the same images and noise.",
    ))  # fmt: skip
    return said


def _negative(row: NoiseRow, group: str) -> Value | None:
    """A drop for ranking, the smallest first."""
    drop = row.value(group, "drop")
    return drop and Value(-drop.number, drop.source)


def _hardest_kind(rows: Sequence[NoiseRow], group: str) -> tuple[str, Value] | None:
    """The kind with the lowest accuracy, mean over methods; None with fewer than two kinds."""
    kinds = sorted({kind for row in rows for kind in row.kinds(group)})
    found = {kind: mean(row.of_kind(group, kind) for row in rows) for kind in kinds}
    known = {kind: value for kind, value in found.items() if value is not None}
    return min(known.items(), key=lambda item: item[1].number) if len(known) > 1 else None


def _notes(comparison: Comparison, by_kind: Sequence[Numbers]) -> list[str]:
    notes = [
        f"{group.capitalize()} noise in the means: {', '.join(kinds).replace('_', ' ')}."
        for group in ("text", "image")
        if (kinds := comparison.kinds(group))
    ]
    seen = noise_seen(comparison.seen)
    if seen:
        columns = [column.name for numbers in by_kind for column in numbers.table.columns]
        marked = " Marked † below." if any(name.endswith("†") for name in columns) else ""
        notes.append(
            f"Left out of the means because a compared method trained with it: {seen}.{marked}"
        )
    for group in GROUPS:
        if any(_is_ragged(row, group) for row in comparison.rows):
            notes.append(
                f"Not every kind of noise ({group}) was measured at every severity: curves over "
                "severities mix different kinds. Run the same evaluation again to complete it."
            )
    if comparison.left_out:
        notes.append(f"Left out: {comparison.left_out} cells that only some models have.")
    return notes


def _is_ragged(row: NoiseRow, group: str) -> bool:
    """Whether kinds have different severities."""
    for groups in row.cells:
        severities: dict[str, set[int]] = {}
        for cell in groups.get(group, ()):
            severities.setdefault(cell.kind, set()).add(cell.severity)
        if len(set(map(frozenset, severities.values()))) > 1:
            return True
    return False


def _by_kind(page: Context, comparison: Comparison) -> list[Numbers]:
    """Accuracy by kind, with those seen in training, shaded by the drop."""
    members = [e for row in comparison.rows for e in row.evaluations]
    (whole,) = page.data.compare(members, all_kinds=True)
    seen = {*comparison.seen["text_kinds"], *comparison.seen["image_kinds"]}
    found = []
    for group in ("text", "image"):
        kinds = whole.kinds(group)
        if not kinds:
            continue
        columns = [Column("clean", 1, "")]
        columns += [
            Column(kind.replace("_", " ") + ("†" if kind in seen else ""), 1, "") for kind in kinds
        ]
        rows, shades = [], {}
        for i, row in enumerate(page.in_order(whole)):
            clean = row.value("")
            values = (clean, *(row.of_kind(group, kind) for kind in kinds))
            rows.append(Row(row.method, values))
            for j, value in enumerate(values[1:], start=1):
                if value and clean and clean.number:
                    lost = (clean.number - value.number) / clean.number
                    shades[i, j] = max(0.0, min(FULL_SHADE, lost))
        title = (
            f"Accuracy in % by kind of {group} noise, mean over severities; the stronger the "
            "shade, the larger the drop"
        )
        table = Table("noise", title, columns, rows, counted="", has_rules=False)
        found.append(Numbers(table, shades))
    return found


# Pictures


def pictures(page: Context) -> Section | None:
    """Test images clean and noisy, with what each model says."""
    blocks: list[Block] = []
    for comparison in page.data.comparisons:
        cards = _cards(page, comparison)
        prompts = _prompts(page, comparison)
        if cards or prompts:
            blocks += [
                Heading(page.comparison_title(comparison)),
                Findings(_pictures_say(page, comparison)),
                Cards(cards),
                *prompts,
            ]
    if not blocks:
        return None
    intro = Text(
        "Test images as the models see them, chosen by their file names, and each model's first "
        "answer; the first run of a method speaks for it. ✓ and the probability where it is "
        "right, ✗ and the answer where it is wrong."
    )
    return Section("pictures", "Pictures", "Pictures and answers", [intro, *blocks])


def _examples(evaluation: Evaluation) -> list[dict]:
    return [e for e in evaluation.part.get("examples") or () if e["views"]]


def _pictures_say(page: Context, comparison: Comparison) -> list[Sentence]:
    """How many of the noisy pictures that all methods were shown each gets right."""
    rows = page.in_order(comparison)
    shown = [_noisy_views(row.evaluations[0]) for row in rows]
    common = set(shown[0]).intersection(*shown[1:]) if shown else set()
    if not common:
        return []
    counts = []
    for row, views in zip(rows, shown, strict=True):
        right = [key for view, (key, is_right) in views.items() if view in common and is_right]
        counts.append((f"{row.method.name} ", Shown(count(right), digits=0)))
    whole = max(map(len, shown))
    of_all = "" if len(common) == whole else " that every method was shown"
    start = f"Of the {len(common)} noisy views{of_all} below, right: "
    return [(start, *joined(counts), ".")]


def _noisy_views(evaluation: Evaluation) -> dict[tuple, tuple[str, bool]]:
    """{(image, kind, severity): (where its answer stands, whether it is right)}."""
    return {
        (example["image"], view["kind"], view["severity"]): (
            f"{evaluation.source}/examples/{i}/views/{j}/answer",
            view["answer"] == example["class"],
        )
        for i, example in enumerate(_examples(evaluation))
        for j, view in enumerate(example["views"])
        if view["kind"] != "clean"
    }


def _cards(page: Context, comparison: Comparison) -> list[Card]:
    by_image: dict[str, list[tuple[str, Evaluation, int]]] = {}
    for row in page.in_order(comparison):
        for number, example in enumerate(_examples(row.evaluations[0])):
            found = by_image.setdefault(example["image"], [])
            found.append((row.method.name, row.evaluations[0], number))
    return [_card(image, found) for image, found in by_image.items()]


def _card(image: str, found: Sequence[tuple[str, Evaluation, int]]) -> Card:
    _, first, number = found[0]
    example = _examples(first)[number]
    rows = []
    for name, evaluation, own_number in found:
        own = _examples(evaluation)[own_number]
        places = {(view["kind"], view["severity"]): i for i, view in enumerate(own["views"])}
        answers = [
            None if place is None else _answer(evaluation, own_number, place)
            for view in example["views"]
            for place in [places.get((view["kind"], view["severity"]))]
        ]
        rows.append((name, answers))
    return Card(
        title=example["class"].replace("_", " "),
        image=image,
        severity=max(view["severity"] for view in example["views"]),
        views=[
            (view["kind"].replace("_", " "), picture(first.path.parent, view["picture"]))
            for view in example["views"]
        ],
        rows=rows,
    )


def _answer(evaluation: Evaluation, example: int, place: int) -> Answer:
    found = _examples(evaluation)[example]
    view = found["views"][place]
    source = f"{evaluation.source}/examples/{example}/views/{place}/probability"
    probability = Shown(percent(Value(view["probability"], source)), digits=0, unit="%")
    is_right = view["answer"] == found["class"]
    return Answer(is_right, view["answer"].replace("_", " "), probability)


def _prompts(page: Context, comparison: Comparison) -> list[Folded]:
    """What text noise makes of a prompt, once for each wording."""
    by_wording: dict[str, list[NoiseRow]] = {}
    for row in page.in_order(comparison):
        part = row.evaluations[0].part
        if part.get("text_examples"):
            by_wording.setdefault(part.get("template") or "", []).append(row)
    lines: list[list[str]] = []
    for rows in by_wording.values():
        names = words([row.method.name for row in rows])
        for i, example in enumerate(rows[0].evaluations[0].part["text_examples"]):
            lines.append(["" if i else names, example["kind"], *example["prompts"]])
    if not lines:
        return []
    number = max(map(len, lines)) - 2
    headers = ["method", "noise", *(f"class {i + 1}" for i in range(number))]
    title = "Prompts under text noise: the words that a method does not learn"
    table = Words(headers, lines, title, code=frozenset(range(2, number + 2)))
    return [Folded("What text noise does to the prompts", [table])]
