"""Shapes: hand-drawn coloured, patterned shapes on paper, 48 classes, drawn on first use.

A data set that needs no download. Each class is a colour, a pattern and a shape ("red striped
circle"), every attribute is needed to tell some classes apart, and every shape, colour and pattern
occurs in both halves of the classes (base and new).

The pictures look like crayon on paper: wobbly outlines, uneven fill, ruled lines, stray strokes,
uneven light. The bundled small CLIP was pretrained on shapes of another style, drawn by other code
(``anprompt/pretraining/world.py``), so its zero-shot accuracy here leaves room to learn.
"""

import json
import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from datasets._drawing import draw_once
from datasets.base import FewShotDataset
from datasets.fewshot import user_cache

IMAGES_PER_CLASS = {"train": 20, "val": 4, "test": 25}
DRAWING_VERSION = 1  # raise it when the pictures change: old ones are then redrawn


def default_root() -> Path:
    """Where Shapes lives when no data folder is named: ``$ANPROMPT_CACHE/data``."""
    return user_cache() / "data"


def ensure_drawn(root: str | os.PathLike) -> Path:
    """Draw the data set to ``root/shapes`` unless it is there; returns that folder.

    Raises:
        UsageError: the folder cannot be written, or holds something else.
    """
    return draw_once(root, "shapes", "Shapes", DRAWING_VERSION, _draw)


def _draw(folder: Path) -> None:
    # Here, because a folder that is drawn already needs none of them.
    from tqdm import tqdm

    from datasets._shapes_pictures import CLASSNAMES, picture_of

    lists: dict[str, list] = {split: [] for split in IMAGES_PER_CLASS}
    for label, name in enumerate(
        tqdm(CLASSNAMES, desc="drawing Shapes", unit="class", disable=None)
    ):
        own = name.replace(" ", "_")
        (folder / "images" / own).mkdir(parents=True)
        for split, count in IMAGES_PER_CLASS.items():
            for number in range(count):
                path = f"{own}/{split}_{number:03d}.jpg"
                picture_of(split, label, number).save(folder / "images" / path, quality=85)
                lists[split].append([path, label, name])
    text = json.dumps(lists, indent=1)
    (folder / "split_zhou_Shapes.json").write_text(text, encoding="utf-8")


@DATASET_REGISTRY.register()
class Shapes(FewShotDataset):
    """Drawn to ``cfg.DATASET.ROOT`` (to a cache folder where that is empty) on first use."""

    dataset_dir = "shapes"
    image_folder = "images"
    split_file = "split_zhou_Shapes.json"
    is_own = False

    @classmethod
    def help_line(cls) -> str:
        return "Remove that folder; it is drawn again"

    def locate(self, root: str) -> None:
        root = os.path.abspath(os.path.expanduser(root or default_root()))
        ensure_drawn(root)
        super().locate(root)
