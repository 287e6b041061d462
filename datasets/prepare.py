"""Get published data sets, and compare them with their published figures.

The table of addresses, checksums and figures is ``catalogue.json``. What is present is left alone;
nothing half unpacked takes a finished folder's name.
"""

import functools
import hashlib
import json
import os
import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.files import temporary_folder, write_json
from dassl.data.datasets import DATASET_REGISTRY
from datasets.archives import inner_archives, unpack, unpack_inner
from datasets.splits import (
    SPLITS,
    Lists,
    check_labels,
    missing_images,
    read_split,
    shared_images,
    split_digest,
)

CATALOGUE = Path(__file__).with_name("catalogue.json")
UNPACKING = ".unpacking-"  # hidden, so that no reader takes it for a class
GB = 10**9
GROUPS = ("classes", "categories")  # figures that count no images

Entry = dict[str, Any]  # a data set's in the catalogue
Item = dict[str, Any]  # one of its files


def read_catalogue() -> dict[str, Entry]:
    """Return {name: entry} of the catalogue."""
    return json.loads(CATALOGUE.read_text(encoding="utf-8"))["datasets"]


def targets(item: Item) -> list[str]:
    """Return what an item of a data set's ``files`` puts into its folder."""
    return [item["file"]] if "file" in item else list(item["gives"])


def missing_targets(item: Item, folder: Path) -> list[str]:
    """Return the targets that are not there; ``or`` names a sibling folder that may hold them."""
    places = [folder, *([folder.parent / item["or"]] if "or" in item else [])]
    return [
        target for target in targets(item) if not any((place / target).exists() for place in places)
    ]


def missing_items(entry: Entry, root: Path) -> list[Item]:
    """Return the items of a data set of which something is not there."""
    folder = root / entry["folder"]
    return [item for item in entry["files"] if missing_targets(item, folder)]


def gigabytes(items: list[Item]) -> float:
    """Return the size of the items' archives, as far as it is known."""
    return sum(item.get("gb", 0) for item in items)


