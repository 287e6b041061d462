"""Backbones by name or path, as state dicts in OpenAI's layout.

What may stand wherever a backbone is named:

- ``""`` or ``"small"``: the small CLIP that comes with this repository;
- OpenAI's names, ``"ViT-B/16"``, ``"RN50"``, ...;
- open_clip's architecture and tag, ``"ViT-B-32::laion2b_s34b_b79k"`` (``:`` does as well);
- the path of a file: a plain state dict (``torch.save``), a TorchScript archive, or safetensors,
  with OpenAI's key names, open_clip's (the same), or the bundled file's compact ones;
- ``"ViT-B-32::PATH"``: such a file whose activation and heads are those of an open_clip
  architecture. Shapes do not tell QuickGELU (OpenAI's, assumed without this) from plain GELU; a
  name of OpenAI's own (``"ViT-B/32::PATH"``) says QuickGELU, and so does an archive of OpenAI's.

No format is read in a way that could run code from the file.

The state dicts have OpenAI's keys. Where a model departs from what OpenAI's layout implies, one
further scalar says so, as OpenAI's archives carry ``input_resolution``: ``quick_gelu`` (False) or
``vision_heads`` (when not width // 64). ``build_model`` understands them.
"""

from __future__ import annotations

import difflib
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import hub
from .archive import is_archive, read_archive
from .model import CLIP, build_model, convert_weights

BUNDLED = Path(__file__).parent / "small" / "small_clip.safetensors"
VOCABULARY = 49408
# Names that open_clip does not have (its RN50 has plain GELU).
OPENAI_ONLY = {name for name, theirs in hub.OPENAI_NAMES.items() if name != theirs}
# Buffers and sizes that some files carry and that follow from everything else.
_REDUNDANT = ("input_resolution", "context_length", "vocab_size", "attn_mask", "visual.attn_mask")


class UnknownBackboneError(ValueError, KeyError):
    """No backbone of that name. A KeyError too, as looking it up in ``clip._MODELS`` promises."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine.

    settings: where it departs from OpenAI's layout, see ``hub.settings``.
    verified: whether it is OpenAI's own file, by the checksum that the registry states.
    """

    path: Path
    settings: dict[str, int | bool] = field(default_factory=dict)
    verified: bool = False


def resolve(name: str) -> tuple[Path | None, str, str]:
    """What a name means, without downloading: (file, architecture, tag).

    A registered model has no file yet; a plain file has no architecture; a file read as an
    architecture's has no tag.

    Raises:
        UnknownBackboneError: no such name; says the nearest ones.
        FileNotFoundError: a path to nothing.
    """
    if name in ("", "small"):
        return BUNDLED, "", ""
    if name in hub.OPENAI_NAMES:
        return None, hub.OPENAI_NAMES[name], "openai"
    if (path := Path(name).expanduser()).is_file():
        return path, "", ""
    architecture, tag = split_tag(name)
    if tag and hub.is_architecture(architecture):
        if (path := Path(tag).expanduser()).is_file():
            return path, architecture, ""
        if not _looks_like_path(tag):
            return None, architecture, tag
        name = tag
    if _looks_like_path(name):
        raise FileNotFoundError(f"backbone {name}: no such file")
    raise UnknownBackboneError(_unknown(name))


def locate(name: str, folder: Path | None = None) -> Source:
    """Find a backbone's file, downloading it if it is a name and not in the cache.

    Args:
        folder: of downloads (default: ``hub.cache_folder()``).

    Raises:
        UnknownBackboneError: no such name; says the nearest ones.
        FileNotFoundError: a path to nothing, or a download that failed; says what was tried.
        ValueError: an open_clip model that OpenAI's layout cannot express; says why.
    """
    path, architecture, tag = resolve(name)
    if path is None:
        path, settings = hub.fetch(architecture, tag, folder)
        return Source(path, settings, verified=bool(tag == "openai" and path.suffix == ".pt"))
    if not path.is_file():
        raise FileNotFoundError(f"the bundled small CLIP is missing: {path}")
    is_openais = name.partition("::")[0] in OPENAI_ONLY
    settings = hub.settings(architecture, is_openais) if architecture else hub.settings_beside(path)
    if "quick_gelu" in settings and is_archive(path) and hub.is_openais(path):
        del settings["quick_gelu"]  # whatever was said or lies beside it
    return Source(path, settings)


def split_tag(name: str) -> tuple[str, str]:
    """``ViT-B-32::laion2b_e16`` or ``ViT-B-32:laion2b_e16`` -> architecture, tag (or empty)."""
    architecture, _, tag = name.partition("::" if "::" in name else ":")
    return hub.OPENAI_NAMES.get(architecture, architecture), tag


def _looks_like_path(name: str) -> bool:
    return name.endswith((".pt", ".pth", ".bin", ".safetensors")) or name.startswith(
        (".", "/", "~")
    )


def _unknown(name: str) -> str:
    names = ["small", *hub.OPENAI_NAMES, *("::".join(pair) for pair in hub.tags())]
    by_folded = {known.casefold(): known for known in names}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=4, cutoff=0.5)
    near = "nearest known: " + ", ".join(by_folded[n] for n in nearest) + ". " if nearest else ""
    return (
        f"backbone {name!r} is not known; {near}It can be small, {', '.join(hub.OPENAI_NAMES)}, "
        "an open_clip ARCHITECTURE::TAG, or the path of a checkpoint"
    )


