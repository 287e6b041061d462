"""Food-101: dishes (Bossard et al., 2014), 101 classes."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.splits import Lists, split_of_folders


@DATASET_REGISTRY.register()
class Food101(PublishedDataset):
    dataset_dir = "food-101"
    image_folder = "images"
    split_file = "split_zhou_Food101.json"

    def draw_split(self) -> Lists:
        return split_of_folders(self.image_dir)
