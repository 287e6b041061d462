"""Figures under noise: what robustness.json files hold, and what their cells add up to.

All figures are in percent. A mean gives every kind of noise the same weight, and within a kind
every severity; seeds are averaged first. Nothing here needs torch.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.results.method import Method, with_names
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import (
    Value,
    cell_patterns,
    count,
    minus,
    over,
    over_seeds,
    percent,
)
from common.errors import UsageError
from common.reading import read_json
from common.schema import COUNT, PERCENT, WHOLE, Each, Number, mismatch
from common.text import plain
from noise.cells import GROUPS, Cell
from noise.imagenet_c import CATEGORIES, TEST_KINDS
from noise.masking import Check, masking_checks
from noise.metrics import corruption_errors, effective_robustness

FILE_NAME = "robustness.json"
FORMAT = 2
# Measures of a cell; those after the first three are missing in files of earlier versions.
MEASURES = ("accuracy", "consistency", "ece", "adaptive_ece", "max_ce", "brier")
NOISE_NOTES = [
    "Accuracy in %: mean over kinds, severities and noise seeds; +- over a method's runs.",
    "learned: noise on learned tokens. drop: clean minus noisy accuracy. same: share of",
    "answers that noise leaves as they are. ECE: calibration error. Every cell is in",
    "robustness.json.",
]

_CLEAN = {
    "accuracy": PERCENT,
    "ece": PERCENT,
    "adaptive_ece?": PERCENT,
    "max_ce?": PERCENT,
    "brier?": Number(0, 2 + 1e-6),
}
_VIEW = {
    "kind": str,
    "severity": COUNT,
    "picture": str,
    "answer": str,
    "probability": Number(0, 1 + 1e-6),
}
_PART = {
    "headline_rule": str,
    "classnames": [str],
    "images": {"used": Number(1, 1e9, whole=True), "sha256": str},
    "clean": Each(_CLEAN),
    "cells": Each(Each({**_CLEAN, "consistency": PERCENT})),
    "examples?": [{"image": str, "class": str, "views": [_VIEW]}],
    "text_examples?": [{"kind": str, "prompts": [str]}],
    "template?": str,
    "meaning_kept?": Each(PERCENT),
    "attacked?": {"used": Number(1, 1e9, whole=True), "sha256": str, "clean?": Each(_CLEAN)},
    "imagenet_c?": {"size": COUNT, "as_jpeg": bool},
}
_SEEN = {"text_kinds": [str], "image_kinds": [str], "seeds": [WHOLE]}
_FILE = {
    "trainer": str,
    "config": str,
    "backbone": str,
    "dataset": str,
    "trained_on?": str,
    "shots": WHOLE,
    "seed": WHOLE,
    "checkpoint?": str,
    "noise_in_training": _SEEN,
    "parts": Each(_PART),
}


@dataclass(frozen=True)
class Measured(Cell):
    """A cell with its figures under one inference rule, by measure."""

    figures: Mapping[str, float] = field(default_factory=dict, compare=False)


Choice = Callable[[Measured], bool]


@dataclass(frozen=True)
class Evaluation:
    """One model on one subset of the classes, as its robustness.json has it."""

    path: Path
    header: dict[str, Any]  # of the model: trainer, backbone, seed, ...
    subset: str
    part: dict[str, Any]

    @staticmethod
    def in_memory(name: str, part: dict[str, Any]) -> "Evaluation":
        """Return what was measured without a run; ``name`` is the model's."""
        header = {
            "trainer": name,
            "config": "",
            "backbone": "",
            "dataset": "",
            "shots": 0,
            "seed": 0,
            "noise_in_training": {name: [] for name in _SEEN},
        }
        return Evaluation(Path(name), header, "all", part)

    @property
    def headline_rule(self) -> str:
        """Return the inference rule that the method's protocol prescribes."""
        return self.part["headline_rule"]

    @property
    def source(self) -> str:
        """Return where its entries stand: "FILE#parts/SUBSET"."""
        return f"{self.path.as_posix()}#parts/{self.subset}"

    @property
    def method(self) -> Method:
        """Return whose it is. The classes trained on matter only where something is learned."""
        header = self.header
        learns = bool(header.get("checkpoint"))
        subset = header.get("trained_on") if learns else ""
        return Method(
            trainer=header["trainer"],
            config=header["config"],
            backbone=header["backbone"],
            shots=header["shots"] if learns else None,
            note=f"trained on {subset} classes" if subset else "",
            learns=learns,
        )

    def clean(self, measure: str = "accuracy", attacked: bool = False) -> Value | None:
        """Return a figure without noise; None where it was not measured.

        Args:
            attacked: of the images that attacks were made on, where those are not all.
        """
        place, figures = "clean", self.part["clean"]
        if attacked and (self.part.get("attacked") or {}).get("clean"):
            place, figures = "attacked/clean", self.part["attacked"]["clean"]
        figure = figures[self.headline_rule].get(measure)
        if figure is None:
            return None
        return Value(figure, f"{self.source}/{place}/{self.headline_rule}/{measure}")

    def under(self, cells: Sequence[Measured], measure: str = "accuracy") -> Value | None:
        """Return the mean over cells; None where some lack the measure."""
        if any(measure not in cell.figures for cell in cells):
            return None
        end = f"/{self.headline_rule}/{measure}"
        patterns = cell_patterns(cell.key for cell in cells)
        source = ["noisy", *(f"{self.source}/cells/{pattern}{end}" for pattern in patterns)]
        return Value(mean_over_cells(cells, measure), source)

    def cells(self) -> list[Measured]:
        """Return all cells, under the headline rule."""
        return measured(self.part, self.headline_rule)


