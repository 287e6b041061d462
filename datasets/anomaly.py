"""Data sets for anomaly detection: normal images to learn from, normal and anomalous ones to test.

One category (one kind of object or texture) is one run. `MVTecAD`, folders of one's own in its
layout (`AnomalyFolder`) and, in their own files, `VisA` and the drawn `DefectTiles` share what is
here: the draw of normal images, masks, and what is checked.

References:
    [0] Bergmann et al., MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly
        Detection, 2019
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UsageError, one_line
from common.names import nearest
from common.reading import MissingFile, read_text
from common.settings import Setting, declare
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from datasets.base import DataProblems, Reader
from datasets.categories import Category, Sample, categories_in, left_out, read_mvtec
from datasets.folders import list_tree
from datasets.splits import Entry, list_folder, split_digest
from datasets.verify import Files, copies, undecodable

log = logging.getLogger(__name__)

NORMAL, ANOMALOUS = CLASSNAMES = ("normal", "anomalous")

SETTINGS = {
    "CATEGORY": Setting(
        "",
        "anomaly detection: the category that is learned and tested; empty where there is only one",
        scope="data",
    ),
    "OBJECT_NAME": Setting(
        "object",
        'anomaly detection: what prompts call the object, "" for the category\'s own name',
    ),
    "SHOTS_FROM": Setting(
        "",
        'anomaly detection: file with a line "#K: i j ..." for K shots, positions from 0 among the '
        "sorted normal images (PromptAD's selected_samples_per_run.txt); below ROOT or absolute; "
        "empty: drawn with SEED",
        scope="data",
    ),
}


class AnomalyDataset(Reader, DatasetBase):
    """One category, with K normal images to learn from.

    Reads ``cfg.DATASET.{ROOT, CATEGORY, NUM_SHOTS, SHOTS_FROM}`` and ``cfg.SEED``. With NUM_SHOTS
    K >= 1 the sorted normal images are shuffled by a generator seeded with SEED and the first K
    taken, so that fewer shots of a seed are among its more. NUM_SHOTS < 1 takes all. Whoever uses
    the model draws them again for its memory, so a draw needs a seed.

    Attributes:
        samples: what is tested, in the order of ``test``.
        masks: whether anomalous images have masks.
    """

    task = "anomaly"
    is_checked = True
    is_own = False
    category = ""

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        """Declare the settings that data sets for anomaly detection read."""
        declare(cfg, "DATASET", SETTINGS)

    @classmethod
    def reader(cls, root: str | os.PathLike, **options: Any) -> AnomalyDataset:
        """Return the data set placed on its folder; no category is read yet."""
        reader = cls.__new__(cls)
        Reader.__init__(reader, root, **options)
        return reader

    def __init__(self, cfg: Any):
        Reader.__init__(self, cfg.DATASET.ROOT, **self.options_of(cfg))
        self._looks_into_images = self.is_own and cfg.DATASET.get("CHECK_IMAGES", True)
        self.category = self.choose(cfg.DATASET.CATEGORY)
        found = self.read_category(self.category)
        if found.problems:
            raise DataProblems(self._name_in_messages(), found.problems)
        self.notes += found.notes
        for note in self.notes:
            log.warning("%s: %s", self._name_in_messages(), note)
        self._normal, self.samples = found.train, found.test
        self.masks = any(sample.mask for sample in self.samples)
        self._drawn = self.draw(cfg.DATASET.NUM_SHOTS, cfg.SEED, cfg.DATASET.SHOTS_FROM, cfg)
        how = {"reading": self.reading}
        test = [
            Datum(os.path.join(self.image_dir, s.path), label, 0, CLASSNAMES[label], **how)
            for s in self.samples
            for label in (int(bool(s.defect)),)
        ]
        train = [
            Datum(os.path.join(self.image_dir, path), 0, 0, NORMAL, **how) for path in self._drawn
        ]
        DatasetBase.__init__(self, train_x=train, val=[], test=test)
        self._num_classes = len(CLASSNAMES)
        self._lab2cname, self._classnames = dict(enumerate(CLASSNAMES)), list(CLASSNAMES)

    # Categories

    def categories(self) -> list[str]:
        """Return the names of the categories, [""] where the folder itself is one."""
        return categories_in(self.image_dir)

    def read_category(self, name: str) -> Category:
        """Return what a category has, and what is wrong with it."""
        return read_mvtec(self.image_dir, name)

    def choose(self, name: str) -> str:
        """Return the category of a name.

        Raises:
            UsageError: there is none of that name, or several and none is named.
        """
        known = self.categories()
        if not known:
            raise UsageError(
                f"{self.name}: {self.image_dir} has no category in it (a folder with train/good "
                f"and test/). {self.help_line()}"
            )
        if name in known or (not name and len(known) == 1):
            return name or known[0]
        if known == [""]:
            raise UsageError(
                f"{self.name}: DATASET.CATEGORY {name!r:.80}: {self.image_dir} is a category "
                "itself; leave DATASET.CATEGORY empty"
            )
        near = nearest(name, known) if name else []
        hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
        what = f"no category {name!r:.80}" if name else "name one with DATASET.CATEGORY"
        raise UsageError(f"{self.name}: {what}; {hint}")

    @property
    def title(self) -> str:
        """What tables call the data set."""
        return self.name

    def _name_in_messages(self) -> str:
        return f"{self.name} {self.category}".strip()

    # The draw

    is_unseeded = False  # whether each draw gives other images

    def draw(self, shots: int, seed: int, shots_from: str, cfg: Any) -> list[str]:
        """Return the normal images to learn from.

        Raises:
            UsageError: SHOTS_FROM cannot be read or has no such line or image.
        """
        if shots < 1:
            if shots_from:
                raise UsageError("DATASET.SHOTS_FROM needs DATASET.NUM_SHOTS, which line to take")
            return list(self._normal)
        if shots_from:
            path = os.path.join(os.path.expanduser(cfg.DATASET.ROOT), shots_from)
            return [self._normal[i] for i in read_indices(path, shots, len(self._normal))]
        if len(self._normal) < shots:
            log.warning(
                "%s: only %d of the %d normal images asked for",
                self._name_in_messages(), len(self._normal), shots,
            )  # fmt: skip
        order = list(self._normal)
        self.is_unseeded = seed < 0 and shots < len(order)
        if seed >= 0:
            random.Random(seed).shuffle(order)
        return order[:shots]

    def check_draw(self) -> None:
        """Refuse to use images that would be others each time.

        Raises:
            UsageError: there is neither a seed nor SHOTS_FROM, and some of the images are drawn.
        """
        if self.is_unseeded:
            raise UsageError(
                f"{self._name_in_messages()}: without a seed (SEED below 0) other normal images "
                "are drawn each time, by whoever uses the model as well; give a seed, as --seed 1"
            )

    # Checks

    def verify(self) -> None:
        """Look at the sizes of masks, and decode images of one's own unless CHECK_IMAGES is off.

        Raises:
            DataProblems: naming what does not decode or fit.
            UsageError: as `check_draw`.
        """
        self.check_draw()
        problems = self.look_into(self._drawn, self.samples, self._looks_into_images)
        if problems:
            raise DataProblems(self._name_in_messages(), problems)
        if self._looks_into_images:
            for line in self.copies(self._drawn, self.samples):
                log.warning("%s: %s", self._name_in_messages(), line)

    def copies(self, train: Iterable[str], samples: Iterable[Sample]) -> list[str]:
        """Return lines on images that are there twice by content."""
        normal = [(path, 0, NORMAL) for path in train]
        test = [(s.path, label, CLASSNAMES[label]) for s in samples for label in (bool(s.defect),)]
        return copies(Files(self.image_dir, [path for path, _, _ in normal + test]), normal, test)

    def look_into(
        self,
        train: Iterable[str],
        samples: Iterable[Sample],
        decode: bool = True,
        anew: bool = False,
    ) -> list[str]:
        """Return a line for each image or mask that does not decode, or does not fit.

        Args:
            anew: decode also what is remembered to decode.
        """
        samples = list(samples)
        paths = [*train, *(sample.path for sample in samples)]
        if decode:
            found = undecodable(Files(self.image_dir, paths), self.reading, anew)
        else:
            places = (os.path.join(self.image_dir, path) for path in paths)
            found = [f"{place} is not there" for place in places if not os.path.isfile(place)]
        if found:
            return found
        return list(filter(None, (self._mask_problem(s) for s in samples if s.mask)))

    def _mask_problem(self, sample: Sample) -> str:
        image, mask = (os.path.join(self.image_dir, p) for p in (sample.path, sample.mask))
        try:
            sizes = [_size(image), _size(mask)]
        except Exception as error:  # Pillow raises half a dozen types for damaged files
            return f"mask {mask} or its image cannot be read ({one_line(error)})"
        if sizes[0] != sizes[1]:
            (w, h), (w2, h2) = sizes
            return f"mask {mask} has {w2}x{h2} pixels, its image {w}x{h}; they must be alike"
        return ""

    def digests(self) -> dict[str, str]:
        """Return digests of the data, with the keys of `datasets.identity`."""
        normal, drawn = ([(p, 0, NORMAL) for p in paths] for paths in (self._normal, self._drawn))
        test: list[Entry] = [(s.path, int(bool(s.defect)), f"{s.defect} {s.mask}")
                             for s in self.samples]  # fmt: skip
        masks = [sample.mask for sample in self.samples if sample.mask]
        of_draw = {
            "few_shot": split_digest([drawn]),
            "train_files": Files(self.image_dir, self._drawn).digest(),
        }
        return {
            "train": split_digest([normal]),
            "val": split_digest([[]]),
            "test": split_digest([test]),
            "test_files": Files(self.image_dir, [*(s.path for s in self.samples), *masks]).digest(),
            **({} if self.is_unseeded else of_draw),
        }

    def examine(self, decode: bool = True) -> tuple[dict[str, int], list[str]]:
        """Look at all categories; ``self.notes`` says what was passed over.

        Returns:
            numbers of categories and images, and a line for everything that is wrong.
        """
        figures = dict.fromkeys(("categories", "train", "test", "anomalous"), 0)
        problems: list[str] = []
        names = self.categories()
        for name in names:
            found = self.read_category(name)
            figures["categories"] += 1
            figures["train"] += len(found.train)
            figures["test"] += len(found.test)
            figures["anomalous"] += sum(bool(sample.defect) for sample in found.test)
            lines = found.problems or self.look_into(found.train, found.test, decode, anew=True)
            if self.is_own:
                lines = lines + self.copies(found.train, found.test)
            start = f"{name}: " if name else ""
            problems += [f"{start}{line}" for line in lines]
            self.notes += [f"{start}{note}" for note in found.notes]
        if not names:
            problems.append(f"{self.image_dir}: no category (a folder with train/good and test/)")
        return figures, problems


def _size(path: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        turned = image.getexif().get(274, 1) >= 5  # orientations on their side
        return (image.height, image.width) if turned else image.size


def read_indices(path: str | Path, shots: int, count: int) -> list[int]:
    """Return the positions on a line ``#K: i j ...`` of a file, K being ``shots``.

    Args:
        count: of images; positions are below it.

    Raises:
        UsageError: the file cannot be read, has no such line, or names what is not there.
    """
    start = f"#{shots}:"
    lines = [line.strip() for line in read_text(Path(path)).splitlines()]
    line = next((line for line in lines if line.startswith(start)), None)
    if line is None:
        raise UsageError(f"{path}: no line {start!r} for {shots} shots")
    words = [word.lstrip("0") or "0" for word in line[len(start) :].split()]
    known = {str(position) for position in range(count)}
    wrong = [word for word in words if word not in known]
    if wrong or not len(words) == len(set(words)) == shots:
        what = f"{wrong[0]!r:.40}" if wrong else f"{len(words)} positions"
        raise UsageError(
            f"{path}: {start} {what}; it takes {shots} different positions from 0 to {count - 1}"
        )
    return [int(word) for word in words]


@DATASET_REGISTRY.register()
class MVTecAD(AnomalyDataset):
    """MVTec AD: fifteen categories."""

    dataset_dir = "mvtec"


@DATASET_REGISTRY.register()
class AnomalyFolder(AnomalyDataset):
    """Images of one's own in MVTec's layout, at ``cfg.DATASET.IMAGE_DIR``; masks are optional.

    The folder is a category itself (``train/good``, ``test/good``, ``test/DEFECT``), or holds one
    folder for each.
    """

    is_own = True

    @classmethod
    def options_of(cls, cfg: Any) -> dict[str, Any]:
        return {"image_dir": cfg.DATASET.IMAGE_DIR, "title": cfg.DATASET.get("TITLE", "")}

    def locate(self, root: str) -> None:
        folder = self.options.get("image_dir", "")
        if not folder:
            raise UsageError(f"{self.name}: name your images with DATASET.IMAGE_DIR FOLDER")
        root = os.path.abspath(os.path.expanduser(root))
        self.dataset_dir = self.image_dir = os.path.join(root, os.path.expanduser(folder))
        if not os.path.isdir(self.image_dir):
            raise MissingFile(f"{self.name}: no folder {self.image_dir} (DATASET.IMAGE_DIR)")

    def read_category(self, name: str) -> Category:
        found = super().read_category(name)
        found.notes += left_out(self.image_dir, name)
        return found

    def examine(self, decode: bool = True) -> tuple[dict[str, int], list[str]]:
        known = self.categories()
        for name in list_folder(self.image_dir, folders=True) if known != [""] else ():
            if name not in known and list_tree(self.image_dir, name).images:
                self.notes.append(f"{name} holds images but no folder train: left out")
        return super().examine(decode)

    @classmethod
    def help_line(cls) -> str:
        return "Check DATASET.IMAGE_DIR"

    @property
    def title(self) -> str:
        """What tables call the data set: TITLE, or the folder's name."""
        return self.options.get("title") or Path(self.image_dir).name
