"""Test images: cropped as the model sees them, corrupted there, then made tensors."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from yacs.config import CfgNode

import common.torchvision_compat  # noqa: F401

# isort: split
from torchvision import transforms as T

from anprompt.runs.trained import quiet
from common.errors import UsageError
from common.files import file_digest
from common.image_loader import ImageLoader
from common.images import read_image
from common.paths import user_cache
from dassl.data.transforms import build_transform
from noise import imagenet_c
from noise.cells import Cell
from noise.image import corrupt
from noise.seeding import rng_for, seed_for

CACHE_BYTES = 2**31  # of cropped pictures; beyond it they are decoded anew for every pass
FROST = "https://raw.githubusercontent.com/hendrycks/robustness/8190fe329f5f072a06e3a2aea02bb5dda69aed9f/ImageNet-C/create_c/"
FROST_FILES = {
    "frost1.png": "ff9f907860bd7a835d459e32f9d588062b7f61ee267343cc7222b56753a14755",
    "frost2.png": "fe211a89b336999c207a852ce05818d4545d0b57c5beadd824b4cc9d9a9b6137",
    "frost3.png": "2d0d50b4a9bb213f38b024ef7768731bb83cc08d2f26b5766bbc167cdfa0e504",
    "frost4.jpg": "3f8b91ca1a9fa7167b09e773da53f5ae60d0a1fd88f02a783f6e328a72887f6e",
    "frost5.jpg": "5fc6a19df4a429ba68abdcc8f8a4278d4c9f81c9ccafd2c92ab0c8cf8992ebd2",
    "frost6.jpg": "1f92b2f48408748085b68dd81d816ef239f42cef3029c25d041fcb6760fb4f25",
}

Crop = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class ImageNetC:
    """How ImageNet-C's pictures are had.

    Attributes:
        side: of the picture that the model sees, in pixels.
        size: of the table of parameters; another than ``side`` only by intent.
        as_jpeg: save the pictures as JPEG, as the released ones were; None: as those of that size.
        frost: pictures for kind frost; () leaves it out.
        released: folder of the released ImageNet-C, ``KIND/SEVERITY/CLASS/IMAGE``.
    """

    side: int = 224
    size: int = 224
    as_jpeg: bool | None = None
    frost: tuple[Image.Image, ...] = ()
    released: Path | None = None

    @property
    def crop(self) -> Crop:
        """What the released code does before it corrupts, at this size."""
        resized = round(self.side * imagenet_c.RESIZED_TO[self.size] / self.size)
        return T.Compose([T.Resize(resized, T.InterpolationMode.BILINEAR), T.CenterCrop(self.side)])

    def description(self) -> dict[str, Any]:
        """What robustness.json says of it: figures made otherwise do not mix."""
        saved = imagenet_c.SAVED_AS_JPEG[self.size] if self.as_jpeg is None else self.as_jpeg
        return {"size": self.size, "as_jpeg": saved}

    def released_digests(self, cells: Iterable[Cell], path: str) -> dict[str, str]:
        """Return a digest of one test image under each noise, which tells one copy of ImageNet-C
        from another.

        Raises:
            UsageError: a picture is not there.
        """
        return {
            f"{cell.kind}/{cell.severity}": file_digest(self.released_file(cell, path))
            for cell in cells
        }

    def released_file(self, cell: Cell, path: str) -> Path:
        """Return the released picture of a test image.

        Raises:
            UsageError: there is none.
        """
        assert self.released is not None
        inner = Path(cell.kind) / str(cell.severity) / Path(path).parent.name / Path(path).name
        # As released, kinds lie in folders of their categories where each archive has its own.
        category = imagenet_c.TEST_KINDS[cell.kind].category
        for file in (self.released / inner, self.released / category / inner):
            if file.is_file():
                return file
        raise UsageError(
            f"{self.released}: no {inner.as_posix()}; wanted the released ImageNet-C, "
            "KIND/SEVERITY/CLASS/IMAGE.JPEG, for these very test images"
        )


def frost_pictures(folder: Path | None = None) -> tuple[Image.Image, ...]:
    """Return ImageNet-C's six pictures of frost, downloaded once and compared with their checksums.

    Args:
        folder: where they are kept (default: "imagenet-c" in the user's cache).

    Raises:
        UsageError: they cannot be had.
    """
    from datasets.prepare import download

    folder = folder or user_cache() / "imagenet-c"
    found = []
    for name, digest in FROST_FILES.items():
        with quiet():
            download({"url": FROST + name, "sha256": digest}, folder / name)
        found.append(read_image(folder / name))
    return tuple(found)


def split_transform(cfg: CfgNode) -> tuple[Crop, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the test transform in two: to the picture that the model sees, and from tensor on.

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


def select(keys: Sequence[str], labels: Iterable[int], number: int | None) -> list[int]:
    """Return which images to take: all, or ``number`` of them, as evenly over classes as can be.

    The choice depends on the images' paths alone, so every method is tested on the same ones.
    """
    if number is None or number >= len(keys):
        return list(range(len(keys)))
    own_labels = list(labels)
    order = sorted(range(len(keys)), key=lambda i: seed_for(0, "select", keys[i]))
    taken: dict[int, int] = {}
    rank = {}
    for i in order:
        rank[i] = taken[own_labels[i]] = taken.get(own_labels[i], -1) + 1
    return sorted(sorted(order, key=lambda i: rank[i])[:number])


class TestImages(Dataset):
    """Pictures of a test set; an item is (index, image cell or None) -> (3, H, W), 0 to 1.

    Args:
        images: paths, or pictures as the model is to see them.
        labels: their classes, from 0.
        keys: what their noise is seeded by; by default the paths, or their numbers.
        crop: picture as read -> picture that the model sees.
        readings: how each path is read (`dassl.utils.images`); by default as upstream does.
        imagenet_c: how ImageNet-C's pictures are had; by default as the released ones of the
            pictures' size were.
    """

    __test__ = False  # pytest: not a test

    def __init__(
        self,
        images: Sequence[str | Path | Image.Image],
        labels: Sequence[int],
        keys: Sequence[str] | None = None,
        *,
        crop: Crop = lambda picture: picture,
        readings: Sequence[str] | None = None,
        imagenet_c: ImageNetC | None = None,
    ):
        if not len(images) or len(labels) != len(images):
            raise ValueError(f"TestImages: {len(images)} images and {len(labels)} labels.")
        self.images = list(images)
        self.labels = np.array(labels, dtype=int)
        self.crop = crop
        self.imagenet_c = imagenet_c
        self._readings = readings
        if keys is None:
            keys = [
                f"image {i}" if isinstance(image, Image.Image) else Path(image).as_posix()
                for i, image in enumerate(self.images)
            ]
        self.keys = list(keys)
        self._cache: list[np.ndarray] | None = None
        first = np.asarray(self.picture(0))
        if first.nbytes * len(self) <= CACHE_BYTES:
            others = (np.asarray(self.picture(i)) for i in range(1, len(self)))
            self._cache = [first, *others]

    def __len__(self) -> int:
        return len(self.images)

    def _as_read(self, index: int) -> Image.Image:
        image = self.images[index]
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        return read_image(image, *(self._readings[index : index + 1] if self._readings else ()))

    def picture(self, index: int, cell: Cell | None = None) -> Image.Image:
        """Return what the model sees of an image, clean or under an image cell's noise."""
        if cell is not None and cell.group.startswith("imagenet-c"):
            return self._of_imagenet_c(index, cell)
        if self._cache is not None:
            image = Image.fromarray(self._cache[index])
        else:
            image = self.crop(self._as_read(index))
        if cell is None:
            return image
        # Not seeded by the severity: more of it is more of the same noise.
        rng = rng_for(cell.seed or 0, "image", self.keys[index], cell.kind)
        return corrupt(image, cell.kind, cell.severity, rng)

    def how_imagenet_c(self) -> ImageNetC:
        """Return how ImageNet-C's pictures are had.

        Raises:
            UsageError: nobody said how, and the pictures have a size without parameters.
        """
        if self.imagenet_c is None:
            width, height = self.picture(0).size
            if width != height or width not in imagenet_c.SIZES:
                raise UsageError(
                    "ImageNet-C has parameters for square pictures of 224, 64 and 32 pixels, these "
                    f"are {width} x {height}; say which to take: imagenet_c=ImageNetC(side, size)"
                )
            self.imagenet_c = ImageNetC(width, width)
        return self.imagenet_c

    def _of_imagenet_c(self, index: int, cell: Cell) -> Image.Image:
        how = self.how_imagenet_c()
        if cell.group == "imagenet-c-disk":
            return self.crop(read_image(how.released_file(cell, str(self.images[index]))))
        rng = rng_for(cell.seed or 0, "imagenet-c", self.keys[index], cell.kind)
        return imagenet_c.corrupt(
            how.crop(self._as_read(index)),
            cell.kind,
            cell.severity,
            rng,
            size=how.size,
            as_jpeg=how.as_jpeg,
            frost=how.frost,
        )

    def __getitem__(self, item: tuple[int, Cell | None]) -> torch.Tensor:
        index, cell = item
        return T.functional.to_tensor(self.picture(index, cell))

    def tensors(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clean images (B, 3, H, W), values 0 to 1."""
        return torch.stack([self[(index, None)] for index in indices])

    def passes(
        self, cells: Sequence[Cell | None], batch_size: int, workers: int = 0
    ) -> Iterator[tuple[Cell | None, Iterator[tuple[slice, torch.Tensor]]]]:
        """Go through all images once for every cell, clean for None.

        One loader serves all passes, so workers start once and corrupt ahead of the model.

        Yields:
            The cell, and its batches: which images, and (B, 3, H, W) of them. They must be used up
            before the next cell is asked for.
        """
        starts = range(0, len(self), batch_size)
        batches = [slice(start, min(start + batch_size, len(self))) for start in starts]
        jobs = [(number, batch) for number in range(len(cells)) for batch in batches]
        sampler = [
            [(index, cells[number]) for index in range(batch.start, batch.stop)]
            for number, batch in jobs
        ]
        loader = ImageLoader(self, batch_sampler=sampler, num_workers=workers)
        stream = zip(jobs, loader, strict=True)
        for number, own in itertools.groupby(stream, key=lambda item: item[0][0]):
            yield cells[number], ((batch, pictures) for (_, batch), pictures in own)
