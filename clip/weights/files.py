"""Tensors out of checkpoint files of any format, without running anything that a file contains.

safetensors holds tensors only. What ``torch.save`` and ``torch.jit.save`` write is read by
``archive``, files of PyTorch before 1.6 by its restricted unpickler.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from common.errors import UsageError, one_line

from ..shapes import input_resolution

MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit


def read_tensors(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds by name: tensors, and whatever else stands beside them.

    Raises:
        UsageError: it cannot be read, is damaged, or holds no dictionary.
    """
    try:
        content = _read(path)
    except UsageError:
        raise
    except Exception as error:  # damaged content can fail in any way inside the readers
        if isinstance(error, OSError) and error.errno is not None:
            raise UsageError(f"backbone {path}: {error.strerror}") from None
        raise _not_a_checkpoint(path, one_line(error)[:160]) from None
    for key in ("state_dict", "model"):  # a training's checkpoint
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        kind = type(content).__name__
        raise UsageError(f"{path}: holds a {kind}, not a state dict; save its state_dict() alone")
    return content


def _not_a_checkpoint(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path}: truncated, or not a checkpoint; a state dict saved by torch.save, a "
        f"TorchScript archive or a safetensors file is expected ({reason})"
    )


def _read(path: Path) -> Any:
    if not path.stat().st_size:
        raise ValueError("it is empty")
    if is_safetensors(path):
        safetensors_header(path)
        from safetensors.torch import load_file

        return load_file(path)
    if zipfile.is_zipfile(path):
        from .archive import read_archive

        return read_archive(path)
    return _load_legacy(path)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors does: the header's length (u64), then JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    if len(start) < 9 or start[8:] != b"{":
        return path.suffix == ".safetensors"
    (length,) = struct.unpack("<Q", start[:8])
    return path.suffix == ".safetensors" or length + 8 <= path.stat().st_size


def safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return ``dtype``, ``shape`` and ``data_offsets`` of a safetensors file's tensors, by name.

    Raises:
        UsageError: it is damaged.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, MAX_HEADER):
            raise _not_a_checkpoint(path, f"its header would be {length:,} bytes long")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{name} lies outside the file")
            if not all(isinstance(side, int) and side >= 0 for side in entry["shape"]):
                raise ValueError(f"{name} has no shape")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _not_a_checkpoint(path, one_line(error)[:160]) from None
    return header


def resolution(path: Path) -> int | None:
    """Side of the images in pixels that a file's shapes are for; None where they do not tell.

    Raises:
        UsageError: the file is damaged.
    """
    if is_safetensors(path):
        header = safetensors_header(path)
        return input_resolution({name: entry["shape"] for name, entry in header.items()})
    tensors = read_tensors(path)
    return input_resolution({k: v.shape for k, v in tensors.items() if hasattr(v, "shape")})


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a TorchScript archive (a plain ``torch.save`` file has no constants)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # not a zip file, or a damaged one
        return False


def _load_legacy(path: Path) -> Any:
    """A file of PyTorch before 1.6, which is no zip file."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message is a page on how to allow it.
        if named := re.search(r"Unsupported \w+\W+(?:GLOBAL )?([\w.]+)", str(error)):
            raise ValueError(
                f"it holds {named[1]} beside tensors; save its state_dict alone"
            ) from None
        raise
