"""Evaluations that can be compared, and their figures by method."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.results.comparable import (
    OF_A_HALF,
    OF_A_SEED,
    differing_runs,
    differing_settings,
    not_seeds_of_one_row,
    unlike_data,
)
from anprompt.results.method import Method, with_names
from anprompt.results.noise.cells import (
    Choice,
    Measured,
    by_group,
    everything,
    is_attack,
    kinds_of,
    of_severity,
    seen_by_any,
    unseen_in_training,
)
from anprompt.results.noise.files import FILE_NAME, OWN_PHRASINGS, Evaluation
from anprompt.results.value import Value, count, minus, over, over_seeds, percent
from anprompt.runs.recorded import recorded_config, training_of
from common.errors import UsageError
from noise.cells import Cell

POOLS = ("descriptions", "phrasings")  # of sentences that text noise is drawn from


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

    @property
    def clean_of_attacked(self) -> Value | None:
        """Return the clean accuracy on the images that attacks were made on."""
        return over_seeds({e.header["seed"]: e.clean(attacked=True) for e in self.evaluations})

    def of_kind(self, group: str, kind: str) -> Value | None:
        """Return accuracy under one kind of noise, mean over severities."""
        return self.value(group, choose=lambda cell: cell.kind == kind)

    def by_severity(self, group: str) -> dict[int, Value]:
        """Return accuracy by severity, clean at 0; nothing where a run lacks the group."""
        found = [{cell.severity for cell in groups.get(group, ())} for groups in self.cells]
        curve: dict[int, Value | None] = {0: self.value("")}
        for severity in sorted(set.intersection(*found)):
            curve[severity] = self.value(group, choose=of_severity(severity))
        return {s: value for s, value in curve.items() if value} if len(curve) > 1 else {}

    @property
    def in_part(self) -> dict[str, int]:
        """Return groups of noise that some of the runs lack, by how many have them.

        The row has no figures of these.
        """
        have = Counter(group for e in self.evaluations for group in _keys_by_group(e))
        return {group: n for group, n in have.items() if n < len(self.evaluations)}

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
        return kinds_of(cell for groups in self.cells for cell in groups.get(group, ()))

    @property
    def trained_with(self) -> list[dict[str, Any]]:
        """Return the settings of the trainings behind the runs; {} where they are not recorded."""
        of_runs = [e for e in self.evaluations if e.path.name == FILE_NAME]  # not in memory
        return [behind for _, behind in map(_recorded, of_runs)]

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
        left_out: how many cells no row shows, because only some of the runs have them.
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

    def attacked_on(self, group: str) -> dict[str, list[str]]:
        """Return names of the rows with figures under an attack by the images they are on.

        Those in words: how many, and the start of a digest.
        """
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if all(group in groups for groups in row.cells):
                images = row.evaluations[0].attacked
                told = f"{images['used']} ({images['sha256'][:8]})"
                found.setdefault(told, []).append(row.method.name)
        return found

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
        key = (evaluation.dataset, evaluation.subset, header["backbone"], names, images)
        found.setdefault(key, []).append(evaluation)
    comparisons = []
    for (dataset, subset, backbone, *_), members in found.items():
        _check_same_images(members)
        methods = _by_method(members, method_of)
        common = common_keys(methods.values())
        union = set().union(*(member.part["cells"] for member in members))
        seen = seen_by_any(member.header for member in members)
        choose = everything if all_kinds else unseen_in_training(seen)
        rows = [
            NoiseRow(
                method,
                tuple(own),
                tuple(by_group([c for c in e.cells() if c.key in common], choose) for e in own),
            )
            for method, own in methods.items()
        ]
        images = members[0].part["images"]["used"]
        left_out = len(union) - len(common)
        comparisons.append(Comparison(dataset, subset, backbone, images, rows, seen, left_out))
    return comparisons


def _check_same_images(members: Sequence[Evaluation]) -> None:
    """Refuse to compare evaluations whose images, or whose noise, have other content."""
    known = [member for member in members if member.data]
    for other in known[1:]:
        what, ours, theirs = unlike_data(known[0].data, other.data)
        if what:
            raise UsageError(
                f"{known[0].path} and {other.path} cannot be compared: {what} is {ours} in the "
                f"first and {theirs} in the second; evaluate one of them anew (--redo)"
            )
    copies: dict[str, tuple[str, Path]] = {}  # of the released ImageNet-C, by noise
    for member in members:
        for noise, digest in member.part.get("released", {}).items():
            first, path = copies.setdefault(noise, (digest, member.path))
            if first != digest:
                raise UsageError(
                    f"{path} and {member.path} cannot be compared: they were evaluated on "
                    f"different copies of ImageNet-C ({noise}); evaluate one of them anew (--redo)"
                )
    makings: dict[str, tuple[str, Path]] = {}
    for member in members:
        for (noise, flags), how in _makings(member).items():
            first, path = makings.setdefault(noise, (how, member.path))
            if first != how:
                raise UsageError(
                    f"{path} and {member.path} cannot be compared: {noise} is made {first} in the "
                    f"first and {how} in the second; evaluate one of them anew (--redo) with the "
                    f"other's {flags}"
                )


def _makings(evaluation: Evaluation) -> dict[tuple[str, str], str]:
    """Return how noise was made that may be made in several ways, where it is known.

    By what it is called and the flags that say how.
    """
    cells = [Cell.from_key(key) for key in evaluation.part["cells"]]
    groups, kinds = ({getattr(c, name) for c in cells} for name in ("group", "text_kind"))
    found: dict[tuple[str, str], str] = {}
    if groups & {"imagenet-c", "imagenet-c-val"}:
        found["ImageNet-C", "--nearest and --as-jpeg"] = evaluation.imagenet_c
    files = {
        pool: f"from a file of digest {str(digest)[:12]}"
        for pool in POOLS
        if (digest := evaluation.part.get(pool)) not in (None, OWN_PHRASINGS)
    }
    if "description" in kinds:
        found["text noise description", "--descriptions"] = files.get("descriptions", "")
    if "phrasing" in kinds:
        found["text noise phrasing", "--templates"] = files.get("phrasings", "from its own forty")
    return {noise: how for noise, how in found.items() if how}


def _by_method(
    members: Sequence[Evaluation], method_of: Callable[[Evaluation], Method] | None
) -> dict[Method, list[Evaluation]]:
    named = with_names(member.method for member in members)
    methods: dict[Method, list[Evaluation]] = {}
    for member in members:
        method = method_of(member) if method_of else named[member.method]
        own = methods.setdefault(method, [])
        if not member.method.learns and any(_is_equal(member, other) for other in own):
            continue  # no seed changes what learns nothing
        for other in own:
            if other.header["seed"] == member.header["seed"]:
                raise UsageError(
                    f"{other.path.parent} and {member.path.parent} are the same method, data set "
                    "and seed; name only the folder of one"
                )
        own.append(member)
    for own in methods.values():
        _check_alike(own)
    return methods


def _is_equal(one: Evaluation, other: Evaluation) -> bool:
    return all(one.part[key] == other.part[key] for key in ("clean", "cells"))


def _check_alike(members: Sequence[Evaluation]) -> None:
    """Refuse seeds of one row whose trainings, or whose noise, differ in anything else."""
    if len(members) < 2:
        return
    first, *others = members
    expected = OF_A_SEED | OF_A_HALF
    known = _recorded(first)
    for other in others:
        differing = differing_runs(known, _recorded(other), expected)
        differing += differing_settings(_how(first), _how(other), ())
        for key, one, two in differing[:1]:
            folders = first.path.parent, other.path.parent
            raise not_seeds_of_one_row(*folders, key, repr(one), repr(two))


def _recorded(evaluation: Evaluation) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the run that was measured, and of the training behind it."""
    folder = evaluation.path.parent
    own = recorded_config(folder) or {}
    training = training_of(folder, own)
    return own, (recorded_config(training) or {}) if training else own


