"""Put data sets where the readers expect them, and check that they are complete.

    python -m anprompt data eurosat --root DATA         say what is there, get the rest
    python -m anprompt data all --root DATA --check     check only; get nothing
    python -m anprompt data all --root DATA --dry-run   say what would be done
    python -m anprompt data check ~/pets                check images of your own (or a table, CSV)

Names are those of configs/datasets. What is present is left alone, an interrupted download resumes
where it stopped, and nothing half unpacked takes a finished folder's name. Archives that you put
into a data set's folder yourself are used, ImageNet's and Stanford Cars' too. --check compares
class and image counts, base and new halves and the split itself with the published ones. `check`
reads a folder or table as training would, decodes every image, and names all problems at once; a
folder with train/good and test/good in it, or categories that have them, is read for anomaly
detection. The table of addresses and figures is datasets/catalogue.json; the layouts are in
docs/DATASETS.md.

Exit status: 0 complete, 2 something is missing or differs (each named).
"""

import argparse
import os
from pathlib import Path

from common.cli import CommandParser
from common.errors import UsageError

NOTHING_TO_PREPARE = {
    "shapes": "Shapes draws its images on first use",
    "defect_tiles": "DefectTiles draws its images on first use",
    "defecttiles": "DefectTiles draws its images on first use",
    "anomaly_folder": "AnomalyFolder reads your own images: anprompt data check FOLDER",
    "anomalyfolder": "AnomalyFolder reads your own images: anprompt data check FOLDER",
    "imagefolder": "ImageFolder reads your own images: anprompt data check FOLDER",
}
CHECK = "check"
MOST = 100  # problems that are printed


def make_parser() -> argparse.ArgumentParser:
    from datasets.prepare import read_catalogue

    parser = CommandParser(
        prog="anprompt data",
        description=__doc__,
    )
    names = ", ".join(read_catalogue())
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="all (of classification), anomaly (all for anomaly detection), or any of: "
        f"{names}; or the word check and folders or tables of your own",
    )
    parser.add_argument(
        "--root", default=os.environ.get("DATA"), help="folder that holds the data sets ($DATA)"
    )
    parser.add_argument(
        "--images", default="", help="check: folder that a table's paths are relative to"
    )
    parser.add_argument("--classnames", default="", help="check: file of class names in words")
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


def main(argv: list[str]) -> int:
    """Run ``anprompt data``; returns the exit status."""
    args = make_parser().parse_args(argv)
    if args.names[0] == CHECK:
        if len(args.names) < 2:
            raise UsageError("check what? Name folders or tables of images")
        if args.images and not Path(args.images).expanduser().is_dir():
            raise UsageError(f"--images {args.images}: no such folder")
        if args.check or args.dry_run or args.make_split:
            raise UsageError("--check, --dry-run and --make-split are for published data sets")
        return max(check_own(name, args.images, args.classnames)[0] for name in args.names[1:])
    if args.images or args.classnames:
        raise UsageError("--images and --classnames go with: check FOLDER")
    return prepare_published(args)


def check_own(
    path: str, images: str, classnames: str, train_per_class: int = 0
) -> tuple[int, bool]:
    """Check a folder or a table as training would read it.

    Returns:
        The exit status, and whether the images for training and testing are drawn here.
    """
    from datasets.anomaly import AnomalyFolder
    from datasets.categories import is_category
    from datasets.imagefolder import examine

    place = Path(os.path.expanduser(path)).absolute()
    if not place.is_dir() and not place.is_file():
        what = "no regular file" if place.exists() else "no such folder or table"
        raise UsageError(f"{path}: {what}")
    if place.is_dir() and (is_category(place) or any(map(is_category, place.iterdir()))):
        reader = AnomalyFolder.reader("", image_dir=str(place))
        figures, problems = reader.examine()
        return say_examined(path, figures, problems, reader.notes), False
    found = examine(str(place), images, classnames, train_per_class)
    say_problems(path, found.problems)
    for note in found.notes:
        print(f"{path}: note: {note}")
    sizes = ", ".join(f"{len(entries):,} {split}" for split, entries in found.lists.items())
    if found.problems:
        print(f"{path}: {len(found.problems):,} problem(s){f'; {sizes} images' if sizes else ''}")
        return 2, found.is_drawn
    print(f"{path}: complete, {len(found.classnames):,} classes, {sizes} images")
    print(f"  classes: {', '.join(found.classnames)}")
    return 0, found.is_drawn


