"""Accuracy under an attack beside accuracy, in the tables of every protocol.

The figures are those of the evaluation under noise (`anprompt.results.noise`): nothing is measured
here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anprompt.results.attacked_training import training_notes
from anprompt.results.comparable import (
    OF_A_HALF,
    OF_A_SEED,
    differing_settings,
    unlike_data,
)
from anprompt.results.method import shots_in_words
from anprompt.results.noise.files import Evaluation
from anprompt.results.noise.tables import signs_of_masking
from anprompt.results.run import HEADLINE, Run
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import Value, mean
from anprompt.runs.recorded import recorded_config
from common.errors import UsageError
from noise.masking import UnderAttacks

OF_SHOTS = {"DATASET.NUM_SHOTS", "TASK"}
"""What tests of a method that learns nothing may differ in as well."""


@dataclass(frozen=True)
class Attack:
    """An attack and its bound in 255ths."""

    kind: str
    bound: int

    @property
    def name(self) -> str:
        """Return how tables call it."""
        return f"{self.kind} {self.bound}/255"


@dataclass(frozen=True)
class AttackedRun(Run):
    """A run whose accuracy is that under an attack.

    Attributes:
        attacked: by inference rule.
        attacks: what every attack that was made leaves.
        part: how many of the test images were attacked, in words; "" for all.
        natural: accuracy on the images attacked, where that was measured.
        attacked_on: how many images were attacked, and a digest of them; None without an attack.
        attacked_in: the file that says so.
        starts: the noise seeds that attacks start from.
        unlike: why figures that are there are not this run's, in words.
    """

    attacked: dict[str, Value] = field(default_factory=dict, repr=False)
    attacks: UnderAttacks = field(default=UnderAttacks(), repr=False)
    part: str = ""
    natural: Value | None = None
    attacked_on: tuple[int, str] | None = None
    attacked_in: str = ""
    starts: tuple[int, ...] = ()
    unlike: str = ""

    def value(self, key: str, rule: str = HEADLINE) -> Value | None:
        return self.attacked.get(rule) if key == "accuracy" else None


def attacked_runs(
    runs: Iterable[Run], evaluations: Sequence[Evaluation], attack: Attack
) -> list[AttackedRun]:
    """Return the runs with their accuracy under an attack.

    An evaluation belongs to the run of its folder, and to the tests of what was trained there on
    the same data set. What learns nothing has one evaluation for all of its tests.
    """
    runs = list(runs)
    by_folder = {(e.path.parent.resolve(), e.subset): e for e in evaluations}
    untrained: dict[tuple, list[Evaluation]] = {}
    for evaluation in evaluations:
        if not evaluation.method.learns:
            untrained.setdefault(_standing(evaluation), []).append(evaluation)
    of_a_test = OF_A_SEED | OF_A_HALF | OF_SHOTS

    def is_like(run: Run, evaluation: Evaluation) -> bool:
        settings = recorded_config(evaluation.path.parent) or {}
        names = tuple(evaluation.part["classnames"])
        return run.classnames in ((), names) and not differing_settings(
            run.settings, settings, of_a_test
        )

    def find(run: Run) -> Evaluation | None:
        for folder in filter(None, (run.folder, run.training)):
            found = by_folder.get((Path(folder).resolve(), run.subset))
            if found and found.header["dataset"] == run.results.get("dataset", run.dataset):
                return found
        standing = (run.trainer, run.backbone, run.results.get("dataset", ""), run.subset)
        alike = [] if run.learns else untrained.get(standing, [])
        return next((evaluation for evaluation in alike if is_like(run, evaluation)), None)

    return [_attacked(run, find(run), attack) for run in runs]


def _standing(evaluation: Evaluation) -> tuple[str, str, str, str]:
    header = evaluation.header
    return header["trainer"], header["backbone"], header["dataset"], evaluation.subset


def _attacked(run: Run, evaluation: Evaluation | None, attack: Attack) -> AttackedRun:
    known = {name: getattr(run, name) for name in Run.__dataclass_fields__}
    if evaluation is None:
        return AttackedRun(**known)
    other = _other_checkpoint(run, evaluation)
    what, tested, attacked = unlike_data(run.data, evaluation.data)
    if other:
        unlike = f"{evaluation.path} has figures of {other}, not of the checkpoint tested"
    elif what:
        unlike = f"{evaluation.path} is of other images: {what} is {attacked}, of the test {tested}"
    if other or what:
        return AttackedRun(**known, unlike=unlike)
    # An attack aims at one rule's answers: what it does to another's is no attack on that.
    rule = evaluation.headline_rule
    cells = [
        cell
        for cell in evaluation.cells()
        if (cell.group, cell.kind, cell.severity) == ("adversarial", attack.kind, attack.bound)
    ]
    under = evaluation.under(cells) if cells else None
    found = {} if under is None else {HEADLINE: under, rule: under}
    of, images = run.num_test, evaluation.attacked
    part = f"{images['used']} of {of:,} images" if found and of and images["used"] < of else ""
    natural = evaluation.clean(attacked=True) if found else None
    starts = evaluation.starts if found else ()
    on = (images["used"], images["sha256"]) if found else None
    return AttackedRun(
        **known, attacked=found, attacks=evaluation.under_attacks(), part=part,
        natural=natural, attacked_on=on, attacked_in=str(evaluation.path), starts=starts,
    )  # fmt: skip


def _other_checkpoint(run: Run, evaluation: Evaluation) -> str:
    """Return the checkpoint that was attacked where it is another than the one tested; else ""."""
    tested = {Path(name).name for name in (run.results.get("identity") or {}).get("checkpoint", {})}
    if not tested:
        return evaluation.other_checkpoint(run.epochs or 0)
    return "" if evaluation.checkpoint in tested else evaluation.checkpoint


def beside(natural: Sequence[Table], robust: Sequence[Table], attack: Attack) -> list[Table]:
    """Return tables of accuracy with a column "robust" beside each, from tables of the same runs.

    Averages are put together where both are over the same data sets.
    """
    by_title = {(t.protocol, t.title): t for t in robust}
    return [_beside(t, by_title.get((t.protocol, t.title)), attack) for t in natural]


def _beside(natural: Table, robust: Table | None, attack: Attack) -> Table:
    if robust is None or not (natural.subject or robust.averaged == natural.averaged):
        return natural
    place = {column.name: j for j, column in enumerate(robust.columns)}
    if robust.averaged != natural.averaged:
        place = {name: j for name, j in place.items() if not name.startswith("average")}
    known = {_key(row): row.values for row in robust.rows}
    _check_same_images(robust)
    pairs: list[tuple[Row, list[Value | None]]] = []
    for row in natural.rows:
        values = known.get(_key(row), ())
        places = (place.get(column.name) for column in natural.columns)
        own = [values[j] if values and j is not None else None for j in places]
        pairs.append((row, own))
    unlike = {run.unlike for row in robust.rows for run in _runs(row) if run.unlike}
    apart = [f"{told}: not shown." for told in sorted(unlike)]
    shown = [j for j in range(len(natural.columns)) if any(own[j] for _, own in pairs)]
    if not shown:
        return replace(natural, notes=[*natural.notes, *apart]) if apart else natural
    other_images = _other_images(robust)
    columns: list[Column] = []
    rows: list[Row] = []
    for j, column in enumerate(natural.columns):
        best = "" if other_images else column.best
        under = replace(column, name=f"{column.name}, robust", best=best)
        columns += [column, *([under] * (j in shown))]
    for row, own in pairs:
        both: list[Value | None] = []
        for j, value in enumerate(row.values):
            both += [value, *([own[j]] * (j in shown))]
        rows.append(replace(row, values=tuple(both)))
    notes = [*natural.notes, f"robust: accuracy under {attack.name}.", *apart]
    notes += _starts(robust)
    notes += _parts(robust)
    notes += [f"{note}." for note in training_notes(_trainings(natural))]
    notes += other_images + _fewer_seeds(natural, pairs) + _signs(robust)
    references = list(dict.fromkeys([*natural.references, *robust.references]))
    return replace(natural, columns=columns, rows=rows, notes=notes, references=references)


def _runs(row: Row) -> list[AttackedRun]:
    return [run for run in row.runs if isinstance(run, AttackedRun)]


def _check_same_images(table: Table) -> None:
    """Refuse seeds of one row that were attacked on different images."""
    for row in table.rows:
        first: dict[tuple[str, str], AttackedRun] = {}
        for run in (run for run in _runs(row) if run.attacked_on):
            other = first.setdefault((run.dataset, run.subset), run)
            if other.attacked_on != run.attacked_on:
                raise UsageError(
                    f"{other.attacked_in} and {run.attacked_in} would be averaged as seeds of one "
                    f"row, but other images of {_place(run)} were attacked (how many, digest: "
                    f"{_brief(other)}; {_brief(run)}); measure one again with --redo and the "
                    "other's --images or --attack-images"
                )


def _place(run: AttackedRun) -> str:
    return run.dataset + (f", {run.subset} classes" if run.subset != "all" else "")


def _brief(run: AttackedRun) -> str:
    assert run.attacked_on
    count, digest = run.attacked_on
    return f"{count} ({digest[:8]})"


def _other_images(table: Table) -> list[str]:
    """Return a note for each part of the data where rows were attacked on different images."""
    places: dict[str, dict[str, list[str]]] = {}
    for row in table.rows:
        for run in (run for run in _runs(row) if run.attacked_on):
            names = places.setdefault(_place(run), {}).setdefault(_brief(run), [])
            if row.name not in names:
                names.append(row.name)
    return [
        f"{place}: not all rows were attacked on the same images (how many, digest): "
        + "; ".join(f"{', '.join(names)}: {images}" for images, names in found.items())
        for place, found in places.items()
        if len(found) > 1
    ]


def _fewer_seeds(natural: Table, pairs: Iterable[tuple[Row, list[Value | None]]]) -> list[str]:
    """Return a note on figures under an attack that fewer seeds stand behind than the row has."""
    told = [
        f"{row.name}, {column.name}: {under.n} of {value.n}"
        for row, own in pairs
        for column, value, under in zip(natural.columns, row.values, own, strict=True)
        if value and under and row.is_protocol and under.n < value.n
    ]
    return [f"robust figures of fewer seeds than the row has: {'; '.join(told)}."] if told else []


def _trainings(table: Table) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return rows' names with the settings of the trainings behind them."""
    rows = (row for row in table.rows if row.is_protocol)
    return [(row.name, [run.trained_with for run in row.runs]) for row in rows]


