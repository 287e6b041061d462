"""The base class of data sets: lists of labelled image paths, and class names."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dassl.utils import UsageError


@dataclass(frozen=True)
class Datum:
    """One image.

    Whether the file exists is not checked here: a split file can list a hundred times as many as a
    run reads.

    Attributes:
        impath: path of the image file.
        label: class, from 0.
        domain: domain, from 0.
        classname: the class in words.
        reading: how the file is read, one of ``common.images.READINGS`` (ours).
    """

    impath: str = ""
    label: int = 0
    domain: int = 0
    classname: str = ""
    reading: str = "upstream"

    def __post_init__(self) -> None:
        if not isinstance(self.impath, str):
            raise TypeError(f"impath is a string, got {type(self.impath).__name__}")


class DatasetBase:
    """Images for training, validation and testing, with the classes' names.

    Args:
        train_x: training images. They define the classes.
        val: validation images, if any.
        test: test images.

    Raises:
        UsageError: no training images, a class number without images or with two names, or a
            validation or test label that training does not have.
    """

    dataset_dir = ""  # folder of the data set below DATASET.ROOT
    task = "classification"  # ours: what trainers it is for; the other is anomaly
    is_checked = False  # ours: labels are consistent and images there, the subclass has seen to it

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ):
        if not train_x:
            raise UsageError(f"{type(self).__name__}: no training images")
        self._train_x = train_x
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)
        if not self.is_checked:
            self._check_labels()

    def verify(self) -> None:
        """Look into the image files before a run reads them; nothing to do for most data sets.

        Raises:
            UsageError: naming images that do not decode.
        """

    def _check_labels(self) -> None:
        name = type(self).__name__
        for label in range(self._num_classes):
            if label not in self._lab2cname:
                raise UsageError(
                    f"{name}: no training image has label {label}, but labels go up to "
                    f"{self._num_classes - 1}"
                )
        for split, items in (("val", self._val), ("test", self._test)):
            for item in items or ():
                if item.label not in self._lab2cname:
                    raise UsageError(
                        f"{name}: {split} image {item.impath} has label {item.label}, "
                        f"training labels are 0 to {self._num_classes - 1}"
                    )

    @property
    def train_x(self) -> list[Datum]:
        """Training images."""
        return self._train_x

    @property
    def val(self) -> list[Datum] | None:
        """Validation images."""
        return self._val

    @property
    def test(self) -> list[Datum] | None:
        """Test images."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class names by label."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in order of label."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """Highest training label plus one."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Sequence[Datum]) -> int:
        """Highest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Sequence[Datum]) -> tuple[dict[int, str], list[str]]:
        """Class names by label, and the same as a list in order of label.

        Raises:
            UsageError: two names for one label.
        """
        names: dict[int, str] = {}
        for item in data_source:
            if names.setdefault(item.label, item.classname) != item.classname:
                raise UsageError(
                    f"label {item.label} is called {names[item.label]!r} and, at {item.impath}, "
                    f"{item.classname!r}"
                )
        ordered = dict(sorted(names.items()))
        return ordered, list(ordered.values())

    def generate_fewshot_dataset(
        self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False
    ) -> list[Datum] | list[list[Datum]]:
        """Draw ``num_shots`` images per class from each list, with python's global generator.

        Classes are drawn in order of first appearance, and the result is grouped by class, so the
        same seed gives the same images as Dassl. A class with fewer images gives all it has.

        Args:
            data_sources: lists of images.
            num_shots: images per class; below 1 returns the lists as they are.
            repeat: fill up classes that have too few images by drawing with replacement.

        Returns:
            One list if one was given, otherwise a list of lists.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else list(data_sources)
        print(f"Creating a {num_shots}-shot dataset")
        output = [self._draw(source, num_shots, repeat) for source in data_sources]
        return output[0] if len(output) == 1 else output

    def _draw(self, data_source: list[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        drawn: list[Datum] = []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                drawn += random.sample(items, num_shots)
            elif repeat:
                drawn += random.choices(items, k=num_shots)
            else:
                drawn += items
        return drawn

    def split_dataset_by_label(self, data_source: Sequence[Datum]) -> dict[int, list[Datum]]:
        """Images by label, labels in order of first appearance."""
        groups: dict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups
