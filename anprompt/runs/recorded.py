"""What a run's folder says of it: ``config.yaml`` from its start, ``results.json`` at its end."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from common.errors import UsageError
from common.files import atomic_write
from common.reading import MissingFile, read_json, read_yaml
from common.schema import COUNT, PERCENT, Each, mismatch

from .identity import check_identity

CONFIG = "config.yaml"
RESULTS = "results.json"

_METRICS = {
    "accuracy": PERCENT,
    "error?": PERCENT,
    "macro_f1?": PERCENT,
    "num_test?": COUNT,
    "per_class?": Each(PERCENT),
}
_ROUNDED = 1e-3  # percentage points that figures of one file may differ by
_ABOUT = {"config?": dict, "classnames?": [str]}
_RESULTS = {**_METRICS, "rules?": Each(_METRICS), **_ABOUT}

# Of anomaly detection; what is said of pixels needs masks.
ANOMALY = "anomaly"
ANOMALY_METRICS = {
    "image_auroc": PERCENT,
    "image_ap": PERCENT,
    "pixel_auroc?": PERCENT,
    "pixel_ap?": PERCENT,
    "pixel_f1_max?": PERCENT,
    "aupro?": PERCENT,
}
_ANOMALY_RESULTS = {
    **ANOMALY_METRICS,
    "rules?": Each(ANOMALY_METRICS),
    "num_test?": COUNT,
    "per_defect?": Each(PERCENT),
    **_ABOUT,
}


def flatten(node: dict, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by their dotted names."""
    leaves = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


# What settings of a later version stood at before there were any, by the node they are in.
_BEFORE = {"TRAINER.CLIPLORA": {"STEPS_PER_SHOT": 0, "CTX_INIT": ""}}


ALL_IMAGES = -1  # DATASET.NUM_SHOTS of a training on all images; any setting below 1 means it


def known_shots(setting: int) -> int:
    """Return the number of shots that a setting of them means: one number for all images."""
    return setting if setting > 0 else ALL_IMAGES


def settings_in(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a configuration by dotted name, as this version has them.

    What may be written in several ways is written in one.
    """
    settings = of_own_method(flatten(config))
    if isinstance(shots := settings.get("DATASET.NUM_SHOTS"), int):
        settings["DATASET.NUM_SHOTS"] = known_shots(shots)
    for node, before in _BEFORE.items():
        if any(key.startswith(f"{node}.") for key in settings):
            settings = {f"{node}.{key}": value for key, value in before.items()} | settings
    return settings


def of_no_effect(first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how settings begin that may differ: those of training, where neither run trained."""
    is_untrained = all(
        settings.get("RUN.EVAL_ONLY") is True and settings.get("RUN.MODEL_DIR") == ""
        for settings in (first, other)
    )
    return ("OPTIM.", "DATALOADER.TRAIN_X.") if is_untrained else ()


def training_of(folder: Path, settings: Mapping[str, Any]) -> Path | None:
    """Return the folder of the training that a run's settings name; None where it trained itself.

    It is named as seen from the run's folder, so that a tree of runs can be moved.
    """
    model_dir = settings.get("RUN.MODEL_DIR")
    if not isinstance(model_dir, str) or not model_dir:
        return None
    return Path(os.path.normpath(folder / model_dir))


def of_own_method(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings (dotted names) without those of other methods.

    Earlier versions recorded these; RUN.METHODS names the run's own nodes under TRAINER there.
    """
    methods = settings.get("RUN.METHODS")
    if not isinstance(methods, list) or not methods:
        return settings
    return {
        key: value
        for key, value in settings.items()
        if key not in ("RUN.METHODS", "RUN.OTHER_METHODS")
        and (not key.startswith("TRAINER.") or key.split(".")[1] in ("NAME", *methods))
    }


def read_results(folder: str | Path) -> dict | None:
    """Return the results of a finished run, or None where there are none.

    Raises:
        UsageError: results.json is there but cannot be read, or holds what no test gives.
    """
    path = Path(folder) / RESULTS
    try:
        results = read_json(path)
    except MissingFile:
        return None
    except UsageError as error:
        raise UsageError(f"{error}; remove it and run again") from error
    if isinstance(results, dict) and results.get("finished") is not True:
        return None
    problem = mismatch(results, _ANOMALY_RESULTS if is_anomaly(results) else _RESULTS)
    problem = problem or contradiction(results)
    if problem:
        raise UsageError(f"{path}: not the results of a run ({problem}); remove it and run again")
    if results.get("identity") is not None:
        check_identity(results["identity"], path)
    return results


def contradiction(results: Mapping[str, Any]) -> str:
    """Return in what figures of one file contradict each other, as after an edit; else ""."""
    if is_anomaly(results):
        return ""
    rules = results.get("rules") or {}
    accuracy, own = results.get("accuracy"), rules.get(str(results.get("headline_rule")))
    for figures in (results, *rules.values()):
        if "error" in figures and abs(figures["accuracy"] + figures["error"] - 100) > _ROUNDED:
            return f"accuracy {figures['accuracy']} and error {figures['error']} are not 100"
    if own and "accuracy" in own and abs(own["accuracy"] - accuracy) > _ROUNDED:
        return f"accuracy {accuracy} is not that of its rule, {own['accuracy']}"
    return ""


def is_anomaly(results: Any) -> bool:
    """Return whether results are those of anomaly detection."""
    return isinstance(results, dict) and results.get("task") == ANOMALY


def headline(results: dict) -> tuple[str, float]:
    """Return what a run's result is called, and it, in percent."""
    if is_anomaly(results):
        return "image AUROC", results["image_auroc"]
    return "accuracy", results["accuracy"]


def recorded_config(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings a run was started with, as dotted keys; None where there are none.

    Raises:
        UsageError: config.yaml cannot be read.
    """
    try:
        results = read_results(folder)
    except UsageError:  # said where the results themselves are asked for
        results = None
    return settings_of(folder, results)


def settings_of(folder: str | Path, results: dict | None) -> dict[str, Any] | None:
    """Do as `recorded_config`, with the run's results read already."""
    if Path(folder).is_file():
        raise UsageError(f"{folder}: a file; a run has a folder")
    content = results.get("config") if results else None
    try:
        # Results repeat what config.yaml said before them, and are read ten times as fast.
        if content is None:
            content = read_yaml(Path(folder) / CONFIG)
    except MissingFile:
        pass
    except UsageError as error:
        mend = "" if isinstance(error.__cause__, OSError) else f"; remove {folder} to start over"
        raise UsageError(f"{error}{mend}") from error
    return settings_in(content) if isinstance(content, dict) else None


def record_config(cfg: CfgNode) -> None:
    """Write config.yaml into the run's folder, which belongs to these settings from here on."""
    with atomic_write(Path(cfg.OUTPUT_DIR) / CONFIG) as file:
        file.write(cfg.dump())
