"""Small trees in the real data sets' layouts. Image files are empty: readers do not decode them."""

import json
from pathlib import Path

from yacs.config import CfgNode

from datasets import prepare

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
        cfg.DATASET[key] = value if isinstance(value, int) else str(value)
    return cfg


def listing(items, folder) -> list:
    """Datum objects as [path relative to ``folder``, label]."""
    return [[Path(item.impath).relative_to(folder).as_posix(), item.label] for item in items]


# {folder in the tree: class name}, three classes each, in the data set's own naming.
SPLIT_FILE_TREES = {
    # registered name: (folder, image folder, image path pattern, classes)
    "Caltech101": (
        "caltech-101",
        "101_ObjectCategories",
        "{folder}/image_{k:04d}.jpg",
        {"Faces": "face", "Leopards": "leopard", "accordion": "accordion"},
    ),
    "OxfordPets": (
        "oxford_pets",
        "images",
        "{folder}_{k}.jpg",
        {"Abyssinian": "abyssinian", "great_pyrenees": "great_pyrenees", "pug": "pug"},
    ),
    "StanfordCars": (
        "stanford_cars",
        "",
        "cars_train/{folder}{k:04d}.jpg",
        {"0": "2000 AM General Hummer SUV", "1": "2012 Audi TTS Coupe", "2": "2012 smart fortwo"},
    ),
    "OxfordFlowers": (
        "oxford_flowers",
        "jpg",
        "image_{folder}{k:04d}.jpg",
        {"0": "pink primrose", "1": "hard-leaved pocket orchid", "2": "canterbury bells"},
    ),
    "Food101": (
        "food-101",
        "images",
        "{folder}/{k}.jpg",
        {"apple_pie": "apple_pie", "waffles": "waffles", "tacos": "tacos"},
    ),
    "SUN397": (
        "sun397",
        "SUN397",
        "{folder}/sun_{k}.jpg",
        {"a/abbey": "abbey", "a/apse/indoor": "indoor apse", "z/zoo": "zoo"},
    ),
    "DescribableTextures": (
        "dtd",
        "images",
        "{folder}/{folder}_{k:04d}.jpg",
        {"banded": "banded", "dotted": "dotted", "zigzagged": "zigzagged"},
    ),
    "EuroSAT": (
        "eurosat",
        "2750",
        "{folder}/{folder}_{k}.jpg",
        {"AnnualCrop": "Annual Crop Land", "Forest": "Forest", "SeaLake": "Sea or Lake"},
    ),
    "UCF101": (
        "ucf101",
        "UCF-101-midframes",
        "{folder}/v_{folder}_g{k:02d}_c01.jpg",
        {"Archery": "Archery", "Yo_Yo": "Yo_Yo", "Pull_Ups": "Pull_Ups"},
    ),
}

VARIANTS = {"707-320": "0034309", "A310": "0091226", "DHC-8-300": "1042824"}

IMAGENET_CLASSES = {"n01440764": "tench", "n02012849": "crane", "n03126707": "crane"}
IMAGENET_VARIANTS = {
    "ImageNetV2": ("imagenetv2", "imagenetv2-matched-frequency-format-val"),
    "ImageNetSketch": ("imagenet-sketch", "images"),
    "ImageNetA": ("imagenet-adversarial", "imagenet-a"),
    "ImageNetR": ("imagenet-rendition", "imagenet-r"),
}

# Every data set of CoOp's table, three classes each.
NAMES = (*SPLIT_FILE_TREES, "FGVCAircraft", "ImageNet", *IMAGENET_VARIANTS)
COUNTS = (6, 5, 3)  # train, val, test images a class


def write_tree(name: str, root: Path) -> tuple[Path, list[str]]:
    """A small tree of the named data set in CoOp's layout; returns its folder and class names."""
    if name in SPLIT_FILE_TREES:
        folder, image_folder, pattern, classes = SPLIT_FILE_TREES[name]
        split = make_split(classes, COUNTS, pattern)
        split_file = f"split_zhou_{name}.json"
        return (
            write_split_tree(root / folder, image_folder, split_file, split),
            list(classes.values()),
        )
    if name == "FGVCAircraft":
        return write_aircraft(root / "fgvc_aircraft"), list(VARIANTS)
    if name == "ImageNet":
        folder = root / "imagenet"
        for part, count in (("train", COUNTS[0]), ("val", COUNTS[2])):
            for wnid in IMAGENET_CLASSES:
                touch(folder / "images" / part / wnid, [f"{wnid}_{k}.JPEG" for k in range(count)])
    else:
        dataset_dir, image_folder = IMAGENET_VARIANTS[name]
        folder = root / dataset_dir
        for label, wnid in enumerate(IMAGENET_CLASSES):
            where = str(label) if name == "ImageNetV2" else wnid
            touch(folder / image_folder / where, [f"{k}.jpeg" for k in range(COUNTS[2])])
        (folder / image_folder / "README.txt").write_text("not a class")
    lines = [f"{wnid} {classname}\n" for wnid, classname in IMAGENET_CLASSES.items()]
    (folder / "classnames.txt").write_text("".join(lines))
    return folder, list(IMAGENET_CLASSES.values())


def write_aircraft(folder: Path) -> Path:
    lists = {"train": [], "val": [], "test": []}
    for variant, number in VARIANTS.items():
        k = 0
        for part, count in zip(lists, COUNTS, strict=True):
            for _ in range(count):
                k += 1
                touch(folder / "images", [f"{number}{k}.jpg"])
                lists[part].append(f"{number}{k} {variant}\n")
    for part, lines in lists.items():
        (folder / f"images_variant_{part}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("".join(f"{variant}\n" for variant in VARIANTS))
    return folder


def small_entry(name, root):
    """The catalogue's entry with the figures of the small tree that stands for the data set."""
    entry = next(e for e in prepare.read_catalogue().values() if e["name"] == name)
    split = prepare.open_dataset(entry, root).read_data()
    figures = prepare.count(split)
    assert figures["classes"] == 3
    entry["figures"] = {part: figures[part] for part in entry["figures"]}
    entry.pop("split_sha256", None)
    return entry