def read_content(path: Path) -> dict[str, Any] | None:
    """Read a robustness.json; None where there is none.

    Raises:
        UsageError: the file cannot be read, or is not what it should be.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path}: not written by this version; evaluate again with --redo")
    problem = mismatch(content, _FILE) or next(
        filter(None, (_problem(name, part) for name, part in content["parts"].items())), ""
    )
    if problem:
        raise UsageError(
            f"{path}: not the results of an evaluation ({problem}); remove it, or evaluate again "
            "with --redo"
        )
    return content


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Return what robustness.json in a run's folder holds; nothing where there is none.

    Raises:
        UsageError: as `read_content`.
    """
    path = folder / FILE_NAME
    content = read_content(path)
    if content is None:
        return []
    header = {
        key: plain(value) if isinstance(value, str) else value
        for key, value in content.items()
        if key != "parts"
    }
    return [
        Evaluation(path, header, name, part)
        for name, part in content["parts"].items()
        if part["clean"]
    ]


def _problem(name: str, part: dict[str, Any]) -> str:
    """Return what is wrong with the entries of a part, taken together."""
    rules = part["clean"].keys()
    if rules and part["headline_rule"] not in rules:
        return f"parts/{name}/clean lacks rule {part['headline_rule']!r}"
    for key, figures in part["cells"].items():
        try:
            Cell.from_key(key)
        except UsageError as error:
            return f"parts/{name}/cells: {error}"
        if not rules <= figures.keys():
            return f"parts/{name}/cells/{key} lacks a rule"
    return ""


def read_below(roots: Iterable[Path]) -> list[Evaluation]:
    """Return all evaluations below some folders.

    Raises:
        UsageError: as `read_evaluations`.
    """
    folders = sorted({path.parent for root in roots for path in root.rglob(FILE_NAME)})
    return [found for folder in folders for found in read_evaluations(folder)]


def measured(part: dict[str, Any], rule: str) -> list[Measured]:
    """Return the cells of a part under one inference rule."""
    pairs = ((Cell.from_key(key), rules[rule]) for key, rules in part["cells"].items())
    return [Measured(c.group, c.kind, c.severity, c.seed, figures) for c, figures in pairs]


def seen_by_any(headers: Iterable[dict[str, Any]]) -> dict[str, list]:
    """Return kinds and seeds of noise that at least one of several models met in training."""
    seen: dict[str, list] = {name: [] for name in _SEEN}
    for header in headers:
        for key, values in seen.items():
            found = header["noise_in_training"][key]
            values += [value for value in dict.fromkeys(found) if value not in values]
    return seen


