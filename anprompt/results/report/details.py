"""Sections behind the figures: ablations, classes, training, cost, files."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from anprompt.results.assign import place
from anprompt.results.noise import noise_table
from anprompt.results.protocol_tables import make_tables
from anprompt.results.report.blocks import (
    Block,
    Figures,
    Findings,
    Folded,
    Legend,
    Notes,
    Numbers,
    Paths,
    Section,
    Sentence,
    Shown,
    Text,
    Words,
    joined,
)
from anprompt.results.report.charts import Chart
from anprompt.results.report.context import Context
from anprompt.results.report.data import (
    WHOLE,
    Ablation,
    curve_of,
    mean_over,
    per_class,
    recorded,
)
from anprompt.results.report.figures import ablation_changes, class_changes, slug, training_curves
from anprompt.results.run import Run
from anprompt.results.table import PROTOCOLS, Column, Row, Table
from anprompt.results.value import Value, minus, over, seed_by_seed

FEW_SEEDS = {1: "one seed", 2: "two seeds"}


def ablations(page: Context) -> Section | None:
    """Runs with one change to a method, against the whole method."""
    blocks: list[Block] = []
    charts, said = [], []
    for ablation in page.data.ablations:
        table, changes = _ablation_table(ablation)
        title = f"{ablation.trainer} on {ablation.dataset}"
        table.title = f"{title}: accuracy in %, Δ in points"
        blocks += [
            Numbers(table),
            Notes([f"{name}: {'; '.join(how)}" for name, how in ablation.changes.items() if how]),
            *_ablations_under_noise(page, ablation),
        ]
        if changes:
            name, whole = slug("ablations", title), "the whole method"
            charts.append(
                ablation_changes(f"{title}: what each part is worth", name, changes, whole)
            )
            said.append(_ablation_says(title, changes))
    if not blocks:
        return None
    intro = Text(
        "One change to the whole method at a time; differences in percentage points, seed by "
        "seed, mean and standard deviation; Δ HM is of each seed's harmonic mean. "
        "docs/ROBUSTNESS.md says what each changes."
    )
    blocks = [intro, Findings(said), *blocks, *page.figures(charts)]
    return Section("ablations", "Ablations", "Ablations", blocks)


Change = tuple[str, Value, Value, Value]


def _ablation_table(ablation: Ablation) -> tuple[Table, list[Change]]:
    """The runs' table, the whole method first, with differences to it."""
    table = make_tables("base2new", place(ablation.runs), split_configs=True)[0]
    rows = sorted(table.rows, key=lambda row: (row.method.config != WHOLE, row.method.config))
    whole = rows[0]
    changes: list[Change] = []
    shown = []
    for row in rows:
        is_whole = row is whole
        name = f"{ablation.trainer}, whole" if is_whole else row.method.config
        pairs = [(row.values[i], whole.values[i]) for i in (0, 1, 3)]
        differences = [None if is_whole else _difference(*pair) for pair in pairs]
        base, new, hm = differences
        if base and new and hm:
            changes.append((name, base, new, hm))
        method = replace(row.method, name=name)
        shown.append(replace(row, method=method, values=(*row.values[:3], *differences)))
    columns = [Column(name, best="") for name in ("base", "new", "HM")]
    columns += [Column(f"Δ {name}", best="", signed=True) for name in ("base", "new", "HM")]
    return replace(table, columns=columns, rows=shown, notes=[], has_rules=False), changes


def _difference(a: Value | None, b: Value | None) -> Value | None:
    return seed_by_seed(minus, a, b, common=True)


def _ablation_says(title: str, changes: Sequence[Change]) -> Sentence:
    lost = [change for change in changes if change[3].number < 0]
    worst = min(changes, key=lambda change: change[3].number)
    best = max(changes, key=lambda change: change[3].number)
    seeds = min(change[3].n for change in changes)
    end = f" From {FEW_SEEDS[seeds]}: weigh it accordingly." if seeds in FEW_SEEDS else ""
    return (
        f"{title}: {len(lost)} of {len(changes)} changes lower the harmonic mean. Lowest: "
        f"{worst[0]}, ", Shown(worst[3], signed=True), f" points; highest: {best[0]}, ",
        Shown(best[3], signed=True), f".{end}",
    )  # fmt: skip


