"""OpenAI's ``clip`` functions, by name and calling convention.

Code written for OpenAI's package or for CoOp's copy of it finds here what it uses::

    import clip                                   from clip import clip
    model, preprocess = clip.load("ViT-B/16")     path = clip._download(clip._MODELS["ViT-B/16"])
                                                  model = clip.build_model(torch.load(path))
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from . import hub
from .archive import is_archive
from .loading import Source, load_state_dict, locate, read_state_dict, resolve, state_dict_of
from .model import CLIP, build_model, convert_weights
from .simple_tokenizer import END, START, SimpleTokenizer

__all__ = ["available_models", "build_model", "load", "tokenize"]

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class _Models(Mapping):
    """Backbone name -> what ``_download`` takes (here: the name again).

    Lists the bundled CLIP and OpenAI's; a look-up also accepts every other name and path that
    ``clip.loading`` describes.
    """

    def __getitem__(self, name: str) -> str:
        resolve(name)
        return name

    def __contains__(self, name: object) -> bool:
        try:
            resolve(str(name))
        except (ValueError, FileNotFoundError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(("small", *hub.OPENAI_NAMES))

    def __len__(self) -> int:
        return 1 + len(hub.OPENAI_NAMES)


_MODELS = _Models()


def available_models() -> list[str]:
    """The bundled CLIP's and OpenAI's names; ``clip.loading`` says what else is accepted."""
    return list(_MODELS)


def _download(url: str, root: str | None = None) -> str:
    """A local file of a backbone (``_MODELS[name]``) for stock code's way of loading.

    Stock code calls ``torch.jit.load`` on it and, where that raises RuntimeError, ``torch.load``;
    then ``build_model``. OpenAI's own archives (checksum verified) and plain state dicts are
    returned as they are. Anything else, an archive of unknown origin included, is written once as
    a plain state dict into the cache, under a name that follows from its content.

    Args:
        root: folder of downloads and of what is written (default: ``hub.cache_folder()``).

    Raises:
        ValueError, FileNotFoundError: as ``clip.loading.load_state_dict``.
    """
    folder = Path(root).expanduser() if root else None
    source = locate(url, folder)
    if _stock_code_can_read(source):
        return str(source.path)
    digest = hashlib.sha256(f"{hub.sha256(source.path)} {source.settings}".encode()).hexdigest()
    target = (folder or hub.cache_folder()) / f"{source.path.stem}-{digest[:16]}.pt"
    if not target.is_file():
        _write(state_dict_of(source), target)
    return str(target)


def _stock_code_can_read(source: Source) -> bool:
    if source.settings:
        return False
    if is_archive(source.path):
        return source.verified
    try:
        stored = torch.load(source.path, map_location="cpu", weights_only=True, mmap=True)
        return stored.keys() == read_state_dict(source.path).keys()
    except Exception:  # not such a file; whoever reads it next says what is wrong with it
        return False


def _write(state_dict: dict[str, Tensor], target: Path) -> None:
    """Save under a temporary name, then rename: readers see the whole file or none."""
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb")  # noqa: SIM115 (closed below; others may read it, too)
    except OSError as error:
        raise FileNotFoundError(
            f"cannot write to {target.parent} ({error.strerror}): set CLIP_CACHE to a folder that "
            "can be written to"
        ) from None
    try:
        with file:
            torch.save(state_dict, file)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(
    name: str,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | None = None,
) -> tuple[CLIP, Callable[[Image.Image], Tensor]]:
    """A model and its image transform, as OpenAI's: fp32 on the CPU, fp16 elsewhere.

    Args:
        name: see ``clip.loading``.
        device: default: the GPU if there is one, else the CPU.
        jit: must be False; archives' code is never run.
        download_root: folder of downloads (default: ``hub.cache_folder()``).

    Raises:
        ValueError, FileNotFoundError: as ``clip.loading.load_state_dict``.
    """
    if jit:
        raise ValueError("jit=True is not offered: archives are read, their code is never run")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(download_root).expanduser() if download_root else None
    model = build_model(load_state_dict(name, folder))
    if str(device) == "cpu":
        model.float()
    else:
        convert_weights(model)
    return model.to(device), _transform(model.visual.input_resolution)


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _transform(n_px: int) -> Callable[[Image.Image], Tensor]:
    """PIL image -> (3, n_px, n_px): shorter side to n_px, centre crop, CLIP's normalisation."""
    import common.torchvision_compat  # noqa: F401

    # isort: split
    from torchvision import transforms as T

    return T.Compose(
        [
            T.Resize(n_px, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(n_px),
            _to_rgb,
            T.ToTensor(),
            T.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )


@lru_cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: str | list[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """Texts -> token ids (len(texts), context_length), int64: start, text, end, zeros.

    Args:
        truncate: cut a text that is too long (the end token stays) instead of raising.

    Raises:
        RuntimeError: a text is longer than ``context_length`` and ``truncate`` is False.
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
                raise RuntimeError(
                    f"text of {len(ids)} tokens is too long for {context_length}: {text!r}"
                )
            ids = [*ids[: context_length - 1], end]
        row[: len(ids)] = torch.tensor(ids)
    return result