def unseen_in_training(seen: dict[str, list]) -> Choice:
    """Choose the cells whose kinds, and whose seed of text noise, no training has met."""
    seeds = set(seen["seeds"])

    def choose(cell: Measured) -> bool:
        if cell.text_kind in seen["text_kinds"] or cell.image_kind in seen["image_kinds"]:
            return False
        return not (cell.text_kind and cell.seed in seeds)

    return choose


def everything(cell: Measured) -> bool:
    """Choose every cell."""
    return True


def mean_over_cells(cells: Iterable[Measured], measure: str) -> float:
    """Return mean over kinds of the means over severities of the means over seeds."""
    values: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        severities = values.setdefault(cell.kind, {})
        severities.setdefault(cell.severity, []).append(cell.figures[measure])
    return statistics.fmean(
        statistics.fmean(statistics.fmean(own) for own in severities.values())
        for severities in values.values()
    )


def by_group(cells: Iterable[Measured], choose: Choice = everything) -> dict[str, list[Measured]]:
    """Return the cells that are chosen, by group of noise; groups without any are left out.

    Every attack at every bound is a group of its own, "pgd 4/255": a mean over them would say
    nothing. Noise on learned tokens and attacks are chosen always: nobody trains with them here.
    """
    groups: dict[str, list[Measured]] = {group: [] for group in GROUPS if group != "adversarial"}
    for cell in cells:
        if cell.group == "adversarial":
            groups.setdefault(f"{cell.kind} {cell.severity}/255", []).append(cell)
        elif GROUPS[cell.group].of in ("tokens", "attack") or choose(cell):
            groups[cell.group].append(cell)
    return {group: own for group, own in groups.items() if own}


def common_keys(evaluations: Iterable[Evaluation]) -> set[str]:
    """Return the cells to compare: those that all evaluations with any of their group have.

    A group that a model cannot have (noise on tokens where none are learned) says nothing about the
    others.
    """
    common: dict[str, set[str]] = {}
    for evaluation in evaluations:
        own: dict[str, set[str]] = {}
        for key in evaluation.part["cells"]:
            own.setdefault(key.partition("/")[0], set()).add(key)
        for group, keys in own.items():
            common[group] = common.get(group, keys) & keys
    return set().union(*common.values())


def summary_for_people(part: dict[str, Any], seen: dict[str, list]) -> dict[str, Any]:
    """Return robustness.json's summary: by the headline rule, of unseen and of all kinds."""
    rule = part["headline_rule"]
    clean = part["clean"][rule]["accuracy"]
    cells = measured(part, rule)

    def figures(choose: Choice) -> dict[str, Any]:
        found = {}
        for group, own in by_group(cells, choose).items():
            accuracy = mean_over_cells(own, "accuracy")
            found[group] = {
                "mean_corruption_accuracy": accuracy,
                "drop": clean - accuracy,
                "consistency": mean_over_cells(own, "consistency"),
                "ece": mean_over_cells(own, "ece"),
                "kinds": _kinds(own),
            }
        return found

    return {
        "rule": rule,
        "clean": part["clean"][rule],
        "unseen_in_training": figures(unseen_in_training(seen)),
        "all": figures(everything),
    }


def _of_severity(severity: int) -> Choice:
    return lambda cell: cell.severity == severity


def _kinds(cells: Iterable[Measured]) -> list[str]:
    return list(dict.fromkeys(cell.kind for cell in cells))


