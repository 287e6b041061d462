"""What every data set shares: its folder, its split, its few-shot set, its base and new classes.

A data set says where it lives and, if it has no split file, how to read its lists::

    @DATASET_REGISTRY.register()
    class Birds(FewShotDataset):
        dataset_dir = "birds"                    # under DATA
        image_folder = "images"                  # what split paths are relative to
        split_file = "split_zhou_Birds.json"

``Birds(cfg)`` is the data set of a run. ``Birds.reader(root)`` is the same class placed on its
folder alone, for whoever wants its lists without a configuration.
"""

import functools
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.paths import seen_from
from common.reading import MissingFile
from common.settings import declare_added
from dassl.data.datasets import DatasetBase, Datum
from datasets.classnames import same_names
from datasets.fewshot import FewShotCache
from datasets.splits import Entry, Lists, check_split, halve, missing_images, notes_on, read_split
from datasets.verify import NO_LABEL, Files, copies, undecodable

log = logging.getLogger(__name__)

SHOWN = 3  # problems in one line


class DataProblems(UsageError):
    """All that is wrong with a data set; the message names the first.

    Args:
        name: of the data set.
        problems: one line each.
    """

    def __init__(self, name: str, problems: list[str]):
        self.problems = problems
        more = f" (and {len(problems) - SHOWN:,} more)" if len(problems) > SHOWN else ""
        super().__init__(f"{name}: {'; '.join(problems[:SHOWN])}{more}")


class Reader:
    """Finds a data set below a root folder and reads its lists; needs no PyTorch.

    Class attributes:
        dataset_dir: folder under the root.
        image_folder: folder inside it that the split's paths are relative to; "" for itself.
        split_file: split file's name, or "" where ``read_data`` reads something else.
        val_is_test: validate on the test images (ImageNet has no others).
        test_is_train: there are test images only, which stand in for training images too.
        reading: how image files are read, one of ``common.images.READINGS``.
        is_own: a user's own images, which nobody has looked at before.
        task: classification or anomaly; trainers of the other refuse it.

    Attributes:
        dataset_dir, image_dir, split_path: absolute.
        notes: what was passed over or assumed in reading, one line each.
        is_drawn: training, validation and test images were all drawn here, as none were given.

    Args:
        root: folder that holds the data sets.
        options: what a subclass reads beside it (see ``options_of``).
    """

    dataset_dir = ""
    image_folder = ""
    split_file = ""
    val_is_test = False
    test_is_train = False
    reading = "as_seen"
    is_own = True
    task = "classification"

    def __init__(self, root: str | os.PathLike, **options: Any):
        self.options = options
        self.notes: list[str] = []
        self.is_drawn = False
        self.locate(os.fspath(root))

    @classmethod
    def options_of(cls, cfg: Any) -> dict[str, Any]:
        """Return the options that a configuration gives."""
        return {}

    @property
    def name(self) -> str:
        """The registered name, for messages."""
        return type(self).__name__

    def locate(self, root: str) -> None:
        """Set ``dataset_dir``, ``image_dir`` and ``split_path``.

        Raises:
            UsageError: there is no such folder.
        """
        if not root:
            raise MissingFile(f"{self.name}: no data folder; name it with --root (scripts: DATA)")
        root = os.path.abspath(os.path.expanduser(root))
        self.dataset_dir = os.path.join(root, type(self).dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, self.image_folder)
        self.split_path = os.path.join(self.dataset_dir, self.split_file) if self.split_file else ""
        if not os.path.isdir(self.dataset_dir):
            raise MissingFile(f"{self.name}: no folder {self.dataset_dir}. {self.help_line()}")

    def read_data(self) -> Lists:
        """Return the full train, val and test lists: the split file's unless overridden."""
        if not os.path.isfile(self.split_path):
            raise UsageError(f"{self.name}: no split file {self.split_path}. {self.help_line()}")
        return read_split(self.split_path)

    def read(self) -> Lists:
        """Return the full lists, checked: labels, images that are there, none in train and test.

        Raises:
            UsageError: naming the first image or label that is wrong.
        """
        lists = self.read_data()
        check_split(lists, self.name)
        self.check_images(*lists)
        if self.is_own:
            self.notes += notes_on(lists)
        return lists

    def draw_split(self) -> Lists:
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
        """Return where this data set's few-shot sets are kept."""
        return FewShotCache(self.dataset_dir, self.name, key=self.dataset_dir)

    @classmethod
    def help_line(cls) -> str:
        """Return how to get what is missing: one sentence."""
        key = _catalogue_keys().get(cls.__name__)
        return f"Run python -m anprompt data {key}" if key else "See docs/DATASETS.md"


@functools.cache
def _catalogue_keys() -> dict[str, str]:
    """Return {registered name: name of the configuration} of the published data sets."""
    catalogue = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))
    return {entry["name"]: key for key, entry in catalogue["datasets"].items()}


