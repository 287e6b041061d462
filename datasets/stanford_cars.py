"""Stanford Cars: make, model and year (Krause et al., 2013), 196 classes."""

import os

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.splits import Entry, Lists, draw_val


@DATASET_REGISTRY.register()
class StanfordCars(PublishedDataset):
    dataset_dir = "stanford_cars"
    image_folder = ""  # split paths begin with cars_train/ or cars_test/
    split_file = "split_zhou_StanfordCars.json"

    def draw_split(self) -> Lists:
        trainval = self.read_annotations("cars_train", "devkit/cars_train_annos.mat")
        test = self.read_annotations("cars_test", "cars_test_annos_withlabels.mat")
        return *draw_val(trainval), test

    def read_annotations(self, folder: str, name: str) -> list[Entry]:
        from scipy.io import loadmat

        annotations = loadmat(os.path.join(self.dataset_dir, name))["annotations"][0]
        meta = loadmat(os.path.join(self.dataset_dir, "devkit/cars_meta.mat"))["class_names"][0]
        entries = []
        for annotation in annotations:
            label = int(annotation["class"][0, 0]) - 1
            model, _, year = str(meta[label][0]).rpartition(" ")
            entries.append((f"{folder}/{annotation['fname'][0]}", label, f"{year} {model}"))
        return entries
