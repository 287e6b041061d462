"""DefectTiles: four drawn textures with scratches, holes and stains, and their masks.

A data set that needs no download, in MVTec's layout. Its pictures are drawn on first use.
"""

import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from datasets._drawing import draw_once
from datasets.anomaly import AnomalyDataset
from datasets.categories import GOOD
from datasets.shapes import default_root

TRAIN, TEST_GOOD, TEST_DEFECT = 24, 24, 8  # images a category; of the last for each defect
DRAWING_VERSION = 1  # raise it when the pictures change: old ones are then redrawn


def ensure_drawn(root: str | os.PathLike) -> Path:
    """Draw the data set to ``root/defect_tiles`` unless it is there; return that folder.

    Raises:
        UsageError: the folder cannot be written, or holds something else.
    """
    return draw_once(root, "defect_tiles", "DefectTiles", DRAWING_VERSION, _draw)


def _draw(folder: Path) -> None:
    from tqdm import tqdm

    from datasets._defect_pictures import DEFECTS, TEXTURES, picture_of

    parts = [("train", "", TRAIN), ("test", "", TEST_GOOD)]
    parts += [("test", defect, TEST_DEFECT) for defect in DEFECTS]
    for category in tqdm(TEXTURES, desc="drawing DefectTiles", unit="category", disable=None):
        for split, defect, count in parts:
            place = folder / category / split / (defect or GOOD)
            place.mkdir(parents=True)
            masks = folder / category / "ground_truth" / defect
            masks.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture, mask = picture_of(category, split, defect, number)
                picture.save(place / f"{number:03d}.png")
                if mask is not None:
                    mask.save(masks / f"{number:03d}_mask.png")


@DATASET_REGISTRY.register()
class DefectTiles(AnomalyDataset):
    """Drawn to ``cfg.DATASET.ROOT`` (to a cache folder where that is empty) on first use."""

    dataset_dir = "defect_tiles"

    @classmethod
    def help_line(cls) -> str:
        return "Remove that folder; it is drawn again"

    def locate(self, root: str) -> None:
        root = os.path.abspath(os.path.expanduser(root or default_root()))
        ensure_drawn(root)
        super().locate(root)
