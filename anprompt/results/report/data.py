"""What a report tells: the runs below some folders, by task, and what they were tested with."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from anprompt.results.assign import place
from anprompt.results.protocol_tables import make_tables, protocols_with_runs
from anprompt.results.report.numbers import Number, harmonic, mean, value_at
from anprompt.results.run import HEADLINE, Run, find_runs
from anprompt.robustness.summary import Evaluation, read_evaluations
from anprompt.robustness.table import Comparison, compare
from anprompt.runs.folder import RESULTS, read_results

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "trainers"
WHOLE = "vit_b16"  # the configuration that a trainer's ablations change
EPOCH = re.compile(r"^epoch \[(\d+)/\d+\] batch \[(\d+)/(\d+)\] .*$", re.MULTILINE)
METER = re.compile(r"(\w+) (-?[\d.]+|nan|inf) \((-?[\d.]+|nan|inf)\)")

BASE_TO_NEW, ALL_CLASSES, TRANSFER = "base to new", "all classes", "transfer"


@dataclass(frozen=True)
class Source:
    """A finished run.

    Attributes:
        id: under which the report lists it.
        task: base to new, all classes, or transfer (trained on another data set).
        config: without the backbone that its folder may name.
        is_ablation: whether it is a method with one change, beside the whole method's runs.
        method: name in tables and figures.
    """

    id: str
    run: Run
    results: dict[str, Any]
    task: str
    config: str
    is_ablation: bool = False
    method: str = ""

    @property
    def path(self) -> str:
        return (self.run.folder / RESULTS).as_posix()

    @property
    def trained_here(self) -> bool:
        """Whether this run trained, rather than evaluated what another did."""
        run = self.results["config"].get("RUN", {})
        return bool(self.results.get("num_trainable")) and not run.get("EVAL_ONLY")

    @property
    def table(self) -> tuple:
        """What its figures stand beside: task, data set (of a transfer: the source), shots."""
        dataset = self.run.trained_on[0] if self.task == TRANSFER else self.run.dataset
        return self.task, dataset, self.run.shots

    def number(self, key: str) -> Number | None:
        """An entry of its results.json; None where there is none."""
        value = value_at(self.results, key)
        return None if value is None else Number(float(value), f"{self.path}#{key}")


@dataclass
class Data:
    """Everything that the report is made from.

    Attributes:
        roots: the folders that were searched.
        sources: finished runs.
        unfinished: folders of runs that are not.
        left_out: finished runs that belong to no table, and why.
        evaluations: robustness.json files, by part of the classes.
        baseline: the method that others are compared with.
        highlight: the method that figures draw in front.
    """

    roots: list[Path]
    sources: list[Source]
    unfinished: list[Path]
    evaluations: list[Evaluation]
    baseline: str
    highlight: str
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def methods(self) -> list[str]:
        """Methods in a fixed order: the baseline, others, the highlighted one; no ablations."""
        names = dict.fromkeys(
            [
                *(s.method for s in self.sources if not s.is_ablation),
                *(r.method for c in self.comparisons for r in c.rows),
            ]
        )

        def place(name: str) -> tuple[int, str]:
            trainer = name.split(" (")[0]
            return {self.baseline: 0, self.highlight: 2}.get(trainer, 1), name

        return sorted(names, key=place)

    @cached_property
    def by_folder(self) -> dict[Path, Source]:
        return {source.run.folder: source for source in self.sources}

    def compare(
        self, evaluations: Sequence[Evaluation], all_kinds: bool = False
    ) -> list[Comparison]:
        """Comparisons of evaluations, apart by the shots that models were trained with.

        What learns nothing stands beside all of them.
        """

        def shots_of(evaluation: Evaluation) -> int | None:
            source = self.by_folder.get(evaluation.path.parent)
            return None if source and not source.run.learns else evaluation.header["shots"]

        shots = sorted({shots_of(e) for e in evaluations} - {None})
        return [
            comparison
            for number in shots or [None]
            for comparison in compare(
                [e for e in evaluations if shots_of(e) in (None, number)],
                all_kinds=all_kinds,
                name=self.name_of,
            )
        ]

    def name_of(self, evaluation: Evaluation) -> str:
        """The method of an evaluation, as tables name its run."""
        source = self.by_folder.get(evaluation.path.parent)
        if source is None:  # trained, but not tested to its end
            header = evaluation.header
            return f"{header['trainer']} ({header['config']}, unfinished)"
        return source.config if source.is_ablation else source.method

    def is_ablation(self, evaluation: Evaluation) -> bool:
        source = self.by_folder.get(evaluation.path.parent)
        return source is not None and source.is_ablation

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Robustness, over kinds of noise that no compared model met in training."""
        return self.compare([e for e in self.evaluations if not self.is_ablation(e)])

    def tables(self, task: str) -> list[tuple[str, int]]:
        """Data set and shots of a task's tables; what learns nothing makes none beside others."""
        own = [s for s in self.sources if s.task == task]
        learned = {s.table[1:] for s in own if s.run.learns}
        datasets = {dataset for dataset, _ in learned}
        return sorted(learned | {s.table[1:] for s in own if s.table[1] not in datasets})

    def in_table(self, source: Source, task: str, table: tuple[str, int]) -> bool:
        """Whether a run belongs to a table; what learns nothing belongs to those of any shots."""
        if source.run.learns:
            return source.table == (task, *table)
        return source.table[:2] == (task, table[0])

    def of(
        self, table: tuple[str, int], part: str, method: str, task: str = BASE_TO_NEW
    ) -> list[Source]:
        """Runs of a table's method on one part of the classes, by seed; no ablations."""
        found = [
            source
            for source in self.sources
            if self.in_table(source, task, table)
            and (source.run.part, source.method) == (part, method)
            and not source.is_ablation
        ]
        return sorted(found, key=lambda source: source.run.seed)


