"""Finished runs and what they add up to: figures by method, data set, half of the classes and seed.

What is missing stays missing: no cell is filled from unlike runs.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.runs import CONFIG, RESULTS, read_results, recorded_config

HEADLINE = "headline"  # the rule that a method's protocol prescribes


@dataclass(frozen=True)
class Run:
    """One finished run. ``accuracies``: percent by inference rule, HEADLINE among them."""

    folder: Path
    trainer: str
    config: str
    backbone: str
    shots: int
    dataset: str
    part: str  # all, base or new
    seed: int
    headline_rule: str
    accuracies: dict[str, float]

    @property
    def method(self) -> tuple[str, str, str, int]:
        return self.trainer, self.config, self.backbone, self.shots


@dataclass(frozen=True)
class Stat:
    """Accuracies of the seeds of one cell, in percent."""

    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def std(self) -> float:
        return statistics.pstdev(self.by_seed.values())

    def __str__(self) -> str:
        deviation = f" +- {self.std:.2f}" if len(self.by_seed) > 1 else ""
        return f"{self.mean:.2f}{deviation}"


@dataclass(frozen=True)
class Row:
    """One method under one rule on one data set; None where there is no run.

    ``rule`` is HEADLINE or a rule's name; ``rule_label`` says which rules a headline stands for.
    """

    dataset: str
    method: str
    rule: str
    rule_label: str
    base: Stat | None
    new: Stat | None

    @property
    def hm_of_means(self) -> float | None:
        """None unless both halves have the same seeds: anything else compares unlike runs."""
        if not (self.base and self.new and self.base.by_seed.keys() == self.new.by_seed.keys()):
            return None
        return harmonic_mean(self.base.mean, self.new.mean)

    @property
    def mean_of_hms(self) -> Stat | None:
        if self.hm_of_means is None:
            return None
        pairs = {seed: (value, self.new.by_seed[seed]) for seed, value in self.base.by_seed.items()}
        return Stat({seed: harmonic_mean(*pair) for seed, pair in pairs.items()})

    @property
    def seeds(self) -> str:
        counts = [len(stat.by_seed) if stat else 0 for stat in (self.base, self.new)]
        if counts[0] == counts[1]:
            return str(counts[0])
        return f"{counts[0]} / {counts[1]}"


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1/base + 1/new), and 0 where either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[Path]]:
    """Finished runs below ``paths``, and the folders of runs that are not finished.

    Raises:
        ValueError: a path does not exist, or a results.json cannot be read.
    """
    runs, unfinished = [], []
    folders: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
        for name in (RESULTS, CONFIG):
            folders.update(found.parent for found in path.rglob(name))
    for folder in sorted(folders):
        results = read_results(folder)
        if results is None:
            if "TRAINER.NAME" in (recorded_config(folder) or {}):
                unfinished.append(folder)
        else:
            runs.append(_run(folder, results))
    return runs, unfinished


def _run(folder: Path, results: dict) -> Run:
    try:
        rules = {
            name: float(rule["accuracy"]) for name, rule in (results.get("rules") or {}).items()
        }
        return Run(
            folder=folder,
            trainer=results["trainer"],
            config=folder.parent.name if folder.parent.parent.name == results["trainer"] else "",
            backbone=results["backbone"],
            shots=results["shots"],
            dataset=results["dataset"],
            part=results["subsample_classes"],
            seed=results["seed"],
            headline_rule=results.get("headline_rule") or "",
            accuracies={HEADLINE: float(results["accuracy"]), **rules},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / RESULTS}: not the results of a run ({error!r})") from error


def make_rows(
    runs: list[Run], parts: tuple[str, str] = ("base", "new"), all_rules: bool = False
) -> list[Row]:
    """One row for every data set, method and rule of ``runs``, in that order.

    Raises:
        ValueError: two runs claim the same cell.
    """
    cells: dict[tuple, dict[str, dict[int, Run]]] = {}
    for run in runs:
        if run.part in parts:
            seeds = cells.setdefault((run.dataset, *run.method), {}).setdefault(run.part, {})
            if run.seed in seeds:
                raise ValueError(
                    f"{run.folder} and {seeds[run.seed].folder} are the same method, data set and "
                    "seed; give the folder of one"
                )
            seeds[run.seed] = run
    name = method_names({key[1:] for key in cells})
    rows = []
    for key, by_part in sorted(cells.items()):
        known = {
            rule for seeds in by_part.values() for run in seeds.values() for rule in run.accuracies
        }
        rules = [HEADLINE, *sorted(known - {HEADLINE})] if all_rules else [HEADLINE]
        for rule in rules:
            stats = [_stat(by_part.get(part, {}), rule) for part in parts]
            label = _headline_label(by_part, parts) if rule == HEADLINE else f"{rule} everywhere"
            rows.append(Row(key[0], name(key[1:]), rule, label, *stats))
    return rows


def _stat(runs: dict[int, Run], rule: str) -> Stat | None:
    values = {seed: run.accuracies[rule] for seed, run in runs.items() if rule in run.accuracies}
    return Stat(values) if values else None


def _headline_label(by_part: dict[str, dict[int, Run]], parts: tuple[str, str]) -> str:
    used = []
    for part in parts:
        for rule in {run.headline_rule for run in by_part.get(part, {}).values()} - {""}:
            if rule not in used:
                used.append(rule)
    return " / ".join(used) or "-"


def method_names(methods: set[tuple[str, str, str, int]]) -> Callable[[tuple], str]:
    """A short name for each method: the trainer's, and what tells two of them apart."""
    differing = {}
    for trainer in {method[0] for method in methods}:
        columns = list(zip(*(method for method in methods if method[0] == trainer), strict=True))
        differing[trainer] = [i for i in range(1, 4) if len(set(columns[i])) > 1]

    def name(method: tuple) -> str:
        details = [f"{method[i]} shots" if i == 3 else str(method[i]) for i in differing[method[0]]]
        return f"{method[0]} ({', '.join(details)})" if details else method[0]

    return name


def average_rows(rows: list[Row]) -> list[Row]:
    """Each method's average over data sets, for methods that have every data set and seed.

    An average over fewer data sets than another's would not compare; such a cell is missing.
    """
    datasets = {row.dataset for row in rows}
    averages = []
    for method, rule in dict.fromkeys((row.method, row.rule) for row in rows):
        mine = [row for row in rows if (row.method, row.rule) == (method, rule)]
        stats = []
        for half in ("base", "new"):
            cells = [getattr(row, half) for row in mine]
            seeds = {frozenset(cell.by_seed) for cell in cells if cell}
            complete = len(cells) == len(datasets) and all(cells) and len(seeds) == 1
            stats.append(
                Stat({s: statistics.fmean(cell.by_seed[s] for cell in cells) for s in seeds.pop()})
                if complete
                else None
            )
        label = max((row.rule_label for row in mine), key=len)
        title = f"average of {len(datasets)} data sets"
        averages.append(Row(title, method, rule, label, *stats))
    return averages
