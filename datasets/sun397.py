"""SUN397: scenes (Xiao et al., 2010), 397 classes."""

import os

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.classnames import read_lines
from datasets.splits import Entry, Lists, draw_val


@DATASET_REGISTRY.register()
class SUN397(PublishedDataset):
    dataset_dir = "sun397"
    image_folder = "SUN397"
    split_file = "split_zhou_SUN397.json"

    def draw_split(self) -> Lists:
        return *draw_val(self.read_list("Training_01.txt")), self.read_list("Testing_01.txt")

    def read_list(self, name: str) -> list[Entry]:
        """Lines ``/a/apartment_building/outdoor/sun_x.jpg``: class "outdoor apartment_building"."""
        folders = read_lines(os.path.join(self.dataset_dir, "ClassName.txt"))
        label = {folder: number for number, folder in enumerate(folders)}
        entries = []
        for line in read_lines(os.path.join(self.dataset_dir, name)):
            folder = os.path.dirname(line)
            words = folder.split("/")[2:]  # after the slash and the initial letter
            entries.append((line[1:], label[folder], " ".join(reversed(words))))
        return entries
