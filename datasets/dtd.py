"""Describable Textures (Cimpoi et al., 2014), 47 classes."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.splits import Lists, split_of_folders


@DATASET_REGISTRY.register()
class DescribableTextures(PublishedDataset):
    dataset_dir = "dtd"
    image_folder = "images"
    split_file = "split_zhou_DescribableTextures.json"

    def draw_split(self) -> Lists:
        return split_of_folders(self.image_dir)
