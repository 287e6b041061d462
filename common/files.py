"""Files that are there whole or not at all, also when several processes write them."""

import contextlib
import json
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import UsageError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears under ``path`` only once it is complete and on disk.

    The content goes to a file beside it (``<path>.<8 hex digits>.tmp``), which is flushed to disk
    and renamed. If the block raises, or the process dies, whatever was at ``path`` before is
    untouched. Of several processes that write at once the last to finish wins.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
    _sync_directory(folder or ".")


@contextlib.contextmanager
def temporary_folder(parent: str | os.PathLike, prefix: str) -> Iterator[Path]:
    """Make a folder ``<prefix><host>-<process>-...`` in ``parent`` and remove it at the end.

    Those that killed processes of this machine left behind are removed, too.
    """
    host = re.sub(r"\W", "_", platform.node()) or "host"
    for old in Path(parent).glob(f"{prefix}{host}-*"):
        process = old.name.removeprefix(f"{prefix}{host}-").partition("-")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{host}-{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Return whether there is a process of that number here; if in doubt, there is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


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


def read_json(fpath: str) -> Any:
    """Content of a JSON file.

    Raises:
        UsageError: the file is missing or is not JSON.
    """
    try:
        with open(fpath, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UsageError(f"no such file: {fpath}") from None
    except ValueError as error:
        raise UsageError(f"{fpath} is not valid JSON ({error}); replace it") from None


def write_json(obj: Any, fpath: str) -> None:
    """Write ``obj`` as indented JSON, atomically."""
    text = json.dumps(obj, indent=4, separators=(",", ": "))
    with atomic_write(fpath) as file:
        file.write(text)
