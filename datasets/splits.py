"""Splits: lists of (path, label, class name), read from files, checked, or drawn.

A split is three lists (train, val, test) of entries ``(path, label, classname)``. Paths are
relative to the data set's image folder, with forward slashes: a split means the same everywhere.
"""

import hashlib
import json
import os
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.errors import UsageError

Entry = tuple[str, int, str]
Split = tuple[list[Entry], list[Entry], list[Entry]]

PARTS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")

# Splits drawn here never depend on a run's seed: every seed is tested on the same images.
SPLIT_SEED = 0


def is_confined(path: str) -> bool:
    """Whether a relative path stays inside the folder it is joined to, on any operating system."""
    if not path or "\0" in path or re.match(r"[A-Za-z]:", path):
        return False
    parts = re.split(r"[\\/]", path)
    return parts[0] != "" and ".." not in parts


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
        checked.append((path, label, classname))
    return checked


def read_split(path: str | os.PathLike) -> Split:
    """Read a ``split_zhou_*.json`` file: ``{"train", "val", "test"}`` of [path, label, class name].

    Raises:
        UsageError: not JSON, a part missing, or an unusable entry, also one that gives an image
            another label than an earlier one does (the first is named).
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a JSON file ({error}); fetch it again") from None
    if not isinstance(content, dict) or any(part not in content for part in PARTS):
        raise UsageError(f"{path}: a split file holds the lists train, val and test")
    train, val, test = (check_entries(content[part], f"{path}: {part}") for part in PARTS)
    label_of: dict[str, int] = {}
    for image, label, _ in (*train, *val, *test):
        if label_of.setdefault(image, label) != label:
            raise UsageError(
                f"{path}: {image} has label {label} and, in another entry, {label_of[image]}"
            )
    return train, val, test


def check_labels(split: Split, where: str) -> list[str]:
    """Class names by label; labels are 0..n-1, each with one name and at least one training image.

    Raises:
        UsageError: naming the first label that breaks this.
    """
    names: dict[int, str] = {}
    first_path: dict[int, str] = {}
    for part, entries in zip(PARTS, split, strict=True):
        for path, label, classname in entries:
            if label not in names:
                if part != "train":
                    raise UsageError(
                        f"{where}: {path} ({part}) has label {label} ({classname}), "
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


def split_digest(lists: Iterable[list[Entry]]) -> str:
    """sha256 over paths, labels, names and their order: the same for files that say the same."""
    digest = hashlib.sha256()
    for entries in lists:
        for path, label, classname in entries:
            digest.update(f"{path}\t{label}\t{classname}\n".encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()


def missing_images(image_dir: str | os.PathLike, paths: Iterable[str]) -> list[str]:
    """Those of the relative ``paths`` that are not under ``image_dir``, in their order.

    Lists each folder once instead of asking for every file, which is what makes it bearable on
    network disks.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(os.path.join(image_dir, folder)))
            except OSError:
                listings[folder] = set()
        # A second look for file systems that compare names more loosely than we do.
        if name not in listings[folder] and not os.path.isfile(os.path.join(image_dir, path)):
            missing.append(path)
    return missing


def list_folder(folder: str | os.PathLike, *, folders: bool = False) -> list[str]:
    """Sorted visible names in ``folder``: image files, or sub-folders."""
    with os.scandir(folder) as found:
        return sorted(
            item.name
            for item in found
            if not item.name.startswith(".")
            and (item.is_dir() if folders else item.name.lower().endswith(IMAGE_SUFFIXES))
        )


def cut(items: list, train: float = 0.5, val: float = 0.2) -> tuple[list, list, list]:
    """Cut one class's (shuffled) items in three, as upstream: 50% train, 20% val, the rest test.

    With few items train and test get at least one each and val gives way. One cannot be cut.
    """
    n_train = max(1, min(round(len(items) * train), len(items) - 1))
    n_val = min(round(len(items) * val), len(items) - n_train - 1)
    return items[:n_train], items[n_train : n_train + n_val], items[n_train + n_val :]


def draw_split(classes: Iterable[tuple[str, list[str]]], where: str) -> Split:
    """Draw a 50/20/30 split class by class; the same split for the same files.

    Args:
        classes: (class name, relative paths) of every class; labels follow this order.
        where: what the error message begins with.
    """
    rng = random.Random(SPLIT_SEED)
    split: Split = ([], [], [])
    for label, (classname, paths) in enumerate(classes):
        if len(paths) < 2:
            raise UsageError(
                f"{where}: class {classname!r} has {len(paths)} image(s); a split takes two or more"
            )
        paths = sorted(paths)
        rng.shuffle(paths)
        for part, chosen in zip(split, cut(paths), strict=True):
            part.extend((path, label, classname) for path in chosen)
    return split


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
    image_dir: str | os.PathLike,
    renamed: Mapping[str, str] | None = None,
    ignored: Iterable[str] = (),
) -> Split:
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
