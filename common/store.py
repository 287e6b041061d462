"""Bytes kept on disk by key, of bounded size: what was used longest ago goes first."""

import contextlib
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError
from common.files import atomic_write, remove_abandoned
from common.paths import user_cache

LIMIT = 2 * 2**30  # bytes, where none is set
_LIMIT_FILE = "limit"
_NAME = re.compile(r"[0-9a-f]{64}\.kept")
_DIGEST = hashlib.sha256().digest_size
_SPARE = 0.05  # share of the limit that is freed beyond what is needed, so not for every piece

logger = logging.getLogger(__name__)


def feature_store() -> "Store":
    """Return where frozen CLIP's image features are kept."""
    return Store(user_cache() / "features")


@dataclass(frozen=True)
class _Entry:
    used: int  # ns
    size: int
    path: Path


class Store:
    """Pieces of bytes in a folder, one file each, that may be removed at any time.

    Several processes may use one folder: files appear whole and are replaced whole, and what
    another process removed counts as not there. A file begins with a SHA-256 over its key and its
    content; one that does not match is removed and counts as not there.

    Nothing that this object has read or written is removed to make room for more: a pass over more
    than fits would throw out each piece before it is needed again. What does not fit is not kept.

    Args:
        folder: made when something is kept.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._size: int | None = None  # as far as known
        self._own: set[str] = set()

    @property
    def limit(self) -> int:
        """Bytes that may be kept; 0 keeps nothing.

        Raises:
            UsageError: the file that says so was edited and is no number.
        """
        try:
            text = (self.folder / _LIMIT_FILE).read_text(encoding="utf-8")
            return max(int(text), 0)
        except OSError:  # none is set
            return LIMIT
        except ValueError as error:
            raise UsageError(
                f"{self.folder / _LIMIT_FILE} says no number of bytes ({error}); remove it, or "
                "set the limit anew"
            ) from None

    def set_limit(self, limit: int) -> None:
        """Set the number of bytes that may be kept, for all processes, and remove what is over.

        Raises:
            UsageError: the folder cannot be written to.
        """
        try:
            with atomic_write(self.folder / _LIMIT_FILE) as file:
                file.write(f"{limit}\n")
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written to ({error.strerror})") from None
        self._make_room(0)

    def has(self, key: str) -> bool:
        """Return whether a piece is there, undamaged or not."""
        return os.path.isfile(self._path(key))  # False where the folder cannot be searched

    def get(self, key: str) -> bytes | None:
        """Return a piece; None where it is not there, or was damaged."""
        path = self._path(key)
        try:
            whole = path.read_bytes()
        except OSError:
            return None
        content = whole[_DIGEST:]
        if whole[:_DIGEST] != _digest(key, content):
            logger.info(f"{path} is damaged: made anew")
            self.discard(key)
            return None
        self._own.add(path.name)
        with contextlib.suppress(OSError):  # another's, or just removed
            os.utime(path)
        return content

    def put(self, key: str, content: bytes) -> bool:
        """Keep a piece, if there is room and the folder can be written to; return whether."""
        path = self._path(key)
        size = _DIGEST + len(content)
        try:
            if not self._make_room(size):
                return False
            with atomic_write(path, "wb") as file:
                file.write(_digest(key, content))
                file.write(content)
        except (OSError, UsageError) as error:
            logger.debug("%s is not kept: %s", path, error)
            return False
        self._own.add(path.name)
        return True

    def discard(self, key: str) -> None:
        """Remove a piece, if it is there."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def figures(self) -> tuple[int, int]:
        """Return how many pieces there are, and their bytes."""
        sizes = [entry.size for entry in self._entries()]
        return len(sizes), sum(sizes)

    def clear(self) -> int:
        """Remove all pieces and what killed processes left; return how many pieces that were.

        Raises:
            UsageError: some cannot be removed; the others are.
        """
        removed, kept = 0, None
        for entry in self._entries():
            try:
                entry.path.unlink()
                removed += 1
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as error:
                kept = error
        remove_abandoned(self.folder)
        self._size = None
        if kept is not None:
            raise UsageError(
                f"{self.folder}: {removed} pieces were removed, others cannot be ({kept.strerror})"
            )
        return removed

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.kept"

    def _entries(self) -> list[_Entry]:
        """Return what is there, the piece used longest ago first."""
        found = []
        try:
            for item in os.scandir(self.folder):
                if _NAME.fullmatch(item.name) and not item.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):  # removed since
                        stat = item.stat(follow_symlinks=False)
                        found.append(_Entry(stat.st_mtime_ns, stat.st_size, Path(item.path)))
        except OSError:
            return []
        return sorted(found, key=lambda entry: (entry.used, entry.path.name))

    def _make_room(self, size: int) -> bool:
        """Remove what was used longest ago until ``size`` more bytes fit; return whether they do.

        What other processes write meanwhile is counted at the next time that room is short.
        """
        limit = self.limit
        if self._size is None or self._size + size > limit:
            entries = self._entries()
            remove_abandoned(self.folder)
            self._size = sum(entry.size for entry in entries)
            goal = limit if self._size + size <= limit else int(limit * (1 - _SPARE))
            for entry in entries:
                if self._size + size <= goal:
                    break
                if entry.path.name not in self._own:
                    with contextlib.suppress(OSError):
                        entry.path.unlink()
                    self._size -= entry.size
        if self._size + size > limit:
            return False
        self._size += size
        return True


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()