def _ablations_under_noise(page: Context, ablation: Ablation) -> list[Block]:
    folders = {run.folder for run in ablation.runs}
    members = [e for e in page.data.evaluations if e.path.parent in folders]
    if not any(page.data.is_ablation(e) for e in members):
        return []
    tables: list[Block] = []
    for comparison in page.data.compare(members, by_config=True):
        groups = [group for group in ("text", "image", "both") if group in comparison.groups]
        columns = {"clean": ("", "accuracy")}
        for group in groups:
            columns |= {group: (group, "accuracy"), f"drop, {group}": (group, "drop")}
        title = (
            f"Under noise, {comparison.dataset}, {comparison.subset} classes: mean accuracy in %, "
            "drop in points, over kinds that none of these trained with"
        )
        table = noise_table(comparison, columns, title, "")
        table.columns = [replace(column, best="") for column in table.columns]
        table.rows.sort(key=lambda row: (row.method.config != WHOLE, row.method.config))
        tables.append(Numbers(replace(table, has_rules=False)))
    return tables


# Classes


def classes(page: Context) -> Section | None:
    """Which classes gained and which lost."""
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
    if not figures:
        return None
    intro = Text(f"Accuracy of each class: {chosen} against {baseline}.")
    return Section("classes", "Classes", "Class by class", [intro, Findings(said), *figures])


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
    """Loss and accuracy during training."""
    charts: list[Chart | None] = []
    said: list[Sentence] = []
    trained: dict[str, None] = {}
    for case in page.data.cases:
        charts += [training_curves(case, page.styles, meter) for meter in ("loss", "acc")]
        ends = []
        for method in case.methods:
            curve = curve_of(case, method.name, "acc")
            if curve:
                trained[method.name] = None
                last = max(curve)
                ends.append((f"{method.name} ", Shown(curve[last], unit="%"), f" (epoch {last})"))
        if ends:
            start = f"{case.title}: accuracy on training batches at the end: "
            said.append((start, *joined(ends), "."))
    figures: list[Figures] = page.figures(charts)
    if not figures:
        return None
    intro = Text(
        "As the logs have it: means over an epoch's batches, so the first point is not the "
        "untrained model. Methods train for different numbers of epochs; the axis is the share of "
        "each."
    )
    blocks: list[Block] = [intro, Findings(said), Legend(list(trained)), *figures]
    return Section("training", "Training", "Training", blocks)


COST = {
    "num_trainable": Column("learned values", 0, ""),
    "epochs": Column("epochs", 0, ""),
    "train_seconds": Column("training s", 1, ""),
    "test_seconds": Column("test s", 1, ""),
    "peak_memory_mb": Column("peak memory MB", 0, ""),
}


def cost(page: Context) -> Section | None:
    """What training and testing took, a table for each protocol and data set."""
    blocks: list[Block] = []
    said: list[Sentence] = []
    for case in page.data.cases:
        own = {method: _trainings(runs) for method, runs in case.methods.items()}
        own = {method: runs for method, runs in own.items() if runs}
        if not own:
            continue
        title = f"{PROTOCOLS[case.protocol]}, {case.title}"
        rows = [
            Row(method, tuple(_plain(mean_over(runs, key)) for key in COST), runs=tuple(runs))
            for method, runs in own.items()
        ]
        table = Table("cost", title, list(COST.values()), rows, counted="", has_rules=False)
        blocks.append(Numbers(table))
        devices = recorded((run for runs in own.values() for run in runs), "device")
        blocks.append(Notes([f"Device: {', '.join(devices)}."] if devices else []))
        said += _cost_says(title, rows)
    if not blocks:
        return None
    intro = Text(
        "Wall time and memory as each run recorded them, on whatever else the machine was doing. "
        "Memory: of the whole process on a CPU, of tensors on a GPU."
    )
    return Section("cost", "Cost", "Cost", [intro, Findings(said), *blocks])


