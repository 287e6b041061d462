"""Atomic file writes, the remains of processes that died while writing, and digests of files."""

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# Ends the name of whatever a process writes before it is complete; says who that process is.
TEMPORARY = ".tmp"
_OWNER = re.compile(r"\.([0-9a-f]{6})-(\d+)-[0-9a-f]{6}\.tmp$")
_OWNER_UNKNOWN = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # as earlier versions named them


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears under ``path`` only once it is complete and on disk.

    The content goes to a file beside it (see `temporary_name`), which is flushed to disk and
    renamed. If the block raises, or the process dies, whatever was at ``path`` before is untouched.
    Of several processes that write at once the last to finish wins.

    Raises:
        OSError: with the file's name, also where the disk is full.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    temporary = temporary_name(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            error.filename, error.filename2 = path, None
        raise
    _sync_directory(folder or ".")


def temporary_name(path: str | os.PathLike) -> str:
    """Return a new name beside ``path`` for a file or folder that is not complete yet.

    It names the process that writes it, so that `remove_abandoned` can tell when nobody does.
    """
    return f"{os.fspath(path)}.{_host()}-{os.getpid()}-{secrets.token_hex(3)}{TEMPORARY}"


@contextlib.contextmanager
def temporary_folder(parent: str | os.PathLike, prefix: str) -> Iterator[Path]:
    """Make a folder in ``parent`` whose name begins with ``prefix``, and remove it at the end.

    Those that killed processes of this machine left behind are removed, too.
    """
    remove_abandoned(parent, prefix)
    folder = Path(temporary_name(os.path.join(parent, prefix)))
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: str | os.PathLike, prefix: str = "", *, is_held: bool = False) -> int:
    """Remove files and folders directly in ``folder`` that processes left incomplete and died.

    Those of processes that live, or that ran on another machine, stay.

    Args:
        prefix: what their names begin with.
        is_held: the caller holds the folder's lock, so nobody else writes there: also what names
            no owner goes, and what was left on another machine.

    Returns:
        How many were removed.
    """
    removed = 0
    try:
        entries = list(os.scandir(os.fspath(folder)))
    except OSError:
        return 0
    for entry in entries:
        if not (entry.name.startswith(prefix) and _is_abandoned(entry.name, is_held)):
            continue
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.remove(entry.path)
            removed += 1
    return removed


def _is_abandoned(name: str, is_held: bool) -> bool:
    owner = _OWNER.search(name)
    if owner is None:
        return is_held and _OWNER_UNKNOWN.search(name) is not None
    host, process = owner[1], int(owner[2])
    if host != _host():
        return is_held
    return process != os.getpid() and not _lives(process)


def _lives(process: int) -> bool:
    """Return whether a process of this machine runs; True where that cannot be told."""
    if os.name != "posix" or process >= 2**31:
        return os.name != "posix"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def file_digest(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, its first 16 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(Path(path), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _sync_directory(dirname: str) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    try:
        descriptor = os.open(dirname, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse; the rename itself is done
        pass
    finally:
        os.close(descriptor)


def write_json(obj: Any, fpath: str) -> None:
    """Write ``obj`` as indented JSON, atomically.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot say.
    """
    text = json.dumps(obj, indent=4, separators=(",", ": "), allow_nan=False)
    with atomic_write(fpath) as file:
        file.write(text)
