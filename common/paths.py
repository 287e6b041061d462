"""Where things are: the repository, what can be made again, an image within its data set."""

import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def user_cache() -> Path:
    """Return the user's folder for what can be made again: $ANPROMPT_CACHE or ~/.cache/anprompt."""
    return Path(os.environ.get("ANPROMPT_CACHE") or "~/.cache/anprompt").expanduser()


def image_key(path: str, dataset: Any, root: str) -> str:
    """Return an image's path below the folder that holds the data set, with forward slashes.

    Noise is seeded by it, and kept answers name their images so.
    """
    folder = getattr(dataset, "dataset_dir", "")
    base = os.path.dirname(folder) if folder and os.path.isabs(folder) else os.path.abspath(root)
    return Path(os.path.relpath(path, base)).as_posix()
