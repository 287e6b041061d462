"""Frozen CLIP's image features, computed once and kept on disk for whoever needs the same.

A piece is the features (up to TOGETHER, E) of images that the tower took at once. Its key says all
that could have a part in their bits: the tower's weights and build, precision, device and threads,
versions, the code of the tower, the transform, and each image by the content of its file, in this
order. The last bits of a feature may depend on the images beside it, so features are shared by
those who take the same images in the same order, as all methods do in an evaluation of a data
set's classes. A training image has the seed of its augmentation beside it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import clip
from common import images
from common.errors import UsageError
from common.files import file_digest
from common.image_loader import ImageLoader
from common.store import Store

from .model import TOGETHER, KnownFeatures, PromptedCLIP

FORMAT = 1
WRAPPER = "dassl.data.dataset_wrapper"
_READERS = 8  # threads that read image files
# Steps of a transform that its kind and public attributes describe in full.
_STEPS = "torchvision.transforms.transforms."
_PLAIN_STEPS = {
    *("Resize", "CenterCrop", "RandomCrop", "RandomResizedCrop", "RandomHorizontalFlip"),
    *("ColorJitter", "RandomGrayscale", "GaussianBlur", "ToTensor", "Normalize"),
}
_OF_STEPS = {"Compose", "RandomApply"}

# An image's number in its data set; in training with the seed of its transform.
Sample = int | tuple[int, int]


def can_be_kept(loader: Any) -> bool:
    """Return whether a loader's images can be recognised: read and transformed as usual."""
    dataset = loader.dataset
    return (
        type(dataset).__module__ == WRAPPER  # Dassl.pytorch's stands elsewhere
        and dataset.k_tfm == 1
        and _described(getattr(dataset, "transform", None)) is not None
    )


def _described(transform: Any) -> list[Any] | None:
    """Return all that decides what a transform does; None where that cannot be told, as of
    ``Lambda`` or a step of somebody's own.
    """
    kind = f"{type(transform).__module__}.{type(transform).__qualname__}"
    name = kind.removeprefix(_STEPS)
    steps: list[Any] = []
    if not kind.startswith(_STEPS) or name not in _PLAIN_STEPS | _OF_STEPS:
        return None
    if name in _OF_STEPS:
        steps = [_described(step) for step in transform.transforms]
        if not steps or None in steps:
            return None
    attributes = {
        key: value
        for key, value in sorted(vars(transform).items())
        if not key.startswith("_") and key not in ("training", "transforms")
    }
    if not all(map(_is_plain, attributes.values())):
        return None
    return [kind, {key: repr(value) for key, value in attributes.items()}, *steps]


def _is_plain(value: Any) -> bool:
    """Return whether ``repr`` says all of a value, as it does not of a tensor."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, Enum))


class FrozenTower:
    """A frozen image tower whose outputs are kept.

    Args:
        model: on its device.
        store: None keeps nothing.
    """

    def __init__(self, model: PromptedCLIP, store: Store | None):
        self.model = model
        self.store = store
        self._identity = _tower_identity(model.clip) if store else ""

    def features(
        self,
        loader: DataLoader,
        batches: Sequence[Sequence[Sample]],
        title: str = "",
    ) -> Iterator[Tensor]:
        """Yield features (B, E), fp32, not normalised, of batches of a loader's images.

        Args:
            loader: its data set, workers and the like; its order does not matter.
            batches: images of each batch, in order.
            title: of the progress bar; no bar where it is empty.

        Raises:
            UsageError: an image is missing or does not decode.
        """
        keys = self._keys(loader.dataset, batches)
        missing = [
            batch
            for batch, own in zip(batches, keys, strict=True)
            if not (self.store and all(map(self.store.has, own)))
        ]
        fresh = iter(_loader_of(loader, missing)) if missing else None
        left = {id(batch) for batch in missing}
        bar = tqdm(total=len(batches), desc=title, unit="batch", disable=None if title else True)
        with bar:
            for batch, own in zip(batches, keys, strict=True):
                values = None if id(batch) in left else self._known(own)
                if fresh is not None and id(batch) in left:
                    values = self._compute(next(fresh), own)
                elif values is None:  # damaged, or removed since
                    values = self._compute(next(iter(_loader_of(loader, [batch], 0))), own)
                bar.update()
                yield values

    def _keys(self, dataset: Any, batches: Sequence[Sequence[Sample]]) -> list[list[str]]:
        """Return the keys of each batch's pieces; none where nothing is kept."""
        if self.store is None:
            return [[] for _ in batches]
        items = dataset.data_source
        numbers = sorted({_number(sample) for batch in batches for sample in batch})
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda number: _image(items[number]), numbers)
            shown = tqdm(found, "Recognising images", len(numbers), leave=False, disable=None)
            known = dict(zip(numbers, shown, strict=True))
        made = {"tower": self._identity, "transform": _described(dataset.transform)}
        keys = []
        for batch in batches:
            parts = [batch[i : i + TOGETHER] for i in range(0, len(batch), TOGETHER)]
            named = [[[known[_number(s)], _seed(s)] for s in part] for part in parts]
            keys.append([_digest({**made, "images": names}) for names in named])
        return keys

    @torch.no_grad()
    def _compute(self, batch: dict[str, Any], keys: Sequence[str]) -> Tensor:
        device = self.model.clip.positional_embedding.device
        values = self.model.raw_image_features(batch["img"].to(device, non_blocking=True))
        if self.store:
            for key, piece in zip(keys, values.cpu().split(TOGETHER), strict=True):
                self.store.put(key, save({"features": piece.contiguous()}))
        return values

    def _known(self, keys: Sequence[str]) -> Tensor | None:
        assert self.store is not None
        pieces = []
        for key in keys:
            content = self.store.get(key)
            if content is None:
                return None
            pieces.append(load(content)["features"])
        # Into memory of their own: results may depend on how it is aligned.
        return torch.cat(pieces).to(self.model.clip.positional_embedding.device)


