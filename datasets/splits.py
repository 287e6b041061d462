"""Splits: lists of (path, label, class name), read from files, checked, or drawn.

A split is three lists (train, val, test) of entries ``(path, label, classname)``. Paths are
relative to the data set's image folder, with forward slashes: a split means the same everywhere.
"""

import hashlib
import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import UsageError
from common.reading import read_json

from .classnames import as_prompted

Entry = tuple[str, int, str]
Lists = tuple[list[Entry], list[Entry], list[Entry]]

SPLITS = ("train", "val", "test")
SUBSETS = ("all", "base", "new")  # of the classes
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2",
)  # fmt: skip

MAX_PATH = 1000  # letters
MAX_NAME = 300

# Splits drawn here never depend on a run's seed: every seed is tested on the same images.
SPLIT_SEED = 0


def is_confined(path: str) -> bool:
    """Whether a relative path stays inside the folder it is joined to, on any operating system."""
    if not path or len(path) > MAX_PATH or "\0" in path or re.match(r"[A-Za-z]:", path):
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half a character, which no file's name holds
        return False
    names = re.split(r"[\\/]", path)
    return names[0] != "" and ".." not in names


def name_problem(name: str) -> str:
    """Return why no prompt can say a class name, "" where one can."""
    if len(name) > MAX_NAME:
        return f"class name {name!r:.80} has {len(name):,} letters"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return f"class name {name!r:.80} holds a control character"
    if any(0xD800 <= ord(character) < 0xE000 for character in name):
        return f"class name {name!r:.80} is not UTF-8 text; rename it"
    if not as_prompted(name):
        return f"class name {name!r:.80} is empty in prompts; rename it"
    return ""


def check_entries(entries: Iterable, where: str) -> list[Entry]:
    """Entries of a data file as tuples, or a UsageError naming the first one that is not usable."""
    checked = []
    if not isinstance(entries, list):
        raise UsageError(f"{where}: expected a list of [path, label, class name]")
    for number, entry in enumerate(entries):
        here = f"{where}[{number}]"
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise UsageError(f"{here}: expected [path, label, class name], found {entry!r:.80}")
        path, label, classname = entry
        if not isinstance(path, str) or not is_confined(path):
            raise UsageError(
                f"{here}: path {path!r:.120} leaves the image folder; make it relative"
            )
        if not isinstance(label, int) or isinstance(label, bool) or label < 0:
            raise UsageError(
                f"{here}: label {label!r:.40} of {path} is not a whole number from 0 on"
            )
        if not isinstance(classname, str) or not classname.strip():
            raise UsageError(f"{here}: {path} has no class name")
        problem = name_problem(classname)
        if problem:
            raise UsageError(f"{here}: {problem}")
        checked.append((path, label, classname))
    return checked


def read_split(path: str | Path) -> Lists:
    """Read a ``split_zhou_*.json`` file: ``{"train", "val", "test"}`` of [path, label, class name].

    Raises:
        UsageError: not a readable JSON file, a list missing, or an unusable entry, also one that
            gives an image another label than an earlier one does (the first is named).
    """
    content = read_json(path)
    if not isinstance(content, dict) or any(split not in content for split in SPLITS):
        raise UsageError(f"{path}: a split file holds the lists train, val and test")
    train, val, test = (check_entries(content[split], f"{path}: {split}") for split in SPLITS)
    label_of: dict[str, int] = {}
    for image, label, _ in (*train, *val, *test):
        if label_of.setdefault(image, label) != label:
            raise UsageError(
                f"{path}: {image} has label {label} and, in another entry, {label_of[image]}"
            )
    return train, val, test