def _trainings(runs: Iterable[Run]) -> list[Run]:
    """Runs that trained and tested (of a method without training: tested)."""
    return [run for run in runs if not run.training and run.subset != "new"]


def _plain(value: Value | None) -> Value | None:
    """Without a deviation where all runs have the same."""
    return value if value is None or value.std else replace(value, by_seed={})


def _cost_says(title: str, rows: Sequence[Row]) -> list[Sentence]:
    said: list[Sentence] = []
    for key, name, unit, digits in (
        ("num_trainable", "learned values", "", 0),
        ("train_seconds", "training time", " s", 1),
    ):
        column = list(COST).index(key)
        known = [(row.name, v) for row in rows if (v := row.values[column]) and v.number > 0]
        known.sort(key=lambda pair: pair[1].number)
        if len(known) > 1:
            (low, least), (high, most) = known[0], known[-1]
            times = over(most, least)
            assert times is not None
            said.append((
                f"{title}, {name}: from {low}, ", Shown(least, digits, unit), f", to {high}, ",
                Shown(most, digits, unit), ": ", Shown(times), " times as much.",
            ))  # fmt: skip
    return said


# Files


def sources(page: Context) -> Section:
    """Every file that a number comes from."""
    data = page.data
    rows: list[list[str | Shown]] = []
    for run in data.runs:
        method = data.method_of.get(run.folder)
        name = method.name if method else f"{run.trainer} ({run.config})"
        seed, accuracy = run.value("seed"), run.value("accuracy")
        assert seed is not None and accuracy is not None
        numbers = [Shown(seed, digits=0), Shown(accuracy, digits=2)]
        start = [data.numbers[run.file], name, run.dataset, run.subset]
        rows.append([*start, *numbers, run.file])
    headers = ("run", "method", "data set", "classes", "seed", "accuracy", "file")
    ids = [data.numbers[run.file] for run in data.runs]
    blocks: list[Block] = [
        Text(
            "Every number above is computed from these files and from nothing else; point at a "
            "number, or choose it with Tab or the arrow keys and Enter, to see which, and how."
        ),
        Words(headers, rows, ids=ids, code=frozenset({6})),
        *(Text(line) for line in _origins(data.runs)),
    ]
    noise = dict.fromkeys(evaluation.path.as_posix() for evaluation in data.evaluations)
    if noise:
        title = f"{len(noise)} files of figures under noise"
        blocks.append(Folded(title, [Paths("", [(path, "") for path in noise])]))
    return Section("sources", "Sources", "Where the numbers come from", blocks)


def _origins(runs: Sequence[Run]) -> list[str]:
    """Versions, code, machines and dates that runs recorded."""
    versions = {
        ", ".join(f"{name} {version}" for name, version in own.items())
        for run in runs
        if (own := run.results.get("versions"))
    }
    lines = [f"Versions: {'; '.join(sorted(versions))}."] if versions else []
    codes = code_of(runs)
    lines += [f"Code of the runs: {'; '.join(codes)}."] if codes else []
    hosts, dates = recorded(runs, "host"), recorded(runs, "date")
    lines += [f"Machines: {', '.join(hosts)}."] if hosts else []
    lines += [f"Run from {dates[0]} to {dates[-1]}."] if dates else []
    return lines


def code_of(runs: Iterable[Run]) -> list[str]:
    """The versions of the code that made runs, as far as they recorded it."""
    found = set()
    for run in runs:
        code = run.results.get("code") or {}
        name = " ".join(filter(None, [code.get("version"), (code.get("commit") or "")[:12]]))
        if name:
            found.add(name + (" with changes" if code.get("dirty") else ""))
    return sorted(found)
