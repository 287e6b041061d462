"""Which trained models are measured, and on which classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from anprompt.robustness.models import trained_subset
from anprompt.runs.recorded import CONFIG, recorded_config
from anprompt.runs.trained import trainer_class, training_folder
from common.errors import UsageError
from common.walk import folders_with

SUBSETS = ("all", "base", "new")


def find_trained(paths: Sequence[Path]) -> list[Path]:
    """Return folders of runs: the given ones, or those below the given ones.

    Raises:
        UsageError: a path holds no run.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"--model-dir {path}: no such folder")
        if (path / CONFIG).is_file():
            found = [path]
        else:
            found = [folder for folder in folders_with(path, [CONFIG]) if _is_model(folder)]
        if not found:
            raise UsageError(f"--model-dir {path}: no trained model there or below (no {CONFIG})")
        folders |= dict.fromkeys(found)
    return list(folders)


def is_classifier(cfg: CfgNode) -> bool:
    """Return whether a run is of classification, which is what noise is measured on."""
    return trainer_class(cfg).task == "classification"


def _is_model(folder: Path) -> bool:
    """Return whether a folder holds a model, and not the evaluation of another folder's."""
    recorded = recorded_config(folder) or {}
    if not recorded.get("TRAINER.NAME"):
        return False
    # A method that learns nothing has evaluations only; that of base classes stands for it.
    evaluates = recorded.get("RUN.MODEL_DIR") or recorded.get("DATASET.SUBSAMPLE_CLASSES") == "new"
    return not (recorded.get("RUN.EVAL_ONLY") and evaluates)


def subsets_to_measure(cfgs: dict[Path, CfgNode], asked: str) -> tuple[str, ...]:
    """Return the subsets of the classes, the same for all runs.

    Args:
        asked: "base,new"; empty: base and new for models trained on base, else what they were
            trained on.

    Raises:
        UsageError: unknown subsets, or runs that do not have the same classes.
    """
    _refuse_different(cfgs, lambda cfg: cfg.DATASET.NAME)
    if asked:
        subsets = tuple(dict.fromkeys(asked.replace(",", " ").split()))
        if not subsets or set(subsets) - set(SUBSETS):
            raise UsageError(f"--classes {asked!r}: choose from {', '.join(SUBSETS)}")
        return subsets

    def own_subsets(cfg: CfgNode) -> tuple[str, ...]:
        trained_on = trained_subset(training_folder(cfg), cfg)
        return ("base", "new") if trained_on == "base" else (trained_on,)

    _refuse_different(cfgs, own_subsets, hint="Say which with --classes, or give like runs")
    return own_subsets(next(iter(cfgs.values())))


def _refuse_different(
    cfgs: dict[Path, CfgNode],
    classes: Callable[[CfgNode], Any],
    hint: str = "Give one data set's runs at a time",
) -> None:
    (first, known), *others = [(folder, classes(cfg)) for folder, cfg in cfgs.items()]
    for folder, found in others:
        if found != known:
            a, b = (v if isinstance(v, str) else "+".join(v) for v in (known, found))
            raise UsageError(
                f"these runs have different class sets and cannot be compared: {first} has {a}, "
                f"{folder} has {b}. {hint}"
            )
