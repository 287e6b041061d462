"""Small trees in the real data sets' layouts. Image files are empty: readers do not decode them."""

import json
from pathlib import Path

from yacs.config import CfgNode

EUROSAT = {
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


def touch(folder: Path, paths) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def make_split(classes, counts=(20, 6, 10), path="{folder}/{folder}_{k}.png") -> dict:
    """{"train", "val", "test"} for {folder: class name}, images numbered from 1 within a class."""
    split = {"train": [], "val": [], "test": []}
    for label, (folder, classname) in enumerate(classes.items()):
        k = 0
        for part, count in zip(split, counts, strict=True):
            for _ in range(count):
                k += 1
                split[part].append([path.format(folder=folder, k=k), label, classname])
    return split


def write_split_tree(dataset_dir: Path, image_folder: str, split_file: str, split: dict) -> Path:
    """A data set folder with the split file and every image it lists."""
    image_dir = dataset_dir / image_folder
    touch(image_dir, [entry[0] for entries in split.values() for entry in entries])
    (dataset_dir / split_file).write_text(json.dumps(split))
    return dataset_dir


def write_eurosat(root: Path, counts=(20, 6, 10)) -> Path:
    """The layout (names only) of the fake EuroSAT that the golden lists were recorded on."""
    split = make_split(EUROSAT, counts)
    return write_split_tree(Path(root) / "eurosat", "2750", "split_zhou_EuroSAT.json", split)


def make_cfg(dataset, root, shots=0, seed=1, subsample="all", **keys) -> CfgNode:
    """The configuration keys that data sets read."""
    cfg = CfgNode({"SEED": seed, "DATASET": {"ROOT": str(root), "NUM_SHOTS": shots}})
    dataset.extend_cfg(cfg)
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    for key, value in keys.items():
        cfg.DATASET[key] = str(value)
    return cfg


def listing(items, folder) -> list:
    """Datum objects as [path relative to ``folder``, label]."""
    return [[Path(item.impath).relative_to(folder).as_posix(), item.label] for item in items]
