"""From a list of image paths to samples."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import common.torchvision_compat  # noqa: F401

# isort: split
import torch
import torchvision.transforms as T
from PIL import Image
from torch.utils.data import Dataset

from dassl.utils import read_image, seeded
from dassl.utils.images import UPSTREAM

from .transforms import INTERPOLATION_MODES

if TYPE_CHECKING:
    from dassl.config import Config

    from .datasets import Datum


class ImageCache:
    """Decoded images by path, as long as they fit; what does not fit is decoded every time.

    Nothing is evicted: an epoch reads every image once, and with that pattern making room for the
    newest image would throw out each one before it is needed again.

    Args:
        capacity: bytes of decoded pixels.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.used = 0
        self._images: dict[str, Image.Image] = {}

    def read(self, path: str, reading: str = UPSTREAM) -> Image.Image:
        """The decoded RGB image (see ``read_image``); the caller may change it."""
        if path in self._images:
            return self._images[path].copy()
        image = read_image(path, reading)
        size = 3 * image.width * image.height
        if self.used + size <= self.capacity:
            self._images[path] = image.copy()
            self.used += size
        return image


class DatasetWrapper(Dataset):
    """Reads and transforms images.

    A sample is a dictionary with ``img`` (what the transform returns), ``label``, ``domain``,
    ``impath`` and ``index``. With several transforms there are ``img``, ``img2``, ...; with
    K_TRANSFORMS = K > 1, in training, each of them is a list of K views; with RETURN_IMG0 ``img0``
    is the image without augmentation.

    Args:
        cfg: the configuration.
        data_source: the images.
        transform: a callable, several, or None for PIL images.
        is_train: for training: K_TRANSFORMS counts.
        cache_mb: memory for decoded images in each process that reads (megabytes).
    """

    def __init__(
        self,
        cfg: "Config",
        data_source: Sequence["Datum"],
        transform: Callable | Sequence[Callable] | None = None,
        is_train: bool = False,
        cache_mb: float = 0,
    ):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform")
        self._cache = ImageCache(int(cache_mb * 2**20))
        steps: list[Callable] = [
            T.Resize(cfg.INPUT.SIZE, INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]),
            T.ToTensor(),
        ]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            steps.append(T.Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(steps)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int | tuple[int, int]) -> dict[str, Any]:
        """Sample number ``idx``.

        Args:
            idx: an index. If it carries a seed (a ``SeededIndex``, or a pair of index and seed),
                the transforms draw from generators seeded with it and nothing else's random state
                changes.

        Raises:
            UsageError: the image is missing or does not decode; names its path.
        """
        if isinstance(idx, tuple):
            idx, seed = idx
        else:
            seed = getattr(idx, "seed", None)
        item = self.data_source[idx]
        output: dict[str, Any] = {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": int(idx),
        }
        img0 = self._cache.read(item.impath, item.reading)
        with contextlib.nullcontext() if seed is None else seeded(seed):
            output.update(self._views(img0))
        return output

    def _views(self, img0: Image.Image) -> dict[str, Any]:
        views: dict[str, Any] = {}
        if self.transform is None:
            views["img"] = img0
        elif isinstance(self.transform, (list, tuple)):
            for number, transform in enumerate(self.transform, start=1):
                name = "img" if number == 1 else f"img{number}"
                views[name] = self._transform_image(transform, img0)
        else:
            views["img"] = self._transform_image(self.transform, img0)
        if self.return_img0:
            views["img0"] = self.to_tensor(img0)
        return views

    def _transform_image(
        self, transform: Callable, img0: Image.Image
    ) -> torch.Tensor | list[torch.Tensor]:
        views = [transform(img0) for _ in range(self.k_tfm)]
        return views[0] if len(views) == 1 else views
