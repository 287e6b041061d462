"""Look into the image files of one's own before a run does: do they decode, are there copies.

What decoded is remembered in the user's cache folder, so that the next run looks only at files that
are new or changed.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.errors import UsageError
from common.files import write_json
from common.images import read_image
from common.reading import read_json
from datasets.fewshot import user_cache
from datasets.splits import Entry

FORMAT = 1
# Contents of all files are compared where that is cheap, else of those that are of one size.
CONTENT_FILES = 5_000
CONTENT_BYTES = 32 << 20
COPY_BYTES = 256 << 20
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
        self.sizes = {path: _size(os.path.join(image_dir, path)) for path in paths}
        self.contents: dict[str, str] = {}
        if len(self.sizes) <= CONTENT_FILES and sum(self.sizes.values()) <= CONTENT_BYTES:
            self._read(self.sizes)

    def _read(self, paths: Iterable[str]) -> None:
        for path in paths:
            if self.sizes[path] >= 0 and path not in self.contents:
                with open(os.path.join(self.image_dir, path), "rb") as file:
                    self.contents[path] = hashlib.sha256(file.read()).hexdigest()

    def digest(self) -> str:
        """Return sha256 over the files in order."""
        whole = hashlib.sha256()
        for path, size in self.sizes.items():
            whole.update(f"{size} {self.contents.get(path, '')}\n".encode())
        return whole.hexdigest()

    def key(self, path: str) -> str:
        """Return what tells a file from another under its name."""
        return f"{self.sizes[path]} {self.contents.get(path, '')[:32]}"

    def groups(self) -> list[list[str]]:
        """Return the groups of files of one content, as far as that is cheap to say."""
        by_size: dict[int, list[str]] = {}
        for path, size in self.sizes.items():
            by_size.setdefault(size, []).append(path)
        alike = {size: paths for size, paths in by_size.items() if len(paths) > 1 and size > 0}
        if sum(size * len(paths) for size, paths in alike.items()) <= COPY_BYTES:
            for paths in alike.values():
                self._read(paths)
        by_content: dict[str, list[str]] = {}
        for paths in alike.values():
            for path in paths:
                if path in self.contents:
                    by_content.setdefault(self.contents[path], []).append(path)
        return [paths for paths in by_content.values() if len(paths) > 1]


def _size(place: str) -> int:
    try:
        return os.stat(place).st_size if os.path.isfile(place) else -1
    except OSError:
        return -1


def undecodable(files: Files, reading: str) -> list[str]:
    """Return a line for each image that does not decode; what decodes is remembered."""
    memory = _memory_of(files.image_dir)
    known = _recall(memory, reading)
    waiting = [path for path in files.sizes if known.get(path) != files.key(path)]
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
        labels = {label_of[path]: path for path in known}
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