@dataclass(frozen=True)
class NoiseRow:
    """A method's evaluations, with the cells that are compared, by group of noise."""

    method: Method
    evaluations: tuple[Evaluation, ...]
    cells: tuple[dict[str, list[Measured]], ...]

    @property
    def rule(self) -> str:
        """Return the inference rules that decide."""
        return "/".join(dict.fromkeys(e.headline_rule for e in self.evaluations))

    def value(
        self, group: str, measure: str = "accuracy", choose: Choice = everything
    ) -> Value | None:
        """Return a figure under a group of noise ("": clean), over the method's runs.

        None where a run lacks the group. Measure "drop" is clean minus noisy accuracy, "kept" the
        share of the clean accuracy that is left (relative robustness).
        """
        found: dict[int, Value | None] = {}
        for evaluation, groups in zip(self.evaluations, self.cells, strict=True):
            seed = evaluation.header["seed"]
            chosen = [cell for cell in groups.get(group, ()) if choose(cell)]
            clean = evaluation.clean(attacked=is_attack(group))
            if not group:
                found[seed] = evaluation.clean(measure)
            elif not chosen:
                return None
            elif measure == "drop":
                found[seed] = minus(clean, evaluation.under(chosen))
            elif measure == "kept":
                share = over(evaluation.under(chosen), clean)
                found[seed] = share and percent(share)
            else:
                found[seed] = evaluation.under(chosen, measure)
        return over_seeds(found)

    def of_kind(self, group: str, kind: str) -> Value | None:
        """Return accuracy under one kind of noise, mean over severities."""
        return self.value(group, choose=lambda cell: cell.kind == kind)

    def by_severity(self, group: str) -> dict[int, Value]:
        """Return accuracy by severity, clean at 0; nothing where a run lacks the group."""
        found = [{cell.severity for cell in groups.get(group, ())} for groups in self.cells]
        curve: dict[int, Value | None] = {0: self.value("")}
        for severity in sorted(set.intersection(*found)):
            curve[severity] = self.value(group, choose=_of_severity(severity))
        return {s: value for s, value in curve.items() if value} if len(curve) > 1 else {}

    def is_ragged(self, group: str) -> bool:
        """Return whether kinds of noise were measured at different severities."""
        for groups in self.cells:
            severities: dict[str, set[int]] = {}
            for cell in groups.get(group, ()):
                severities.setdefault(cell.kind, set()).add(cell.severity)
            if len(set(map(frozenset, severities.values()))) > 1:
                return True
        return False

    def kinds(self, group: str) -> list[str]:
        """Return kinds of noise that went into the group's mean."""
        return _kinds(cell for groups in self.cells for cell in groups.get(group, ()))

    @property
    def count(self) -> Value:
        """Return how many runs."""
        return count([f"{evaluation.path.as_posix()}#seed" for evaluation in self.evaluations])


@dataclass(frozen=True)
class Comparison:
    """Rows that can be compared: same data set, subset, images, backbone; over the same cells.

    Attributes:
        images: how many test images.
        seen: kinds and seeds of noise that some compared model met in training.
        left_out: how many cells some, but not all, of the runs have.
    """

    dataset: str
    subset: str
    backbone: str
    images: int
    rows: list[NoiseRow]
    seen: dict[str, list]
    left_out: int

    @property
    def shots(self) -> int | None:
        """Return with how many images a class the models were trained."""
        known = [e.method.shots for row in self.rows for e in row.evaluations]
        return next((shots for shots in known if shots is not None), None)

    @property
    def groups(self) -> list[str]:
        """Return groups of noise that some row has."""
        return list(dict.fromkeys(g for row in self.rows for groups in row.cells for g in groups))

    def kinds(self, group: str) -> list[str]:
        """Return kinds of noise that went into the rows' means."""
        return list(dict.fromkeys(kind for row in self.rows for kind in row.kinds(group)))


def compare(
    evaluations: Iterable[Evaluation],
    all_kinds: bool = False,
    method_of: Callable[[Evaluation], Method] | None = None,
) -> list[Comparison]:
    """Group evaluations into what can be compared, and sum them up.

    Args:
        all_kinds: means over all kinds of noise, not only over those unseen in training.
        method_of: whose an evaluation is, with its name; by default as the file says.

    Raises:
        UsageError: two evaluations of one method have the same seed.
    """
    found: dict[tuple, list[Evaluation]] = {}
    for evaluation in evaluations:
        header, part = evaluation.header, evaluation.part
        names, images = tuple(part["classnames"]), part["images"]["sha256"]
        key = (header["dataset"], evaluation.subset, header["backbone"], names, images)
        found.setdefault(key, []).append(evaluation)
    comparisons = []
    for (dataset, subset, backbone, *_), members in found.items():
        common = common_keys(members)
        union = set().union(*(member.part["cells"] for member in members))
        seen = seen_by_any(member.header for member in members)
        choose = everything if all_kinds else unseen_in_training(seen)
        rows = [
            NoiseRow(
                method,
                tuple(own),
                tuple(by_group([c for c in e.cells() if c.key in common], choose) for e in own),
            )
            for method, own in _by_method(members, method_of).items()
        ]
        images = members[0].part["images"]["used"]
        left_out = len(union) - len(common)
        comparisons.append(Comparison(dataset, subset, backbone, images, rows, seen, left_out))
    return comparisons


