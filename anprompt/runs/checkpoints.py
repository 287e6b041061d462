"""The checkpoints of a training: which are there, and which one an evaluation reads."""

import os
from pathlib import Path

from yacs.config import CfgNode

from common.checkpoints import BEST, POINTER, checkpoint_epoch, checkpoint_name
from common.errors import UsageError
from common.reading import read_text

from .recorded import recorded_config


def checkpoint_files(cfg: CfgNode, models: list[str]) -> list[str]:
    """Return the files that an evaluation reads, as paths within the training's folder.

    Args:
        models: names of the trainer's models.

    Raises:
        UsageError: there is no such checkpoint, or training was not finished.
    """
    folder = str(model_dir(cfg))
    files = []
    for model in models:
        epoch: int | None = cfg.RUN.LOAD_EPOCH
        if epoch == -1:
            epoch = epoch_to_load(folder, model, cfg.OPTIM.MAX_EPOCH)
        name = f"{model}/{checkpoint_name(epoch)}"
        if not (Path(folder) / name).is_file():
            raise UsageError(
                f"--model-dir {folder}: no checkpoint {name}; {_listed(folder, model)}"
            )
        files.append(name)
    return files


def _listed(folder: str, model: str) -> str:
    names = sorted(path.name for path in (Path(folder) / model).glob("model*.pth.tar*"))
    return f"there are {', '.join(names)}" if names else "train there first"


def epoch_to_load(model_dir: str, model_name: str, max_epoch: int) -> int | None:
    """Return which checkpoint an evaluation without --load-epoch reads: None for the best.

    The best model where training kept one (upstream's rule), else the last epoch of the training
    that was asked for; never that of a training which was cut short.

    Raises:
        UsageError: no such checkpoint; says which epochs there are.
    """
    folder = Path(model_dir) / model_name
    recorded = recorded_config(model_dir)
    if recorded is not None:
        asked_for = recorded.get("OPTIM.MAX_EPOCH", max_epoch)
        max_epoch = asked_for if isinstance(asked_for, int) else max_epoch
    has_last = (folder / checkpoint_name(max_epoch)).is_file()
    if (folder / BEST).is_file() and (has_last or recorded is None):
        return None
    if has_last:
        return max_epoch
    epochs = sorted(
        epoch
        for path in folder.glob(checkpoint_name("*"))
        if (epoch := checkpoint_epoch(path.name)) is not None
    )
    if not epochs and not (folder / BEST).is_file():
        raise UsageError(f"--model-dir {model_dir}: no checkpoint in {folder}; train there first")
    kept = ", ".join([*map(str, epochs), *(["the best"] if (folder / BEST).is_file() else [])])
    pointer, last = folder / POINTER, checkpoint_name(max_epoch)
    if pointer.is_file() and read_text(pointer).strip() == last:
        raise UsageError(
            f"{folder / last} is gone; put it back, name another one with "
            f"--load-epoch (there: {kept}), or remove {model_dir} and train again"
        )
    raise UsageError(
        f"--model-dir {model_dir}: training has {max_epoch} epochs but only {kept} is kept. Run "
        "the training command again to finish it, or name one with --load-epoch."
    )


def model_dir(cfg: CfgNode) -> Path:
    """Return the folder of the training that a run evaluates."""
    return Path(os.path.normpath(os.path.join(cfg.OUTPUT_DIR, cfg.RUN.MODEL_DIR)))


def epochs_behind(folder: str) -> int:
    """Return after how many epochs a training's newest checkpoint was written; 0 if unknown."""
    pointers = Path(folder).glob(f"*/{POINTER}")
    named = [checkpoint_epoch(read_text(pointer, limit=4096).strip()) for pointer in pointers]
    return max([epoch for epoch in named if epoch is not None], default=0)
