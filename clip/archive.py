"""Tensors out of a TorchScript archive, without running anything that the archive contains.

OpenAI published CLIP as TorchScript archives. ``torch.jit.load`` compiles their code and may run
parts of it (``__setstate__``); a file from anywhere deserves no such trust, and the code is not
needed.
An archive is a zip file: ``NAME/data.pkl`` is a pickle of the module tree and ``NAME/data/N`` hold
the tensors' bytes. The pickle is read with an unpickler (Python documentation, "Restricting
globals") that knows a dozen names and nothing else: every TorchScript class becomes an inert
``_Node``, the others build tensors and lists. A pickle that asks for any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

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


class _Node:
    """Stands for an instance of any TorchScript class; keeps its attributes."""

    attributes: Mapping[str, object] = MappingProxyType({})

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    # as_strided checks that the view lies within the storage.
    return torch.as_strided(storage, size, stride, offset).contiguous()


def _first(value: object, *_: object) -> object:
    return value


def _nothing(*_: object) -> None:
    return None


ALLOWED = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("collections", "OrderedDict"): dict,
    ("torch", "device"): _nothing,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
} | {("torch", name): dtype for name, dtype in STORAGES.items()}


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self.archive = archive
        self.folder = folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> object:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Node
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CLIP needs")
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Tensor:
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


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a TorchScript archive (a plain ``torch.save`` file has no constants)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """Name -> tensor for every tensor attribute of the archived module tree.

    Parameters and buffers have the names that ``state_dict()`` would give them.

    Raises:
        pickle.UnpicklingError: it asks for objects that no tensors need.
        Exception: of any kind, if it is damaged or not TorchScript's.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("not a TorchScript archive of PyTorch 1.4 or later")
        folder = pickles[0].rsplit("/", 1)[0]
        root = _TensorUnpickler(archive, folder).load()
    tensors: dict[str, Tensor] = {}
    if isinstance(root, _Node):
        _collect(root, "", tensors)
    return tensors


def _collect(node: _Node, prefix: str, tensors: dict[str, Tensor]) -> None:
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Node):
            _collect(value, f"{prefix}{name}.", tensors)
