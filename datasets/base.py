"""What every data set shares: its split, its few-shot set, its base and new halves.

A data set says where it lives and, if it has no split file, how to read its lists::

    @DATASET_REGISTRY.register()
    class EuroSAT(FewShotDataset):
        dataset_dir = "eurosat"                  # under DATA
        image_folder = "2750"                    # what split paths are relative to
        split_file = "split_zhou_EuroSAT.json"
"""

import json
import math
import os
from pathlib import Path

from common.errors import UsageError
from dassl.data.datasets import DatasetBase, Datum
from datasets.fewshot import FewShotCache
from datasets.splits import Entry, Split, check_labels, missing_images, read_split

SUBSAMPLE_CHOICES = ("all", "base", "new")


class FewShotDataset(DatasetBase):
    """A data set in CoOp's layout.

    Class attributes:
        dataset_dir: folder under ``cfg.DATASET.ROOT``.
        image_folder: folder inside it that the split's paths are relative to; "" for itself.
        split_file: split file's name, or "" where ``read_data`` reads something else.
        val_is_test: validate on the test images (ImageNet has no others).

    Reads ``cfg.DATASET.{ROOT, NUM_SHOTS, SUBSAMPLE_CLASSES}`` and ``cfg.SEED``. With NUM_SHOTS >= 1
    the few-shot set is drawn over *all* classes before base or new classes are taken, so that both
    halves of a seed share one draw (upstream's order). NUM_SHOTS < 1 is the full training set.
    The test images do not depend on shots or seed.
    """

    dataset_dir = ""
    image_folder = ""
    split_file = ""
    val_is_test = False

    @staticmethod
    def extend_cfg(cfg) -> None:
        """Declare the keys that data sets read beside Dassl's own."""
        if "SUBSAMPLE_CLASSES" not in cfg.DATASET:
            cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new
            cfg.DATASET.TEMPLATE = ""  # your own prompt, {} for the class name; "": the data set's

    def __init__(self, cfg):
        self.locate(cfg)
        train, val, test = self.read_data()
        check_labels((train, val, test), self.name)
        self.check_images(train, val, test)

        if cfg.DATASET.NUM_SHOTS >= 1:
            train, val = self.few_shot_cache().get(train, val, cfg.DATASET.NUM_SHOTS, cfg.SEED)
        lists = [self.to_datums(entries) for entries in (train, val, test)]
        train, val, test = self.subsample_classes(*lists, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        if self.val_is_test:
            val = test
        self.check_class_count(train, cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=train, val=val, test=test)

    @property
    def name(self) -> str:
        """The registered name, for messages."""
        return type(self).__name__

    def locate(self, cfg) -> None:
        """Set ``dataset_dir``, ``image_dir`` and ``split_path`` from ``cfg.DATASET.ROOT``."""
        if not cfg.DATASET.ROOT:
            raise UsageError(f"{self.name}: no data folder; name it with --root (scripts: DATA)")
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        self.dataset_dir = os.path.join(root, type(self).dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, self.image_folder)
        self.split_path = os.path.join(self.dataset_dir, self.split_file) if self.split_file else ""
        if not os.path.isdir(self.dataset_dir):
            raise UsageError(f"{self.name}: no folder {self.dataset_dir}. {self.help_line()}")

    def read_data(self) -> Split:
        """The full train, val and test lists: the split file's unless a subclass reads others."""
        if not os.path.isfile(self.split_path):
            raise UsageError(f"{self.name}: no split file {self.split_path}. {self.help_line()}")
        return read_split(self.split_path)

    def draw_split(self) -> Split:
        """Draw a split from the data set's own files (``python -m anprompt data --make-split``)."""
        raise UsageError(f"{self.name}: a split cannot be drawn for this data set")

    def check_images(self, *lists: list[Entry]) -> None:
        """Refuse a split that lists images which are not there, naming the first."""
        paths = [path for entries in lists for path, _, _ in entries]
        missing = missing_images(self.image_dir, paths)
        if missing:
            more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
            raise UsageError(
                f"{self.name}: split lists {missing[0]}, not found under {self.image_dir}{more}. "
                f"{self.help_line()}"
            )

    def few_shot_cache(self) -> FewShotCache:
        """Where this data set's few-shot sets are kept."""
        return FewShotCache(self.dataset_dir, self.name, key=self.dataset_dir)

    def to_datums(self, entries: list[Entry]) -> list[Datum]:
        """Entries as Dassl's Datum objects with absolute paths."""
        return [
            Datum(impath=os.path.join(self.image_dir, path), label=label, classname=classname)
            for path, label, classname in entries
        ]

    @classmethod
    def help_line(cls) -> str:
        """How to get what is missing: one sentence."""
        catalogue = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))
        for key, entry in catalogue["datasets"].items():
            if entry["name"] == cls.__name__:
                return f"Run python -m anprompt data {key}"
        return "See docs/DATASETS.md"

    def check_class_count(self, train: list[Datum], subsample: str) -> None:
        """Refuse fewer than two classes: there would be nothing to tell apart."""
        n_classes = len({item.label for item in train})
        if n_classes < 2:
            raise UsageError(
                f"{self.name}: {n_classes} class(es) with SUBSAMPLE_CLASSES {subsample}; "
                "classification takes two at least"
            )

    @staticmethod
    def subsample_classes(*lists: list[Datum], subsample: str = "all") -> list[list[Datum]]:
        """Keep the base (first) or new (second) half of the classes, relabelled from 0 in order.

        Halves go by label number over the labels of the first list; an odd one belongs to base
        (CoCoOp's protocol). ``all`` changes nothing.

        Raises:
            UsageError: unknown ``subsample``.
        """
        if subsample not in SUBSAMPLE_CHOICES:
            raise UsageError(
                f"DATASET.SUBSAMPLE_CLASSES {subsample!r}: "
                f"choose from {', '.join(SUBSAMPLE_CHOICES)}"
            )
        if subsample == "all":
            return list(lists)
        labels = sorted({item.label for item in lists[0]})
        half = math.ceil(len(labels) / 2)
        selected = labels[:half] if subsample == "base" else labels[half:]
        new_label = {label: number for number, label in enumerate(selected)}
        return [
            [
                Datum(impath=item.impath, label=new_label[item.label], classname=item.classname)
                for item in items
                if item.label in new_label
            ]
            for items in lists
        ]