def _parts(table: Table) -> list[str]:
    """Return a note on rows that were attacked on a part of the images, and accuracy on those."""
    parts: dict[str, list[str]] = {}
    for row in table.rows:
        for part in dict.fromkeys(run.part for run in _runs(row) if run.part):
            parts.setdefault(part, []).append(row.name)
    if not parts:
        return []
    everyone = {row.name for row in table.rows}
    told = [
        part if everyone == set(own) else f"{part} ({', '.join(dict.fromkeys(own))})"
        for part, own in parts.items()
    ]
    natural = [
        f"{row.name}, {', '.join(figures)}"
        for row in table.rows
        if row.is_protocol and (figures := _natural_of_a_part(row, table))
    ]
    like = f"; natural accuracy on the images attacked: {'; '.join(natural)}" if natural else ""
    return [f"attacked on a part of the test images: {'; '.join(told)}{like}."]


def _natural_of_a_part(row: Row, table: Table) -> list[str]:
    """Return natural accuracy on the images attacked, by what columns are of.

    Of those with a part of their images attacked, as the mean over seeds (of an average, over its
    data sets of these).
    """
    cells: dict[str, dict[str, list[AttackedRun]]] = {}
    for run in _runs(row):
        if run.attacked and (table.subject or run.dataset in table.averaged):
            cells.setdefault(_cell(run, table), {}).setdefault(run.dataset, []).append(run)
    found = []
    for name, by_dataset in cells.items():
        is_part = any(run.part for own in by_dataset.values() for run in own)
        natural = mean(mean(run.natural for run in own) for own in by_dataset.values())
        if is_part and natural:
            found.append(f"{name} {natural.number:.2f}".strip())
    return found