class FewShotDataset(Reader, DatasetBase):
    """A data set in CoOp's layout.

    Reads ``cfg.DATASET.{ROOT, NUM_SHOTS, SUBSAMPLE_CLASSES}`` and ``cfg.SEED``. With NUM_SHOTS >= 1
    the few-shot set is drawn over *all* classes before base or new classes are taken, so that both
    halves of a seed share one draw (upstream's order). NUM_SHOTS < 1 is the full training set.
    The test images do not depend on shots or seed.
    """

    is_checked = True  # labels and images, in `read`

    @staticmethod
    def extend_cfg(cfg) -> None:
        """Declare the settings that data sets read beside Dassl's own."""
        declare_added(cfg)

    @classmethod
    def reader(cls, root: str | os.PathLike, **options: Any) -> Reader:
        """Return this data set's reader; no list is read yet."""
        reader = cls.__new__(cls)
        Reader.__init__(reader, root, **options)
        return reader

    def __init__(self, cfg: Any):
        Reader.__init__(self, cfg.DATASET.ROOT, **self.options_of(cfg))
        self._looks_into_images = self.is_own and cfg.DATASET.get("CHECK_IMAGES", True)
        self._reads_all = bool(cfg.DATASET.get("UNLABELLED", False))
        shots, subsample = cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES
        if self.test_is_train and subsample != "all":
            raise UsageError(
                f"{self.name} is for testing on all its classes; "
                "leave DATASET.SUBSAMPLE_CLASSES at all"
            )
        train, val, test = self.read()
        self._all_train = train
        for note in self.notes:
            log.warning("%s: %s", self.name, note)
        if shots >= 1 and not self.test_is_train:
            n_images = len(train)
            train, val = self.few_shot_cache().get(train, val, shots, cfg.SEED)
            self.takes_all = len(train) == n_images
            self._note_shortage(train, shots)
        train, val, test = halve((train, val, test), subsample)
        n_classes = len({label for _, label, _ in train})
        if n_classes < 2:
            raise UsageError(
                f"{self.name}: {n_classes} class(es) with SUBSAMPLE_CLASSES {subsample}; "
                "classification takes two at least"
            )
        train_x, test_x = self.to_datums(train), self.to_datums(test)
        val_x = test_x if self.val_is_test else self.to_datums(val)
        DatasetBase.__init__(self, train_x=train_x, val=val_x, test=test_x)
        for group in same_names(self.classnames):
            log.warning(
                "%s: %d classes have one name in prompts (%r): labels tell them apart, prompts do "
                "not", self.name, len(group), group[0],
            )  # fmt: skip

    # Whether every seed trains on the same images, as there are no more than the shots asked for.
    takes_all = False

    @property
    def unlabelled(self) -> list[Datum]:
        """All training images of all classes, whatever the shots and the subset: label 0, no name.

        For methods that learn from images without labels. Test images are not among them, but where
        there are no others (``test_is_train``).
        """
        return self.to_datums([(path, 0, "") for path, _, _ in self._all_train])

    @property
    def all_classnames(self) -> list[str]:
        """The names of all classes, base and new, in order of label."""
        names = {label: name for _, label, name in self._all_train}
        return [names[label] for label in sorted(names)]

    @property
    def title(self) -> str:
        """What tables call the data set."""
        return self.name

    def verify(self) -> None:
        """Decode every image that the run reads, unless CHECK_IMAGES is off; warn of copies.

        Raises:
            DataProblems: naming images that do not decode.
        """
        if not self._looks_into_images:
            return
        train, val, test = (
            [(seen_from(item.impath, self.image_dir), item.label, "") for item in items]
            for items in (self.train_x, self.val or [], self.test or [])
        )
        if self._reads_all:
            known = {path for path, _, _ in train}
            train += [(path, NO_LABEL, "") for path, _, _ in self._all_train if path not in known]
        files = Files(self.image_dir, [path for path, _, _ in (*train, *val, *test)])
        problems = undecodable(files, self.reading)
        if problems:
            raise DataProblems(self.name, problems)
        for line in copies(files, train, test):
            log.warning("%s: %s", self.name, line)

    def _note_shortage(self, train: list[Entry], shots: int) -> None:
        counts = Counter((label, name) for _, label, name in train)
        short = [(name, count) for (_, name), count in counts.items() if count < shots]
        if short:
            more = f", and {len(short) - 1:,} more classes too few" if len(short) > 1 else ""
            log.warning(
                "%s: class %r has only %d of the %d images asked for%s",
                self.name, *short[0], shots, more,
            )  # fmt: skip

    def to_datums(self, entries: list[Entry]) -> list[Datum]:
        """Return entries as Dassl's Datum objects with absolute paths."""
        # Dassl.pytorch's own Datum has no such field, and reads images its own way.
        how: dict[str, Any] = {"reading": self.reading} if hasattr(Datum, "reading") else {}
        return [
            Datum(impath=os.path.join(self.image_dir, path), label=label, classname=name, **how)
            for path, label, name in entries
        ]


class PublishedDataset(FewShotDataset):
    """A data set that results were published on: its images are read as upstream reads them."""

    reading = "upstream"
    is_own = False