def gather(
    roots: Sequence[Path], baseline: str = "ZeroshotCLIP", highlight: str = "ANPrompt"
) -> Data:
    """Read what is below ``roots``.

    Raises:
        ValueError: a folder does not exist, holds no finished run, holds two of the same or runs
            that cannot stand in one row, or a file cannot be read.
    """
    runs, unfinished = find_runs(roots)
    placed = place(runs)
    left_out = dict(placed.left_out)
    runs = [run for run in runs if run.folder not in left_out]
    if not runs:
        reasons = [f"; {folder}: {reason}" for folder, reason in placed.left_out[:1]]
        raise ValueError(
            f"{', '.join(map(str, roots))}: no finished run there or below{''.join(reasons)}"
        )
    for protocol in protocols_with_runs(placed):  # refuses rows of unlike runs
        make_tables(protocol, placed, split_configs=True)
    sources = [
        Source(f"r{number}", run, read_results(run.folder), _task(run), _config(run))
        for number, run in enumerate(sorted(runs, key=_order), start=1)
    ]
    seen: dict[tuple, Path] = {}
    for source in sources:
        run = source.run
        key = (source.table, run.trainer, run.config, run.backbone, run.dataset, run.part, run.seed)
        if key in seen:
            raise ValueError(
                f"{run.folder} and {seen[key]} are the same method, data set and seed; "
                "name only the folder of one"
            )
        seen[key] = run.folder
    _check_classes(sources)
    folders = sorted({path.parent for root in roots for path in root.rglob("robustness.json")})
    evaluations = [found for folder in folders for found in read_evaluations(folder)]
    return Data(
        list(roots),
        _named(sources),
        unfinished,
        evaluations,
        baseline,
        highlight,
        placed.left_out,
    )


def _check_classes(sources: Sequence[Source]) -> None:
    """Refuse runs that one table would compare although they were tested on different classes."""
    first: dict[tuple, Run] = {}
    for source in sources:
        run = source.run
        known = first.setdefault((source.task, run.dataset, run.part), run)
        odd = sorted(set(run.classnames) ^ set(known.classnames))
        if odd and run.classnames and known.classnames:
            raise ValueError(
                f"{known.folder} and {run.folder} were tested on different class sets of "
                f"{run.dataset} ({run.part}; {odd[0]!r} in one of them only) and cannot be "
                "compared; give the folders of like runs"
            )


def _order(run: Run) -> tuple:
    return run.dataset, run.trainer, run.config, run.backbone, run.shots, run.part, run.seed


def _task(run: Run) -> str:
    if run.part != "all":
        return BASE_TO_NEW
    source = run.trained_on[0]
    return TRANSFER if run.layout == "crossdata" or source not in ("", run.dataset) else ALL_CLASSES


def _config(run: Run) -> str:
    return run.config.removesuffix(f"-{run.backbone.replace('/', '_').replace(':', '_')}")


