"""Finished runs and what they add up to: figures by method, data set, half of the classes and seed.

What is missing stays missing: no cell is filled from unlike runs.
"""

import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.protocols.layout import read_path
from anprompt.results.logs import final_result, log_files, read_header
from anprompt.runs.folder import (
    CONFIG,
    RESULTS,
    flatten,
    of_own_method,
    read_results,
    recorded_config,
)

HEADLINE = "headline"  # the rule that a method's protocol prescribes
BACKBONE, SHOTS = 2, 3  # places in Run.method


@dataclass(frozen=True)
class Run:
    """One finished run. ``accuracies``: percent by inference rule, HEADLINE among them.

    Attributes:
        part: all, base or new: the classes tested on.
        trained_on: the data set and the part of its classes that were trained on; "" where that is
            not known (a training that is not there).
        training: the folder of the training, of runs that evaluate one.
        learns: False for methods without training, such as zero-shot CLIP.
        is_untrained: a method that learns, evaluated without a training.
        layout: base2new, crossdata or fewshot, where the path says so.
        origin: "log.txt" for runs of upstream's code, else "".
        split: test or val: the images tested on.
        epochs: how many the model was trained; None where that is not known.
        settings: the configuration, as dotted names.
        classnames: as far as results.json has them.
    """

    folder: Path
    trainer: str
    config: str
    backbone: str
    shots: int
    dataset: str
    part: str
    seed: int
    headline_rule: str
    accuracies: dict[str, float]
    trained_on: tuple[str, str] = ("", "")
    training: Path | None = None
    learns: bool = True
    is_untrained: bool = False
    layout: str = ""
    origin: str = ""
    split: str = "test"
    epochs: int | None = None
    num_test: int | None = None
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    classnames: tuple[str, ...] = field(default=(), repr=False)

    @property
    def method(self) -> tuple:
        """What tells methods apart (see ``method_names``), whatever they are tested on."""
        source = self.trained_on[0]
        if source and source != self.dataset:
            setting = f"trained on {source}"
        else:
            setting = "cross-dataset source" if self.layout == "crossdata" else ""
        return self.trainer, self.config, self.backbone, self.shots, self.origin, setting


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


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1/base + 1/new), and 0 where either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def find_runs(paths: Iterable[Path], logs: bool = False) -> tuple[list[Run], list[Path]]:
    """Finished runs below ``paths``, and the folders of runs that are not finished.

    Args:
        logs: also runs of upstream's code, which leave log.txt alone. A run with results.json or
            config.yaml is never read from its log.

    Raises:
        ValueError: a path does not exist, or a results.json cannot be read.
    """
    runs, unfinished = [], []
    folders: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
        for name in (RESULTS, CONFIG, *(["log.txt*"] if logs else [])):
            folders.update(found.parent for found in path.rglob(name))
    for folder in sorted(folders):
        has_results = (folder / RESULTS).is_file()
        if has_results or (folder / CONFIG).is_file():
            results = read_results(folder)
            if results is not None:
                runs.append(_run(folder, results))
            elif has_results or "TRAINER.NAME" in (recorded_config(folder) or {}):
                unfinished.append(folder)
        else:
            run = _logged_run(folder)
            if run:
                runs.append(run)
            else:
                unfinished.append(folder)
    return runs, unfinished