def free_gigabytes(folder: Path) -> float:
    """Return the free space of the disk that a folder is on, or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / GB


def obtain(item: Item, folder: Path, say: Callable[[str], None]) -> None:
    """Download and unpack one item; archives that somebody put there are taken.

    Raises:
        UsageError: what to do where that does not work.
    """
    if "file" in item:
        path = folder / item["file"]
        download(item, path)
        if path.name.startswith("split_"):
            _check_split_file(path)
        return
    archive = folder / item["archive"]
    others = [folder / item["with"]] if "with" in item else []
    if "manual" in item and not all(path.is_file() for path in (archive, *others)):
        wanted = ", ".join(str(folder / target) for target in missing_targets(item, folder))
        raise UsageError(f"{wanted}: {item['manual']}")
    size = archive.stat().st_size / GB if archive.is_file() else 2 * item.get("gb", 0)
    if size > free_gigabytes(folder):
        raise UsageError(
            f"{folder}: {size:.1f} GB are needed for {item['archive']} and what it unpacks to, "
            f"{free_gigabytes(folder):.1f} GB are free"
        )
    if not (verify(archive, item) if "manual" in item else download(item, archive)):
        say(f"  no checksum of {archive.name} is public: what it holds is only counted")
    for path in others:
        verify(path, {"md5": item["with_md5"]})
    place(archive, item, folder)
    say(f"  unpacked; {archive} is no longer needed")


def _check_split_file(path: Path) -> None:
    """Refuse what is no split, such as a page that says that too many people asked for it."""
    try:
        read_split(path)
    except UsageError as error:
        raise UsageError(f"{error}; remove it and run again, or fetch it by hand") from None


def download(item: Item, path: Path) -> bool:
    """Fetch an item's file to ``path``; goes on with an interrupted download.

    Returns:
        whether it could be compared with a published checksum.

    Raises:
        UsageError: no connection, a refused download, or a file that is not the expected one.
    """
    import gdown

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        try:
            gdown.download(item["url"], output=str(path), resume=True)
        except Exception as error:  # whatever the connection or Google Drive come up with
            reason = " ".join(str(error).split())[:120]
            raise UsageError(f"{item['url']}: {reason}; fetch it by hand to {path}") from None
    if not path.is_file():
        raise UsageError(f"{item['url']}: nothing arrived; fetch it by hand to {path}")
    return verify(path, item)


def verify(path: Path, item: Item) -> bool:
    """Compare a file with its published checksum, and return whether there is one.

    Raises:
        UsageError: it is another file.
    """
    for name in ("sha256", "md5"):
        if name in item:
            digest = hashlib.new(name, usedforsecurity=False)
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != item[name]:
                raise UsageError(
                    f"{path}: not the published file ({name.upper()} differs); remove it and run "
                    "again"
                )
            return True
    return False


def place(archive: Path, item: Item, folder: Path) -> None:
    """Put members of an archive in their places in ``folder``, each in one step at the end.

    ``item["gives"]`` is {place in the folder: member}; ``inner.tar.gz!member`` is a member of an
    inner archive. ``item["unpack"]`` names another way, one of ``UNPACKERS``.

    Raises:
        UsageError: the archive is damaged, holds what may not be written, or lacks a member.
    """
    with temporary_folder(folder, UNPACKING) as work:
        if "unpack" in item:
            (target,) = item["gives"]
            made = {target: UNPACKERS[item["unpack"]](archive, item, work)}
        else:
            made = _members(archive, item["gives"], work)
        for target, source in made.items():
            if not source.exists():
                raise UsageError(
                    f"{archive}: has no {item['gives'][target]}; unpack it by hand to "
                    f"{folder / target}"
                )
            if not (folder / target).exists():
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, folder / target)


def _members(archive: Path, gives: dict[str, str], work: Path) -> dict[str, Path]:
    """Unpack wanted members, and return {target: where they are}."""
    outer = work / "outer"
    wanted = [member.split("!")[0] for member in gives.values()]
    unpack(archive, functools.partial(_wanted, outer, wanted))
    made = {}
    for target, path in gives.items():
        first, *inner = path.split("!")
        source = outer / first
        for depth, member in enumerate(inner):
            below = work / f"inner{depth}"
            if source.is_file():
                unpack(source, functools.partial(_wanted, below, [member]))
            source = below / member
        made[target] = source
    return made


def _wanted(folder: Path, wanted: list[str], name: str) -> Path | None:
    """Return where in ``folder`` a member goes that is wanted, or below one that is."""
    is_wanted = any(name == path or name.startswith(f"{path}/") for path in wanted)
    return folder / name if is_wanted else None


def _imagenet_train(archive: Path, item: Item, work: Path) -> Path:
    """Unpack ImageNet's training images: a tar file a class, in one tar file."""
    train = work / "train"
    for name, content, budget in inner_archives(archive):
        wnid = name.removesuffix(".tar")
        if not re.fullmatch(r"n\d{8}", wnid):
            raise UsageError(
                f"{archive}: its member {name!r:.120} is not one of ImageNet's classes"
            )
        unpack_inner(content, f"{archive}: {name}", (train / wnid).joinpath, budget)
    return train


def _imagenet_val(archive: Path, item: Item, work: Path) -> Path:
    """Unpack ImageNet's validation images, each to its class's folder, as the kit says."""
    wnid_of = _imagenet_labels(archive.with_name(item["with"]), work)
    val = work / "val"

    def put(name: str) -> Path | None:
        image = posixpath.basename(name)
        return val / wnid_of[image] / image if image in wnid_of else None

    found = unpack(archive, put)
    if found != len(wnid_of):
        raise UsageError(f"{archive}: {found:,} of ImageNet's {len(wnid_of):,} val images")
    return val


