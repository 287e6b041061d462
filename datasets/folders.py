"""Read a folder of one's own images: which files belong to which class and split, what is left.

Nothing is left out in silence: what keeps the images from being used is a problem, what is passed
over is a note, each one line.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.errors import one_line
from datasets.splits import IMAGE_SUFFIXES, SPLITS

# (path, class key); a class key is a folder name or a table's label, a class name is what prompts
# say.
Item = tuple[str, str]

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Written by operating systems and tools, and no loss.
JUNK = ("thumbs.db", "desktop.ini", "__macosx", "icon\r", "$recycle.bin", "@eadir", "ehthumbs.db")
UNREADABLE = (".heic", ".heif")  # photographs of telephones
SHOWN = 3
NAMED = 20  # class names in a line


@dataclass
class Found:
    """What was found: items by split, "" where there is none.

    Attributes:
        splits: items in the order in which they were found.
        problems: why the images cannot be used as they are.
        notes: what was passed over or assumed.
    """

    splits: dict[str, list[Item]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split_of(name: str) -> str:
    """Return the split that a folder's or a table's word means, "" for none.

    >>> split_of("Training"), split_of("test_set"), split_of("valid"), split_of("trainers")
    ('train', 'test', 'val', '')
    """
    word = re.sub(r"[\W_]+", "", name.casefold())
    word = re.sub(r"(set|data|split|images?|imgs)$", "", word) or word
    return next((split for split, names in SPLIT_NAMES.items() if word in names), "")


def is_junk(name: str) -> bool:
    """Return whether a name is hidden or an operating system's."""
    return name.startswith(".") or name.casefold() in JUNK


def is_image(name: str) -> bool:
    """Return whether a file's name has an image's suffix."""
    return name.lower().endswith(IMAGE_SUFFIXES)


@dataclass
class Listing:
    """The files below a folder: images in order, and the others."""

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_tree(image_dir: str) -> Found:
    """Read a folder of class folders, or of train, val and test with class folders in them.

    Names of splits are taken without regard to case, also training, testing, valid and validation.
    Where they stand beside other folders with images it is not clear what was meant, and that is
    a problem, as are a class folder without images and one that cannot be listed.
    """
    found = Found()
    others: list[str] = []
    try:
        folders, files, odd = _names(image_dir)
        splits = _splits(image_dir, folders, found)
        if splits:
            loose = [name for name in files if is_image(name)]
            others += odd + [name for name in files if not is_image(name)]
            if loose:
                found.notes.append(
                    f"{counted(loose, 'image')} in {image_dir} itself: in no split, left out"
                )
        if not found.problems:
            for split, folder in (splits or {"": ""}).items():
                found.splits[split] = _classes(image_dir, folder, others, found)
    except OSError as error:
        found.problems.append(one_line(error))
    found.notes += note_on_others(others)
    return found


def note_on_others(others: list[str]) -> list[str]:
    """Return a line on files that are no images by their names, if there are any."""
    if not others:
        return []
    return [
        f"{counted(others, 'file')} left out, no images by their names: {suffixes(others)}, such "
        f"as {others[0]}"
    ]


def _splits(image_dir: str, folders: list[str], found: Found) -> dict[str, str]:
    """Return {split: folder}, empty where the folders are classes; says what is unclear."""
    role = {folder: split_of(folder) for folder in folders}
    if not any(role.values()):
        return {}
    splits: dict[str, str] = {}
    for folder, split in role.items():
        if not split:
            listing = list_tree(image_dir, folder)
            if not listing.images and not listing.problems:
                found.notes.append(f"{folder}: no image in it, left out")
                continue
            found.problems.append(
                f"{image_dir} has {next(f for f in role if role[f])} beside {folder}; it should "
                "hold train, val and test, or one folder a class (a class that is called so can "
                "be listed in a table, DATASET.CSV)"
            )
        elif split in splits:
            found.problems.append(
                f"{image_dir}: {splits[split]} and {folder} both mean {split}; keep one"
            )
        else:
            splits[split] = folder
    splits = {split: splits[split] for split in SPLITS if split in splits}
    if "train" not in splits:
        found.problems.append(
            f"{image_dir} has {' and '.join(splits.values())} but no folder train; add it, or name "
            "the folder that holds the class folders"
        )
    return splits


