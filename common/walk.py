"""Files below a folder, through links, each once."""

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import UsageError, one_line


def files_below(
    folder: str | os.PathLike, is_left_out: Callable[[str], bool] = lambda name: False
) -> list[Path]:
    """Return what lies in a folder and below and is no folder, sorted.

    Links to folders are followed. A folder that several links lead to is looked at once: where it
    really is if that is below as well, else by the link furthest down. Links that lead nowhere are
    among the files.

    Args:
        is_left_out: names of files and folders to pass over.

    Raises:
        UsageError: a folder cannot be listed.
    """
    found: list[Path] = []
    seen: set[str] = set()
    waiting: list[Path] = [Path(folder)]
    linked: list[Path] = []
    while waiting or linked:
        if not waiting:  # links last, and of two to one folder that further down
            linked.sort(key=lambda path: (-len(path.parts), path))
            waiting.append(linked.pop(0))
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if is_left_out(entry.name):
                        continue
                    if not _is_folder(entry):
                        found.append(place / entry.name)
                    elif entry.is_symlink():
                        linked.append(place / entry.name)
                    else:
                        waiting.append(place / entry.name)
        except OSError as error:
            raise UsageError(one_line(error)) from None
    return sorted(found)


def folders_with(folder: str | os.PathLike, names: Iterable[str]) -> list[Path]:
    """Return the folders, ``folder`` itself or below, that have a file of one of some names.

    Args:
        names: may have ``*`` in them.

    Raises:
        UsageError: a folder cannot be listed.
    """
    wanted = re.compile("|".join(fnmatch.translate(name) for name in names))
    found = (path for path in files_below(folder) if wanted.match(path.name) and path.is_file())
    return sorted({path.parent for path in found})


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself leads nowhere
            return False
        raise