def _imagenet_labels(kit: Path, work: Path) -> dict[str, str]:
    """Return {validation image: class folder} of ImageNet's development kit."""
    from scipy.io import loadmat

    names = ("data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt")
    unpack(kit, lambda name: work / posixpath.basename(name) if name.endswith(names) else None)
    meta, truth = (work / posixpath.basename(name) for name in names)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        labels = [wnid_of[int(line)] for line in truth.read_text(encoding="ascii").split()]
    except Exception as error:  # whatever another file's content raises
        raise UsageError(f"{kit}: not ImageNet's development kit ({error})") from None
    if not all(re.fullmatch(r"n\d{8}", wnid) for wnid in labels):
        raise UsageError(f"{kit}: not ImageNet's development kit (its classes are none)")
    return {f"ILSVRC2012_val_{k:08d}.JPEG": wnid for k, wnid in enumerate(labels, start=1)}


UNPACKERS: dict[str, Callable[[Path, Item, Path], Path]] = {
    "imagenet_train": _imagenet_train,
    "imagenet_val": _imagenet_val,
}


def open_dataset(entry: Entry, root: Path) -> Any:
    """Return the data set's reader, placed on its folder.

    Raises:
        UsageError: there is no such folder.
    """
    import datasets  # noqa: F401 - registers

    return DATASET_REGISTRY.get(entry["name"]).reader(root)


def count(lists: Lists) -> dict[str, int]:
    """Return the figures of a split under the names of the catalogue."""
    train, val, test = lists
    labels = sorted({label for _, label, _ in train})
    base = set(labels[: (len(labels) + 1) // 2])
    test_base = sum(label in base for _, label, _ in test)
    return {
        "classes": len(labels),
        "train": len(train),
        "val": len(val),
        "test": len(test),
        "test_base": test_base,
        "test_new": len(test) - test_base,
    }


def check(entry: Entry, root: Path) -> tuple[dict[str, int], list[str]]:
    """Compare a data set on disk with the expected figures.

    Returns:
        its own figures (empty if it cannot be read), and a line for everything that is wrong.
    """
    try:
        dataset = open_dataset(entry, root)
        if dataset.task == "anomaly":
            figures, problems = dataset.examine(decode=False)
            return figures, [*_unexpected(figures, entry), *problems]
        lists = dataset.read_data()
        check_labels(lists, dataset.name)
    except (OSError, UsageError) as error:
        return {}, [str(error)]
    figures = count(lists)
    problems = _unexpected(figures, entry)
    for split, entries in zip(SPLITS, lists, strict=True):
        missing = missing_images(dataset.image_dir, (path for path, _, _ in entries))
        if missing:
            problems.append(
                f"{split}: {len(missing):,} of {len(entries):,} images not found under "
                f"{dataset.image_dir}, the first is {missing[0]}"
            )
    if "split_sha256" in entry and split_digest(lists) != entry["split_sha256"]:
        problems.append(f"{dataset.split_path} is not the published split")
    if not dataset.test_is_train:
        shared = shared_images(lists[0], lists[2])
        if shared:
            problems.append(f"{len(shared):,} test images are training images, such as {shared[0]}")
    return figures, problems


def _unexpected(figures: dict[str, int], entry: Entry) -> list[str]:
    """Return a line for each figure that is not the published one."""
    problems = []
    for name, expected in entry["figures"].items():
        if figures[name] != expected:
            kind = "reduced" if figures[name] < expected else "too many"
            unit = name if name in GROUPS else "images"
            problems.append(f"{name}: {figures[name]:,} {unit}, expected {expected:,} ({kind})")
    return problems


def make_split(entry: Entry, root: Path) -> str:
    """Draw a split from the data set's own files where the published one cannot be had.

    Returns:
        the path that it was written to.

    Raises:
        UsageError: there is one already, or the files that it is drawn from are not there.
    """
    dataset = open_dataset(entry, root)
    if dataset.split_path and os.path.exists(dataset.split_path):
        raise UsageError(f"{dataset.split_path} is there already; remove it to draw another")
    try:
        lists = dataset.draw_split()
    except (OSError, KeyError, IndexError, ImportError, ValueError) as error:
        raise UsageError(f"{entry['name']}: a split cannot be drawn: {error}") from None
    check_labels(lists, entry["name"])
    write_json(dict(zip(SPLITS, lists, strict=True)), dataset.split_path)
    return dataset.split_path
