"""ImageNet (Deng et al., 2009), 1000 classes; its validation images are the test set."""

import json
import os

from common.errors import UsageError
from common.files import atomic_write
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from datasets.base import FewShotDataset
from datasets.classnames import read_classnames
from datasets.fewshot import is_writable
from datasets.splits import Entry, Split, list_folder


class ImageNetFamily(FewShotDataset):
    """Class folders named by WordNet id, named in words by CoOp's ``classnames.txt``.

    The names file may stand in the data set's own folder or, once for all, in ``imagenet/``.
    """

    def locate(self, cfg) -> None:
        super().locate(cfg)
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

    def entries_of(self, images: dict[str, list[str]], prefix: str = "") -> list[Entry]:
        """Entries of {class folder: file names}; labels in order of the folders."""
        names = self.read_names()
        entries = []
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

    def read_data(self) -> Split:
        index = FolderIndex(os.path.join(self.dataset_dir, "index.json"))
        lists = []
        for part in ("train", "val"):
            folder = os.path.join(self.image_dir, part)
            if not os.path.isdir(folder):
                raise UsageError(f"{self.name}: no folder {folder}. {self.help_line()}")
            classes = list_folder(folder, folders=True)
            lists.append({name: index.names(folder, name) for name in classes})
        index.save()
        train, test = lists
        for folder in sorted(set(train) ^ set(test)):
            parts = "train but not in val" if folder in train else "val but not in train"
            raise UsageError(f"{self.name}: class folder {folder} is in {parts}")
        return self.entries_of(train, "train/"), [], self.entries_of(test, "val/")


class ImageNetVariant(ImageNetFamily):
    """Test images alone: they stand in for training images too, which gives the class names."""

    def __init__(self, cfg):
        self.locate(cfg)
        if cfg.DATASET.SUBSAMPLE_CLASSES != "all":
            raise UsageError(
                f"{self.name} is for testing on all its classes; "
                "leave DATASET.SUBSAMPLE_CLASSES at all"
            )
        _, _, test = self.read_data()
        test = self.to_datums(test)
        self.check_class_count(test, "all")
        DatasetBase.__init__(self, train_x=test, test=test)

    def read_data(self) -> Split:
        test = self.read_test()
        return test, [], test

    def read_test(self) -> list[Entry]:
        """The test images; labels in order of the class folders."""
        folders = list_folder(self.image_dir, folders=True)
        images = {name: list_folder(os.path.join(self.image_dir, name)) for name in folders}
        return self.entries_of(images)


class FolderIndex:
    """File names by folder, kept as JSON: listing 1.3 million files is slow on network disks.

    A folder is listed anew when its modification time is not the recorded one.
    """

    def __init__(self, path: str):
        self.path = path
        self.changed = False
        self.folders: dict[str, list] = {}
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            self.folders = dict(content["folders"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # no index, or not one of ours: list the folders

    def names(self, base: str, folder: str) -> list[str]:
        """Sorted image file names in ``base/folder``."""
        key = f"{os.path.basename(base)}/{folder}"
        path = os.path.join(base, folder)
        modified = os.stat(path).st_mtime_ns
        known = self.folders.get(key)
        if isinstance(known, list) and known[:1] == [modified] and is_names(known[1:]):
            return known[1:]
        names = list_folder(path)
        self.folders[key] = [modified, *names]
        self.changed = True
        return names

    def save(self) -> None:
        """Write the index where it changed and can be written."""
        folder = os.path.dirname(self.path)
        if self.changed and is_writable(folder):
            try:
                with atomic_write(self.path) as file:
                    json.dump({"folders": self.folders}, file)
            except OSError:
                pass  # it saves time, nothing depends on it


def is_names(values: list) -> bool:
    """Whether these are plain file names: an index must not lead out of its folder."""
    return all(isinstance(value, str) and os.path.basename(value) == value for value in values)
