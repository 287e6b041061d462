"""Notice damage: a digest over all that a checkpoint holds, and checks of what was read.

``torch.load`` checks neither the CRC of its archive's entries nor that numbers make sense, so a
flipped bit would change results without a word.
"""

import hashlib
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from common.errors import UsageError

__all__ = ["NotFiniteError", "check_archive", "check_extent", "check_finite", "content_digest"]

MAX_VALUES = 1_000_000
MAX_DEPTH = 50

# Of a checkpoint, what must be finite: learned tensors and all numbers of the optimiser.
FINITE = ("state_dict", "optimizer", "trainer")


class NotFiniteError(UsageError, FloatingPointError):
    """A loss, or a learned number, is infinite or not a number: training has diverged."""


def content_digest(content: Any) -> str:
    """Return the SHA-256 (hex) of nested plain data.

    It depends on types, values, shapes and the order of lists, not on the order of dictionaries,
    nor on how the data are packed into a file.

    Args:
        content: tensors, None, booleans, numbers, strings, lists, tuples and dictionaries.

    Raises:
        TypeError: something else is in it.
    """
    hasher = hashlib.sha256()
    _feed(hasher, content)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if value is None or isinstance(value, bool):
        hasher.update(f"{value};".encode())
    elif isinstance(value, int):
        hasher.update(f"int {value:x};".encode())
    elif isinstance(value, float):
        hasher.update(b"float " + struct.pack("<d", value))
    elif isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        hasher.update(f"str {len(encoded)} ".encode() + encoded)
    elif isinstance(value, torch.Tensor):
        _feed_tensor(hasher, value)
    elif isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        hasher.update(f"{kind} {len(value)} ".encode())
        for item in value:
            _feed(hasher, item)
    elif isinstance(value, dict):
        hasher.update(f"dict {len(value)} ".encode())
        # By the keys' own digests: they may be numbers and strings in one dictionary.
        keyed = [(content_digest(key), item) for key, item in value.items()]
        for key, item in sorted(keyed, key=lambda pair: pair[0]):
            hasher.update(key.encode())
            _feed(hasher, item)
    else:
        raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _feed_tensor(hasher: Any, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(f"a checkpoint holds plain tensors, not {tensor.layout} ones")
    hasher.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if tensor.numel():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in nested data with its dotted name, without recursion.

    Raises:
        ValueError: it is nested or repeats itself beyond all use, as only made-up files do.
    """
    stack = [(name, content, 0)]
    seen = 0
    while stack:
        name, value, depth = stack.pop()
        seen += 1
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError("its content is nested or repeated beyond all use")
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        else:
            yield name, value
            continue
        stack += [(f"{name}.{key}" if name else f"{key}", item, depth + 1) for key, item in items]


def check_archive(path: str | os.PathLike) -> None:
    """Check the CRC of each entry of a checkpoint's ZIP archive; other formats have none.

    Raises:
        ValueError: an entry is damaged, or unpacks to far more than the file's size.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > 4 * os.path.getsize(path) + 2**20:
            raise ValueError(f"its entries unpack to {unpacked:,} bytes")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its entry {damaged} does not match its CRC")


def check_extent(content: Any) -> None:
    """Refuse tensors that claim more values than are stored, which copying them would make.

    Raises:
        ValueError: names the tensor.
    """
    for name, value in leaves(content):
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            stored = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > stored:
                raise ValueError(
                    f"{name} claims {value.numel():,} values, {stored:,} bytes are there"
                )


def check_finite(content: Any, name: str = "") -> None:
    """Refuse NaN and infinities in nested data.

    A mask, zero here and -inf there, is no learned tensor and may be in a model's state.

    Raises:
        NotFiniteError: names the number or tensor.
    """
    for place, value in leaves(content, name):
        if isinstance(value, float):
            value = torch.tensor(value)
        elif not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            continue
        if not value.dtype.is_floating_point and not value.dtype.is_complex:
            continue
        if bool(torch.isfinite(value).all()) or _is_mask(value):
            continue
        raise NotFiniteError(f"{place} is infinite or NaN")


def _is_mask(value: torch.Tensor) -> bool:
    return value.dim() > 1 and bool(((value == 0) | (value == -torch.inf)).all())
