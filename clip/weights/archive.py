"""Tensors out of the zip files that PyTorch writes, without running anything that they contain.

``torch.save`` and ``torch.jit.save`` write zip files: ``NAME/data.pkl`` is a pickle and
``NAME/data/N`` hold the tensors' bytes. OpenAI published CLIP as TorchScript archives;
``torch.jit.load`` compiles their code and may run parts of it (``__setstate__``). A file from
anywhere deserves no such trust, and the code is not needed.

The pickle is read with an unpickler (Python documentation, "Restricting globals") that knows a
dozen names, which build tensors, dictionaries and lists. An object of any other class becomes an
inert ``Node``; no other function is called.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.pickles import check_pickle

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Node:
    """Stands for an object of any class; keeps its attributes and does nothing."""

    name = ""  # of the class
    attributes: dict[str, Any]

    def __new__(cls, *_: object, **__: object) -> Node:
        node = super().__new__(cls)
        node.attributes = {}
        return node

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def __call__(self, *_: object, **__: object) -> Node:
        return Node()  # a function that a pickle got from another, as of getattr

    # What a pickle puts into containers of a class of their own.
    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    if math.prod(size) > len(storage):  # with a stride of 0 a byte could become a terabyte
        raise pickle.UnpicklingError(
            f"a tensor of shape {tuple(size)} out of {len(storage)} values"
        )
    # as_strided checks that the view lies within the storage.
    return torch.as_strided(storage, size, stride, offset).contiguous()


def _first(value: object, *_: object) -> object:
    return value


def _nothing(*_: object) -> None:
    return None


def _dictionary(*_: object) -> dict:
    return {}  # which the pickle goes on to fill


ALLOWED: dict[tuple[str, str], Callable | torch.dtype] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("collections", "OrderedDict"): dict,
    ("collections", "defaultdict"): _dictionary,
    ("torch", "device"): _nothing,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
}
ALLOWED |= {("torch", name): dtype for name, dtype in STORAGES.items()}


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        pickled = archive.read(f"{folder}/data.pkl")
        check_pickle(pickled)
        super().__init__(io.BytesIO(pickled))
        self.archive = archive
        self.folder = folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        return type(name, (Node,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        if key not in self.storages:
            data = self.archive.read(f"{self.folder}/data/{key}")  # zipfile checks the CRC
            if len(data) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"tensor {key} is not {count} values long")
            # frombuffer refuses an empty buffer; bytearray because tensors are writable.
            self.storages[key] = (
                torch.frombuffer(bytearray(data), dtype=dtype)
                if data
                else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def read_archive(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds; of a TorchScript archive its tensors by name.

    An archive's parameters and buffers have the names that ``state_dict()`` would give them.

    Raises:
        Exception: of any kind, if it is damaged or not PyTorch's. Bytes that do not have the
            checksum that the zip file states are damage, too (``torch.load`` does not look).
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip file, but none that PyTorch 1.6 or later wrote")
        folder = pickles[0].rsplit("/", 1)[0]
        for member in archive.infolist():
            if "/data" in member.filename and member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed, which PyTorch never does")
        if f"{folder}/byteorder" in archive.namelist():
            order = archive.read(f"{folder}/byteorder")
            if order != b"little":
                raise ValueError(f"its numbers are {order.decode(errors='replace')}-endian")
        content = _TensorUnpickler(archive, folder).load()
    if isinstance(content, Node) and content.name.startswith("__torch__."):
        tensors: dict[str, Tensor] = {}
        _collect(content, "", tensors)
        return tensors
    return content


def _collect(node: Node, prefix: str, tensors: dict[str, Tensor]) -> None:
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, Node):
            _collect(value, f"{prefix}{name}.", tensors)
