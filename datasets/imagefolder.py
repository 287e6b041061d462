"""Any images of your own: a folder per class, or a table of path,label. See docs/DATASETS.md."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.reading import MissingFile
from common.settings import Setting, declare
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import DataProblems, FewShotDataset, Reader
from datasets.classnames import read_classnames, same_names
from datasets.fewshot import FewShotCache
from datasets.folders import Found, read_tree, shown
from datasets.splits import (
    MAX_NAME,
    SPLITS,
    Entry,
    Lists,
    check_split,
    draw_split,
    draw_val,
    missing_images,
    name_problem,
    notes_on,
)
from datasets.tables import read_table
from datasets.verify import Files, copies, undecodable

log = logging.getLogger(__name__)

MISSING = ("nan", "none", "null", "na", "n/a")  # what tables write where there is no label

SETTINGS = {
    "IMAGE_DIR": Setting(
        "",
        "ImageFolder: folder with one folder a class, or with train, val and test; below ROOT or "
        "absolute",
        scope="data",
    ),
    "CSV": Setting("", "ImageFolder: table of path,label[,split]", scope="data"),
    "CLASSNAMES_FILE": Setting(
        "", "ImageFolder: class names in words, in the order of the labels", scope="data"
    ),
    "TITLE": Setting(
        "", "ImageFolder: what tables call the data set; empty: its folder's name", scope="neutral"
    ),
    "TRAIN_PER_CLASS": Setting(
        0,
        "ImageFolder: where no test images are given, images a class for training, all others for "
        "testing; 0: 50% for training, 20% for validation, 30% for testing",
        ge=0,
        scope="data",
    ),
    "CHECK_IMAGES": Setting(
        True,
        "images of your own: decode all before training (each once, what was found is kept)",
        scope="neutral",
    ),
}


@DATASET_REGISTRY.register()
class ImageFolder(FewShotDataset):
    """Reads ``cfg.DATASET.{IMAGE_DIR, CSV, CLASSNAMES_FILE}``, each relative to ROOT or absolute.

    - IMAGE_DIR alone: ``IMAGE_DIR/<class>/...`` or ``IMAGE_DIR/{train,val,test}/<class>/...``, see
      `datasets.folders.read_tree`.
    - CSV: rows ``path,label[,split]``, header optional, see `datasets.tables.read_table`; paths are
      relative to IMAGE_DIR, or to the table's own folder where IMAGE_DIR is empty.
    - CLASSNAMES_FILE: lines ``key class name`` (CoOp's classnames.txt) or a JSON object of them.
      Its order is the order of the labels. Without it the keys are the class names, sorted.

    What is not given is drawn, always the same way: all three splits by TRAIN_PER_CLASS; val as 20%
    of train. Given train and val alone, val is the test set too. Nothing is written to the folder.

    Attributes:
        entries: what was read, before anything is drawn of it.
    """

    entries: list[Entry] = []

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        """Declare the keys that this data set reads."""
        FewShotDataset.extend_cfg(cfg)
        declare(cfg, "DATASET", SETTINGS)

    @classmethod
    def options_of(cls, cfg: Any) -> dict[str, Any]:
        """Return where the images are and how they are split."""
        # A data set of one's own may leave out what it does not need.
        return {name.lower(): cfg.DATASET.get(name, SETTINGS[name].default) for name in SETTINGS}

    def locate(self, root: str) -> None:
        """Find the folder, the table and the names file.

        Raises:
            UsageError: nothing is named, or what is named is not there.
        """
        root = os.path.abspath(os.path.expanduser(root))

        def place(name: str) -> str:
            value = self.options.get(name, "")
            return os.path.join(root, os.path.expanduser(value)) if value else ""

        self.csv_path = place("csv")
        self.names_path = place("classnames_file")
        self.image_dir = place("image_dir") or os.path.dirname(self.csv_path)
        self.dataset_dir = self.image_dir
        if not self.image_dir:
            raise UsageError(
                f"{self.name}: name your images with DATASET.IMAGE_DIR FOLDER or DATASET.CSV FILE"
            )
        for key, path, kind, exists in (
            ("IMAGE_DIR", self.image_dir, "folder", os.path.isdir),
            ("CSV", self.csv_path, "file", os.path.isfile),
            ("CLASSNAMES_FILE", self.names_path, "file", os.path.isfile),
        ):
            if path and not exists(path):
                raise MissingFile(f"{self.name}: no {kind} {path} (DATASET.{key})")

    @classmethod
    def help_line(cls) -> str:
        return "Check DATASET.IMAGE_DIR and DATASET.CSV"

    def few_shot_cache(self) -> FewShotCache:
        return FewShotCache(None, self.name, key=f"{self.image_dir}\n{self.csv_path}")

    def read_data(self) -> Lists:
        """Return the lists; ``self.notes`` says what was passed over or assumed.

        Raises:
            DataProblems: all that is wrong.
        """
        found = read_table(self.csv_path) if self.csv_path else read_tree(self.image_dir)
        self.notes = found.notes
        keys = {key for items in found.splits.values() for _, key in items}
        if not keys and not found.problems:
            found.problems.append(f"no images in {self.csv_path or self.image_dir}")
        names = {} if found.problems else self._names_by_key(keys, found)
        if found.problems:
            raise DataProblems(self.name, found.problems)
        label = {key: number for number, key in enumerate(names)}
        splits = {
            split: [(path, label[key], names[key]) for path, key in items]
            for split, items in found.splits.items()
        }
        self.entries = [entry for entries in splits.values() for entry in entries]
        return self._complete(splits, list(names.values()))

    def _names_by_key(self, keys: set[str], found: Found) -> dict[str, str]:
        """Return {key: class name} in label order: the names file's, or the keys, sorted."""
        if self.names_path:
            names = read_classnames(self.names_path)
            found.problems += [
                f"{self.names_path} names no class {key!r:.80}" for key in sorted(keys - set(names))
            ]
            found.problems += [
                f"no image of class {key!r:.80} of {self.names_path}"
                for key in names
                if key not in keys
            ]
        else:
            # Longer ones are refused as names, and Python makes no number of the longest.
            numbers = all(key.isdecimal() and len(key) <= MAX_NAME for key in keys)
            order = (lambda key: (int(key), key)) if numbers else str
            names = {key: key for key in sorted(keys, key=order)}
            if digits := [key for key in names if key.isdecimal()]:
                which = (
                    "class names are numbers"
                    if numbers
                    else f"numbers as class names ({shown(digits)})"
                )
                found.notes.append(
                    f"{which}, so prompts say 'a photo of a {digits[0]:.40}.'; give them words "
                    "with DATASET.CLASSNAMES_FILE"
                )
            found.notes += [
                f"class {key!r}: is that a missing label?"
                for key in names
                if key.casefold() in MISSING
            ]
        found.problems += [line for name in names.values() if (line := name_problem(name))]
        for group in same_names(names.values()):
            places = [f"{key!r:.80}" for key, name in names.items() if name in group]
            found.problems.append(
                f"classes {shown(places)} have one name in prompts ({group[0]!r:.80}); make them "
                "one class, or give them different names"
            )
        return names

    def _complete(self, splits: dict[str, list[Entry]], classnames: list[str]) -> Lists:
        """Return the lists, with those that were not given filled in.

        Raises:
            UsageError: there are too few images, or none for training or testing.
        """
        train_per_class = self.options.get("train_per_class", 0)
        self.is_drawn = "" in splits
        if self.is_drawn:
            paths: list[list[str]] = [[] for _ in classnames]
            for path, label, _ in splits[""]:
                paths[label].append(path)
            classes = list(zip(classnames, paths, strict=True))
            return draw_split(classes, self.name, train_per_class)
        if train_per_class:
            self.notes.append("test images are given: DATASET.TRAIN_PER_CLASS divides nothing")
        train, val, test = (splits.get(split, []) for split in SPLITS)
        if not train:
            raise UsageError(f"{self.name}: there are no training images (split train)")
        if not val and not test:
            raise UsageError(f"{self.name}: split train is given but neither val nor test")
        if not val:
            train, val = draw_val(train)
        if not test:
            self.notes.append("no test images given; val is the test set")
            test = val
        return train, val, test

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        log.info("Classes: %s", shown(self.classnames))

    @property
    def title(self) -> str:
        """What tables call the data set: TITLE, or the folder's or table's name."""
        return self.options.get("title") or Path(self.csv_path or self.image_dir).stem


@dataclass
class Examination:
    """What an examination of images found.

    Attributes:
        lists: train, val and test by name, empty where there is a problem.
        classnames: in order of label.
        is_drawn: all three were drawn here, because none was given.
        problems, notes: one line each.
        no_split: the one of the problems that says why no split can be drawn.
    """

    lists: dict[str, list[Entry]] = field(default_factory=dict)
    classnames: list[str] = field(default_factory=list)
    is_drawn: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    no_split: str = ""


def examine(
    path: str, image_dir: str = "", classnames_file: str = "", train_per_class: int = 0
) -> Examination:
    """Look at everything that could keep images from being used: all of them are decoded.

    Args:
        path: a folder, or a table.
        image_dir: what a table's paths are relative to; "": its own folder.
        classnames_file: class names in words, "" for none.
        train_per_class: images a class for training where no split is given; 0: as data sets that
            are split here usually are.

    Raises:
        UsageError: there is no such folder or file.
    """
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such folder or table of images")
    is_table = not os.path.isdir(path)
    options: dict[str, Any] = {"csv": path, "image_dir": image_dir} if is_table else {}
    options |= {"train_per_class": train_per_class} | ({} if is_table else {"image_dir": path})
    reader: Any = ImageFolder.reader(os.getcwd(), classnames_file=classnames_file, **options)
    found = Examination(notes=reader.notes)
    try:
        lists = reader.read_data()
        found.classnames = check_split(lists, reader.name)
    except DataProblems as error:
        found.problems += error.problems
    except UsageError as error:
        if train_per_class:  # too many for some class; the images are looked at all the same
            found = examine(path, image_dir, classnames_file)
            found.problems = [line for line in found.problems if line != found.no_split]
        found.no_split = str(error)
        found.problems.insert(0, found.no_split)
        if not train_per_class:
            found.notes = reader.notes
            found.problems += _look_into(reader, [path for path, _, _ in reader.entries])[1]
        return found
    found.notes, found.is_drawn = reader.notes, reader.is_drawn
    if found.problems:
        return found
    found.notes += notes_on(lists)
    found.lists = dict(zip(SPLITS, lists, strict=True))
    if len(found.classnames) < 2:
        found.problems.append("one class; a classifier needs two or more")
    paths = [path for entries in lists for path, _, _ in entries]
    files, problems = _look_into(reader, paths)
    found.problems += problems
    found.problems += copies(files, lists[0], lists[2])
    return found


def _look_into(reader: Reader, paths: list[str]) -> tuple[Files, list[str]]:
    """Decode images, whatever is remembered of them.

    Returns:
        The files that are there, and a line for each image that is not or does not decode.
    """
    missing = set(missing_images(reader.image_dir, paths))
    problems = [f"{path} is not there" for path in paths if path in missing]
    files = Files(reader.image_dir, [path for path in paths if path not in missing])
    return files, problems + undecodable(files, reader.reading, anew=True)
