"""FGVC-Aircraft: aircraft variants (Maji et al., 2013), 100 classes, with the official lists."""

import os
from itertools import pairwise

from common.errors import UsageError
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.classnames import read_lines
from datasets.splits import SPLITS, Entry, Lists


@DATASET_REGISTRY.register()
class FGVCAircraft(PublishedDataset):
    dataset_dir = "fgvc_aircraft"
    image_folder = "images"

    def read_data(self) -> Lists:
        variants = self.read_file("variants.txt")
        for before, after in pairwise(variants):  # published in ASCII order; labels follow it
            if before >= after:
                raise UsageError(
                    f"{self.name}: variants.txt has {after!r} after {before!r}, out of its "
                    f"published order, so labels would be wrong. {self.help_line()}"
                )
        label = {variant: number for number, variant in enumerate(variants)}
        train, val, test = (
            self.read_list(f"images_variant_{split}.txt", label) for split in SPLITS
        )
        return train, val, test

    def read_list(self, name: str, label: dict[str, int]) -> list[Entry]:
        """Lines ``0034309 A310``: image number, variant."""
        entries = []
        for line in self.read_file(name):
            image, _, variant = line.partition(" ")
            if variant not in label or not image.isalnum():
                raise UsageError(f"{self.name}: {name} has {line!r}; expected 'image variant'")
            entries.append((f"{image}.jpg", label[variant], variant))
        return entries

    def read_file(self, name: str) -> list[str]:
        path = os.path.join(self.dataset_dir, name)
        if not os.path.isfile(path):
            raise UsageError(f"{self.name}: no {path}. {self.help_line()}")
        return read_lines(path)