def load_state_dict(name: str = "", folder: Path | None = None) -> dict[str, Tensor]:
    """A backbone's state dict in OpenAI's layout, on the CPU, in the precision of its file.

    Args:
        name: see the module's docstring.
        folder: of downloads (default: ``hub.cache_folder()``).

    Raises:
        ValueError: unknown name, or a file that is truncated or no CLIP; says which and why.
        FileNotFoundError: no such file, or nothing to be had from the network.
    """
    return state_dict_of(locate(name, folder))


def state_dict_of(source: Source) -> dict[str, Tensor]:
    """The state dict of a located backbone; its settings are further scalars."""
    settings = {key: torch.tensor(value) for key, value in source.settings.items()}
    return read_state_dict(source.path) | settings


def load_model(
    name: str = "", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> CLIP:
    """A frozen CLIP in eval mode.

    Args:
        name: see the module's docstring.
        dtype: float32, or float16 or bfloat16 for the matrix products (normalisation and
            embeddings stay float32, as in OpenAI's recipe).

    Raises:
        ValueError, FileNotFoundError: as ``load_state_dict``.
    """
    state_dict = load_state_dict(name)
    try:
        model = build_model(state_dict)
    except ValueError as error:
        raise ValueError(f"backbone {name or 'small'}: {error}") from None
    model.float()
    if dtype != torch.float32:
        convert_weights(model, dtype)
    return model.to(device).eval().requires_grad_(False)


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, whatever its format, under OpenAI's names.

    Raises:
        ValueError: truncated, of another format, or no CLIP in a layout known here.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    return to_openai_layout(_read_tensors(path), path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        if is_archive(path):
            return read_archive(path)
        # weights_only: plain tensors and containers. Anything else in the pickle is refused.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"backbone {path}: no such file") from None
    except Exception as error:  # foreign bytes can fail in any way inside the readers
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        if "Unsupported" in str(error):  # torch's refusal is a page on how to allow it
            reason = "it holds objects besides tensors; save its state_dict alone"
        raise ValueError(
            f"{path}: truncated, or not a checkpoint; a state dict saved by torch.save, a "
            f"TorchScript archive or a safetensors file is expected ({reason})"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # a training checkpoint
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict")
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors does: the header's length (u64), then JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    if len(start) < 9 or start[8:] != b"{":
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return path.suffix == ".safetensors" or length + 8 <= path.stat().st_size


def to_openai_layout(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors under OpenAI's names, from any of the layouts known here.

    Raises:
        ValueError: not a CLIP, or one in another layout; ``path`` is named in the message.
    """
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: not a state dict, {key!r} is a {type(value).__name__}")
    if all(key.startswith("module.") for key in tensors):  # saved from DistributedDataParallel
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    if any(key.startswith(("vision_model.", "text_model.")) for key in tensors):
        raise ValueError(
            f"{path}: in Hugging Face transformers' layout, which is not read; the same weights "
            "in OpenAI's or open_clip's layout are (by name, or as a file)"
        )
    if "text.token_embedding.weight" in tensors:  # open_clip's CustomTextCLIP
        tensors = {key.removeprefix("text."): value for key, value in tensors.items()}
    tensors = {key: value for key, value in tensors.items() if key not in _REDUNDANT}
    if "token_embedding.ids" in tensors:
        tensors = _expand_vocabulary(tensors, path)
    for key in ("visual.conv1.weight", "token_embedding.weight", "text_projection", "logit_scale"):
        if key not in tensors:
            raise ValueError(
                f"{path}: no CLIP in OpenAI's layout: {len(tensors)} tensors, none named {key!r}"
            )
    if "logit_bias" in tensors:
        raise ValueError(f"{path}: a SigLIP (it has a logit_bias), which OpenAI's layout has not")
    return tensors | {"logit_scale": tensors["logit_scale"].reshape(())}


def _expand_vocabulary(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A compact file's token rows -> the whole vocabulary.

    The file holds the rows its training saw, ``token_embedding.weight`` (n, width), and which they
    are, ``token_embedding.ids`` (n,). The others get what untrained rows have: draws of standard
    deviation 0.02, from a stream that NumPy has frozen, so that they are the same everywhere.
    """
    ids = tensors["token_embedding.ids"].long()
    rows = tensors.get("token_embedding.weight")
    if rows is None or rows.dim() != 2 or ids.shape != rows.shape[:1]:
        raise ValueError(f"{path}: token_embedding.ids and .weight do not go together")
    if len(ids.unique()) != len(ids) or ids.min() < 0 or ids.max() >= VOCABULARY:
        raise ValueError(f"{path}: token_embedding.ids are not {len(ids)} different token ids")
    stream = np.random.RandomState(0)  # noqa: NPY002 (its stream never changes; Generator's may)
    draws = stream.standard_normal((VOCABULARY, rows.shape[1])) * 0.02
    weight = torch.from_numpy(draws).to(rows.dtype)
    weight[ids] = rows
    expanded = {key: value for key, value in tensors.items() if key != "token_embedding.ids"}
    return expanded | {"token_embedding.weight": weight}
