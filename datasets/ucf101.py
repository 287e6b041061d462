"""UCF101: actions (Soomro et al., 2012), 101 classes, as the middle frame of each video."""

import os
import re

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.classnames import read_lines
from datasets.splits import Entry, Lists, draw_val


@DATASET_REGISTRY.register()
class UCF101(PublishedDataset):
    dataset_dir = "ucf101"
    image_folder = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"

    def draw_split(self) -> Lists:
        return *draw_val(self.read_list("trainlist01.txt")), self.read_list("testlist01.txt")

    def read_list(self, name: str) -> list[Entry]:
        """Lines ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi [1]``: folder Apply_Eye_Makeup."""
        lists = os.path.join(self.dataset_dir, "ucfTrainTestlist")
        label = {}
        for line in read_lines(os.path.join(lists, "classInd.txt")):
            number, action = line.split()
            label[action] = int(number) - 1
        entries = []
        for line in read_lines(os.path.join(lists, name)):
            action, video = line.split()[0].split("/")
            folder = "_".join(re.findall("[A-Z][^A-Z]*", action))
            entries.append((f"{folder}/{video.removesuffix('.avi')}.jpg", label[action], folder))
        return entries
