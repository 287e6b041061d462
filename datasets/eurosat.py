"""EuroSAT: land use in Sentinel-2 satellite images (Helber et al., 2019), 10 classes."""

from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import PublishedDataset
from datasets.splits import Lists, split_of_folders

# Folder names read as words; the official split file has them already.
CLASSNAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


@DATASET_REGISTRY.register()
class EuroSAT(PublishedDataset):
    dataset_dir = "eurosat"
    image_folder = "2750"
    split_file = "split_zhou_EuroSAT.json"

    def draw_split(self) -> Lists:
        return split_of_folders(self.image_dir, renamed=CLASSNAMES)