def _by_method(
    members: Sequence[Evaluation], method_of: Callable[[Evaluation], Method] | None
) -> dict[Method, list[Evaluation]]:
    named = with_names(member.method for member in members)
    methods: dict[Method, list[Evaluation]] = {}
    for member in members:
        method = method_of(member) if method_of else named[member.method]
        own = methods.setdefault(method, [])
        for other in own:
            if other.header["seed"] == member.header["seed"]:
                raise UsageError(
                    f"{other.path.parent} and {member.path.parent} are the same method, data set "
                    "and seed; name only the folder of one"
                )
        own.append(member)
    return methods


def is_attack(group: str) -> bool:
    """Return whether a group is an attack at a bound, "pgd 4/255"."""
    return group.endswith("/255")


def all_tables(comparisons: Iterable[Comparison], all_kinds: bool = False) -> list[Table]:
    """Return every comparison's tables, ImageNet-C's last."""
    return [
        table
        for comparison in comparisons
        for table in (*noise_tables(comparison, all_kinds), *imagenet_c_tables(comparison))
    ]


def noise_tables(comparison: Comparison, all_kinds: bool = False) -> list[Table]:
    """Return the accuracies of a comparison, and the other measures."""
    there = comparison.groups
    attacks = [group for group in there if is_attack(group)]
    plain_groups = [group for group in GROUPS if group in there]
    accuracies = {"clean": ("", "accuracy")}
    accuracies |= {group: (group, "accuracy") for group in (*plain_groups, *attacks)}
    main = [group for group in ("text", "image") if group in there]
    others: dict[str, tuple[str, str]] = {
        f"{name}, {group}": (group, measure)
        for measure, name in (("drop", "drop"), ("consistency", "same"))
        for group in main
    }
    others["ECE, clean"] = ("", "ece")
    others |= {f"ECE, {group}": (group, "ece") for group in main}
    title = (
        f"{comparison.dataset}, {comparison.subset} classes, {comparison.images:,} images, "
        f"backbone {comparison.backbone}"
    )
    tables = [
        noise_table(comparison, accuracies, title, "Mean accuracy under noise, in %"),
        noise_table(comparison, others, "", "Drop in points; same answers and ECE in %"),
    ]
    # Files of earlier versions lack the other measures of calibration.
    if any(row.value("", "brier") for row in comparison.rows):
        more: dict[str, tuple[str, str]] = {
            f"kept, {group}": (group, "kept") for group in (*plain_groups, *attacks)
        }
        told = "Relative robustness (kept): share of the clean accuracy, in %"
        tables.append(noise_table(comparison, more, "", told))
        finer = {
            f"{name}, {group or 'clean'}": (group, measure)
            for measure, name in CALIBRATION.items()
            for group in ("", *main)
        }
        told = "Adaptive (A) and maximal (M) calibration error in %; Brier score"
        tables.append(noise_table(comparison, finer, "", told))
    tables[-1].notes += _notes(comparison, all_kinds)
    return tables


def imagenet_c_tables(comparison: Comparison) -> list[Table]:
    """Return ImageNet-C by categories, made in memory or on disk: a table each, where measured."""
    groups = ("imagenet-c", "imagenet-c-disk")
    return [_imagenet_c_table(comparison, group) for group in groups if group in comparison.groups]


CALIBRATION = {"adaptive_ece": "A-ECE", "max_ce": "M-CE", "brier": "Brier"}
MADE = {"imagenet-c": "made in memory", "imagenet-c-disk": "on disk, as released"}


