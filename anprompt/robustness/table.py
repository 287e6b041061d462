"""The command's table: one line per method and part of the classes, means over its runs' seeds."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anprompt.robustness.summary import (
    Choice,
    Evaluation,
    Mean,
    Measured,
    common_keys,
    everything,
    read_evaluations,
    seen_by_any,
    summarise,
    unseen_in_training,
)

MISSING = "-"


@dataclass(frozen=True)
class Row:
    """A method on one part of the classes: each run's figures, by seed.

    ``clean`` and ``clean_ece`` are accuracy and calibration error, in percent; ``means`` the
    figures by group of noise.
    """

    dataset: str
    part: str
    method: str
    rule: str
    evaluations: tuple[Evaluation, ...]
    clean: tuple[float, ...]
    clean_ece: tuple[float, ...]
    means: tuple[dict[str, Mean], ...]

    def values(self, group: str, measure: str) -> list[float]:
        """One figure of every run; ``drop`` is clean minus noisy accuracy. Empty where missing."""
        if not all(group in means for means in self.means):
            return []
        if measure == "drop":
            pairs = zip(self.clean, self.means, strict=True)
            return [clean - means[group].accuracy for clean, means in pairs]
        return [getattr(means[group], measure) for means in self.means]


@dataclass(frozen=True)
class Comparison:
    """Rows that can be compared: same data set, part, images, backbone; over the same cells.

    Attributes:
        seen: kinds and seeds of noise that some compared model met in training.
        left_out: how many cells some, but not all, of the runs have.
    """

    dataset: str
    part: str
    backbone: str
    images: int
    rows: list[Row]
    seen: dict[str, list]
    left_out: int


def compare(
    evaluations: Iterable[Evaluation],
    rule: str | None = None,
    all_kinds: bool = False,
    name: Callable[[Evaluation], str] | None = None,
) -> list[Comparison]:
    """Group evaluations into what can be compared, and sum them up.

    Args:
        rule: an inference rule for all; None: each method's headline rule. A method without that
            rule keeps its only one.
        all_kinds: means over all kinds of noise, not only over those unseen in training.
        name: of an evaluation's method; by default the trainer's, with what tells two apart.
    """
    groups: dict[tuple, list[Evaluation]] = {}
    for evaluation in evaluations:
        header, part = evaluation.header, evaluation.part
        key = (
            header["dataset"],
            evaluation.part_name,
            header["backbone"],
            tuple(part["classnames"]),
            part["images"]["sha256"],
        )
        groups.setdefault(key, []).append(evaluation)
    comparisons = []
    for (dataset, part, backbone, *_), members in groups.items():
        common = common_keys(members)
        union = set().union(*(member.part["cells"] for member in members))
        seen = seen_by_any(member.header for member in members)
        choose = everything if all_kinds else unseen_in_training(seen)
        methods = _by_method(members, name or _names(members))
        rows = [_row(method, own, common, choose, rule) for method, own in methods.items()]
        images = members[0].part["images"]["used"]
        comparisons.append(
            Comparison(dataset, part, backbone, images, rows, seen, len(union) - len(common))
        )
    return comparisons


def _names(members: Sequence[Evaluation]) -> Callable[[Evaluation], str]:
    """Names by trainer; where it has several configurations, with those."""
    configs: dict[str, set] = {}
    for member in members:
        header = member.header
        configs.setdefault(header["trainer"], set()).add(_details(header))

    def name(member: Evaluation) -> str:
        header = member.header
        if len(configs[header["trainer"]]) == 1:
            return header["trainer"]
        config, shots, part = _details(header)
        of_classes = f", trained on {part} classes" if part else ""
        return f"{header['trainer']} ({config}, {shots} shots{of_classes})"

    return name


def _details(header: dict) -> tuple[str, int, str]:
    """What tells two models of one trainer apart, but for the seed.

    Which classes were trained on says nothing of a method that learns nothing.
    """
    learns = bool(header["checkpoint"])
    return header["config"], header["shots"], header["trained_on"] if learns else ""


def _by_method(
    members: Sequence[Evaluation], name: Callable[[Evaluation], str]
) -> dict[str, list[Evaluation]]:
    methods: dict[str, list[Evaluation]] = {}
    for member in members:
        own = methods.setdefault(name(member), [])
        for other in own:
            if other.header["seed"] == member.header["seed"]:
                raise ValueError(
                    f"{other.path.parent} and {member.path.parent} are the same method, data set "
                    "and seed; name only the folder of one"
                )
        own.append(member)
    return methods


def _row(
    method: str,
    evaluations: list[Evaluation],
    common: set[str],
    choose: Choice,
    rule: str | None,
) -> Row:
    clean, clean_ece, means, rules = [], [], [], []
    for evaluation in evaluations:
        own_rule = rule if rule in evaluation.part["clean"] else evaluation.headline_rule
        cells: list[Measured] = [c for c in evaluation.cells(own_rule) if c.key in common]
        clean.append(evaluation.clean("accuracy", own_rule))
        clean_ece.append(evaluation.clean("ece", own_rule))
        means.append(summarise(cells, choose))
        rules.append(own_rule)
    first = evaluations[0]
    return Row(
        dataset=first.header["dataset"],
        part=first.part_name,
        method=method,
        rule="/".join(dict.fromkeys(rules)),
        evaluations=tuple(evaluations),
        clean=tuple(clean),
        clean_ece=tuple(clean_ece),
        means=tuple(means),
    )


def show(values: Sequence[float], digits: int = 1) -> str:
    """Mean and, over several runs, population standard deviation."""
    if not values:
        return MISSING
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} +- {statistics.pstdev(values):.{digits}f}"


def noise_seen(seen: dict[str, list]) -> str:
    """Kinds and seeds met in training, in words; empty for none."""
    kinds = [*seen["text_kinds"], *seen["image_kinds"]]
    if not kinds:
        return ""
    seeds = ", ".join(map(str, seen["seeds"]))
    return f"{', '.join(kinds)}" + (f" (noise seed {seeds})" if seeds else "")


def render(folders: Sequence[Path], parts: Sequence[str], all_kinds: bool = False) -> str:
    """The table of the runs in ``folders``, for a terminal."""
    found = [e for folder in folders for e in read_evaluations(folder) if e.part_name in parts]
    blocks = [_block(comparison, all_kinds) for comparison in compare(found, all_kinds=all_kinds)]
    notes = (
        "Accuracy in %: mean over kinds, severities and noise seeds; +- over a method's runs.\n"
        "learned: noise on learned tokens. drop: clean minus noisy accuracy. same: share of\n"
        "answers that noise leaves as they are. ECE: calibration error. Every cell is in\n"
        "robustness.json.\n"
    )
    return "\n".join([*blocks, notes])


def _block(comparison: Comparison, all_kinds: bool) -> str:
    """Title, accuracies, the other measures, and what was left out."""
    attacks = [group for group in _groups(comparison) if "/" in group]
    accuracies = ["text", "image", "both", "learned", *attacks]
    lines = _table(
        comparison,
        {
            "clean": lambda row: row.clean,
            **{group: _reader(group, "accuracy") for group in accuracies},
        },
    )
    others = {}
    for measure, name in (("drop", "drop"), ("consistency", "same")):
        for group in ("text", "image"):
            others[f"{name}, {group}"] = _reader(group, measure)
    others["ECE, clean"] = lambda row: row.clean_ece
    for group in ("text", "image"):
        others[f"ECE, {group}"] = _reader(group, "ece")
    title = (
        f"{comparison.dataset}, {comparison.part} classes, {comparison.images:,} images, backbone "
        f"{comparison.backbone}"
    )
    return "\n".join(
        [title, *lines[:-1], *_table(comparison, others), *_notes(comparison, all_kinds), ""]
    )


def _reader(group: str, measure: str) -> Callable[[Row], Sequence[float]]:
    return lambda row: row.values(group, measure)


def _groups(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(g for row in comparison.rows for means in row.means for g in means))


def _table(
    comparison: Comparison, columns: dict[str, Callable[[Row], Sequence[float]]]
) -> list[str]:
    """Aligned lines; columns that no row has are left out."""
    read = {name: [column(row) for row in comparison.rows] for name, column in columns.items()}
    read = {name: values for name, values in read.items() if any(values)}
    table = [["method", "rule", "runs", *read]]
    for i, row in enumerate(comparison.rows):
        cells = [show(values[i]) for values in read.values()]
        table.append([row.method, row.rule, str(len(row.evaluations)), *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    rule = "-" * max(map(len, lines))
    return [rule, lines[0], rule, *lines[1:], rule]


def _notes(comparison: Comparison, all_kinds: bool) -> list[str]:
    notes = [f"{group}: {', '.join(kinds)}" for group, kinds in kinds_of(comparison).items()]
    seen = noise_seen(comparison.seen)
    if seen:
        verb = "counted although" if all_kinds else "left out because"
        notes.append(f"{verb} some model met it in training: {seen}")
    if comparison.left_out:
        notes.append(f"left out: {comparison.left_out} cells that only some of the models have")
    return notes


def kinds_of(comparison: Comparison) -> dict[str, list[str]]:
    """The kinds of text and of image noise that went into the means."""
    kinds: dict[str, dict[str, None]] = {"text": {}, "image": {}}
    for row in comparison.rows:
        for means in row.means:
            for group, own in kinds.items():
                own |= dict.fromkeys(means[group].kinds if group in means else ())
    return {group: list(own) for group, own in kinds.items() if own}
