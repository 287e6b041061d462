"""Unpack zip and tar files of unknown origin: nothing leaves the folder or fills the disk.

Members are written by hand, one by one. Names must stay inside, links, devices and pipes are
refused, and what is written is counted: a small file may not fill the disk.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from common.errors import UsageError, one_line

# Of images little is gained by packing: what unpacks to more than this is something else.
RATIO = 20
FLOOR = 64 << 20  # bytes that any archive may unpack to
MAX_MEMBERS = 5_000_000
MAX_READ = 64 << 20  # bytes in one go, as for a member's name
CHUNK = 1 << 20

LEAVES = "leaves the folder"
LINK = "is a link, a device or a pipe"


@dataclass
class Member:
    """A file or folder of an archive.

    Attributes:
        name: path with forward slashes, inside the folder; "" is the folder itself.
        is_dir: a folder.
        problem: why it must not be written, "" where nothing is wrong.
        open: returns its content.
    """

    name: str
    is_dir: bool
    problem: str
    open: Callable[[], IO[bytes]]


class Budget:
    """Counts what an archive unpacks to.

    Args:
        packed: the archive's own size in bytes.
    """

    def __init__(self, packed: int):
        self.limit = max(packed * RATIO, FLOOR)
        self.left = self.limit
        self.members = 0

    def take(self, count: int) -> None:
        """Take bytes.

        Raises:
            UsageError: it is more than images would be.
        """
        self.left -= count
        if self.left < 0:
            raise UsageError(f"it unpacks to more than {self.limit:,} bytes")

    def member(self) -> None:
        """Take one member.

        Raises:
            UsageError: there are too many.
        """
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise UsageError(f"it holds more than {MAX_MEMBERS:,} files")


def unpack(archive: Path, place: Callable[[str], Path | None]) -> int:
    """Write an archive's members, and return how many files were written.

    Args:
        archive: a zip or tar file, also a packed one.
        place: returns where a member goes by its name, None for members that are left out. The
            folder it goes to must be the caller's own: new, and written to by nobody else.

    Raises:
        UsageError: damaged, too large, or a member that must not be written; nothing outside the
            places was touched.
        OSError: it cannot be written here (a full disk).
    """
    with _reported(archive):
        budget = Budget(archive.stat().st_size)
        with open(archive, "rb") as file:
            return _write(_members(file, budget), place, budget)


def inner_archives(archive: Path) -> Iterator[tuple[str, IO[bytes], Budget]]:
    """Yield name and content of every file of an archive, for archives of archives.

    Raises:
        UsageError: as `unpack`.
    """
    with _reported(archive):
        budget = Budget(archive.stat().st_size)
        with open(archive, "rb") as file:
            for member in _members(file, budget):
                budget.member()
                if member.problem:
                    raise UsageError(f"its member {member.name!r:.120} {member.problem}")
                if not member.is_dir:
                    with member.open() as content:
                        yield member.name, content, budget


def unpack_inner(
    content: IO[bytes], name: str, place: Callable[[str], Path | None], budget: Budget
) -> int:
    """Write the members of a tar file inside another, as `unpack` does."""
    with _reported(name):
        return _write(_tar_members(content, budget), place, budget)


@contextlib.contextmanager
def _reported(archive: str | Path) -> Iterator[None]:
    """Turn whatever a damaged archive raises into one line that names it."""
    try:
        yield
    except Exception as error:
        # What the operating system refuses has a number, what an archive's reader does has none.
        is_ours = isinstance(error, OSError) and error.errno is not None
        if is_ours or (isinstance(error, UsageError) and str(error).startswith(str(archive))):
            raise
        raise UsageError(
            f"{archive}: cannot be unpacked ({one_line(error)}); remove it and run again"
        ) from error


def _write(members: Iterator[Member], place: Callable[[str], Path | None], budget: Budget) -> int:
    count = 0
    for member in members:
        budget.member()
        target = None if member.problem == LEAVES else place(member.name)
        # A link that nobody asked for is passed over.
        if member.problem and (target is not None or member.problem == LEAVES):
            raise UsageError(f"its member {member.name!r:.120} {member.problem}")
        if target is None:
            continue
        if member.is_dir:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(target, "xb")  # noqa: SIM115 (below)
        except FileExistsError:
            raise UsageError(f"its member {member.name!r:.120} is there twice") from None
        with file, member.open() as source:
            while chunk := source.read(CHUNK):
                budget.take(len(chunk))
                file.write(chunk)
        count += 1
    return count


def safe_name(name: str) -> tuple[str, str]:
    """Return a member's name in normal form, and what is wrong with it.

    >>> safe_name("./a//b.jpg"), safe_name("../b.jpg")[1]
    (('a/b.jpg', ''), 'leaves the folder')
    """
    path = name.replace("\\", "/")
    names = path.split("/")
    if "\0" in path or path.startswith("/") or ".." in names or (len(path) > 1 and path[1] == ":"):
        return path, LEAVES
    normal = posixpath.normpath(path) if path else ""
    return ("" if normal == "." else normal), ""


def _members(file: IO[bytes], budget: Budget) -> Iterator[Member]:
    start = file.read(6)
    file.seek(0)
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return _zip_members(file)
    for magic, opener in (
        (b"\x1f\x8b", gzip.open),
        (b"BZh", bz2.open),
        (b"\xfd7zXZ\0", lzma.open),
    ):
        if start.startswith(magic):
            return _tar_members(cast(IO[bytes], opener(file, "rb")), budget)
    return _tar_members(file, budget)


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name, problem = safe_name(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                problem = problem or LINK
            yield Member(
                name,
                info.is_dir(),
                problem,
                lambda info=info: archive.open(info),  # type: ignore
            )


def _tar_members(stream: IO[bytes], budget: Budget) -> Iterator[Member]:
    bounded = cast(IO[bytes], _Bounded(stream, budget.limit))
    with tarfile.open(fileobj=bounded, mode="r:") as archive:
        while (info := archive.next()) is not None:
            name, problem = safe_name(info.name)
            if not (info.isreg() or info.isdir()):
                problem = problem or LINK

            def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                file = archive.extractfile(info)
                if file is None:
                    raise UsageError(f"its member {info.name!r:.120} is no file")
                return file

            yield Member(name, info.isdir(), problem, content)
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps all it has seen
        # tarfile takes a damaged header, or that there is no more, for the end.
        bounded.seek(archive.offset)
        if bounded.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UsageError(f"damaged, or cut off, at byte {archive.offset:,}")


class _Bounded(io.RawIOBase):
    """A stream of which only so much can be read at once, and only so far.

    ``tarfile`` reads a name that claims to be gigabytes long in one go, and skips a member by
    reading on.
    """

    def __init__(self, stream: IO[bytes], limit: int):
        self.stream = stream
        self.limit = limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_READ:
            raise UsageError(f"a header of more than {MAX_READ:,} bytes")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > self.limit:
            raise UsageError(f"it unpacks to more than {self.limit:,} bytes")
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()