def test_batches(tower: FrozenTower, loader: DataLoader) -> Iterator[dict[str, Any]]:
    """Yield what a loader of test images would, with features in place of pixels."""
    dataset: Any = loader.dataset
    items = dataset.data_source
    batches: list[list[int]] = list(loader.batch_sampler)  # type: ignore[arg-type]
    for batch, values in zip(batches, tower.features(loader, batches), strict=True):
        yield {
            "img": KnownFeatures(values),
            "label": torch.tensor([items[i].label for i in batch]),
            "domain": torch.tensor([items[i].domain for i in batch]),
            "impath": [items[i].impath for i in batch],
            "index": torch.tensor(batch),
        }


def augmented_features(
    tower: FrozenTower, loader: DataLoader, passes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return features of every training image in several random views.

    Args:
        loader: of training images.
        passes: views of each image.
        seed: of the views; the first passes of more are those of fewer.

    Returns:
        Features (passes, N, E), fp32, not normalised, and labels (N,), on the tower's device.

    Raises:
        UsageError: the data set cannot draw a view again, as Dassl.pytorch's.
    """
    dataset: Any = loader.dataset
    if not getattr(dataset, "takes_seeds", False):
        raise UsageError(
            "what is trained on features needs this repository's dassl, whose random views have "
            "seeds"
        )
    count = len(dataset)
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.empty(passes, count, dtype=torch.int64).random_(generator=generator)
    batches = [
        [(i, int(own[i])) for i in range(start, min(start + TOGETHER, count))]
        for own in seeds
        for start in range(0, count, TOGETHER)
    ]
    found = list(tower.features(loader, batches, title="Training images' features"))
    features = torch.cat(found).unflatten(0, (passes, count))
    labels = torch.tensor([item.label for item in dataset.data_source], device=features.device)
    return features, labels


def _number(sample: Sample) -> int:
    return sample if isinstance(sample, int) else sample[0]


def _seed(sample: Sample) -> int | None:
    return None if isinstance(sample, int) else sample[1]


def _image(item: Any) -> str:
    """Return what decides an image's pixels: its file's content, and how that is read."""
    try:
        content = Path(item.impath).read_bytes()
        return f"{hashlib.sha256(content).hexdigest()} {getattr(item, 'reading', '')}"
    except FileNotFoundError:
        raise UsageError(f"image not found: {item.impath}") from None
    except OSError as error:
        raise UsageError(f"image cannot be read: {item.impath} ({error.strerror})") from None


def _loader_of(
    loader: DataLoader, batches: Sequence[Sequence[Sample]], workers: int | None = None
) -> DataLoader:
    """Return a loader of these batches that takes no number from the global generator."""
    workers = min(loader.num_workers, len(batches)) if workers is None else workers
    return ImageLoader(
        loader.dataset,
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),
    )


def _tower_identity(clip_model: clip.model.CLIP) -> str:
    """Return a digest of all that decides a feature's bits, but the image."""
    visual = clip_model.visual
    device = clip_model.positional_embedding.device
    runs_on = [
        platform.machine(), str(torch.backends.cpu.get_cpu_capability()), torch.get_num_threads(),
        torch.backends.mkldnn.enabled,
    ]  # fmt: skip
    if device.type == "cuda":
        runs_on += [torch.cuda.get_device_name(device), torch.backends.cudnn.version()]
    return _digest(
        {
            "format": FORMAT,
            "weights": tensors_digest(visual.state_dict()),
            "build": _build_of(visual),
            "precision": str(clip_model.dtype),
            "device": [device.type, *runs_on],
            "fast": [
                torch.get_float32_matmul_precision(),
                torch.backends.cudnn.allow_tf32,
                torch.backends.cuda.matmul.allow_tf32,
            ],
            "versions": {p: metadata.version(p) for p in ("torch", "torchvision", "Pillow")},
            "code": _code(),
        }
    )


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _build_of(module: nn.Module) -> list[Any]:
    """Return how a module is built: kinds of layers, and their plain settings."""
    return [
        [
            name,
            f"{type(part).__module__}.{type(part).__qualname__}",
            {
                key: value
                for key, value in sorted(vars(part).items())
                if isinstance(value, (bool, int, float, str)) and key != "training"
            },
        ]
        for name, part in module.named_modules()
    ]


@cache
def _code() -> str:
    """Return a digest of the code that images go through."""
    files = [*Path(clip.__file__).parent.rglob("*.py"), Path(images.__file__)]
    return _digest({file.name: file_digest(file) for file in sorted(files)})


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
