"""A data set of any size without meaning: random class names, pictures of noise.

Imports ``dassl`` alone, so that an upstream checkout can be measured on it as well.
"""

import json
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

# Tokens of a class name and how often: as in UCF101 and OxfordFlowers, cut at 4. The longest
# decides how much is saved by not running 77 positions, the mean how much by packing.
NAME_TOKENS = {1: 0.2, 2: 0.5, 3: 0.2, 4: 0.1}


@lru_cache
def words() -> tuple[str, ...]:
    """Words that CLIP's tokeniser has as one token."""
    from clip.simple_tokenizer import SimpleTokenizer

    tokens = list(SimpleTokenizer().encoder)[1000:12000]
    endings = (token[: -len("</w>")] for token in tokens if token.endswith("</w>"))
    return tuple(word for word in endings if word.isascii() and word.isalpha() and len(word) > 2)


def class_names(count: int, seed: int = 0) -> list[str]:
    """Different names of one to four tokens, drawn by NAME_TOKENS; one has four."""
    rng = random.Random(seed)
    lengths = [max(NAME_TOKENS)]
    lengths += rng.choices(list(NAME_TOKENS), NAME_TOKENS.values(), k=count - 1)
    names: dict[str, None] = {}
    for length in lengths:
        name = ""
        while not name or name in names:
            name = " ".join(rng.sample(words(), length))
        names[name] = None
    return list(names)


def write(
    root: Path,
    classes: int,
    train_per_class: int = 1,
    test_per_class: int = 1,
    pictures: int = 1,
    side: int = 32,
    seed: int = 0,
) -> None:
    """Make the data set in a folder; its images take turns on a few files of noise.

    Args:
        pictures: number of different files.
        side: their width and height in pixels.
    """
    root.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(pictures):
        pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.jpg", quality=90)
    described = {
        "names": class_names(classes, seed),
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "pictures": pictures,
    }
    (root / "synthetic.json").write_text(json.dumps(described))


@DATASET_REGISTRY.register()
class Synthetic(DatasetBase):
    """What ``write`` made below DATASET.ROOT; halves of the classes by SUBSAMPLE_CLASSES."""

    def __init__(self, cfg):
        root = Path(cfg.DATASET.ROOT)
        described = json.loads((root / "synthetic.json").read_text())
        names, half = described["names"], (len(described["names"]) + 1) // 2
        part = {"all": names, "base": names[:half], "new": names[half:]}
        self.all_classnames, names = names, part[cfg.DATASET.SUBSAMPLE_CLASSES]

        def items(per_class: int) -> list[Datum]:
            return [
                Datum(str(root / f"{(label + i) % described['pictures']}.jpg"), label, 0, name)
                for label, name in enumerate(names)
                for i in range(per_class)
            ]

        train, test = items(described["train_per_class"]), items(described["test_per_class"])
        super().__init__(train_x=train, test=test)
        self.unlabelled = [Datum(item.impath) for item in train]
