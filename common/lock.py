"""Folder locks: one process at a time, on one machine or on several that share a disk."""

import errno
import os
import platform
from pathlib import Path
from typing import IO

from .claim import Claim
from .errors import UsageError

LOCK = ".lock"
CLAIM = ".host"  # ends the name of a lock's claim
_HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FolderLock:
    """An advisory lock on a folder, by two files in it.

    Among processes of a machine the operating system's lock counts, which it releases when the
    process ends, however it ends; worker processes do not inherit it. Its file stays: removing it
    would let two processes lock different files of that name. It says who holds the folder.

    Among machines that share a disk a claim counts (`common.claim`), since locks may not reach from
    one to another.

    Args:
        folder: what is locked.
        name: the file's; locks of other names do not exclude each other.
    """

    def __init__(self, folder: str | os.PathLike, name: str = LOCK):
        self.path = Path(folder) / name
        self.is_exclusive = False  # True once nobody else can hold it
        self._file: IO[str] | None = None
        self._claim = Claim(self.path.with_name(name + CLAIM))

    def acquire(self, create: bool = True) -> None:
        """Take the lock, if this object does not hold it already.

        Args:
            create: create the folder and the file. Otherwise nothing is created, and a folder
                without the file counts as free and stays unlocked.

        Raises:
            UsageError: another process holds it, or the file cannot be written.
        """
        if self._file is not None:
            return
        if not create and not self.path.is_file():
            return
        try:
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 (open while it is held)
        except OSError as error:
            raise UsageError(
                f"{self.path.parent} cannot be written to ({error.strerror}); name another folder"
            ) from None
        has_lock = True
        try:
            _lock(file.fileno())
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                file.seek(0)
                holder = " ".join(file.read(200).split())
                file.close()
                raise UsageError(
                    f"{self.path.parent} is in use by another process"
                    f"{f' ({holder})' if holder else ''}; wait for it, or name another folder"
                ) from None
            if error.errno not in _NOT_SUPPORTED:
                file.close()
                raise
            has_lock = False
        try:
            self._claim.take(has_lock=has_lock)
        except BaseException:
            file.close()
            raise
        self.is_exclusive = True
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back; does nothing where it is not held."""
        if self._file is not None:
            self._claim.give_back()
            self._file.close()
            self._file, self.is_exclusive = None, False

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


try:
    import fcntl

    def _lock(descriptor: int) -> None:
        # A record lock, not flock: a forked worker that outlives a killed run does not keep it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(descriptor: int) -> None:
        # A byte far behind the text, which others may still read.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