def check_labels(lists: Lists, where: str) -> list[str]:
    """Class names by label; labels are 0..n-1, each with one name and at least one training image.

    Raises:
        UsageError: naming the first label that breaks this.
    """
    names: dict[int, str] = {}
    first_path: dict[int, str] = {}
    for split, entries in zip(SPLITS, lists, strict=True):
        for path, label, classname in entries:
            if label not in names:
                if split != "train":
                    raise UsageError(
                        f"{where}: {path} ({split}) has label {label} ({classname}), "
                        "which no training image has"
                    )
                names[label] = classname
                first_path[label] = path
            elif names[label] != classname:
                raise UsageError(
                    f"{where}: label {label} is {names[label]!r} for {first_path[label]} "
                    f"but {classname!r} for {path}"
                )
    for expected, label in enumerate(sorted(names)):
        if label != expected:
            raise UsageError(
                f"{where}: labels run 0, 1, 2, ... without gaps, but {first_path[label]} has label "
                f"{label} and no training image has label {expected}"
            )
    return [names[label] for label in sorted(names)]


def check_split(lists: Lists, where: str) -> list[str]:
    """Check labels as `check_labels` does, and that no training image is a test image.

    A data set of test images alone has them as training images too, as one and the same list.

    Raises:
        UsageError: naming the first label or image that is wrong.
    """
    names = check_labels(lists, where)
    train, _, test = lists
    if train is not test:
        shared = shared_images(train, test)
        if shared:
            raise UsageError(
                f"{where}: {len(shared):,} test images are training images too, such as "
                f"{shared[0]}; list each in one of them"
            )
    return names


def notes_on(lists: Lists) -> list[str]:
    """Return lines on what is unusual in lists that are in order.

    Classes without test images, validation images that are training images, and images that are
    listed twice.
    """
    train, val, test = lists
    notes = []
    tested = {label for _, label, _ in test}
    untested = {label: name for _, label, name in train if label not in tested}
    if untested:
        some = ", ".join(f"{name:.80}" for name in list(untested.values())[:5])
        more = f" and {len(untested) - 5:,} more classes" if len(untested) > 5 else ""
        notes.append(f"no test images of {some}{more}")
    shared = [] if train is test else shared_images(train, val)
    if shared:
        notes.append(f"{len(shared):,} validation images train, too, such as {shared[0]}")
    for split, entries in zip(SPLITS, lists, strict=True):
        counts = Counter(path for path, _, _ in entries)
        if len(counts) < len(entries):
            (path, count), *_ = counts.most_common(1)
            notes.append(f"{split} lists {path} {count} times")
    return notes


def shared_images(some: list[Entry], others: list[Entry]) -> list[str]:
    """Return the paths of ``others`` that ``some`` has too, in their order."""
    known = {path for path, _, _ in some}
    return [path for path, _, _ in others if path in known]


def halve(lists: Sequence[list[Entry]], subset: str) -> list[list[Entry]]:
    """Keep the base (first) or new (second) half of the classes, relabelled from 0 in order.

    Halves go by label number over the labels of the first list; an odd one belongs to base
    (CoCoOp's protocol). ``all`` changes nothing.

    Raises:
        UsageError: unknown ``subset``.
    """
    if subset not in SUBSETS:
        raise UsageError(f"DATASET.SUBSAMPLE_CLASSES {subset!r}: choose from {', '.join(SUBSETS)}")
    if subset == "all":
        return list(lists)
    labels = sorted({label for _, label, _ in lists[0]})
    half = math.ceil(len(labels) / 2)
    chosen = labels[:half] if subset == "base" else labels[half:]
    new_label = {label: number for number, label in enumerate(chosen)}
    return [
        [(path, new_label[label], name) for path, label, name in entries if label in new_label]
        for entries in lists
    ]


