"""Oxford Flowers 102 (Nilsback and Zisserman, 2008), 102 classes."""

import os

from common.reading import read_json
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.splits import Lists, draw_split


@DATASET_REGISTRY.register()
class OxfordFlowers(PublishedDataset):
    dataset_dir = "oxford_flowers"
    image_folder = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"

    def draw_split(self) -> Lists:
        from scipy.io import loadmat

        labels = loadmat(os.path.join(self.dataset_dir, "imagelabels.mat"))["labels"][0]
        names = read_json(os.path.join(self.dataset_dir, "cat_to_name.json"))  # keys from "1"
        images: dict[int, list[str]] = {}
        for number, label in enumerate(labels, start=1):
            images.setdefault(int(label), []).append(f"image_{number:05d}.jpg")
        classes = [(names[str(label)], images[label]) for label in sorted(images)]
        return draw_split(classes, self.name)
