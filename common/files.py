"""Files that are there whole or not at all, also when several processes write them."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
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
