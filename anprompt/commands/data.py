"""Put data sets where the readers expect them, and check that they are complete.

    python -m anprompt data eurosat --root DATA         say what is there, get the rest
    python -m anprompt data all --root DATA --check     check only; get nothing
    python -m anprompt data all --root DATA --dry-run   say what would be done

Names are those of configs/datasets. What is present is left alone, a download that broke off goes
on where it stopped, and nothing half unpacked takes a finished folder's name. --check compares
class and image counts, base and new halves and the split itself with the published ones.
The table of addresses and figures is datasets/catalogue.json; the layouts are in docs/DATASETS.md.

Exit status: 0 complete, 2 something is missing or differs (each named).
"""

import argparse
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from common.cli import CommandParser
from common.paths import ROOT

CATALOGUE = ROOT / "datasets" / "catalogue.json"
NOTHING_TO_PREPARE = {
    "shapes": "Shapes draws its images on first use",
    "imagefolder": "ImageFolder reads your own images, see docs/DATASETS.md",
}
UNPACKING = ".unpacking"  # hidden, so that no reader takes it for a class


def read_catalogue() -> dict[str, dict]:
    """{name: entry} of datasets/catalogue.json."""
    return json.loads(CATALOGUE.read_text(encoding="utf-8"))["datasets"]


def targets(item: dict) -> list[str]:
    """What an item of a data set's ``files`` puts into its folder."""
    return [item["file"]] if "file" in item else list(item["gives"])


def missing_targets(item: dict, folder: Path) -> list[str]:
    """Those targets that are not there; ``or`` names a sibling folder that may hold them too."""
    places = [folder, *([folder.parent / item["or"]] if "or" in item else [])]
    return [
        target for target in targets(item) if not any((place / target).exists() for place in places)
    ]


def download(url: str, path: Path, md5: str | None = None) -> None:
    """Fetch ``url`` to ``path``; goes on with an interrupted download, verifies the MD5 sum.

    Raises:
        UsageError: no connection, a refused download, or a file that is not the expected one.
    """
    import gdown

    import common.torchvision_compat  # noqa: F401
    from dassl.utils import UsageError

    # isort: split
    from torchvision.datasets.utils import check_integrity

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        try:
            gdown.download(url, output=str(path), resume=True)
        except Exception as error:  # whatever the connection or Google Drive come up with
            reason = " ".join(str(error).split())[:120]
            raise UsageError(f"{url}: {reason}; fetch it by hand to {path}") from None
    if not path.is_file():
        raise UsageError(f"{url}: nothing arrived; fetch it by hand to {path}")
    if md5 and not check_integrity(str(path), md5):
        raise UsageError(f"{path}: not the published file (MD5 differs); remove it and run again")


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file. No member can leave ``folder``: it is refused or kept inside."""
    from dassl.utils import UsageError

    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
            return
        if not hasattr(tarfile, "data_filter"):
            raise UsageError(
                "this Python cannot unpack tar files safely; update it (3.10.12 or later)"
            )
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(
            f"{archive}: cannot be unpacked ({error}); remove it and run again"
        ) from None


def unpack(archive: Path, gives: dict[str, str], folder: Path) -> None:
    """Put members of an archive in their places in ``folder``, each in one step at the end.

    Args:
        archive: zip or tar file.
        gives: {place in folder: member}; ``inner.tar.gz!member`` is a member of an inner archive.
        folder: the data set's folder.

    Raises:
        UsageError: the archive is damaged, or has no such member.
    """
    from dassl.utils import UsageError

    work = folder / UNPACKING
    shutil.rmtree(work, ignore_errors=True)
    try:
        outer = work / "outer"
        extract(archive, outer)
        for place, member in gives.items():
            source = outer
            *inner_archives, member = member.split("!")
            for depth, inner in enumerate(inner_archives):
                unpacked = work / f"inner{depth}"
                if not unpacked.exists():
                    extract(source / inner, unpacked)
                source = unpacked
            if not (source / member).exists():
                raise UsageError(
                    f"{archive}: has no {member}; unpack it by hand to {folder / place}"
                )
            if not (folder / place).exists():
                os.replace(source / member, folder / place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def obtain(item: dict, folder: Path) -> None:
    """Download and unpack one item. Raises UsageError with what to do where that does not work."""
    from dassl.utils import UsageError

    if "manual" in item:
        wanted = ", ".join(str(folder / target) for target in missing_targets(item, folder))
        raise UsageError(f"{wanted}: {item['manual']}")
    if "file" in item:
        download(item["url"], folder / item["file"], item.get("md5"))
        return
    archive = folder / item["archive"]
    download(item["url"], archive, item.get("md5"))
    unpack(archive, item["gives"], folder)
    print(f"  unpacked; {archive} is no longer needed")


def prepare(key: str, entry: dict, root: Path, dry_run: bool = False) -> list[str]:
    """Say what is there and get what is missing; returns what could not be had."""
    folder = root / entry["folder"]
    print(f"{key}: {folder}")
    problems = []
    for item in entry["files"]:
        missing = missing_targets(item, folder)
        for target in targets(item):
            if target not in missing:
                print(f"  present  {target}")
        if not missing:
            continue
        print(f"  missing  {', '.join(missing)}: {item.get('url') or item['manual']}")
        if dry_run:
            problems.append(f"{', '.join(missing)} missing")
            continue
        try:
            obtain(item, folder)
        except (OSError, ValueError) as error:  # UsageError is a ValueError
            problems.append(str(error))
    return problems


def open_dataset(entry: dict, root: Path):
    """The data set's reader, placed on its folder."""
    import datasets  # noqa: F401 - registers
    from dassl.data.datasets import DATASET_REGISTRY

    return DATASET_REGISTRY.get(entry["name"]).reader(root)


