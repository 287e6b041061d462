"""Caltech-101: objects (Fei-Fei et al., 2004), 100 classes (no background, no "Faces_easy")."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.splits import Lists, split_of_folders

IGNORED = ("BACKGROUND_Google", "Faces_easy")
CLASSNAMES = {
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
}


@DATASET_REGISTRY.register()
class Caltech101(PublishedDataset):
    dataset_dir = "caltech-101"
    image_folder = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"

    def draw_split(self) -> Lists:
        return split_of_folders(self.image_dir, renamed=CLASSNAMES, ignored=IGNORED)
