"""Sections behind the figures: ablations, classes, training, cost, files."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from anprompt.results.assign import place
from anprompt.results.noise.tables import noise_table
from anprompt.results.protocol_tables import make_tables
from anprompt.results.report.blocks import Block, Section, Sentence, Shown, joined, listed
from anprompt.results.report.charts import Chart
from anprompt.results.report.context import Context
from anprompt.results.report.curves import curve_of, loss_terms, training_curves
from anprompt.results.report.data import (
    WHOLE,
    Ablation,
    code_of,
    mean_over,
    per_class,
    recorded,
)
from anprompt.results.report.figures import (
    ablation_changes,
    class_changes,
    slug,
)
from anprompt.results.run import Run
from anprompt.results.table import PROTOCOLS, Column, Row, Table
from anprompt.results.value import Value, minus, over, seed_by_seed

FEW_CASES = 3  # with more, the terms of the loss are shown of the highlighted method alone
FEW_SEEDS = {1: "one seed", 2: "two seeds"}
Change = tuple[str, Value, Value, Value]


def ablations(page: Context) -> Section | None:
    """Return runs with one change to a method, against the whole method."""
    blocks: list[Block] = []
    charts, said = [], []
    for ablation in page.data.ablations:
        title = f"{ablation.trainer} on {ablation.dataset}"
        table, changes = _ablation_table(ablation, f"{title}: accuracy in %, Δ in points")
        how = [f"{name}: {'; '.join(own)}" for name, own in ablation.changes.items() if own]
        blocks += [Block("numbers", table), Block("notes", how), *_under_noise(page, ablation)]
        if changes:
            name = slug("ablations", title)
            charts.append(ablation_changes(f"{title}: what each part is worth", name, changes))
            said.append(_ablation_says(title, changes))
    intro = (
        "One change to the whole method at a time; differences in percentage points, seed by "
        "seed, mean and standard deviation; Δ HM is of each seed's harmonic mean. "
        "docs/ROBUSTNESS.md says what each changes."
    )
    blocks = [Block("text", intro), Block("findings", said), *blocks, *page.figures(charts)]
    return Section("ablations", "Ablations", "Ablations", blocks) if page.data.ablations else None


def _whole_first(row: Row) -> tuple[bool, str]:
    return row.method.config != WHOLE, row.method.config


def _ablation_table(ablation: Ablation, title: str) -> tuple[Table, list[Change]]:
    """Return the runs' table, the whole method first, with differences to it."""
    table = make_tables("base2new", place(ablation.runs), split_configs=True)[0]
    whole, *others = sorted(table.rows, key=_whole_first)
    method = replace(whole.method, name=f"{ablation.trainer}, whole")
    rows = [replace(whole, method=method, values=(*whole.values[:3], None, None, None))]
    changes: list[Change] = []
    for row in others:
        pairs = [(row.values[i], whole.values[i]) for i in (0, 1, 3)]
        base, new, hm = (seed_by_seed(minus, *pair, common=True) for pair in pairs)
        name = row.method.config
        rows.append(
            replace(
                row,
                method=replace(row.method, name=name),
                values=(*row.values[:3], base, new, hm),
            )
        )
        if base and new and hm:
            changes.append((name, base, new, hm))
    columns = [Column(name, best="") for name in ("base", "new", "HM")]
    columns += [Column(f"Δ {name}", best="", signed=True) for name in ("base", "new", "HM")]
    shown = replace(table, title=title, columns=columns, rows=rows, notes=[], has_rules=False)
    return shown, changes


def _ablation_says(title: str, changes: Sequence[Change]) -> Sentence:
    lost = [change for change in changes if change[3].number < 0]
    worst = min(changes, key=lambda change: change[3].number)
    best = max(changes, key=lambda change: change[3].number)
    seeds = min(change[3].n for change in changes)
    end = f" From {FEW_SEEDS[seeds]}: weigh it accordingly." if seeds in FEW_SEEDS else ""
    start = f"{title}: {len(lost)} of {len(changes)} changes lower the harmonic mean. Lowest: "
    middle = f" points; highest: {best[0]}, "
    return (f"{start}{worst[0]}, ", Shown(worst[3], signed=True), middle,
            Shown(best[3], signed=True), f".{end}")  # fmt: skip