def _imagenet_c_table(comparison: Comparison, group: str) -> Table:
    """Return accuracy on ImageNet-C by category; corruption errors where they have a meaning."""
    kinds = comparison.kinds(group)
    counted = f"{len(kinds)} kind{'s' if len(kinds) != 1 else ''}"
    columns = [Column("clean", 1), Column(counted, 1)]
    columns += [Column(category, 1) for category in CATEGORIES]
    columns += [Column("mCE", 1, "lowest"), Column("relative mCE", 1, "lowest"), Column("ER", 1)]
    rows = []
    for row in comparison.rows:
        found = [row.value(""), row.value(group)]
        for category in CATEGORIES:
            own = {kind for kind, known in TEST_KINDS.items() if known.category == category}
            found.append(row.value(group, choose=lambda cell, own=own: cell.kind in own))  # type: ignore[misc]
        found += [_corruption_error(row, group, relative) for relative in (False, True)]
        found.append(_effective(row, group, comparison))
        rows.append(Row(row.method, tuple(found), row.rule, (row.count,)))
    shown = [j for j in range(len(columns)) if any(row.values[j] for row in rows)]
    table = Table(
        protocol="noise",
        title=f"{comparison.dataset}, {comparison.subset} classes: ImageNet-C, {MADE[group]}",
        columns=[columns[j] for j in shown],
        rows=[
            Row(row.method, tuple(row.values[j] for j in shown), row.rule, row.counts)
            for row in rows
        ],
        subject=f"{comparison.dataset}, {comparison.subset} classes",
        measure="Mean accuracy in %; corruption errors in % of AlexNet's",
        counted="runs",
        has_rules=True,
    )
    if group == "imagenet-c":
        made = [row.evaluations[0].part.get("imagenet_c") or {} for row in comparison.rows]
        sizes = {(own.get("size"), own.get("as_jpeg")) for own in made}
        for size, saved in sizes:
            how = "saved as JPEG 85 and read again" if saved else "not saved as JPEG"
            table.notes.append(
                f"made in memory with the parameters for {size} pixels, {how}; figures on the "
                "released files differ somewhat, and mCE is defined on those"
            )
    return table


def _is_whole_imagenet(row: NoiseRow, group: str) -> bool:
    """Return whether AlexNet's errors compare: the released files, 1,000 classes, all cells."""
    return group == "imagenet-c-disk" and all(
        evaluation.header["dataset"] == "ImageNet"
        and len(evaluation.part["classnames"]) == 1000
        and {(cell.kind, cell.severity) for cell in groups.get(group, ())}
        == {(kind, severity) for kind in TEST_KINDS for severity in range(1, 6)}
        for evaluation, groups in zip(row.evaluations, row.cells, strict=True)
    )


def _corruption_error(row: NoiseRow, group: str, relative: bool) -> Value | None:
    """Return mCE or relative mCE over a method's runs."""
    if not _is_whole_imagenet(row, group):
        return None
    found: dict[int, Value | None] = {}
    for evaluation, groups in zip(row.evaluations, row.cells, strict=True):
        clean = evaluation.clean()
        assert clean is not None
        errors: dict[str, list[float]] = {}
        for cell in sorted(groups[group], key=lambda cell: cell.severity):
            errors.setdefault(cell.kind, []).append(100 - cell.figures["accuracy"])
        own = corruption_errors(errors, 100 - clean.number if relative else None)
        under = evaluation.under(groups[group])
        assert under is not None
        name = "relative_mce" if relative else "mce"
        sources = [name, under.source, *([clean.source] if relative else [])]
        found[evaluation.header["seed"]] = Value(statistics.fmean(own.values()), sources)
    return over_seeds(found)


def _effective(row: NoiseRow, group: str, comparison: Comparison) -> Value | None:
    """Return effective robustness over a method's runs."""
    if not _is_whole_imagenet(row, group):
        return None
    found: dict[int, Value | None] = {}
    for evaluation, groups in zip(row.evaluations, row.cells, strict=True):
        clean, under = evaluation.clean(), evaluation.under(groups[group])
        assert clean is not None and under is not None
        number = effective_robustness("imagenet-c", clean.number, under.number)
        found[evaluation.header["seed"]] = Value(number, ["er", clean.source, under.source])
    return over_seeds(found)


