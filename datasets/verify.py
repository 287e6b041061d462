"""Look into the image files of one's own before a run does: do they decode, are there copies.

What decoded is remembered in the user's cache folder, so that the next run looks only at files that
are new or changed.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.errors import UsageError
from common.files import write_json
from common.images import read_image
from common.reading import read_json
from datasets.fewshot import user_cache
from datasets.splits import Entry

FORMAT = 1
# Digests of data have the contents of all files where that is cheap.
CONTENT_FILES = 5_000
CONTENT_BYTES = 32 << 20
SAMPLE = 4096  # bytes at the start, in the middle and at the end that tell most files apart
SHOWN_FROM = 200  # images from which on progress is shown


class Files:
    """The files of some images: sizes, and contents as far as that is cheap.

    A file that is not there, or is no regular file, has size -1 and no content: whoever reads it
    says so.

    Args:
        image_dir: folder that the paths are relative to.
        paths: with forward slashes.
    """

    def __init__(self, image_dir: str, paths: Iterable[str]):
        self.image_dir = image_dir
        found = {path: _size_and_time(os.path.join(image_dir, path)) for path in paths}
        self.sizes = {path: size for path, (size, _) in found.items()}
        self._times = {path: time for path, (_, time) in found.items()}
        self.contents: dict[str, str] = {}
        if len(self.sizes) <= CONTENT_FILES and sum(self.sizes.values()) <= CONTENT_BYTES:
            regular = [path for path, size in self.sizes.items() if size >= 0]
            self.contents = {path: self._content(path) for path in regular}

    def _content(self, path: str) -> str:
        """Return a digest of a file's content."""
        if path in self.contents:
            return self.contents[path]
        digest = hashlib.sha256()
        with open(os.path.join(self.image_dir, path), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def _sample(self, path: str) -> bytes:
        """Return the beginning, middle and end of a file; equal files have equal ones."""
        size = self.sizes[path]
        parts = []
        with open(os.path.join(self.image_dir, path), "rb") as file:
            for start in (0, size // 2, max(0, size - SAMPLE)):
                file.seek(start)
                parts.append(file.read(SAMPLE))
        return hashlib.sha256(b"".join(parts)).digest()

    def digest(self) -> str:
        """Return sha256 over the files in order."""
        whole = hashlib.sha256()
        for path, size in self.sizes.items():
            whole.update(f"{size} {self.contents.get(path, '')}\n".encode())
        return whole.hexdigest()

    def key(self, path: str) -> str:
        """Return what tells a file from another under its name: its content, or size and time."""
        return f"{self.sizes[path]} {self.contents.get(path, '')[:32] or self._times[path]}"

    def groups(self) -> list[list[str]]:
        """Return the groups of files of one content.

        Only files that agree in size and in parts are read as a whole.
        """
        groups = [[path for path, size in self.sizes.items() if size > 0]]
        marks: tuple[Callable[[str], object], ...]
        marks = (self.sizes.__getitem__, self._sample, self._content)
        for mark in marks:
            groups = [alike for group in groups for alike in _alike(group, mark)]
        return groups


def _alike(paths: list[str], mark: Callable[[str], object]) -> list[list[str]]:
    """Return the groups, of two or more, of paths with equal marks."""
    found: dict[object, list[str]] = {}
    for path in paths:
        found.setdefault(mark(path), []).append(path)
    return [group for group in found.values() if len(group) > 1]


def _size_and_time(place: str) -> tuple[int, int]:
    try:
        status = os.stat(place)
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (-1, 0)
    except (OSError, ValueError):
        return -1, 0


def undecodable(files: Files, reading: str, anew: bool = False) -> list[str]:
    """Return a line for each image that does not decode; what decodes is remembered.

    Args:
        anew: decode those that are remembered as well.
    """
    memory = _memory_of(files.image_dir)
    known = _recall(memory, reading)
    waiting = [path for path in files.sizes if anew or known.get(path) != files.key(path)]
    if not waiting:
        return []
    problems = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        outcomes = pool.map(lambda path: _problem(files.image_dir, path, reading), waiting)
        for path, problem in zip(waiting, _with_progress(outcomes, len(waiting)), strict=True):
            if problem:
                problems.append(problem)
            else:
                known[path] = files.key(path)
    with contextlib.suppress(OSError):  # it saves time, nothing depends on it
        write_json({"format": FORMAT, "reading": reading, "files": known}, str(memory))
    return problems


def _problem(image_dir: str, path: str, reading: str) -> str:
    try:
        read_image(os.path.join(image_dir, path), reading)
    except UsageError as error:
        return str(error)
    return ""


def _with_progress(outcomes: Iterable[str], count: int) -> Iterable[str]:
    if count < SHOWN_FROM:
        return outcomes
    from tqdm import tqdm

    return tqdm(outcomes, total=count, desc="checking images", unit="image", disable=None)


def _memory_of(image_dir: str) -> Path:
    tag = hashlib.sha256(os.fsencode(image_dir)).hexdigest()[:16]
    return user_cache() / "decoded" / f"{tag}.json"


def _recall(memory: Path, reading: str) -> dict[str, str]:
    with contextlib.suppress(UsageError, KeyError, TypeError, ValueError):
        content = read_json(memory)
        if content["format"] == FORMAT and content["reading"] == reading:
            return dict(content["files"])
    return {}


NO_LABEL = -1  # of an image that is read without one


def copies(files: Files, train: Sequence[Entry], test: Sequence[Entry]) -> list[str]:
    """Return lines on images that are there twice by content, in both lists or in two classes.

    Images under one path in both lists are not meant.
    """
    label_of = {path: label for path, label, _ in (*train, *test)}
    trained, tested = ({path for path, _, _ in entries} for entries in (train, test))
    leaks, doubles = [], []
    for group in files.groups():
        known = [path for path in group if path in label_of]
        source = next((path for path in known if path in trained), None)
        if source:
            leaks += [(path, source) for path in known if path in tested and path not in trained]
        labels = {label_of[path]: path for path in known if label_of[path] != NO_LABEL}
        if len(labels) > 1:
            doubles.append(tuple(labels.values())[:2])
    lines = []
    if leaks:
        lines.append(
            f"{len(leaks):,} test images are copies of training images, such as {leaks[0][0]} of "
            f"{leaks[0][1]}: figures on them say little"
        )
    if doubles:
        lines.append(
            f"{len(doubles):,} image(s) are in two classes (same content), such as {doubles[0][0]} "
            f"and {doubles[0][1]}"
        )
    return lines