def _under_noise(page: Context, ablation: Ablation) -> list[Block]:
    folders = {run.folder for run in ablation.runs}
    members = [e for e in page.data.evaluations if e.path.parent in folders]
    blocks = []
    for comparison in page.data.compare(members, by_config=True):
        columns = {"clean": ("", "accuracy")}
        for group in ("text", "image", "both"):
            columns |= {group: (group, "accuracy"), f"drop, {group}": (group, "drop")}
        title = (
            f"Under noise, {comparison.dataset}, {comparison.subset} classes: mean accuracy in %, "
            "drop in points, over kinds that none of these trained with"
        )
        table = noise_table(comparison, columns, title, "")
        table.columns = [replace(column, best="") for column in table.columns]
        table.rows.sort(key=_whole_first)
        blocks.append(Block("numbers", replace(table, has_rules=False)))
    return blocks if any(page.data.is_ablation(e) for e in members) else []


# Single images, and settings


def answers(page: Context) -> Section | None:
    """Return tools for answers to single images, confusion and reliability."""
    intro = (
        "From the predictions that runs kept; of each method the run with the smallest seed. "
        "Pictures are shown where --root names the folder that holds the data sets."
    )
    choices = ("Test", "Images", "Confusion and reliability of")
    tools = Block("tools", "answer", options={"choices": choices, "filter": "Class"})
    blocks = [Block("text", intro), tools]
    return Section("answers", "Images", "Answers to single images", blocks) if page.tests else None


def settings(page: Context) -> Section | None:
    """Return a tool that compares two runs' settings."""
    intro = "Settings that differ between two trainings, as their results.json recorded them."
    blocks = [Block("text", intro), Block("tools", "settings", options={"choices": ("Run", "and")})]
    has_two = len(page.settings) > 1
    return Section("settings", "Settings", "Two runs' settings", blocks) if has_two else None


# Classes


def classes(page: Context) -> Section | None:
    """Return which classes gained and which lost."""
    baseline = next(filter(page.styles.is_baseline, page.names), None)
    others = [name for name in page.names if name != baseline]
    chosen = next(filter(page.styles.is_highlight, others), next(iter(others), None))
    if baseline is None or chosen is None:
        return None
    charts, said = [], []
    for case in page.data.cases:
        for subset in ("base", "new") if case.protocol == "base2new" else ("all",):
            charts.append(class_changes(case, subset, chosen, baseline))
            old, new = (per_class(case.of(name, subset)) for name in (baseline, chosen))
            changes = {name: change for name in old if (change := minus(new.get(name), old[name]))}
            if changes:
                said.append(_classes_say(f"{case.title}, {subset} classes", chosen, changes))
    figures = page.figures(charts)
    intro = Block("text", f"Accuracy of each class: {chosen} against {baseline}.")
    blocks = [intro, Block("findings", said), *figures]
    return Section("classes", "Classes", "Class by class", blocks) if figures else None


def _classes_say(title: str, method: str, changes: dict[str, Value]) -> Sentence:
    better = sum(value.number > 0 for value in changes.values())
    worse = sum(value.number < 0 for value in changes.values())
    parts: list[str | Shown] = [
        f"{title}: {method} is better on {better}, worse on {worse} and equal on "
        f"{len(changes) - better - worse} of {len(changes)}."
    ]
    for word, choose in (("gain", max), ("loss", min)):
        name = choose(changes, key=lambda n: changes[n].number)
        value = changes[name]
        if value.number and (value.number > 0) == (word == "gain"):
            start = f" Largest {word}: {name.replace('_', ' ')}, "
            parts += [start, Shown(value, signed=True), " points."]
    return tuple(parts)


# Training and cost


def training(page: Context) -> Section | None:
    """Return loss and accuracy during training."""
    charts: list[Chart | None] = []
    said: list[Sentence] = []
    trained: dict[str, None] = {}
    few = len(page.data.cases) <= FEW_CASES
    for case in page.data.cases:
        charts += [training_curves(case, page.styles, meter) for meter in ("loss", "acc")]
        shown = [name for name in page.names if few or page.styles.is_highlight(name)]
        charts += [loss_terms(case, page.styles, name) for name in shown]
        ends: list[Sentence] = []
        for method in case.methods:
            curve = curve_of(case, method.name, "acc")
            if curve:
                trained[method.name] = None
                last = max(curve)
                ends.append((f"{method.name} ", Shown(curve[last], unit="%"), f" (epoch {last})"))
        if ends:
            start = f"{case.title}: accuracy on training batches at the end: "
            said.append((start, *joined(ends), "."))
    figures = page.figures(charts, trained)
    intro = (
        "As the runs recorded it: means over an epoch's batches, so the first point is not the "
        "untrained model. Methods train for different numbers of epochs; the axis is the share of "
        "each."
    )
    blocks = [Block("text", intro), Block("findings", said), *figures]
    return Section("training", "Training", "Training", blocks) if figures else None


