"""ImageNet (Deng et al., 2009), 1000 classes; its validation images are the test set."""

import os

from common.errors import UsageError
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.classnames import read_classnames
from datasets.splits import Entry, Lists, list_folder


class ImageNetFamily(PublishedDataset):
    """Class folders named by WordNet id, named in words by CoOp's ``classnames.txt``.

    The names file may stand in the data set's own folder or, once for all, in ``imagenet/``.
    """

    def locate(self, root: str) -> None:
        super().locate(root)
        root = os.path.dirname(self.dataset_dir)
        choices = [os.path.join(root, folder) for folder in (self.dataset_dir, "imagenet")]
        paths = [os.path.join(folder, "classnames.txt") for folder in choices]
        self.names_path = next((path for path in paths if os.path.isfile(path)), "")
        if not self.names_path:
            raise UsageError(f"{self.name}: no class names {paths[0]}. {self.help_line()}")
        if not os.path.isdir(self.image_dir):
            raise UsageError(f"{self.name}: no folder {self.image_dir}. {self.help_line()}")

    def read_names(self) -> dict[str, str]:
        """{WordNet id: class name}, ids in order: ImageNetV2's labels are positions in it."""
        names = read_classnames(self.names_path)
        folders = list(names)
        for before, folder in zip(folders, folders[1:], strict=False):
            if folder < before:
                raise UsageError(
                    f"{self.names_path}: {folder} ({names[folder]}) stands after {before}; "
                    "lines go in order of the folder names, as in CoOp's file"
                )
        return names

    def list_images(self, split: str) -> dict[str, list[str]]:
        """Return {class folder: sorted file names} below a folder of the image folder."""
        base = os.path.join(self.image_dir, split)
        return {
            folder: list_folder(os.path.join(base, folder))
            for folder in list_folder(base, folders=True)
        }

    def entries_of(self, images: dict[str, list[str]], prefix: str = "") -> list[Entry]:
        """Entries of {class folder: file names}; labels in order of the folders."""
        names = self.read_names()
        entries: list[Entry] = []
        for label, (folder, files) in enumerate(images.items()):
            if folder not in names:
                raise UsageError(f"{self.name}: {self.names_path} has no name for folder {folder}")
            if not files:
                raise UsageError(f"{self.name}: no images in {self.image_dir}/{prefix}{folder}")
            entries.extend((f"{prefix}{folder}/{name}", label, names[folder]) for name in files)
        return entries

    def check_images(self, *lists: list[Entry]) -> None:
        """Nothing to do: the entries come from listing the folders."""


@DATASET_REGISTRY.register()
class ImageNet(ImageNetFamily):
    dataset_dir = "imagenet"
    image_folder = "images"
    val_is_test = True

    def read_data(self) -> Lists:
        for split in ("train", "val"):
            folder = os.path.join(self.image_dir, split)
            if not os.path.isdir(folder):
                raise UsageError(f"{self.name}: no folder {folder}. {self.help_line()}")
        train, test = (self.list_images(split) for split in ("train", "val"))
        for folder in sorted(set(train) ^ set(test)):
            where = "train but not in val" if folder in train else "val but not in train"
            raise UsageError(f"{self.name}: class folder {folder} is in {where}")
        return self.entries_of(train, "train/"), [], self.entries_of(test, "val/")


class ImageNetVariant(ImageNetFamily):
    """Test images alone: they stand in for training images too, which gives the class names."""

    test_is_train = True

    def read_data(self) -> Lists:
        test = self.read_test()
        return test, [], test

    def read_test(self) -> list[Entry]:
        """Return the test images; labels in order of the class folders."""
        return self.entries_of(self.list_images(""))
