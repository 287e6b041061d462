"""OpenAI's ``clip`` functions, by name and calling convention.

Code written for OpenAI's package or for CoOp's copy of it finds here what it uses::

    import clip                                   from clip import clip
    model, preprocess = clip.load("ViT-B/16")     path = clip._download(clip._MODELS["ViT-B/16"])
                                                  model = clip.build_model(torch.load(path))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.errors import UsageError
from common.files import atomic_write

from .model import CLIP, build_model, convert_weights
from .simple_tokenizer import END, START, SimpleTokenizer
from .weights import hub
from .weights.configs import PIXEL_MEAN, PIXEL_STD, Preprocessing
from .weights.files import is_archive, read_tensors
from .weights.layouts import to_openai_layout
from .weights.loading import load_state_dict, state_dict_of
from .weights.names import CheckpointFile, locate, resolve

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "available_models",
    "build_model",
    "load",
    "load_model",
    "tokenize",
]


class _Models(Mapping):
    """Backbone name -> what ``_download`` takes (here: the name again).

    Lists the bundled CLIP and OpenAI's; a look-up also accepts every other name and path that
    ``clip.weights.names`` describes.
    """

    def __getitem__(self, name: str) -> str:
        resolve(name)
        return name

    def __contains__(self, name: object) -> bool:
        try:
            resolve(str(name))
        except UsageError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(("small", *hub.OPENAI_NAMES))

    def __len__(self) -> int:
        return 1 + len(hub.OPENAI_NAMES)


_MODELS = _Models()


def available_models() -> list[str]:
    """Return the bundled CLIP's and OpenAI's names; ``clip.weights.names`` says what else works."""
    return list(_MODELS)


def load_model(
    name: str = "", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> CLIP:
    """Return a frozen CLIP in eval mode.

    Args:
        name: see ``clip.weights.names``.
        dtype: float32, or float16 or bfloat16 for the matrix products (normalisation and
            embeddings stay float32, as in OpenAI's recipe).

    Raises:
        UsageError: as `load_state_dict`.
    """
    state_dict = load_state_dict(name)
    try:
        model = build_model(state_dict)
    except UsageError as error:
        raise UsageError(f"backbone {name or 'small'}: {error}") from None
    model.float()
    if dtype != torch.float32:
        convert_weights(model, dtype)
    return model.to(device).eval().requires_grad_(False)


def load(
    name: str,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | None = None,
) -> tuple[CLIP, Callable[[Image.Image], Tensor]]:
    """Return a model and its image transform, as OpenAI's: fp32 on the CPU, fp16 elsewhere.

    Args:
        name: see ``clip.weights.names``.
        device: default: the GPU if there is one, else the CPU.
        jit: must be False; archives' code is never run.
        download_root: folder of downloads (default: ``hub.cache_folder()``).

    Raises:
        UsageError: as `load_state_dict`.
    """
    if jit:
        raise UsageError("jit=True is not offered: archives are read, their code is never run")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    file = locate(name, _folder(download_root))
    model = build_model(state_dict_of(file))
    if str(device) == "cpu":
        model.float()
    else:
        convert_weights(model)
    pixels = file.facts.pixels or Preprocessing()
    return model.to(device), _transform(model.visual.input_resolution, pixels)


def _folder(root: str | None) -> Path | None:
    return Path(os.path.expanduser(root)) if root else None


def _download(url: str, root: str | None = None) -> str:
    """Return a local file of a backbone (``_MODELS[name]``) for stock code's way of loading.

    Stock code calls ``torch.jit.load`` on it and, where that raises RuntimeError, ``torch.load``;
    then ``build_model``. OpenAI's own archives (checksum verified) and plain state dicts are
    returned as they are. Anything else, an archive of unknown origin included, is written once as
    a plain state dict into the cache, under a name that follows from its content.

    Args:
        root: folder of downloads and of what is written (default: ``hub.cache_folder()``).

    Raises:
        UsageError: as `load_state_dict`.
    """
    file = locate(url, _folder(root))
    if _stock_code_can_read(file):
        return str(file.path)
    content = f"{hub.sha256(file.path)} {file.facts.settings}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    folder = _folder(root) or hub.cache_folder()
    target = folder / f"{file.path.stem}-{digest[:16]}.pt"
    if not target.is_file():
        state_dict = state_dict_of(file)
        try:
            with atomic_write(target, "wb") as stream:
                torch.save(state_dict, stream)
        except OSError as error:
            raise UsageError(
                f"cannot write to {folder} ({error.strerror}): set CLIP_CACHE to a folder that can "
                "be written to"
            ) from None
    return str(target)


def _stock_code_can_read(file: CheckpointFile) -> bool:
    if file.facts.settings:
        return False
    if is_archive(file.path):
        return file.verified
    try:
        stored = torch.load(file.path, map_location="cpu", weights_only=True, mmap=True)
        return stored.keys() == to_openai_layout(read_tensors(file.path), file.path).keys()
    except Exception:  # not such a file; whoever reads it next says what is wrong with it
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _transform(n_px: int, pixels: Preprocessing | None = None) -> Callable[[Image.Image], Tensor]:
    """PIL image -> (3, n_px, n_px): resized, cropped to a square, normalised.

    Args:
        pixels: how; without it as OpenAI's models: bicubic, CLIP's mean and standard deviation.
    """
    import common.torchvision_compat  # noqa: F401

    # isort: split
    from torchvision import transforms as T

    pixels = pixels or Preprocessing()
    size = (n_px, n_px) if pixels.resize_mode == "squash" else n_px
    return T.Compose(
        [
            T.Resize(size, interpolation=T.InterpolationMode(pixels.interpolation)),
            T.CenterCrop(n_px),
            _to_rgb,
            T.ToTensor(),
            T.Normalize(pixels.mean, pixels.std),
        ]
    )


@lru_cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


class TextTooLongError(UsageError, RuntimeError):
    """A text has more tokens than CLIP reads. A RuntimeError too, as OpenAI's function raises."""


def tokenize(texts: str | list[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """Texts -> token ids (len(texts), context_length), int64: start, text, end, zeros.

    Args:
        truncate: cut a text that is too long (the end token stays) instead of raising.

    Raises:
        TextTooLongError: a text is longer than ``context_length`` and ``truncate`` is False.
    """
    if isinstance(texts, str):
        texts = [texts]
    tokenizer = _tokenizer()
    start, end = tokenizer.encoder[START], tokenizer.encoder[END]
    result = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(result, texts, strict=True):
        ids = [start, *tokenizer.encode(text), end]
        if len(ids) > context_length:
            if not truncate:
                shown = text if len(text) <= 60 else f"{text[:57]}..."
                raise TextTooLongError(
                    f"a text of {len(ids)} tokens is too long for CLIP's {context_length}: "
                    f"{shown!r}; shorten it"
                )
            ids = [*ids[: context_length - 1], end]
        row[: len(ids)] = torch.tensor(ids)
    return result