COST = {
    "num_trainable": Column("learned values", 0, ""),
    "epochs": Column("epochs", 0, ""),
    "train_seconds": Column("training s", 1, ""),
    "test_seconds": Column("test s", 1, ""),
    "peak_memory_mb": Column("peak memory MB", 0, ""),
}


def cost(page: Context) -> Section | None:
    """Return what training and testing took, a table for each protocol and data set."""
    blocks: list[Block] = []
    said: list[Sentence] = []
    for case in page.data.cases:
        # Runs that trained and tested; of a method without training, those that tested.
        own = {
            method: [run for run in runs if not run.training and run.subset != "new"]
            for method, runs in case.methods.items()
        }
        rows = [
            Row(method, tuple(_plain(mean_over(runs, key)) for key in COST))
            for method, runs in own.items()
            if runs
        ]
        title = f"{PROTOCOLS[case.protocol]}, {case.title}"
        table = Table("cost", title, list(COST.values()), rows, counted="", has_rules=False)
        devices = recorded((run for runs in own.values() for run in runs), "device")
        table.notes = [f"Device: {', '.join(devices)}."] if devices else []
        if rows:
            blocks.append(Block("numbers", table))
            said += _cost_says(title, rows)
    intro = (
        "Wall time and memory as each run recorded them, on whatever else the machine was doing. "
        "Memory: of the whole process on a CPU, of tensors on a GPU."
    )
    shown = [Block("text", intro), Block("findings", said), *blocks]
    return Section("cost", "Cost", "Cost", shown) if blocks else None


def _plain(value: Value | None) -> Value | None:
    """Return without a deviation where all runs have the same."""
    return value if value is None or value.std else replace(value, by_seed={})


def _cost_says(title: str, rows: Sequence[Row]) -> list[Sentence]:
    said: list[Sentence] = []
    for key, name, unit, digits in (
        ("num_trainable", "learned values", "", 0),
        ("train_seconds", "training time", " s", 1),
    ):
        column = list(COST).index(key)
        known = [(row.name, v) for row in rows if (v := row.values[column]) and v.number > 0]
        if len(known) > 1:
            low, *_, high = sorted(known, key=lambda pair: pair[1].number)
            times = over(high[1], low[1])
            assert times is not None
            said.append((
                f"{title}, {name}: from {low[0]}, ", Shown(low[1], digits, unit),
                f", to {high[0]}, ", Shown(high[1], digits, unit), ": ", Shown(times),
                " times as much.",
            ))  # fmt: skip
    return said


# Files


def sources(page: Context) -> Section:
    """Return every file that a number comes from."""
    data = page.data
    rows: list[list[str | Shown]] = []
    for run in data.runs:
        method = data.method_of.get(run.folder)
        name = method.name if method else f"{run.trainer} ({run.config})"
        seed, accuracy = run.value("seed"), run.value("accuracy")
        assert seed is not None and accuracy is not None
        numbers = [Shown(seed, digits=0), Shown(accuracy, digits=2)]
        rows.append([data.ids[run.file], name, run.dataset, run.subset, *numbers, run.file])
    intro = (
        "Every number above is computed from these files and from nothing else; point at a "
        "number, or choose it with Tab or the arrow keys and Enter, to see which, and how."
    )
    headers = ("run", "method", "data set", "classes", "seed", "accuracy", "file")
    noise = dict.fromkeys(evaluation.path.as_posix() for evaluation in data.evaluations)
    blocks = [
        Block("text", intro),
        Block("words", rows, options={"headers": headers, "code": (6,), "has_ids": True}),
        *(Block("text", line) for line in _origins(data.runs)),
        *listed("Files of figures under noise", [(path, "") for path in noise], few=0),
    ]
    return Section("sources", "Sources", "Where the numbers come from", blocks)


def _origins(runs: Iterable[Run]) -> list[str]:
    """Return versions of libraries and of this code, commands, that runs recorded."""
    versions = {
        ", ".join(f"{name} {version}" for name, version in own.items())
        for run in runs
        if (own := run.results.get("versions"))
    }
    said = {"Versions": sorted(versions), "Code of the runs": code_of(runs)}
    return [f"{name}: {'; '.join(values)}." for name, values in said.items() if values]
