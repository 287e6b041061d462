"""The checkpoint files of a run: written, found again, no longer needed."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

from common.checkpoints import POINTER, checkpoint_name
from common.ranks import here
from dassl.utils import UsageError, load_checkpoint, save_checkpoint
from dassl.utils.torchtools import read_pointer

from .models import RegisteredModels

Found = dict[str, tuple[str, dict[str, Any]]]  # path and content by model name


def write(
    registered: RegisteredModels,
    directory: str,
    shared: dict[str, Any],
    is_best: bool = False,
    model_name: str = "",
    verbose: bool = True,
) -> None:
    """Write every model's checkpoint to ``directory/<name>/``.

    Args:
        registered: the models; each file has one's state and those of its optimiser and schedule.
        shared: the entries that all files have.
        is_best, model_name, verbose: as `dassl.utils.save_checkpoint`.
    """
    if not here().is_first:
        return
    for name in registered.names():
        optim, sched = registered.optims[name], registered.scheds[name]
        save_checkpoint(
            {
                "state_dict": registered.models[name].state_dict(),
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                **shared,
            },
            os.path.join(directory, name),
            is_best=is_best,
            model_name=model_name,
            verbose=verbose,
        )


def exist(directory: str, names: Sequence[str]) -> bool:
    """Return whether every model of a run has a checkpoint."""
    return all(os.path.isfile(os.path.join(directory, name, POINTER)) for name in names)


def has_epoch(directory: str, names: Sequence[str], num_epochs: int) -> bool:
    """Return whether every model has the checkpoint written after ``num_epochs`` epochs."""
    file = checkpoint_name(num_epochs)
    return all(os.path.isfile(os.path.join(directory, name, file)) for name in names)


def check_one_run(found: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Refuse models of different runs or epochs; files of upstream's code do not say theirs.

    Args:
        found: path and content of a checkpoint per model.

    Raises:
        UsageError: names two files and what differs.
    """
    said = [
        (path, {"epoch": content.get("epoch"), **content.get("meta", {})})
        for path, content in found
    ]
    for path, meta in said[1:]:
        first, known = said[0]
        for key in ("trainer", "dataset", "classnames", "seed", "epoch"):
            if key in known and key in meta and known[key] != meta[key]:
                raise UsageError(
                    f"{first} and {path} are of different trainings: their {key} differs; put the "
                    "files of one run back"
                )


def find_common(directory: str, names: Sequence[str]) -> Found | None:
    """Return the newest state that all models of a run have.

    A process killed while it wrote several models' files leaves some an epoch ahead. The older file
    of those is still there, because it is removed only after the last model's new one is in place.

    Args:
        directory: the run's folder.
        names: registered models; each has its folder in ``directory``.

    Returns:
        Path and content of a checkpoint per model, all of the same epoch; None if a model has none.

    Raises:
        UsageError: a file is damaged or missing, or was not written by this trainer; names it.
    """
    found = {}
    for name in names:
        path = read_pointer(os.path.join(directory, name))
        if path is None:
            return None
        found[name] = (path, load_for_resuming(path))
    epoch = min(checkpoint["epoch"] for _, checkpoint in found.values())
    for name, (_, checkpoint) in found.items():
        if checkpoint["epoch"] != epoch:
            path = os.path.join(directory, name, checkpoint_name(epoch))
            found[name] = (path, load_for_resuming(path))
    return found


def load_for_resuming(path: str) -> dict[str, Any]:
    """Return a checkpoint that training can continue from.

    Raises:
        UsageError: it cannot be read, or holds weights but not the state of a training.
    """
    checkpoint = load_checkpoint(path)
    wanted: dict[str, Any] = {
        "state_dict": dict,
        "epoch": int,
        "optimizer": (dict, type(None)),
        "scheduler": (dict, type(None)),
        "scaler": (dict, type(None)),
        "rng": dict,
        "meta": dict,
    }
    missing = [
        key
        for key, kinds in wanted.items()
        if key not in checkpoint or not isinstance(checkpoint[key], kinds)
    ]
    if missing:
        raise UsageError(
            f"{path} cannot be resumed from: it has no {', '.join(missing)}. If another program "
            "wrote it, test it with --eval-only --model-dir, or train in another OUTPUT_DIR"
        )
    return checkpoint


def model_path(directory: str, name: str, epoch: int | None) -> str:
    """Return the path of a model's checkpoint: of that epoch, or the best on validation.

    Raises:
        UsageError: there is no such file; says which there are.
    """
    folder = os.path.join(directory, name)
    path = os.path.join(folder, checkpoint_name(epoch))
    if os.path.isfile(path):
        return path
    there = sorted(f for f in _names_in(folder) if f.startswith("model"))
    hint = f"there are: {', '.join(there)} (--load-epoch N picks -N)" if there else "there are none"
    raise UsageError(f"no model at {path}; {hint}")


def remove(directory: str, names: Sequence[str], num_epochs: int) -> None:
    """Delete all models' checkpoints of an epoch; they may be gone already."""
    if not here().is_first:
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(directory, name, checkpoint_name(num_epochs)))


def _names_in(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
