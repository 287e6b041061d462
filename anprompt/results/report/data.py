"""What a report tells: the runs below some folders, their tables, and their evaluations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from anprompt.results.assign import Placed, place
from anprompt.results.comparable import OF_A_HALF, OF_A_SEED, OF_TRAININGS, differing_runs
from anprompt.results.evidence import Evidence
from anprompt.results.method import Method, shots_in_words
from anprompt.results.noise.compare import Comparison, compare
from anprompt.results.noise.files import Evaluation, read_below
from anprompt.results.protocol_tables import make_tables, protocols_with_runs
from anprompt.results.robust import Attack, attacked_runs, beside
from anprompt.results.run import Run, find_runs, without_backbone
from anprompt.results.table import Table
from anprompt.results.value import Value, over_seeds
from common.errors import UsageError
from common.provenance import commit_text

WHOLE = "vit_b16"  # the configuration that a trainer's ablations change


@dataclass(frozen=True)
class Case:
    """Runs that can be compared: a protocol's on one data set, few-shot with one number of shots.

    Attributes:
        title: the data set, with the shots where there are several.
        methods: their runs, in the order they are shown.
    """

    protocol: str
    title: str
    methods: dict[Method, list[Run]]

    def of(self, name: str, subset: str) -> list[Run]:
        """Return a method's runs on one subset of the classes, by seed."""
        found = [r for method, runs in self.methods.items() if method.name == name for r in runs]
        return sorted((r for r in found if r.subset == subset), key=lambda run: run.seed)


@dataclass(frozen=True)
class Ablation:
    """Runs with one change to a method, and the whole method's, on one data set.

    Attributes:
        changes: by configuration, the settings that differ from the whole method's.
    """

    dataset: str
    trainer: str
    runs: list[Run]
    changes: dict[str, list[str]]


