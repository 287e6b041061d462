"""Sections on noise: means, curves over severities, kinds, pictures and prompts."""

import statistics
from collections.abc import Sequence
from typing import Any

from anprompt.results.noise.compare import Comparison
from anprompt.results.noise.files import Evaluation
from anprompt.results.noise.imagenet_c import imagenet_c_tables
from anprompt.results.noise.tables import (
    attacked_notes,
    checkpoint_notes,
    masking_notes,
    meaning_notes,
    noise_seen,
    noise_tables,
    part_notes,
    start_notes,
    trained_notes,
)
from anprompt.results.report.blocks import Block, Section, Sentence, Shown, joined, words
from anprompt.results.report.context import Context
from anprompt.results.report.figures import accuracy_by_severity
from anprompt.results.report.pictures import picture
from anprompt.results.statistics import standard_error
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import Value, count, mean, percent
from noise.cells import GROUPS

MOST_COMPARISONS = 6  # with more, pictures are at one severity, and kinds of noise not repeated
FULL_SHADE = 0.6  # a drop by this share of the clean accuracy has the strongest shade


def robustness(page: Context) -> Section | None:
    """Return means, curves over severities, and accuracy by kind of noise."""
    blocks: list[Block] = []
    many = len(page.data.comparisons) > MOST_COMPARISONS
    for comparison in page.data.comparisons:
        title = page.comparison_title(comparison)
        names = [row.method.name for row in page.in_order(comparison)]
        groups = _groups(comparison, "text", "image", *(() if many else ("both",)))
        charts = [accuracy_by_severity(comparison, page.styles, group, title) for group in groups]
        by_kind = [] if many else _by_kind(page, comparison)
        blocks += [
            Block("heading", title),
            Block("findings", _says(comparison)),
            *_means(comparison, names)[: 1 if many else None],
            Block("notes", _notes(comparison, by_kind)),
            *page.figures(charts, names),
            *by_kind,
        ]
    intro = (
        "The same noise for every model: images corrupted as the model sees them, prompts "
        "perturbed before they are tokenised, at severities 1 to 5. Mean accuracy under noise in "
        "%: over kinds, severities and noise seeds. Drop: clean minus noisy, in points. Same: "
        "share of answers in % that noise leaves as they are. ECE: expected calibration error in "
        "%. Means leave out kinds of noise that any of the compared methods trained with. A "
        "learned context cannot be misspelt: there, text noise meets the class name and the words "
        "that are not learned. Bold, in every column: the highest accuracy and same, the lowest "
        "drop and ECE of the rows with the same backbone, shots and seeds, as printed, ties "
        "included: answers under noise are not kept, so differences are not tested. A small "
        "drop or ECE is no merit by itself: who always gives one answer has them too."
    )
    if many:
        intro += (
            " With so many data sets, drop, same, ECE and accuracy by kind of noise stand in the "
            "table at the top of this page alone, and other measures in what python -m anprompt "
            "table --protocol noise shows."
        )
    blocks = [Block("text", intro), *blocks] if blocks else []
    return Section("robustness", "Under noise", "Under noise", blocks) if blocks else None


def _means(comparison: Comparison, names: Sequence[str]) -> list[Block]:
    tables = noise_tables(comparison)
    images = f"({comparison.images:,} test images, backbone {comparison.backbone})"
    for table in tables:
        table.title, table.notes = table.measure, []
    tables[0].title = f"{tables[0].measure} {images}"
    tables += imagenet_c_tables(comparison)
    for table in tables:
        table.rows.sort(key=lambda row: names.index(row.name))
    return [Block("numbers", table) for table in tables]


def _says(comparison: Comparison) -> list[Sentence]:
    said: list[Sentence] = []
    for group in ("text", "image"):
        drops = {row.method.name: row.value(group, "drop") for row in comparison.rows}
        known = {name: drop for name, drop in drops.items() if drop is not None}
        if len(known) < 2:
            continue
        smallest = min(known.values(), key=lambda drop: drop.number)
        names = [n for n, d in known.items() if round(d.number, 1) == round(smallest.number, 1)]
        start = f"{group.capitalize()} noise: smallest drop from clean: {words(names)}, "
        sentence: Sentence = (start, Shown(smallest), " points.")
        rows = [row for row in comparison.rows if row.method.name in known]
        means = {
            kind: mean(r.of_kind(group, kind) for r in rows) for kind in comparison.kinds(group)
        }
        found = {kind: value for kind, value in means.items() if value is not None}
        if len(found) > 1:
            kind = min(sorted(found), key=lambda name: found[name].number)
            start = f" Hardest kind, mean over methods: {kind.replace('_', ' ')}, "
            sentence = (*sentence, start, Shown(found[kind], unit="%"), ".")
        said.append(sentence)
    cleans = [value.number for row in comparison.rows if (value := row.value(""))]
    error = statistics.fmean(standard_error(number, comparison.images) for number in cleans)
    images = f"With {comparison.images:,} images, chance alone moves an accuracy by about "
    end = "points (standard error); all methods see the same images and noise."
    return [*said, (f"{images}{error:.1f} {end}",)]