BEST = {
    **dict.fromkeys(("accuracy", "consistency", "kept"), "highest"),
    **dict.fromkeys(("drop", "ece", *CALIBRATION), "lowest"),
}


def noise_table(
    comparison: Comparison, columns: dict[str, tuple[str, str]], title: str, measure: str
) -> Table:
    """Return a table with columns of (group of noise, measure), without those no row has."""
    read = {name: [row.value(*what) for row in comparison.rows] for name, what in columns.items()}
    read = {name: values for name, values in read.items() if any(values)}
    return Table(
        protocol="noise",
        title=title,
        columns=[
            Column(name, 3 if columns[name][1] == "brier" else 1, BEST[columns[name][1]])
            for name in read
        ],
        rows=[
            Row(row.method, tuple(values[i] for values in read.values()), row.rule, (row.count,))
            for i, row in enumerate(comparison.rows)
        ],
        subject=f"{comparison.dataset}, {comparison.subset} classes",
        measure=measure,
        counted="runs",
        has_rules=True,
    )


def _notes(comparison: Comparison, all_kinds: bool) -> list[str]:
    notes = [
        f"{group}: {', '.join(kinds)}"
        for group in ("text", "image")
        if (kinds := comparison.kinds(group))
    ]
    seen = noise_seen(comparison.seen)
    if seen:
        verb = "counted although" if all_kinds else "left out because"
        notes.append(f"{verb} some model met it in training: {seen}")
    if comparison.left_out:
        notes.append(f"left out: {comparison.left_out} cells that only some of the models have")
    return notes + meaning_notes(comparison) + masking_notes(comparison)


def meaning_notes(comparison: Comparison) -> list[str]:
    """Return how many noisy prompts still mean the same to the text encoder, by kind."""
    shares: dict[str, list[float]] = {}
    for row in comparison.rows:
        for evaluation in row.evaluations:
            for key, share in (evaluation.part.get("meaning_kept") or {}).items():
                shares.setdefault(Cell.from_key(key).kind, []).append(share)
    if not shares:
        return []
    listed = ", ".join(f"{kind} {statistics.fmean(own):.0f}%" for kind, own in shares.items())
    return [f"prompts within a cosine of 0.9 of the clean one, as frozen CLIP sees them: {listed}"]


def masking_notes(comparison: Comparison) -> list[str]:
    """Return for every row with attacks, the signs of masked gradients."""
    notes = []
    for row in comparison.rows:
        accuracy: dict[tuple[str, int], float] = {}
        for group in comparison.groups:
            value = row.value(group) if is_attack(group) else None
            if value is not None:
                kind, _, bound = group.partition(" ")
                accuracy[kind, int(bound.removesuffix("/255"))] = value.number
        if accuracy:
            checks = masking_checks(accuracy)
            notes.append(f"masked gradients, {row.method.name}: {_told(checks)}")
    return notes


def _told(checks: Sequence[Check]) -> str:
    """Return the checks in words; those that failed first, with their figures."""
    failed = [f"{c.name}: FAILED ({c.detail})" for c in checks if c.passed is False]
    passed = [c.name for c in checks if c.passed]
    unknown = [c.name for c in checks if c.passed is None]
    parts = failed
    if passed:
        parts = [*parts, f"no sign in {', '.join(passed)}"]
    if unknown:
        parts = [*parts, f"not checked (--noise masking): {', '.join(unknown)}"]
    return "; ".join(parts)


def noise_seen(seen: dict[str, list]) -> str:
    """Return kinds and seeds met in training, in words; empty for none."""
    kinds = [*seen["text_kinds"], *seen["image_kinds"]]
    if not kinds:
        return ""
    seeds = ", ".join(map(str, seen["seeds"]))
    return f"{', '.join(kinds)}" + (f" (noise seed {seeds})" if seeds else "")
