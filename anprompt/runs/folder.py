"""A run's folder: which settings it was started with, whether it is finished, what it trained.

``config.yaml`` is written when a run has been built and starts, ``results.json`` when it is
finished. Reading them needs no torch, so that tables appear at once.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from common.errors import UsageError
from common.reading import read_json

CONFIG = "config.yaml"
RESULTS = "results.json"

# Settings that a run may be resumed under another value of: they say where things are and what is
# shown, not what is computed.
NEUTRAL = {
    "OUTPUT_DIR",
    "RESUME",
    "VERBOSE",
    "USE_CUDA",
    "DATASET.ROOT",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_IMAGES_MB",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
}


def flatten(node: dict, prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested mapping by their dotted names."""
    leaves = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def of_own_method(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings (dotted names) but for those of other methods, which earlier versions recorded.

    RUN.METHODS names the run's own nodes under TRAINER there; where it is missing, all are kept.
    """
    methods = settings.get("RUN.METHODS")
    if not methods:
        return settings
    return {
        key: value
        for key, value in settings.items()
        if key not in ("RUN.METHODS", "RUN.OTHER_METHODS")
        and (not key.startswith("TRAINER.") or key.split(".")[1] in ("NAME", *methods))
    }


def read_results(folder: str | Path) -> dict | None:
    """The results of a finished run, or None where there are none.

    Raises:
        UsageError: results.json is there but cannot be read.
    """
    path = Path(folder) / RESULTS
    try:
        results = read_json(path)
    except FileNotFoundError:
        return None
    except UsageError as error:
        raise UsageError(f"{error}; remove it and run again") from error
    return results if isinstance(results, dict) and results.get("finished") is True else None


def recorded_config(folder: str | Path) -> dict[str, Any] | None:
    """The settings a run was started with, as dotted keys, but for other methods'; None where
    nothing is recorded.
    """
    path = Path(folder) / CONFIG
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        results = read_results(folder)
        content = results.get("config") if results else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML; remove {Path(folder)} to start over") from error
    return of_own_method(flatten(content)) if isinstance(content, dict) else None


def record_config(cfg: CfgNode) -> None:
    """Write config.yaml into the run's folder, which belongs to these settings from here on."""
    from dassl.utils import atomic_write

    with atomic_write(str(Path(cfg.OUTPUT_DIR) / CONFIG)) as file:
        file.write(cfg.dump())


def check_same_settings(cfg: CfgNode) -> None:
    """Refuse a folder that holds a run with other settings.

    Keys that only one side knows are left out, so a newer version's new keys do no harm.

    Raises:
        ValueError: naming the first key that differs.
    """
    recorded = recorded_config(cfg.OUTPUT_DIR)
    if recorded is None:
        return
    current = _plain(of_own_method(flatten(cfg)))
    for key, value in _plain(recorded).items():
        if key in NEUTRAL or key not in current or current[key] == value:
            continue
        raise ValueError(
            f"{cfg.OUTPUT_DIR} holds a run with other settings: {key} is {value!r} there, "
            f"{current[key]!r} now. Choose another --output-dir, or remove that folder."
        )


def is_finished(cfg: CfgNode) -> bool:
    """Whether the run's folder holds the results that this configuration asks for.

    An evaluation is out of date once the checkpoint it read has been written anew.
    """
    if read_results(cfg.OUTPUT_DIR) is None:
        return False
    if not cfg.RUN.MODEL_DIR:
        return True
    written = (Path(cfg.OUTPUT_DIR) / RESULTS).stat().st_mtime
    checkpoints = model_dir(cfg).glob("*/model*.pth.tar*")
    return all(path.stat().st_mtime <= written for path in checkpoints)


def finished_accuracy(cfg: CfgNode) -> float | None:
    """Accuracy in % of the finished run that a configuration asks for; None where it is yet to run.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    check_same_settings(cfg)
    return read_results(cfg.OUTPUT_DIR)["accuracy"] if is_finished(cfg) else None


def epoch_to_load(model_dir: str, model_name: str, max_epoch: int) -> int | None:
    """Which checkpoint an evaluation without --load-epoch reads: None for model-best.pth.tar.

    The best model where training kept one (upstream's rule), else the last epoch of the training
    that was asked for; never that of a training which was cut short.

    Raises:
        ValueError: no such checkpoint; says which epochs there are.
    """
    folder = Path(model_dir) / model_name
    if (folder / "model-best.pth.tar").is_file():
        return None
    recorded = recorded_config(model_dir) or {}
    max_epoch = int(recorded.get("OPTIM.MAX_EPOCH", max_epoch))
    if (folder / f"model.pth.tar-{max_epoch}").is_file():
        return max_epoch
    epochs = sorted(
        int(match.group(1))
        for path in folder.glob("model.pth.tar-*")
        if (match := re.fullmatch(r"model\.pth\.tar-(\d+)", path.name))
    )
    if not epochs:
        raise ValueError(f"--model-dir {model_dir}: no checkpoint in {folder}; train there first")
    raise ValueError(
        f"--model-dir {model_dir}: training has {max_epoch} epochs but only "
        f"{', '.join(map(str, epochs))} is kept. Run the training command again to finish it, "
        f"or name one with --load-epoch."
    )


def model_dir(cfg: CfgNode) -> Path:
    """The folder of the training that a run evaluates; RUN.MODEL_DIR is relative to the run's."""
    return Path(os.path.normpath(os.path.join(cfg.OUTPUT_DIR, cfg.RUN.MODEL_DIR)))


def check_backbone(cfg: CfgNode) -> None:
    """Refuse to read a model into another backbone than it was trained with.

    Equal widths would let it load, and the figures would mean nothing.
    """
    recorded = recorded_config(model_dir(cfg)) or {}
    trained = recorded.get("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME)
    if trained != cfg.MODEL.BACKBONE.NAME:
        raise ValueError(
            f"--model-dir {model_dir(cfg)} was trained with backbone {trained!r}; "
            f"this run names {cfg.MODEL.BACKBONE.NAME!r}. Pass --backbone {trained}."
        )
    if recorded.get("RUN.WEIGHTS", cfg.RUN.WEIGHTS) != cfg.RUN.WEIGHTS:
        raise ValueError(
            f"--model-dir {model_dir(cfg)} was trained with other weights of backbone {trained!r} "
            "than are there now. Train anew, or put the old file back."
        )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As they look after a trip through a file: tuples are lists."""
    return json.loads(json.dumps(values, default=str))