def _notes(comparison: Comparison, by_kind: Sequence[Block]) -> list[str]:
    notes = [
        f"{group.capitalize()} noise in the means: {', '.join(kinds).replace('_', ' ')}."
        for group in _groups(comparison, "text", "image")
        if (kinds := comparison.kinds(group))
    ]
    seen = noise_seen(comparison.seen)
    if seen:
        columns = [column.name for block in by_kind for column in block.content.columns]
        marked = " Marked † below." if any(name.endswith("†") for name in columns) else ""
        notes.append(
            f"Left out of the means because a compared method trained with it: {seen}.{marked}"
        )
    for group in _groups(comparison, "text", "image", "both"):
        if any(row.is_ragged(group) for row in comparison.rows):
            notes.append(
                f"Not every kind of noise ({group}) was measured at every severity: curves over "
                "severities mix different kinds. Run the same evaluation again to complete it."
            )
    if comparison.left_out:
        notes.append(f"Left out: {comparison.left_out} cells that only some runs have.")
    told = part_notes(comparison) + trained_notes(comparison) + attacked_notes(comparison)
    told += start_notes(comparison) + checkpoint_notes(comparison)
    told += meaning_notes(comparison) + masking_notes(comparison)
    return notes + [f"{note[0].upper()}{note[1:]}." for note in told]


def _groups(comparison: Comparison, *of: str) -> list[str]:
    """Return groups of noise that were measured, of text, images or both."""
    known = (*comparison.groups, "text", "image", "both")
    return [group for group, found in GROUPS.items() if found.of in of and group in known]


def _by_kind(page: Context, comparison: Comparison) -> list[Block]:
    """Return accuracy by kind, with those seen in training, shaded by the drop."""
    members = [e for row in comparison.rows for e in row.evaluations]
    (whole,) = page.data.compare(members, all_kinds=True)
    seen = {*comparison.seen["text_kinds"], *comparison.seen["image_kinds"]}
    found = []
    for group in _groups(whole, "text", "image"):
        kinds = whole.kinds(group)
        names = ["clean", *(f"{kind.replace('_', ' ')}{'†' * (kind in seen)}" for kind in kinds)]
        rows, shades = [], {}
        for i, row in enumerate(page.in_order(whole)):
            clean = row.value("")
            values = (clean, *(row.of_kind(group, kind) for kind in kinds))
            rows.append(Row(row.method, values))
            for j, value in enumerate(values):
                if j and value and clean and clean.number:
                    lost = (clean.number - value.number) / clean.number
                    shades[i, j] = max(0.0, min(FULL_SHADE, lost))
        title = (
            f"Accuracy in % by kind of {group} noise, mean over severities; the stronger the "
            "shade, the larger the drop"
        )
        columns = [Column(name, digits=1, best="") for name in names]
        table = Table("noise", title, columns, rows, counted="", has_rules=False)
        found += [Block("numbers", table, options={"shades": shades})] if kinds else []
    return found


# Pictures


def pictures(page: Context) -> Section | None:
    """Return test images clean and noisy, with what each model says."""
    blocks: list[Block] = []
    few = len(page.data.comparisons) <= MOST_COMPARISONS
    for comparison in page.data.comparisons:
        speakers = [(row.method.name, row.evaluations[0]) for row in page.in_order(comparison)]
        cards, prompts = _cards(speakers, few), _prompts(speakers)
        if cards or prompts:
            said = Block("findings", _pictures_say(speakers))
            title = Block("heading", page.comparison_title(comparison))
            blocks += [title, said, Block("cards", cards), *prompts]
    intro = (
        "Test images as the models see them, chosen by their file names, and each model's first "
        "answer; the first run of a method speaks for it. The first ones can be looked at under "
        "every severity. ✓ and the probability where it is "
        "right, ✗ and the answer where it is wrong."
    )
    blocks = [Block("text", intro), *blocks] if blocks else []
    return Section("pictures", "Pictures", "Pictures and answers", blocks) if blocks else None


