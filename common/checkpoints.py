"""What the files of a model's folder are called."""

import re

POINTER = "checkpoint"  # names the newest of the others
BEST = "model-best.pth.tar"


def checkpoint_name(epoch: int | str | None) -> str:
    """Return what a checkpoint's file is called; None: that of the best model.

    >>> checkpoint_name(50)
    'model.pth.tar-50'
    """
    return BEST if epoch is None else f"model.pth.tar-{epoch}"


def checkpoint_epoch(name: str) -> int | None:
    """Return which epoch's checkpoint a file of this name is; None for another file.

    >>> checkpoint_epoch("model.pth.tar-50"), checkpoint_epoch("model-best.pth.tar")
    (50, None)
    """
    match = re.fullmatch(r"model\.pth\.tar-(\d{1,9})", name)
    return int(match[1]) if match else None