def _classes(image_dir: str, split: str, others: list[str], found: Found) -> list[Item]:
    """Return the items of class folders; what else is there goes to ``others`` and ``found``."""
    where = os.path.join(image_dir, split) if split else image_dir
    folders, files, odd = _names(where)
    loose = [name for name in files if is_image(name)]
    others += odd + [name for name in files if not is_image(name)]
    listings = {
        folder: list_tree(image_dir, f"{split}/{folder}" if split else folder) for folder in folders
    }
    items: list[Item] = []
    for folder, listing in listings.items():
        found.problems.extend(listing.problems)
        others.extend(listing.others)
        items.extend((path, folder) for path in listing.images)
        if not listing.images and not listing.problems:
            there = f" ({suffixes(listing.others)})" if listing.others else ""
            found.problems.append(
                f"class folder {os.path.join(where, folder)} holds no image{there}; fill or remove "
                "it"
            )
    if not folders and loose:
        found.problems.append(
            f"{where} has no class folders: {counted(loose, 'image')} in it directly; make a "
            "folder a class, or list them in a table (DATASET.CSV)"
        )
    elif not folders:
        there = f" but {suffixes(others)}" if others else ""
        found.problems.append(
            f"no images under {where}{there}; names that count end in {', '.join(IMAGE_SUFFIXES)}"
        )
    elif loose:
        found.notes.append(
            f"{counted(loose, 'image')} in {where} itself: in no class folder, left out"
        )
    inner = sorted({path.split("/")[1] for path, _ in items if path.count("/") > 1})
    if not split and len(folders) == 1 and inner:
        found.problems.append(
            f"{where} holds one folder, {folders[0]}, and that {', '.join(inner[:SHOWN])}; name "
            f"{os.path.join(where, folders[0])} if these are the classes"
        )
    if alike := _alike(listings, prefix=f"{split}/" if split else ""):
        found.notes.append(
            f"{shown(folders)} in {where} were taken for classes, but hold the same folders "
            f"({shown(alike)}): if those are the classes, call the ones above train, val and test"
        )
    return items


def _alike(listings: dict[str, Listing], prefix: str) -> list[str]:
    """Return the names, two or more, of the folders that hold all images of each class folder."""
    common: set[str] | None = None
    for folder, listing in listings.items():
        start = len(f"{prefix}{folder}/")
        inner = {path[start:].partition("/")[::2] for path in listing.images}
        names = {name if rest else "" for name, rest in inner}
        common = names if common is None or names == common else set()
    return sorted(common or ()) if len(listings) > 1 and len(common or ()) > 1 else []


def shown(names: list[str]) -> str:
    """Return names for a line: the first of them, and how many more."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(f"{name:.80}" for name in names[:NAMED]) + more


def _names(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Return the sorted names of folders, files, and what is neither; without junk.

    Raises:
        OSError: it cannot be listed.
    """
    folders: list[str] = []
    files: list[str] = []
    odd: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            kind = folders if entry.is_dir() else files if entry.is_file() else odd
            kind.append(entry.name)
    return sorted(folders), sorted(files), sorted(odd)


def list_tree(image_dir: str, folder: str) -> Listing:
    """Return the files in ``folder`` ("" for ``image_dir``) and below, by paths relative to
    ``image_dir``.

    A folder's own files come before those of its folders. Links to folders are followed, but not
    back into a folder that they stand in.
    """
    listing = Listing()
    waiting: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
    while waiting:
        path, above = waiting.pop()
        place = os.path.join(image_dir, path)
        real = os.path.realpath(place)
        if real in above:
            listing.problems.append(f"{place}: a link back to {real}; remove it")
            continue
        try:
            folders, files, odd = _names(place)
        except OSError as error:
            listing.problems.append(one_line(error))
            continue
        start = f"{path}/" if path else ""
        for name in files:
            (listing.images if is_image(name) else listing.others).append(f"{start}{name}")
        listing.others.extend(f"{start}{name}" for name in odd)
        waiting.extend((f"{start}{name}", (*above, real)) for name in reversed(folders))
    return listing


def suffixes(names: Iterable[str]) -> str:
    """Return how many files of which suffix, the most frequent first, and what can be done."""
    counts = Counter(os.path.splitext(name)[1].lower() or "without a suffix" for name in names)
    words = [f"{count:,} {suffix}" for suffix, count in counts.most_common(6)]
    if len(counts) > 6:
        words.append(f"{len(counts) - 6} other kinds")
    text = ", ".join(words)
    if any(suffix in UNREADABLE for suffix in counts):
        text += " (HEIC photographs are not read: save them as JPEG)"
    elif any(suffix in IMAGE_SUFFIXES for suffix in counts):
        text += " (broken links or no regular files)"
    return text


def counted(items: list, noun: str) -> str:
    """Return how many there are of something, in words."""
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"
