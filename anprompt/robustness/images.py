"""Test images: cropped as the model sees them, corrupted there, then made tensors."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

# isort: split
import common.torchvision_compat  # noqa: F401

# isort: split
from torchvision import transforms as T
from yacs.config import CfgNode

from anprompt.robustness.plan import Cell
from anprompt.runs.trained import quiet
from common.images import read_image
from dassl.data.transforms import build_transform
from dassl.utils import UsageError
from noise.image import corrupt
from noise.seeding import rng_for, seed_for

CACHE_BYTES = 2**31  # of cropped pictures; beyond it they are decoded anew for every pass


def split_transform(cfg: CfgNode) -> tuple[Callable, Callable]:
    """The test transform in two: to the picture that the model sees, and from tensor to its input.

    Between the two lies ToTensor: PIL picture -> (3, H, W), values 0 to 1.

    Raises:
        UsageError: the run uses no transform, so there is no picture to corrupt.
    """
    with quiet():
        whole = build_transform(cfg, is_train=False)
    steps = list(whole.transforms) if whole is not None else []
    places = [i for i, step in enumerate(steps) if isinstance(step, T.ToTensor)]
    if not places:
        raise UsageError("the run's transforms make no tensor (INPUT.NO_TRANSFORM)")
    return T.Compose(steps[: places[0]]), T.Compose(steps[places[0] + 1 :])


def image_key(path: str, dataset: Any, root: str) -> str:
    """An image's path as noise is seeded by: below the folder that holds the data set."""
    folder = getattr(dataset, "dataset_dir", "")
    base = os.path.dirname(folder) if folder and os.path.isabs(folder) else os.path.abspath(root)
    return Path(os.path.relpath(path, base)).as_posix()


def select(keys: Sequence[str], labels: Sequence[int], number: int | None) -> list[int]:
    """Which images to take: all, or ``number`` of them, as evenly over the classes as can be.

    The choice depends on the images' paths alone, so every method is tested on the same ones.
    """
    if number is None or number >= len(keys):
        return list(range(len(keys)))
    order = sorted(range(len(keys)), key=lambda i: seed_for(0, "select", keys[i]))
    taken: dict[int, int] = {}
    rank = {}
    for i in order:
        rank[i] = taken[labels[i]] = taken.get(labels[i], -1) + 1
    return sorted(sorted(order, key=lambda i: rank[i])[:number])


class TestImages(Dataset):
    """Pictures of a test set, cropped; an item is (index, image cell or None) -> (3, H, W), 0 to 1.

    Args:
        items: Dassl's ``Datum`` objects.
        keys: what noise is seeded by, one per item.
        crop: PIL image -> PIL image.
    """

    __test__ = False  # pytest: not a test

    def __init__(self, items: Sequence[Any], keys: Sequence[str], crop: Callable):
        self.items = list(items)
        self.labels = np.array([item.label for item in items])
        self.keys = list(keys)
        self.crop = crop
        self._cache: list[np.ndarray] | None = None
        first = np.asarray(self.picture(0))
        if first.nbytes * len(self.items) <= CACHE_BYTES:
            self._cache = [first] + [np.asarray(self.picture(i)) for i in range(1, len(self.items))]

    def __len__(self) -> int:
        return len(self.items)

    def picture(self, index: int, cell: Cell | None = None) -> Image.Image:
        """What the model sees of an image, clean or under an image cell's noise."""
        if self._cache is not None:
            image = Image.fromarray(self._cache[index])
        else:
            item = self.items[index]
            image = self.crop(read_image(item.impath, item.reading))
        if cell is None:
            return image
        # Not seeded by the severity: more of it is more of the same noise.
        rng = rng_for(cell.seed or 0, "image", self.keys[index], cell.image_kind)
        return corrupt(image, cell.image_kind, cell.severity, rng)

    def __getitem__(self, item: tuple[int, Cell | None]) -> torch.Tensor:
        index, cell = item
        return T.functional.to_tensor(self.picture(index, cell))

    def batches(
        self, passes: Sequence[Cell | None], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """All images once for every pass: (number of the pass, which images, (B, 3, H, W)).

        One loader serves all passes, so workers start once and corrupt ahead of the model.
        """
        starts = range(0, len(self), batch_size)
        parts = [slice(start, min(start + batch_size, len(self))) for start in starts]
        jobs = [(number, part) for number in range(len(passes)) for part in parts]
        sampler = [
            [(index, passes[number]) for index in range(part.start, part.stop)]
            for number, part in jobs
        ]
        loader = DataLoader(self, batch_sampler=sampler, num_workers=workers)
        for (number, part), images in zip(jobs, loader, strict=True):
            yield number, part, images
