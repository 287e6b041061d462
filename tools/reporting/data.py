"""What a report tells: the runs below some folders, and numbers that know where they come from."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.collect import HEADLINE, Run, find_runs, harmonic_mean, method_names
from tools.robust.summary import Evaluation, read_evaluations
from tools.robust.table import Comparison, compare
from tools.runs import RESULTS, read_results

EPOCH = re.compile(r"^epoch \[(\d+)/\d+\] batch \[(\d+)/(\d+)\] .*$", re.MULTILINE)
METER = re.compile(r"(\w+) (-?[\d.]+|nan|inf) \((-?[\d.]+|nan|inf)\)")


@dataclass(frozen=True)
class Number:
    """A mean over runs, with every value's file and key.

    Attributes:
        values: one per source.
        sources: "path of a JSON file#key/in/it", relative to where the report was made.
        how: what the shown value is, in words.
        shown: the value shown where it is not the values' mean, e.g. a harmonic mean.
    """

    values: tuple[float, ...]
    sources: tuple[str, ...]
    how: str = "mean"
    shown: float | None = None

    @property
    def value(self) -> float:
        return statistics.fmean(self.values) if self.shown is None else self.shown

    @property
    def std(self) -> float | None:
        """Population standard deviation over runs; None for a single one."""
        if self.shown is not None or len(self.values) < 2:
            return None
        return statistics.pstdev(self.values)


@dataclass(frozen=True)
class Source:
    """A finished run, by the number under which the report lists it."""

    id: str
    run: Run
    results: dict[str, Any]
    method: str

    @property
    def path(self) -> str:
        return (self.run.folder / RESULTS).as_posix()


@dataclass
class Data:
    """Everything that the report is made from.

    Attributes:
        roots: the folders that were searched.
        sources: finished runs.
        unfinished: folders of runs that are not.
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
    notes: list[str] = field(default_factory=list)

    @cached_property
    def methods(self) -> list[str]:
        """Methods in a fixed order: the baseline, others, the highlighted one."""
        names = dict.fromkeys(
            [
                *(s.method for s in self.sources),
                *(r.method for c in self.comparisons for r in c.rows),
            ]
        )

        def place(name: str) -> tuple[int, str]:
            trainer = name.split(" (")[0]
            return {self.baseline: 0, self.highlight: 2}.get(trainer, 1), name

        return sorted(names, key=place)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Robustness, over kinds of noise that no compared model met in training."""
        return compare(self.evaluations)

    @cached_property
    def datasets(self) -> list[str]:
        return sorted({source.run.dataset for source in self.sources})

    def of(self, dataset: str, part: str, method: str | None = None) -> list[Source]:
        """Runs of a data set and part, by seed."""
        found = [
            source
            for source in self.sources
            if (source.run.dataset, source.run.part) == (dataset, part)
            and method in (None, source.method)
        ]
        return sorted(found, key=lambda source: source.run.seed)


def gather(
    roots: Sequence[Path], baseline: str = "ZeroshotCLIP", highlight: str = "ANPrompt"
) -> Data:
    """Read what is below ``roots``.

    Raises:
        ValueError: a folder does not exist, holds no finished run, holds two of the same, or a file
            cannot be read.
    """
    runs, unfinished = find_runs(roots)
    if not runs:
        raise ValueError(f"{', '.join(map(str, roots))}: no finished run there or below")
    name = method_names({run.method for run in runs})
    seen: dict[tuple, Path] = {}
    sources = []
    for number, run in enumerate(sorted(runs, key=_order), start=1):
        key = (run.method, run.dataset, run.part, run.seed)
        if key in seen:
            raise ValueError(
                f"{run.folder} and {seen[key]} are the same method, data set and seed; "
                "give the folder of one"
            )
        seen[key] = run.folder
        sources.append(Source(f"r{number}", run, read_results(run.folder), name(run.method)))
    folders = sorted({path.parent for root in roots for path in root.rglob("robustness.json")})
    evaluations = [found for folder in folders for found in read_evaluations(folder)]
    return Data(list(roots), sources, unfinished, evaluations, baseline, highlight)


def _order(run: Run) -> tuple:
    return run.dataset, run.trainer, run.config, run.backbone, run.shots, run.part, run.seed


def number_of(
    sources: Iterable[Source], key: str, scale: float = 1, how: str = "mean"
) -> Number | None:
    """The mean over runs of one entry of results.json ("rules/mix/accuracy"); None without any."""
    found = [(value_at(s.results, key), f"{s.path}#{key}") for s in sources]
    found = [(value, source) for value, source in found if value is not None]
    if not found:
        return None
    values, paths = zip(*found, strict=True)
    return Number(tuple(scale * float(value) for value in values), paths, how)


def value_at(content: Any, key: str) -> Any:
    """An entry of nested JSON by its path; None where there is none."""
    for name in key.split("/"):
        if not isinstance(content, dict) or name not in content:
            return None
        content = content[name]
    return content


@dataclass(frozen=True)
class BaseNew:
    """A method on one data set, under one choice of inference rules."""

    method: str
    rule: str
    base: Number | None
    new: Number | None
    seeds: tuple[list[int], list[int]]
    sources: list[Source]

    @property
    def hm(self) -> Number | None:
        """Harmonic mean of the two means; None unless both halves have the same seeds."""
        if not (self.base and self.new) or self.seeds[0] != self.seeds[1]:
            return None
        return Number(
            self.base.values + self.new.values,
            self.base.sources + self.new.sources,
            "harmonic mean of the means of base and new",
            harmonic_mean(self.base.value, self.new.value),
        )


def base_to_new(data: Data, dataset: str, all_rules: bool = True) -> list[BaseNew]:
    """Rows of a data set's table: each method's own protocol and, where it has several rules, each
    rule used for both halves."""
    rows = []
    for method in data.methods:
        base, new = (data.of(dataset, part, method) for part in ("base", "new"))
        if not (base or new):
            continue
        rules = {rule for s in (*base, *new) for rule in s.run.accuracies} - {HEADLINE}
        own = [s.run.headline_rule for s in (*base[:1], *new[:1]) if s.run.headline_rule]
        rows.append(_base_new(method, " / ".join(dict.fromkeys(own)), base, new, "accuracy"))
        if all_rules and len(rules) > 1:
            for rule in sorted(rules):
                label = f"{rule} everywhere"
                rows.append(_base_new(method, label, base, new, f"rules/{rule}/accuracy"))
    return rows


def _base_new(method: str, rule: str, base: list[Source], new: list[Source], key: str) -> BaseNew:
    seeds = ([s.run.seed for s in base], [s.run.seed for s in new])
    return BaseNew(method, rule, number_of(base, key), number_of(new, key), seeds, [*base, *new])


def per_class(sources: Sequence[Source]) -> dict[str, Number]:
    """Accuracy of each class, over runs."""
    names = dict.fromkeys(name for s in sources for name in s.results["per_class"])
    numbers = {}
    for name in names:
        found = [s for s in sources if name in s.results["per_class"]]
        numbers[name] = Number(
            tuple(s.results["per_class"][name] for s in found),
            tuple(f"{s.path}#per_class/{name}" for s in found),
        )
    return numbers


def training_curve(source: Source) -> dict[str, dict[int, float]]:
    """Loss and accuracy by epoch from a run's log.txt: the epoch's mean at its last printed line.

    Nothing where the log is missing or tells nothing (evaluations).
    """
    path = source.run.folder / "log.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    curves: dict[str, dict[int, float]] = {}
    for line in EPOCH.finditer(text):
        epoch = int(line.group(1))
        for name, _, mean in METER.findall(line.group(0)):
            if name in ("loss", "acc"):
                curves.setdefault(name, {})[epoch] = float(mean)
    return curves


def picture(path: Path) -> bytes | None:
    """The bytes of an example picture, or None where it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.pstdev(values) if len(values) > 1 else 0.0


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


Reader = Callable[[Path], bytes | None]