def count(split: tuple) -> dict[str, int]:
    """The figures of a split under the names of the catalogue."""
    train, val, test = split
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


def check(entry: dict, root: Path) -> tuple[dict[str, int], list[str]]:
    """Compare a data set on disk with the expected figures.

    Returns:
        its own figures (empty if it cannot be read), and a line for everything that is wrong.
    """
    from datasets.splits import PARTS, check_labels, missing_images, split_digest

    try:
        dataset = open_dataset(entry, root)
        split = dataset.read_data()
        check_labels(split, dataset.name)
    except (OSError, ValueError) as error:
        return {}, [str(error)]
    problems = []
    figures = count(split)
    for name, expected in entry["figures"].items():
        if figures[name] != expected:
            kind = "reduced" if figures[name] < expected else "too many"
            unit = "classes" if name == "classes" else "images"
            problems.append(f"{name}: {figures[name]:,} {unit}, expected {expected:,} ({kind})")
    for part, entries in zip(PARTS, split, strict=True):
        missing = missing_images(dataset.image_dir, (path for path, _, _ in entries))
        if missing:
            problems.append(
                f"{part}: {len(missing):,} of {len(entries):,} images not found under "
                f"{dataset.image_dir}, the first is {missing[0]}"
            )
    if "split_sha256" in entry and split_digest(split) != entry["split_sha256"]:
        problems.append(f"{dataset.split_path} is not the published split")
    if entry["figures"]["train"] and split[0] is not split[2]:
        seen = {path for path, _, _ in split[0]}
        shared = [path for path, _, _ in split[2] if path in seen]
        if shared:
            problems.append(f"{len(shared):,} test images are training images, such as {shared[0]}")
    return figures, problems


def make_split(entry: dict, root: Path) -> None:
    """Draw a split from the data set's own files where the published one cannot be had."""
    from dassl.utils import UsageError, write_json
    from datasets.splits import PARTS, check_labels

    dataset = open_dataset(entry, root)
    if dataset.split_path and os.path.exists(dataset.split_path):
        raise UsageError(f"{dataset.split_path} is there already; remove it to draw another")
    try:
        split = dataset.draw_split()
    except (OSError, KeyError, IndexError, ImportError) as error:
        raise UsageError(f"{entry['name']}: a split cannot be drawn: {error}") from None
    check_labels(split, entry["name"])
    write_json(dict(zip(PARTS, split, strict=True)), dataset.split_path)
    print(f"{dataset.split_path}: drawn here; figures do not compare with published ones")


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(read_catalogue())
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or any of: {names}")
    parser.add_argument(
        "--root", default=os.environ.get("DATA"), help="folder that holds the data sets ($DATA)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only compare with expected figures")
    what.add_argument("--dry-run", action="store_true", help="only say what would be done")
    what.add_argument(
        "--make-split",
        action="store_true",
        help="draw a split (50/20/30%% a class, or a fifth of training for validation) where the "
        "published file cannot be had",
    )
    return parser


def choose(names: list[str], catalogue: dict[str, dict]) -> list[str]:
    """Catalogue names for what was asked; registered names (EuroSAT) will do as well."""
    from dassl.utils import UsageError, check_availability

    if "all" in names:
        return list(catalogue)
    for name in names:
        if name.lower() in NOTHING_TO_PREPARE:
            raise UsageError(f"nothing to prepare: {NOTHING_TO_PREPARE[name.lower()]}")
    key_of = {entry["name"]: key for key, entry in catalogue.items()}
    keys = [key_of.get(name, name) for name in names]
    for key in keys:
        check_availability(key, catalogue, "data set")
    return list(dict.fromkeys(keys))


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dassl.utils import UsageError

    catalogue = read_catalogue()
    keys = choose(args.names, catalogue)
    if not args.root:
        raise UsageError("no data folder; name it with --root, or with DATA in the environment")
    root = Path(args.root).expanduser().absolute()
    if (args.check or args.make_split) and not root.is_dir():
        raise UsageError(f"no folder {root}")
    complete = True
    for key in keys:
        entry = catalogue[key]
        if args.make_split:
            make_split(entry, root)
            continue
        verdict = "incomplete"
        problems = [] if args.check else prepare(key, entry, root, args.dry_run)
        figures: dict[str, int] = {}
        if not problems:
            verdict = "not as expected"
            figures, problems = check(entry, root)
        if problems:
            complete = False
            print("\n  ".join([f"{key}: {verdict}", *problems]))
        else:
            parts = [f"{figures[part]:,} {part}" for part in ("train", "val", "test")]
            print(f"{key}: complete, {figures['classes']:,} classes, {', '.join(parts)} images")
            has_split = any(item.get("file", "").startswith("split_") for item in entry["files"])
            if has_split and "split_sha256" not in entry:
                print("  the figures are as published; no checksum of the published split is known")
    return 0 if complete else 2


def main(argv: list[str]) -> int:
    """Run ``anprompt data``; returns the exit status."""
    return run(make_parser().parse_args(argv))
