"""Which tables a run belongs to."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.results.run import Run
from anprompt.results.table import IMAGENET_VARIANTS


@dataclass
class Placed:
    """Runs by protocol.

    Attributes:
        base2new, fewshot: runs as they are.
        sources: runs trained on all classes of a data set whose models are tested on others.
        targets: runs that test such models, by protocol.
        left_out: finished runs that belong to no table, and why.
    """

    base2new: list[Run] = field(default_factory=list)
    fewshot: list[Run] = field(default_factory=list)
    sources: list[Run] = field(default_factory=list)
    targets: dict[str, list[Run]] = field(
        default_factory=lambda: {"crossdata": [], "domaingen": []}
    )
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def of_seed(self, seed: int) -> "Placed":
        """Return the runs of one seed, and those that no seed changes."""

        def own(runs: list[Run]) -> list[Run]:
            return [run for run in runs if run.seed == seed or not run.learns]

        targets = {protocol: own(runs) for protocol, runs in self.targets.items()}
        return Placed(own(self.base2new), own(self.fewshot), own(self.sources), targets)


def place(runs: Iterable[Run]) -> Placed:
    """Sort runs into protocols, by what they were trained and tested on."""
    runs = list(runs)
    placed = Placed()
    tested = {_origin(run) for run in runs if _is_target(run)}
    trainings = {os.path.abspath(run.training) for run in runs if run.training and _is_target(run)}
    for run in runs:
        problem = _problem(run)
        if problem:
            placed.left_out.append((run.folder, problem))
        elif run.subset != "all":
            placed.base2new.append(run)
        elif _is_target(run):
            is_variant = run.dataset in IMAGENET_VARIANTS
            placed.targets["domaingen" if is_variant else "crossdata"].append(run)
        elif run.layout == "crossdata":
            placed.sources.append(run)
        else:
            placed.fewshot.append(run)
            is_tested = run.origin and (_origin(run) in tested)
            if run.learns and (os.path.abspath(run.folder) in trainings or is_tested):
                placed.sources.append(run)
    return placed


def _is_target(run: Run) -> bool:
    return run.subset == "all" and run.trained_on[0] not in ("", run.dataset)


def _origin(run: Run) -> tuple:
    """Return what a test and its training share, where folders do not say which belong together."""
    return run.trainer, run.config, run.backbone, run.origin, run.trained_on[0], run.seed


def _problem(run: Run) -> str:
    """Return why a run belongs to no table; "" where it does."""
    source, subset = run.trained_on
    if run.split != "test":
        return f"tested on {run.split} images"
    if run.is_untrained:
        return "a method that learns, tested without a training"
    if run.subset not in ("all", "base", "new"):
        return f"tested on classes {run.subset!r}"
    if run.subset != "all":
        if source not in ("", run.dataset):
            return f"trained on {source}, tested on {run.subset} classes of {run.dataset}"
        if subset not in ("", "base") and run.learns:
            return f"trained on {subset} classes, tested on {run.subset} ones"
        return ""
    if run.training is None:
        return ""
    if not source:
        return f"its training is not there to say what it was trained on: {run.training}"
    if subset not in ("", "all"):
        return f"trained on {subset} classes of {source}, tested on all of {run.dataset}"
    if source == run.dataset:
        return f"tests on {source} once more what was trained on it: {run.training}"
    return ""