def say_problems(path: str, problems: list[str]) -> None:
    """Print what is wrong, a line each; of a table that is wrong in every row the first lines."""
    for problem in problems[:MOST]:
        print(f"{path}: {problem}")
    if len(problems) > MOST:
        print(f"{path}: and {len(problems) - MOST:,} more")


def say_examined(path: str, figures: dict[str, int], problems: list[str], notes: list[str]) -> int:
    """Print what was found in images for anomaly detection; returns the exit status."""
    say_problems(path, problems)
    for note in notes:
        print(f"{path}: note: {note}")
    sizes = ", ".join(f"{count:,} {name}" for name, count in figures.items())
    print(f"{path}: {f'{len(problems):,} problem(s)' if problems else 'complete'}; {sizes}")
    return 2 if problems else 0


def prepare_published(args: argparse.Namespace) -> int:
    """Get or check published data sets; returns the exit status."""
    from datasets import prepare

    catalogue = prepare.read_catalogue()
    keys = choose(args.names, catalogue)
    if not args.root:
        raise UsageError("no data folder; name it with --root, or with DATA in the environment")
    root = Path(args.root).expanduser().absolute()
    if (args.check or args.make_split or root.exists()) and not root.is_dir():
        raise UsageError(f"no folder {root}")
    if args.make_split:
        for key in keys:
            path = prepare.make_split(catalogue[key], root)
            print(f"{path}: drawn here; figures do not compare with published ones")
        return 0
    if not args.check:
        say_sizes([catalogue[key] for key in keys], root)
    complete = 0
    for key in keys:
        entry = catalogue[key]
        problems = [] if args.check else get(key, entry, root, args.dry_run)
        if problems:
            print("\n  ".join([f"{key}: incomplete", *problems]))
            continue
        figures, problems = prepare.check(entry, root)
        if problems:
            print("\n  ".join([f"{key}: not as expected", *problems]))
            continue
        complete += 1
        groups = next(name for name in prepare.GROUPS if name in figures)
        splits = [name for name in ("train", "val", "test", "anomalous") if name in figures]
        sizes = ", ".join(f"{figures[split]:,} {split}" for split in splits)
        print(f"{key}: complete, {figures[groups]:,} {groups}, {sizes} images")
        has_split = any(item.get("file", "").startswith("split_") for item in entry["files"])
        if has_split and "split_sha256" not in entry:
            print("  the figures are as published; no checksum of the published split is known")
    if len(keys) > 1:
        print(f"{complete} of {len(keys)} complete")
    return 0 if complete == len(keys) else 2


def say_sizes(entries: list[dict], root: Path) -> None:
    """Say how much there is to get, and how much room."""
    from datasets.prepare import free_gigabytes, gigabytes, missing_items

    items = [item for entry in entries for item in missing_items(entry, root)]
    wanted = gigabytes(items)
    if wanted:
        print(
            f"to get: {wanted:.1f} GB of archives, which unpack to about as much; "
            f"{free_gigabytes(root):.1f} GB are free on the disk of {root}"
        )


def get(key: str, entry: dict, root: Path, dry_run: bool) -> list[str]:
    """Say what is there and get what is missing; returns what could not be had."""
    from datasets.prepare import missing_targets, obtain, targets

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
        size = f" ({item['gb']:.1f} GB)" if "gb" in item else ""
        print(f"  missing  {', '.join(missing)}{size}: {item.get('url') or item['manual']}")
        if dry_run:
            problems.append(f"{', '.join(missing)} missing")
            continue
        try:
            obtain(item, folder, print)
        except (OSError, UsageError) as error:
            problems.append(str(error))
    return problems


def choose(names: list[str], catalogue: dict[str, dict]) -> list[str]:
    """Catalogue names for what was asked; registered names (EuroSAT) will do as well."""
    from common.names import nearest

    if "all" in names:
        return [key for key, entry in catalogue.items() if "task" not in entry]
    if "anomaly" in names:
        return [key for key, entry in catalogue.items() if entry.get("task") == "anomaly"]
    key_of = {entry["name"]: key for key, entry in catalogue.items()}
    keys = []
    for name in names:
        if name.lower() in NOTHING_TO_PREPARE:
            raise UsageError(f"nothing to prepare: {NOTHING_TO_PREPARE[name.lower()]}")
        key = key_of.get(name, name)
        if key not in catalogue:
            near = nearest(key, catalogue)
            hint = f"nearest known: {', '.join(near)}" if near else f"known: {', '.join(catalogue)}"
            if os.path.exists(os.path.expanduser(name)):
                hint = f"images of your own are checked with: anprompt data check {name}"
            raise UsageError(f"unknown data set {name!r}; {hint}")
        keys.append(key)
    return list(dict.fromkeys(keys))