Speakers = Sequence[tuple[str, Evaluation]]


def _views(evaluation: Evaluation) -> dict[tuple[str, str, int], tuple[str, str, dict]]:
    """{(image, kind, severity): (where the view stands, the image's class, the view)}."""
    return {
        (example["image"], view["kind"], view["severity"]): (
            f"{evaluation.source}/examples/{i}/views/{j}",
            example["class"],
            view,
        )
        for i, example in enumerate(evaluation.part.get("examples") or ())
        for j, view in enumerate(example["views"])
    }


def _pictures_say(speakers: Speakers) -> list[Sentence]:
    """Return how many of the noisy pictures that all methods were shown each gets right."""
    shown = [
        {key: found for key, found in _views(evaluation).items() if key[1] != "clean"}
        for _, evaluation in speakers
    ]
    common = set(shown[0]).intersection(*shown[1:])
    if not common:
        return []
    counts: list[Sentence] = []
    for (name, _), views in zip(speakers, shown, strict=True):
        found = [views[key] for key in views if key in common]
        right = [f"{place}/answer" for place, class_, view in found if view["answer"] == class_]
        counts.append((f"{name} ", Shown(count(right), digits=0)))
    of_all = "" if len(common) == max(map(len, shown)) else " that every method was shown"
    return [(f"Of the {len(common)} noisy views{of_all} below, right: ", *joined(counts), ".")]


def _cards(speakers: Speakers, every: bool) -> list[dict[str, Any]]:
    """Return each picture's views, as the first method that has it shows them, and answers.

    Args:
        every: at every severity, not only at the one that all pictures have.
    """
    views = [(name, evaluation, _views(evaluation)) for name, evaluation in speakers]
    cards = []
    for image in dict.fromkeys(key[0] for *_, own in views for key in own):
        having = [item for item in views if any(key[0] == image for key in item[2])]
        _, first, own = having[0]
        clean = [key for key in own if key[0] == image and not key[2]]
        noisy: dict[int, list[tuple[str, str, int]]] = {}
        for key in own:
            if key[0] == image and key[2]:
                noisy.setdefault(key[2], []).append(key)
        middle = sorted(noisy, key=lambda severity: (-len(noisy[severity]), abs(severity - 3)))
        parts = []
        for severity in sorted(noisy) if every else middle[:1]:
            keys = [*clean, *noisy[severity]]
            pictures = [picture(first.path.parent, own[key][2]["picture"]) for key in keys]
            parts.append({
                "severity": severity,
                "is_shown": severity == middle[0],
                "views": [(k[1].replace("_", " "), p) for k, p in zip(keys, pictures, strict=True)],
                "rows": [(name, [_answer(of.get(key)) for key in keys]) for name, _, of in having],
            })  # fmt: skip
        title = own[(clean or noisy[middle[0]])[0]][1].replace("_", " ")
        if parts:
            cards.append({"title": title, "image": image, "parts": parts})
    # What is there at every severity first.
    return sorted(cards, key=lambda card: -len(card["parts"]))


def _answer(found: tuple[str, str, dict] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    place, class_, view = found
    share = percent(Value(view["probability"], f"{place}/probability"))
    return {
        "is_right": view["answer"] == class_,
        "answer": view["answer"].replace("_", " "),
        "probability": Shown(share, digits=0, unit="%"),
    }


def _prompts(speakers: Speakers) -> list[Block]:
    """Return what text noise makes of a prompt, once for each wording."""
    by_wording: dict[str, list[tuple[str, list[dict]]]] = {}
    for name, evaluation in speakers:
        examples = evaluation.part.get("text_examples")
        if examples:
            wording = evaluation.part.get("template") or ""
            by_wording.setdefault(wording, []).append((name, examples))
    rows = [
        ["" if i else words([name for name, _ in own]), example["kind"], *example["prompts"]]
        for own in by_wording.values()
        for i, example in enumerate(own[0][1])
    ]
    number = max(map(len, rows), default=0)
    headers = ["method", "noise", *(f"class {i - 1}" for i in range(2, number))]
    title = "Prompts under text noise: the words that a method does not learn"
    options = {"headers": headers, "code": range(2, number)}
    table = Block("words", rows, title, options)
    return [Block("folded", [table], "What text noise does to the prompts")] if rows else []
