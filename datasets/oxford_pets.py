"""Oxford-IIIT Pet: breeds of cats and dogs (Parkhi et al., 2012), 37 classes."""

import os

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.classnames import read_lines
from datasets.splits import Entry, Lists, draw_val


@DATASET_REGISTRY.register()
class OxfordPets(PublishedDataset):
    dataset_dir = "oxford_pets"
    image_folder = "images"
    split_file = "split_zhou_OxfordPets.json"

    def draw_split(self) -> Lists:
        return *draw_val(self.read_list("trainval.txt")), self.read_list("test.txt")

    def read_list(self, name: str) -> list[Entry]:
        """Lines ``great_pyrenees_15 <class from 1> <species> <breed>``."""
        entries = []
        for line in read_lines(os.path.join(self.dataset_dir, "annotations", name)):
            image, label, *_ = line.split()
            entries.append((f"{image}.jpg", int(label) - 1, image.rpartition("_")[0].lower()))
        return entries