def _how(evaluation: Evaluation) -> dict[str, Any]:
    """Return how a part was measured, beside its cells."""
    part = evaluation.part
    known = {
        "the checkpoint": evaluation.checkpoint or None,
        "the rule": part["headline_rule"],
        "the template": part.get("template"),
        "the images attacked": evaluation.attacked if evaluation.has_attacks else None,
        "ImageNet-C's making": part.get("imagenet_c"),
        **{f"the digest of {name}": part.get(name) for name in POOLS},
    }
    return {name: value for name, value in known.items() if value is not None}


def common_keys(rows: Iterable[Sequence[Evaluation]]) -> set[str]:
    """Return the cells to compare: those that all rows with figures of their group have.

    A group that a model cannot have (noise on tokens where none are learned) says nothing about the
    others; nor does one that only some of a row's runs have, which gives the row no figure.
    """
    common: dict[str, set[str]] = {}
    for row in rows:
        by_run = [_keys_by_group(evaluation) for evaluation in row]
        for group in set.intersection(*map(set, by_run)):
            keys = set.intersection(*(own[group] for own in by_run))
            common[group] = common.get(group, keys) & keys
    return set().union(*common.values())


def _keys_by_group(evaluation: Evaluation) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for key in evaluation.part["cells"]:
        found.setdefault(key.partition("/")[0], set()).add(key)
    return found