def _named(sources: Sequence[Source]) -> list[Source]:
    """The sources with their methods' names: the trainer's, and what tells two of a table apart."""
    whole = {(s.table, s.run.trainer, s.run.backbone) for s in sources if s.config == WHOLE}

    def is_ablation(source: Source) -> bool:
        changed = CONFIGS / source.run.trainer / "ablations" / f"{source.config}.yaml"
        key = (source.table, source.run.trainer, source.run.backbone)
        return key in whole and bool(source.config) and changed.is_file()

    kinds: dict[tuple, dict[str, set[str]]] = {}
    for source in sources:
        if not is_ablation(source):
            found = kinds.setdefault((source.table, source.run.trainer), {"c": set(), "b": set()})
            found["c"].add(source.config)
            found["b"].add(source.run.backbone)

    def name(source: Source) -> str:
        trainer = source.run.trainer
        if is_ablation(source):
            return f"{trainer} ({source.config})"
        found = kinds[source.table, trainer]
        details = [source.config] if len(found["c"]) > 1 else []
        details += [source.run.backbone] if len(found["b"]) > 1 else []
        return f"{trainer} ({', '.join(details)})" if details else trainer

    return [
        Source(s.id, s.run, s.results, s.task, s.config, is_ablation(s), name(s)) for s in sources
    ]


def number_of(sources: Iterable[Source], key: str) -> Number | None:
    """The mean over runs of one entry of results.json; None unless all have it."""
    return mean(source.number(key) for source in sources)


@dataclass(frozen=True)
class BaseNew:
    """A method on one data set, under one choice of inference rules."""

    method: str
    rule: str
    base: Number | None
    new: Number | None
    base_sources: list[Source]
    new_sources: list[Source]
    is_protocol: bool  # the method's own choice of rules

    @property
    def hm(self) -> Number | None:
        """Harmonic mean of the two means; None unless both halves have the same seeds."""
        seeds = [[s.run.seed for s in half] for half in (self.base_sources, self.new_sources)]
        return harmonic(self.base, self.new) if seeds[0] == seeds[1] else None

    @property
    def sources(self) -> list[Source]:
        return [*self.base_sources, *self.new_sources]


def base_to_new(data: Data, table: tuple[str, int], all_rules: bool = True) -> list[BaseNew]:
    """Rows of a table: each method's own protocol and, where it has several rules, each rule used
    for both halves."""
    rows = []
    for method in data.methods:
        base, new = (data.of(table, part, method) for part in ("base", "new"))
        if base or new:
            rows += rows_of(method, base, new, all_rules)
    return rows


def rows_of(
    method: str, base: list[Source], new: list[Source], all_rules: bool = False
) -> list[BaseNew]:
    """A method's rows: its protocol, then one rule for both halves where it has several."""
    rules = {rule for s in (*base, *new) for rule in s.run.accuracies} - {HEADLINE}
    own = [s.run.headline_rule for s in (*base[:1], *new[:1]) if s.run.headline_rule]
    choices = [(" / ".join(dict.fromkeys(own)), "accuracy", True)]
    if all_rules and len(rules) > 1:
        choices += [(f"{r} everywhere", f"rules/{r}/accuracy", False) for r in sorted(rules)]
    return [
        BaseNew(method, rule, number_of(base, key), number_of(new, key), base, new, is_protocol)
        for rule, key, is_protocol in choices
    ]


def per_class(sources: Sequence[Source]) -> dict[str, Number]:
    """Accuracy of each class that all runs have, over runs."""
    if not sources:
        return {}
    found = {}
    for name in sources[0].results["per_class"]:
        values = [s.results["per_class"].get(name) for s in sources]
        if None not in values:
            paths = [f"{s.path}#per_class/{name}" for s in sources]
            pairs = zip(values, paths, strict=True)
            found[name] = mean(Number(float(value), path) for value, path in pairs)
    return found


def training_curve(source: Source) -> dict[str, dict[int, Number]]:
    """Loss and accuracy by epoch from a run's log.txt: the epoch's mean at its last printed line.

    Nothing where the log is missing or tells nothing (evaluations).
    """
    path = source.run.folder / "log.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    curves: dict[str, dict[int, Number]] = {}
    for line in EPOCH.finditer(text):
        epoch = int(line.group(1))
        for name, _, value in METER.findall(line.group(0)):
            if name in ("loss", "acc"):
                key = f"{path.as_posix()}#epoch {epoch}/{name}"
                curves.setdefault(name, {})[epoch] = Number(float(value), key)
    return curves


def curve_of(
    data: Data, table: tuple[str, int], method: str, meter: str, task: str = BASE_TO_NEW
) -> dict[int, Number]:
    """A method's training curve, mean over runs at the epochs that all of them have."""
    runs = [
        curve[meter]
        for source in data.sources
        if source.table == (task, *table) and source.method == method and source.trained_here
        and not source.is_ablation and meter in (curve := training_curve(source))
    ]  # fmt: skip
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    return {epoch: mean(run[epoch] for run in runs) for epoch in epochs}


def picture(path: Path) -> bytes | None:
    """The bytes of an example picture, or None where it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return None