def _run(folder: Path, results: dict) -> Run:
    try:
        rules = {
            name: float(rule["accuracy"]) for name, rule in (results.get("rules") or {}).items()
        }
        settings = of_own_method(flatten(results.get("config") or {}))
        facts = read_path(folder, results["trainer"])
        is_evaluation = bool(settings.get("RUN.EVAL_ONLY"))
        # Relative to the run's folder, so that a tree of runs can be moved.
        model_dir = settings.get("RUN.MODEL_DIR")
        training = Path(os.path.normpath(folder / model_dir)) if model_dir else None
        learns = results.get("num_trainable") != 0 and not _is_zero_shot(results["trainer"])
        dataset, part = results["dataset"], results["subsample_classes"]
        shots = results["shots"]
        if training and learns:
            source, trained_part, shots = _trained_on(training, shots)
            trained_on = (source or facts.source, trained_part)
        elif facts.source:
            trained_on = (facts.source, "")
        else:
            trained_on = (dataset, part if learns and settings else "")
        return Run(
            folder=folder,
            trainer=results["trainer"],
            config=facts.config,
            backbone=results["backbone"],
            shots=shots,
            dataset=dataset,
            part=part,
            seed=results["seed"],
            headline_rule=results.get("headline_rule") or "",
            accuracies={HEADLINE: float(results["accuracy"]), **rules},
            trained_on=trained_on,
            training=training,
            learns=learns,
            is_untrained=learns and is_evaluation and not training,
            layout=facts.layout,
            split=results.get("split") or "test",
            epochs=results.get("epochs"),
            num_test=results.get("num_test"),
            settings=settings,
            classnames=tuple(results.get("classnames") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / RESULTS}: not the results of a run ({error!r})") from error


def _is_zero_shot(trainer: str) -> bool:
    return trainer.startswith("ZeroshotCLIP")


def _trained_on(training: Path, shots: int) -> tuple[str, str, int]:
    """Data set, part of its classes and shots of a training, as it says itself."""
    results = read_results(training)
    if results:
        return results["dataset"], results["subsample_classes"], results["shots"]
    settings = recorded_config(training) or {}
    return (
        settings.get("DATASET.NAME", ""),
        settings.get("DATASET.SUBSAMPLE_CLASSES", ""),
        settings.get("DATASET.NUM_SHOTS", shots),
    )


def _logged_run(folder: Path) -> Run | None:
    """A run of upstream's code from its log, or None where it has no final result.

    What the log's own settings do not say comes from the path.
    """
    arguments, settings = read_header(log_files(folder)[0])
    facts = read_path(folder, settings.get("TRAINER.NAME", ""))
    is_evaluation = arguments.get("eval_only", facts.is_evaluation) is True
    found = final_result(folder, is_test_log=is_evaluation)
    dataset = settings.get("DATASET.NAME") or facts.dataset
    if found is None or not (dataset and facts.trainer):
        return None
    part = settings.get("DATASET.SUBSAMPLE_CLASSES") or facts.part
    seed = settings.get("SEED", -1)
    learns = not _is_zero_shot(facts.trainer)
    # The folder of a training is relative to where upstream's code ran; its names say enough.
    model_dir = arguments.get("model_dir") or ""
    shots = settings.get("DATASET.NUM_SHOTS", facts.shots)
    trained_on, training = (dataset, part), None
    is_transfer = settings.get("TASK") == "CD"  # MMRL's scripts put it where base-to-new is
    if not learns:
        trained_on = (facts.source or dataset, "")
    elif model_dir:
        named = read_path(model_dir)
        training = Path(model_dir)
        trained_on = (named.dataset, "all" if is_transfer else named.part)
        shots = next(filter(None, (named.shots, facts.shots)), shots)
    elif is_evaluation and not arguments:  # by the path alone
        is_known = facts.source or facts.part != "all"
        trained_on = (facts.source or dataset, "") if is_known else ("", "")
    return Run(
        folder=folder,
        trainer=facts.trainer,
        config=facts.config,
        backbone=settings.get("MODEL.BACKBONE.NAME") or "unknown",
        shots=-1 if shots is None else shots,
        dataset=dataset,
        part=part,
        seed=facts.seed if seed < 0 and facts.seed is not None else seed,
        headline_rule="",
        accuracies={HEADLINE: found[1]},
        trained_on=trained_on,
        training=training,
        learns=learns,
        is_untrained=learns and is_evaluation and bool(arguments) and not model_dir,
        layout="crossdata" if is_transfer else facts.layout,
        origin="log.txt",
        settings=settings,
    )


def method_names(methods: set[tuple]) -> Callable[[tuple], str]:
    """A short name for each method (``Run.method``, or the start of one): the trainer's, and what
    tells it from others.

    That is the backbone and the shots wherever the methods differ in them, so that no name hides
    an unfair comparison; anything else where two methods of one trainer differ in it.
    """
    columns = range(1, max(map(len, methods), default=0))

    def differing(among: set[tuple]) -> set[int]:
        found = {i: {method[i] for method in among} - {None} for i in columns}
        return {i for i, values in found.items() if len(values) > 1}

    everywhere = differing(methods) & {BACKBONE, SHOTS}
    shown = {
        trainer: everywhere | differing({method for method in methods if method[0] == trainer})
        for trainer in {method[0] for method in methods}
    }

    def name(method: tuple) -> str:
        details = [
            f"{method[i]} shots" if i == SHOTS else str(method[i])
            for i in sorted(shown[method[0]])
            if method[i] not in ("", None)
        ]
        return f"{method[0]} ({', '.join(details)})" if details else method[0]

    return name
