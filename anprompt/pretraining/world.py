"""What the small CLIP is pretrained on: drawn pictures, real training images, and their captions.

Pictures are drawn by ``pictures``. Real images come from the *training* splits only.

Every image belongs to one text class, and a text class is a list of captions that mean the same.
Classes of equal name in different sources are one class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from anprompt.pretraining.pictures import (
    COLOURS,
    PATTERNS,
    PICTURE_SIZE,
    SHAPES,
    draw_picture,
    shape_captions,
)

IMAGE_SIZE = PICTURE_SIZE  # of the stored squares that training crops are taken from

# How often a caption is a descriptive sentence and not a template around a name. Caltech101's class
# names are rare in its captions for the reason given at SATELLITE_WORDINGS.
CALTECH_DESCRIPTION_RATE = 0.9
SATELLITE_DESCRIPTION_RATE = 0.25
OTHER_DESCRIPTION_RATE = 0.12

PHOTO_TEMPLATES = (
    "{}",
    "a {}.",
    "a photo of a {}.",
    "a photo of a {}",
    "a photo of the {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a photo of one {}.",
    "a photo of a {}, a type of object.",
    "a bad photo of a {}.",
    "a good photo of the {}.",
    "a close-up photo of a {}.",
    "a blurry photo of a {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a photo of a small {}.",
    "a photo of the large {}.",
    "a low resolution photo of a {}.",
    "itap of a {}.",
    "a {} in the picture.",
    "this is a {}.",
    "this picture shows a {}.",
)
SATELLITE_TEMPLATES = (
    "{}",
    "{} from above.",
    "a satellite photo of {}.",
    "a satellite image of {}.",
    "a centered satellite photo of {}.",
    "an aerial view of {}.",
    "an aerial photo of {}.",
    "a picture of {} seen from space.",
    "a photo of {}.",
    "land cover: {}.",
)
# CoOp's class names of EuroSAT and what people would say instead. Only the latter are captions: as
# with CLIP, whose training text seldom has a benchmark's names, there is a gap for prompts to mend.
SATELLITE_WORDINGS = {
    "Annual Crop Land": ("annual crops", "fields of annual crops", "crop fields"),
    "Forest": ("a forest", "dense forest", "trees"),
    "Herbaceous Vegetation Land": ("herbaceous vegetation", "grass and shrubs", "wild meadow"),
    "Highway or Road": ("a highway", "a road", "a motorway through fields"),
    "Industrial Buildings": ("an industrial area", "factories and warehouses", "large buildings"),
    "Pasture Land": ("a pasture", "grazing land", "green pastures"),
    "Permanent Crop Land": ("permanent crops", "orchards and vineyards", "plantations"),
    "Residential Buildings": ("a residential area", "houses and streets", "a town"),
    "River": ("a river", "a winding river", "a stream"),
    "Sea or Lake": ("the sea", "a lake", "open water"),
}


@dataclass
class Source:
    """Images of one origin, and how they are drawn from and augmented.

    images: (N, 3, IMAGE_SIZE, IMAGE_SIZE) uint8; labels: (N,) text class of each.
    share: fraction of a batch; per_class: images of one class in a batch, so that one caption
    serves several images.
    min_crop: smallest crop, as a fraction of the side; max_angle: random turn in degrees;
    quarter_turns: whether any of the four orientations is as good.
    benchmark: whether the model is asked about this data set later.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    share: float
    per_class: int
    min_crop: float
    max_angle: float
    quarter_turns: bool = False
    benchmark: bool = False
    members: list[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        labels = self.labels.numpy()
        self.members = [np.flatnonzero(labels == label) for label in np.unique(labels)]


@dataclass
class World:
    """All sources, and for every text class its captions in two lists: short ones, descriptions.

    description_rates: how often a caption of the class is a description, 0 .. 1.
    """

    sources: list[Source]
    captions: list[list[str]]
    descriptions: list[list[str]]
    description_rates: list[float]

    def all_texts(self) -> list[str]:
        """Every caption that can occur, in a fixed order."""
        return [text for texts in (*self.captions, *self.descriptions) for text in texts]


class _Classes:
    """Text classes by name, in order of appearance."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.captions: list[list[str]] = []
        self.descriptions: list[list[str]] = []
        self.description_rates: list[float] = []

    def add(
        self, name: str, captions: list[str], descriptions: list[str], description_rate: float = 0.0
    ) -> int:
        """The class's number; a name that is known gains captions and keeps its rate."""
        key = name.lower().replace("_", " ")
        if key not in self.ids:
            self.ids[key] = len(self.captions)
            self.captions.append([])
            self.descriptions.append([])
            self.description_rates.append(description_rate)
        number = self.ids[key]
        for known, new in (
            (self.captions[number], captions),
            (self.descriptions[number], descriptions),
        ):
            known.extend(text for text in new if text not in known)
        return number


def with_article(template: str, name: str) -> str:
    """Fill a template, with "an" before a vowel."""
    text = template.format(name)
    if name[:1].lower() in "aeiou":
        text = text.replace(f"a {name}", f"an {name}", 1) if f" a {name}" in f" {text}" else text
    return text


def _load_square(path: Path) -> np.ndarray:
    """The image's centre square at IMAGE_SIZE: (3, IMAGE_SIZE, IMAGE_SIZE) uint8."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    small = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box)
    return np.asarray(small).transpose(2, 0, 1)


def _load_all(paths: list[Path], what: str) -> torch.Tensor:
    images = np.empty((len(paths), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for i, path in enumerate(
        tqdm(paths, desc=f"reading {what}", unit="image", leave=False, disable=None)
    ):
        images[i] = _load_square(path)
    return torch.from_numpy(images)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; --data must name the folder that holds it")
    return json.loads(path.read_text(encoding="utf-8"))


def _descriptions(data: Path, name: str) -> dict[str, list[str]]:
    path = data / "descriptions" / f"{name}.json"
    return _read_json(path) if path.is_file() else {}


def _drawn(classes: _Classes, count: int, seed: int) -> Source:
    rng = np.random.default_rng([seed, 1])
    images = np.empty((count, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    combinations = [(c, p, s) for c in COLOURS for p in PATTERNS for s in SHAPES]
    numbers = [
        classes.add(" ".join(combination), shape_captions(*combination), [])
        for combination in combinations
    ]
    for i in tqdm(range(count), desc="drawing pictures", unit="image", leave=False, disable=None):
        which = int(rng.integers(len(combinations)))
        images[i] = draw_picture(*combinations[which], rng).transpose(2, 0, 1)
        labels[i] = numbers[which]
    return Source("drawn", torch.from_numpy(images), torch.from_numpy(labels), 0.28, 1, 0.75, 10)


def _caltech(classes: _Classes, data: Path) -> Source:
    folder = data / "caltech-101"
    train = _read_json(folder / "split_zhou_Caltech101.json")["train"]
    described = _descriptions(data, "Caltech101")
    images = _load_all([folder / "101_ObjectCategories" / item[0] for item in train], "Caltech101")
    numbers = {}
    for name in sorted({item[2] for item in train}):
        words = name.replace("_", " ")
        captions = [with_article(template, words) for template in PHOTO_TEMPLATES]
        numbers[name] = classes.add(
            words, captions, described.get(words, []), CALTECH_DESCRIPTION_RATE
        )
    labels = torch.tensor([numbers[item[2]] for item in train])
    return Source("caltech101", images, labels, 0.38, 2, 0.5, 12, benchmark=True)


def _eurosat(classes: _Classes, data: Path) -> Source:
    folder = data / "eurosat"
    train = _read_json(folder / "split_zhou_EuroSAT.json")["train"]
    described = _descriptions(data, "EuroSAT")
    images = _load_all([folder / "2750" / item[0] for item in train], "EuroSAT")
    numbers = {}
    for name in sorted({item[2] for item in train}):
        captions = [
            template.format(words)
            for words in SATELLITE_WORDINGS.get(name, (name,))
            for template in SATELLITE_TEMPLATES
        ]
        numbers[name] = classes.add(
            name, captions, described.get(name, []), SATELLITE_DESCRIPTION_RATE
        )
    labels = torch.tensor([numbers[item[2]] for item in train])
    return Source("eurosat", images, labels, 0.12, 3, 0.6, 10, quarter_turns=True, benchmark=True)


def _tiny_imagenet(classes: _Classes, data: Path) -> Source:
    folder = data / "tiny-imagenet"
    listing = folder / "classnames.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"{listing} not found; --data must name the folder that holds it")
    described = _descriptions(data, "ImageNet")
    paths, labels = [], []
    for line in listing.read_text(encoding="utf-8").splitlines():
        wnid, name = line.split(" ", 1)
        captions = [with_article(template, name) for template in PHOTO_TEMPLATES]
        number = classes.add(name, captions, described.get(name, []), OTHER_DESCRIPTION_RATE)
        found = sorted((folder / "images" / wnid).glob("*.JPEG"))
        paths += found
        labels += [number] * len(found)
    images = _load_all(paths, "Tiny-ImageNet")
    return Source("tiny-imagenet", images, torch.tensor(labels), 0.22, 2, 0.5, 12)


def build_world(data: Path | None, drawn: int = 24000, seed: int = 1) -> World:
    """The whole world; without ``data`` only the drawn pictures.

    Args:
        data: folder with caltech-101/, eurosat/, tiny-imagenet/ and descriptions/.
        drawn: number of drawn pictures.

    Raises:
        FileNotFoundError: a split file or listing is not where ``data`` says.
    """
    classes = _Classes()
    sources = [_drawn(classes, drawn, seed)]
    if data is not None:
        sources += [
            _caltech(classes, data),
            _eurosat(classes, data),
            _tiny_imagenet(classes, data),
        ]
    return World(sources, classes.captions, classes.descriptions, classes.description_rates)
