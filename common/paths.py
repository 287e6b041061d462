"""Where things are: the repository, what can be made again, an image within its data set."""

import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def user_cache() -> Path:
    """Return the user's folder for what can be made again: $ANPROMPT_CACHE or ~/.cache/anprompt."""
    return Path(os.environ.get("ANPROMPT_CACHE") or "~/.cache/anprompt").expanduser()


def seen_from(path: str | os.PathLike[str], start: str | os.PathLike[str]) -> str:
    """Return a path relative to ``start``; the whole path on another drive, as Windows has them.

    Joined to ``start`` again, either gives the path.
    """
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return os.path.abspath(path)


def image_key(path: str, dataset: Any, root: str) -> str:
    """Return an image's path below the folder that holds the data set, with forward slashes.

    Noise is seeded by it, and kept answers name their images so.
    """
    folder = getattr(dataset, "dataset_dir", "")
    base = os.path.dirname(folder) if folder and os.path.isabs(folder) else os.path.abspath(root)
    return Path(seen_from(path, base)).as_posix()
