"""Data sets that draw themselves: drawn once, in one step, whoever asks first."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from common.errors import UsageError
from common.files import temporary_folder

MARKER = "drawing_version.txt"


def draw_once(
    root: str | os.PathLike, folder: str, name: str, version: int, draw: Callable[[Path], None]
) -> Path:
    """Draw a data set to ``root/folder`` unless it is there; return that folder.

    Everything is written to a folder beside it and renamed at the end, so that a killed run leaves
    nothing half done and two runs at once do not disturb each other.

    Args:
        name: what messages call the data set.
        version: of the drawing; one of another version is drawn anew.
        draw: given an empty folder, draws everything into it.

    Raises:
        UsageError: the folder cannot be written, or holds something else.
    """
    target = Path(root) / folder
    stamp = f"{version}\n"
    marker = target / MARKER

    def is_drawn() -> bool:
        return marker.is_file() and marker.read_text(encoding="utf-8") == stamp

    if is_drawn():
        return target
    if target.exists() and not marker.is_file():
        raise UsageError(
            f"{name}: {target} is not this data set; move it, or name another data folder"
        )
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with temporary_folder(root, f".{folder}-") as work:
            temporary = work / folder
            temporary.mkdir()
            draw(temporary)
            (temporary / MARKER).write_text(stamp, encoding="utf-8")
            if target.is_dir() and not is_drawn():  # an older drawing
                with contextlib.suppress(FileNotFoundError):  # somebody else moved it
                    os.replace(target, work / "old")
            os.rename(temporary, target)
    except OSError as error:
        # Somebody else may have finished first; theirs is the same.
        if not is_drawn():
            raise UsageError(
                f"{name}: cannot be drawn to {target} ({error.strerror}); name a folder that can "
                "be written to"
            ) from error
    return target