@dataclass
class Data:
    """Everything that the report is made from.

    Attributes:
        roots: the folders that were searched.
        runs: finished runs that tables show.
        tables: by protocol, over all methods but ablations.
        image_roots: folders that hold data sets, whose test images may be shown.
        unfinished: folders of runs that are not finished.
        left_out: finished runs that belong to no table, and why.
        evaluations: robustness.json files, by subset of the classes.
        baseline: the trainer that others are compared with.
        highlight: the trainer that figures draw in front.
    """

    roots: list[Path]
    runs: list[Run]
    tables: dict[str, list[Table]]
    macro_f1: list[Table]
    ablations: list[Ablation]
    unfinished: list[Path]
    left_out: list[tuple[Path, str]]
    evaluations: list[Evaluation]
    baseline: str
    highlight: str
    ids: dict[str, str]  # of the runs on the page, by their files
    placed: Placed = field(repr=False)
    evidence: Evidence = field(repr=False)
    image_roots: list[Path] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of trained runs; nothing where there is one."""
        found = sorted({run.seed for run in self.runs if run.learns})
        return found if len(found) > 1 else []

    @property
    def order(self) -> list[str]:
        """Return trainers in their fixed order: baseline first, highlighted last."""
        trainers = sorted({run.trainer for run in self.runs} - {self.baseline, self.highlight})
        return [self.baseline, *trainers, self.highlight]

    def tables_of(
        self,
        protocol: str,
        measure: str = "accuracy",
        seed: int | None = None,
        all_rules: bool = False,
    ) -> list[Table]:
        """Return a protocol's tables of a measure, over all seeds or of one."""
        placed = self.placed if seed is None else self.placed.of_seed(seed)
        tables = make_tables(
            protocol, placed, all_rules=all_rules, methods=self.order, metric=measure
        )
        for table in tables if measure == "accuracy" else ():
            table.evidence = self.evidence
        return tables

    @cached_property
    def method_of(self) -> dict[Path, Method]:
        """Return the methods of runs, by folder, as tables name them."""
        return {
            run.folder: row.method
            for tables in self.tables.values()
            for table in tables
            for row in table.rows
            for run in row.runs
        }

    @cached_property
    def methods(self) -> list[Method]:
        """Return methods in a fixed order, baseline first, highlighted last; no ablations."""
        rows = [row.method for tables in self.tables.values() for t in tables for row in t.rows]
        rows += [row.method for comparison in self.comparisons for row in comparison.rows]
        by_name = {method.name: method for method in reversed(rows)}
        rank = {self.baseline: 0, self.highlight: 2}
        return sorted(by_name.values(), key=lambda m: (rank.get(m.trainer, 1), m.name))

    @cached_property
    def cases(self) -> list[Case]:
        """Return what can be compared run by run, base to new and few-shot."""
        cases = []
        for table in self.tables.get("base2new", []):
            if table.subject:
                methods = {row.method: list(row.runs) for row in table.rows if row.is_protocol}
                cases.append(Case("base2new", table.subject, methods))
        for table in self.tables.get("fewshot", []):
            shots = sorted({run.shots for row in table.rows for run in row.runs if run.learns})
            numbers: list[int | None] = [*shots] or [None]
            for number in numbers if table.subject else []:
                methods = {
                    row.method: own
                    for row in table.rows
                    if (own := [r for r in row.runs if not r.learns or r.shots == number])
                }
                title = table.subject
                if number is not None and len(shots) > 1:
                    title += f", {shots_in_words([number])}"
                cases.append(Case("fewshot", title, methods))
        return cases

    def compare(
        self, evaluations: Sequence[Evaluation], all_kinds: bool = False, by_config: bool = False
    ) -> list[Comparison]:
        """Return comparisons of evaluations, apart by the shots that models were trained with.

        What learns nothing stands beside all of them. ``by_config``: methods are called as their
        configurations.
        """

        def method_of(evaluation: Evaluation) -> Method:
            method, known = evaluation.method, self.method_of.get(evaluation.path.parent)
            config = without_backbone(method.config, method.backbone)
            if by_config:
                return Method(method.trainer, config, name=config)
            name = f"{method.trainer} ({config}, unfinished)"  # trained, but not tested to its end
            found = known or Method(method.trainer, config, learns=method.learns, name=name)
            if source := evaluation.trained_elsewhere:
                named = f"{found.name} (trained on {source})"
                found = replace(found, note=method.note, name=named)
            return found

        known_shots = {n for e in evaluations if (n := e.method.shots) is not None}
        shots: list[int | None] = [*sorted(known_shots)]
        return [
            comparison
            for number in shots or [None]
            for comparison in compare(
                [e for e in evaluations if e.method.shots in (None, number)], all_kinds, method_of
            )
        ]

    @cached_property
    def attacked(self) -> list[tuple[Attack, list[Table]]]:
        """Return tables with accuracy under an attack beside accuracy, for each attack made."""
        made = {
            Attack(cell.kind, cell.severity)
            for evaluation in self.evaluations
            for cell in evaluation.cells()
            if cell.group == "adversarial"
        }
        placed = [*self.placed.base2new, *self.placed.fewshot, *self.placed.sources]
        placed += [run for runs in self.placed.targets.values() for run in runs]
        placed = list({run.folder: run for run in placed}.values())  # a source is a run of its own
        found = []
        for attack in sorted(made, key=lambda attack: (attack.bound, attack.kind)):
            runs = place(attacked_runs(placed, self.evaluations, attack))
            both: list[Table] = []
            for protocol, natural in self.tables.items():
                robust = make_tables(
                    protocol, runs, all_rules=protocol == "base2new", methods=self.order
                )
                robust = [replace(table, attack=attack.name) for table in robust]
                pairs = zip(natural, beside(natural, robust, attack), strict=True)
                both += [table for before, table in pairs if table is not before]
            found += [(attack, both)] if both else []
        return found

    def is_ablation(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation is of an ablation's run."""
        return any(
            run.folder == evaluation.path.parent and run.config in ablation.changes
            for ablation in self.ablations
            for run in ablation.runs
        )

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Return robustness, over kinds of noise that no compared model met in training."""
        return self.compare([e for e in self.evaluations if not self.is_ablation(e)])


def gather(
    roots: Sequence[Path],
    baseline: str = "ZeroshotCLIP",
    highlight: str = "ANPrompt",
    image_roots: Sequence[Path] = (),
) -> Data:
    """Read what is below ``roots``.

    Raises:
        UsageError: a folder does not exist, holds no finished run, holds two of the same or runs
            that cannot stand in one row, or a file cannot be read or is not what it should be.
    """
    runs, unfinished = find_runs(roots)
    placed = place(runs)
    left_out = dict(placed.left_out)
    runs = sorted((run for run in runs if run.folder not in left_out), key=_order)
    if not runs:
        reasons = [f"; {folder}: {reason}" for folder, reason in placed.left_out[:1]]
        raise UsageError(
            f"{', '.join(map(str, roots))}: no finished run there or below{''.join(reasons)}"
        )
    _check_classes(runs)
    ablations = _ablations(placed.base2new)
    changed = {r.folder for a in ablations for r in a.runs if r.config in a.changes}
    placed.base2new = [run for run in placed.base2new if run.folder not in changed]
    data = Data(
        roots=list(roots),
        runs=runs,
        tables={},
        macro_f1=[],
        ablations=ablations,
        unfinished=unfinished,
        left_out=placed.left_out,
        evaluations=read_below(roots),
        baseline=baseline,
        highlight=highlight,
        ids={run.file: f"r{number}" for number, run in enumerate(runs, start=1)},
        placed=placed,
        evidence=Evidence(runs),
        image_roots=list(image_roots),
    )
    data.tables = {
        protocol: data.tables_of(protocol, all_rules=protocol == "base2new")
        for protocol in protocols_with_runs(placed)
    }
    data.macro_f1 = data.tables_of("fewshot", "macro_f1")
    return data


def _order(run: Run) -> tuple:
    return run.dataset, run.trainer, run.config, run.backbone, run.shots, run.subset, run.seed


def _check_classes(runs: Iterable[Run]) -> None:
    """Refuse runs that one table would compare although they were tested on different classes."""
    first: dict[tuple, Run] = {}
    for run in runs:
        is_transfer = run.layout == "crossdata" or run.trained_on[0] not in ("", run.dataset)
        known = first.setdefault((is_transfer, run.dataset, run.subset), run)
        odd = sorted(set(run.classnames) ^ set(known.classnames))
        if odd and run.classnames and known.classnames:
            raise UsageError(
                f"{known.folder} and {run.folder} were tested on different class sets of "
                f"{run.dataset} ({run.subset}; {odd[0]!r} in one of them only) and cannot be "
                "compared; give the folders of like runs"
            )


def _ablations(runs: Iterable[Run]) -> list[Ablation]:
    """Return runs whose recorded settings differ from the whole method's in its own alone."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.learns and run.settings:
            key = (run.dataset, run.trainer, run.backbone, run.shots)
            groups.setdefault(key, []).append(run)
    found = []
    for (dataset, trainer, *_), members in sorted(groups.items()):
        whole = [run for run in members if run.config == WHOLE]
        changes: dict[str, list[str]] = {}
        for run in members if whole else []:
            like = next((other for other in whole if other.subset == run.subset), None)
            if run.config in ("", WHOLE) or like is None:
                continue
            differing = [
                (key.removeprefix(OF_TRAININGS), old, new)
                for key, old, new in differing_runs(
                    like.depends_on, run.depends_on, OF_A_SEED | OF_A_HALF
                )
            ]
            if all(key.startswith("TRAINER.") for key, *_ in differing):
                changes[run.config] = [f"{key} {old!r} → {new!r}" for key, old, new in differing]
        if changes:
            own = [run for run in members if run.config in (WHOLE, *changes)]
            found.append(Ablation(dataset, trainer, own, changes))
    return found


def mean_over(runs: Iterable[Run], key: str) -> Value | None:
    """Return the mean over runs of an entry of results.json; None unless all have it."""
    return over_seeds({run.seed: run.value(key) for run in runs})


def per_class(runs: Sequence[Run]) -> dict[str, Value]:
    """Return accuracy of each class that all runs have, over runs."""
    own = {run.seed: run.per_class() for run in runs}
    names = next(iter(own.values()), {})
    means = {name: over_seeds({s: of.get(name) for s, of in own.items()}) for name in names}
    return {name: value for name, value in means.items() if value is not None}


def recorded(runs: Iterable[Run], key: str) -> list[str]:
    """Return what results.json says under a key, each once: device, host, date, ..."""
    found: set[Any] = {run.results.get(key) for run in runs}
    return sorted(value for value in found if isinstance(value, str) and value)


def code_of(runs: Iterable[Run]) -> list[str]:
    """Return the versions of the code that made runs, as far as they recorded it."""
    return sorted(filter(None, {code_text(run.results.get("code") or {}) for run in runs}))


def code_text(code: dict[str, Any]) -> str:
    """Return a version of this code: number, commit, whether it was changed since."""
    return " ".join(filter(None, [code.get("version"), commit_text(code)]))