def _starts(table: Table) -> list[str]:
    """Return a note where not all figures are of attacks from one and the same start."""
    names: dict[tuple[int, ...], list[str]] = {}
    for row in table.rows:
        starts = tuple(sorted({start for run in _runs(row) for start in run.starts}))
        if starts and row.name not in names.setdefault(starts, []):
            names[starts].append(row.name)
    if len({start for starts in names for start in starts}) < 2:
        return []
    told = [f"{', '.join(own)}: {', '.join(map(str, starts))}" for starts, own in names.items()]
    return [f"attacked from different starts (noise seeds): {'; '.join(told)}."]


def _signs(table: Table) -> list[str]:
    """Return the signs of masked gradients for each row, by what its columns are of."""
    by_name: dict[str, dict[int, UnderAttacks]] = {}
    shown: set[str] = set()
    for row in table.rows if table.subject else ():
        for run in _runs(row) if row.is_protocol else ():
            name = ", ".join(filter(None, (row.name, _cell(run, table))))
            by_name.setdefault(name, {})[run.seed] = run.attacks
            if run.attacked:
                shown.add(name)
    return signs_of_masking(by_name, shown)


def _cell(run: AttackedRun, table: Table) -> str:
    """Return what a run's column is of where the table's title does not say; else ""."""
    told = [run.dataset] if table.subject not in ("", run.dataset) else []
    told += [f"{run.subset} classes"] if run.subset != "all" else []
    if table.protocol == "fewshot" and run.learns:
        told.append(shots_in_words([run.shots]))
    return ", ".join(told)


def _key(row: Row) -> tuple:
    method = row.method
    return (method.trainer, method.config, method.backbone, method.shots, method.origin) + (
        row.is_protocol,
        row.rule,
        row.published,
    )
