"""Any images of your own: a folder per class, or a CSV of path,label. See docs/DATASETS.md."""

import csv
import os
import re
from pathlib import Path

from common.errors import UsageError
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import FewShotDataset
from datasets.classnames import read_classnames
from datasets.fewshot import FewShotCache
from datasets.splits import (
    IMAGE_SUFFIXES,
    PARTS,
    Entry,
    Split,
    draw_split,
    draw_val,
    is_confined,
    list_folder,
)

# (path, class key); a class key is a folder name or a CSV label, a class name is what prompts say.
Item = tuple[str, str]


@DATASET_REGISTRY.register()
class ImageFolder(FewShotDataset):
    """Reads ``cfg.DATASET.{IMAGE_DIR, CSV, CLASSNAMES_FILE}``, each relative to ROOT or absolute.

    - IMAGE_DIR alone: ``IMAGE_DIR/<class>/...`` or ``IMAGE_DIR/{train,val,test}/<class>/...``.
    - CSV: rows ``path,label[,split]``, header optional; paths are relative to IMAGE_DIR, or to the
      CSV's own folder where IMAGE_DIR is empty.
    - CLASSNAMES_FILE: lines ``key class name`` (CoOp's classnames.txt) or a JSON object of them.
      Its order is the order of the labels. Without it the keys are the class names, sorted.

    What is not given is drawn, always the same way: all three parts 50/20/30 per class; val as 20%
    of train. Given train and val alone, val is the test set too. Nothing is written to the folder.
    """

    @staticmethod
    def extend_cfg(cfg) -> None:
        FewShotDataset.extend_cfg(cfg)
        cfg.DATASET.IMAGE_DIR = ""  # folder of images
        cfg.DATASET.CSV = ""  # table of path,label[,split]
        cfg.DATASET.CLASSNAMES_FILE = ""  # class names in label order

    @classmethod
    def options_of(cls, cfg) -> dict[str, str]:
        return {
            "image_dir": cfg.DATASET.IMAGE_DIR,
            "csv": cfg.DATASET.CSV,
            "classnames_file": cfg.DATASET.CLASSNAMES_FILE,
        }

    def locate(self, root: str) -> None:
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
                "ImageFolder: name your images with DATASET.IMAGE_DIR FOLDER or DATASET.CSV FILE"
            )
        for key, path, exists in (
            ("IMAGE_DIR", self.image_dir, os.path.isdir),
            ("CSV", self.csv_path, os.path.isfile),
            ("CLASSNAMES_FILE", self.names_path, os.path.isfile),
        ):
            if path and not exists(path):
                raise UsageError(f"ImageFolder: no {path} (DATASET.{key})")

    @classmethod
    def help_line(cls) -> str:
        return "Check DATASET.IMAGE_DIR and DATASET.CSV"

    def few_shot_cache(self) -> FewShotCache:
        return FewShotCache(None, self.name, key=f"{self.image_dir}\n{self.csv_path}")

    def read_data(self) -> Split:
        parts = read_csv(self.csv_path) if self.csv_path else read_tree(self.image_dir)
        keys = {key for items in parts.values() for _, key in items}
        if not keys:
            raise UsageError(f"ImageFolder: no images under {self.image_dir}")
        names = self.classnames_by_key(keys)
        label = {key: number for number, key in enumerate(names)}
        return complete(
            {
                part: [(path, label[key], names[key]) for path, key in items]
                for part, items in parts.items()
            },
            [names[key] for key in names],
        )

    def classnames_by_key(self, keys: set[str]) -> dict[str, str]:
        """{key: class name} in label order: the names file's, or the keys themselves, sorted."""
        if not self.names_path:
            numbers = all(key.isdecimal() for key in keys)
            return {key: key for key in sorted(keys, key=int if numbers else str)}
        names = read_classnames(self.names_path)
        for key in sorted(keys - set(names)):
            raise UsageError(f"ImageFolder: {self.names_path} names no class {key!r}")
        for key in names:
            if key not in keys:
                raise UsageError(f"ImageFolder: no image of class {key!r} of {self.names_path}")
        return names


def read_tree(image_dir: str) -> dict[str, list[Item]]:
    """{part: items} of a folder tree; one part "" where it has no train folder."""
    folders = list_folder(image_dir, folders=True)
    if "train" not in folders:
        return {"": list_classes(image_dir, "")}
    strangers = [folder for folder in folders if folder not in PARTS]
    if strangers:
        raise UsageError(
            f"ImageFolder: {image_dir} has train beside {strangers[0]}; it should hold train, val "
            "and test, or one folder a class"
        )
    return {part: list_classes(image_dir, part) for part in PARTS if part in folders}


def list_classes(image_dir: str, part: str) -> list[Item]:
    """Images of every class folder, nested folders included, in sorted order."""
    base = os.path.join(image_dir, part)
    items = []
    for folder in list_folder(base, folders=True):
        for current, below, files in os.walk(os.path.join(base, folder)):
            below[:] = sorted(name for name in below if not name.startswith("."))
            where = Path(os.path.relpath(current, image_dir)).as_posix()
            items.extend(
                (f"{where}/{name}", folder)
                for name in sorted(files)
                if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
            )
    return items


def read_csv(path: str) -> dict[str, list[Item]]:
    """{part: items} of a CSV with columns path,label[,split]; one part "" where it has no split.

    Raises:
        UsageError: naming the line that is not usable.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [(line, row) for line, row in enumerate(csv.reader(file), start=1) if row]
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file ({error})") from None
    columns = ["path", "label", "split"]
    if rows and {"path", "label"} <= {cell.strip().lower() for cell in rows[0][1]}:
        columns = [cell.strip().lower() for cell in rows.pop(0)[1]]
    parts: dict[str, list[Item]] = {}
    seen: dict[str, int] = {}
    for line, row in rows:
        here = f"{path}, line {line}"
        cells = {column: cell.strip() for column, cell in zip(columns, row, strict=False)}
        image, key, part = (cells.get(column, "") for column in ("path", "label", "split"))
        if not image or not key:
            raise UsageError(f"{here}: expected path,label[,split], found {','.join(row)[:80]!r}")
        if not is_confined(image):
            raise UsageError(f"{here}: path {image!r} leaves the image folder; make it relative")
        if image in seen:
            raise UsageError(f"{here}: {image} is listed in line {seen[image]} already")
        if part and part.lower() not in PARTS:
            raise UsageError(f"{here}: split {part!r}; choose from {', '.join(PARTS)}")
        seen[image] = line
        parts.setdefault(part.lower(), []).append((re.sub(r"\\", "/", image), key))
    if len(parts) > 1 and "" in parts:
        raise UsageError(f"{path}: {parts[''][0][0]} has no split while other rows have one")
    return parts


def complete(parts: dict[str, list[Entry]], classnames: list[str]) -> Split:
    """Fill in the parts that were not given, by the rules of ``ImageFolder``."""
    if "" in parts:
        paths: list[list[str]] = [[] for _ in classnames]
        for path, label, _ in parts[""]:
            paths[label].append(path)
        return draw_split(list(zip(classnames, paths, strict=True)), "ImageFolder")
    if not parts.get("train"):
        raise UsageError("ImageFolder: there are no training images (split train)")
    train, val, test = (parts.get(part, []) for part in PARTS)
    if not val and not test:
        raise UsageError("ImageFolder: split train is given but neither val nor test")
    if not val:
        train, val = draw_val(train)
    if not test:
        print("ImageFolder: no test images given; val is the test set")
        test = val
    return train, val, test