def split_digest(lists: Iterable[list[Entry]]) -> str:
    """sha256 over paths, labels, names and their order: the same for files that say the same."""
    digest = hashlib.sha256()
    for entries in lists:
        for path, label, classname in entries:
            digest.update(f"{path}\t{label}\t{classname}\n".encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


def missing_images(image_dir: str, paths: Iterable[str]) -> list[str]:
    """Those of the relative ``paths`` that are not files under ``image_dir``, in their order.

    Lists each folder once instead of asking for every file, which is what makes it bearable on
    network disks.

    Raises:
        OSError: a folder that is there cannot be listed.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = _file_names(os.path.join(image_dir, folder))
        # A second look for file systems that compare names more loosely than we do.
        if name not in listings[folder] and not os.path.isfile(os.path.join(image_dir, path)):
            missing.append(path)
    return missing


def _file_names(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as found:
            return {item.name for item in found if item.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def list_folder(folder: str, *, folders: bool = False) -> list[str]:
    """Sorted visible names in ``folder``: image files, or sub-folders."""
    with os.scandir(folder) as found:
        return sorted(
            item.name
            for item in found
            if not item.name.startswith(".")
            and (
                item.is_dir()
                if folders
                else item.name.lower().endswith(IMAGE_SUFFIXES) and item.is_file()
            )
        )


def cut(items: list, train: float = 0.5, val: float = 0.2) -> tuple[list, list, list]:
    """Cut one class's (shuffled) items in three, as upstream: 50% train, 20% val, the rest test.

    With few items train and test get at least one each and val gives way. One cannot be cut.
    """
    n_train = max(1, min(round(len(items) * train), len(items) - 1))
    n_val = min(round(len(items) * val), len(items) - n_train - 1)
    return items[:n_train], items[n_train : n_train + n_val], items[n_train + n_val :]


def draw_split(
    classes: Iterable[tuple[str, list[str]]], where: str, train_per_class: int = 0
) -> Lists:
    """Draw a split class by class; the same split for the same files.

    Args:
        classes: (class name, relative paths) of every class; labels follow this order.
        where: what the error message begins with.
        train_per_class: so many images for training and all others for testing; 0: 50% train, 20%
            val, 30% test.

    Raises:
        UsageError: classes with too few images, each named.
    """
    rng = random.Random(SPLIT_SEED)
    lists: Lists = ([], [], [])
    needed = train_per_class + 1 if train_per_class else 2
    short = []
    for label, (classname, paths) in enumerate(classes):
        if len(paths) < needed:
            short.append(f"class {classname!r:.80} has {len(paths)} image(s)")
            continue
        paths = sorted(paths)
        rng.shuffle(paths)
        if train_per_class:
            chosen: tuple[list, ...] = (paths[:train_per_class], [], paths[train_per_class:])
        else:
            chosen = cut(paths)
        for entries, some in zip(lists, chosen, strict=True):
            entries.extend((path, label, classname) for path in some)
    if short:
        more = f" and {len(short) - 5:,} more classes too few" if len(short) > 5 else ""
        raise UsageError(
            f"{where}: {', '.join(short[:5])}{more}; a split takes {needed} or more of each"
        )
    return lists


def draw_val(trainval: list[Entry], share: float = 0.2) -> tuple[list[Entry], list[Entry]]:
    """Move ``share`` of every class (one at least, if it has two) from train to val."""
    rng = random.Random(SPLIT_SEED)
    by_label: dict[int, list[Entry]] = {}
    for entry in trainval:
        by_label.setdefault(entry[1], []).append(entry)
    train, val = [], []
    for entries in by_label.values():
        entries = sorted(entries)
        rng.shuffle(entries)
        n_val = min(max(1, round(len(entries) * share)), len(entries) - 1)
        val.extend(entries[:n_val])
        train.extend(entries[n_val:])
    return train, val


def split_of_folders(
    image_dir: str,
    renamed: Mapping[str, str] | None = None,
    ignored: Iterable[str] = (),
) -> Lists:
    """Draw a split of a folder-per-class tree; classes in sorted folder order."""
    renamed = renamed or {}
    classes = [
        (
            renamed.get(folder, folder),
            [f"{folder}/{name}" for name in list_folder(os.path.join(image_dir, folder))],
        )
        for folder in list_folder(image_dir, folders=True)
        if folder not in set(ignored)
    ]
    return draw_split(classes, str(image_dir))
