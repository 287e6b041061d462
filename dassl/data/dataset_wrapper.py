"""From a list of image paths to samples."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch.utils.data import Dataset

from common.images import UPSTREAM, read_image
from dassl.utils import UsageError, seeded

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
    """Reads and transforms images, item by item: an index, or an index and a seed of its views.

    A sample is a dictionary with ``img`` (what the transform returns), ``label``, ``domain``,
    ``impath`` and ``index``. With several transforms there are ``img``, ``img2``, ...; with
    K_TRANSFORMS = K > 1, in training, each of them is a list of K views.

    Args:
        cfg: the configuration.
        data_source: the images.
        transform: a callable, several, or None for PIL images.
        is_train: for training: K_TRANSFORMS counts.
        cache_mb: memory for decoded images in each process that reads (megabytes).

    Raises:
        UsageError: several views are asked for, but there is no transform.
    """

    takes_seeds = True

    def __init__(
        self,
        cfg: "Config",
        data_source: "Sequence[Datum]",
        transform: Callable | Sequence[Callable] | None = None,
        is_train: bool = False,
        cache_mb: float = 0,
    ):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        if self.k_tfm > 1 and transform is None:
            raise UsageError(
                f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform "
                "(INPUT.NO_TRANSFORM)"
            )
        self._cache = ImageCache(int(cache_mb * 2**20))

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int | tuple[int, int]) -> dict[str, Any]:
        """Return a sample.

        Args:
            idx: an index, or a pair of index and seed: the transforms then draw from generators
                seeded with it, and nothing else's random state changes.

        Raises:
            UsageError: the image is missing or does not decode; names its path.
        """
        index, seed = idx if isinstance(idx, tuple) else (idx, None)
        item = self.data_source[index]
        image = self._cache.read(item.impath, item.reading)
        with contextlib.nullcontext() if seed is None else seeded(seed):
            views = self._views(image)
        return {
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": int(index),
            **views,
        }

    def _views(self, image: Image.Image) -> dict[str, Any]:
        if self.transform is None:
            return {"img": image}
        if isinstance(self.transform, (list, tuple)):
            several = list(self.transform)
        else:
            several = [self.transform]
        views: dict[str, Any] = {}
        for number, transform in enumerate(several, start=1):
            made = [transform(image) for _ in range(self.k_tfm)]
            views["img" if number == 1 else f"img{number}"] = made[0] if len(made) == 1 else made
        return views
