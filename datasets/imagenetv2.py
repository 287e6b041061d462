"""ImageNetV2 (Recht et al., 2019): a new test set, matched frequency, 1000 classes."""

import os

from common.errors import UsageError
from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import ImageNetVariant
from datasets.splits import Entry, list_folder


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    dataset_dir = "imagenetv2"
    image_folder = "imagenetv2-matched-frequency-format-val"

    def read_test(self) -> list[Entry]:
        """Folders are the labels themselves: 0, 1, 2, ... in the order of classnames.txt."""
        entries: list[Entry] = []
        names = self.read_names()
        for label, classname in enumerate(names.values()):
            folder = os.path.join(self.image_dir, str(label))
            files = list_folder(folder) if os.path.isdir(folder) else []
            if not files:
                raise UsageError(f"{self.name}: no images in {folder}. {self.help_line()}")
            entries.extend((f"{label}/{name}", label, classname) for name in files)
        folders = list_folder(self.image_dir, folders=True)
        unnamed = sorted(set(folders) - {str(label) for label in range(len(names))})
        if unnamed:
            raise UsageError(
                f"{self.name}: {self.names_path} has {len(names)} lines and so no name for folder "
                f"{unnamed[0]}"
            )
        return entries
