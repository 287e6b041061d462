"""Files, names and seeds: the small helpers everything else uses."""

import os
import platform
import random
import warnings
from collections.abc import Iterable
from typing import Any

from common.errors import UsageError
from common.files import atomic_write, write_json
from common.names import nearest
from common.reading import read_json

__all__ = [
    "atomic_write",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "listdir_nohidden",
    "mkdir_if_missing",
    "read_json",
    "set_random_seed",
    "tolist_if_not",
    "write_json",
]


def mkdir_if_missing(dirname: str) -> None:
    """Create a folder and its parents; an empty name means the current folder."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether ``fpath`` is a file; warns when it is not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return found


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Names in a folder that do not start with a dot."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def tolist_if_not(x: Any) -> list:
    """``x`` itself if it is a list, otherwise a list holding it."""
    return x if isinstance(x, list) else [x]


def set_random_seed(seed: int) -> None:
    """Seed python's, NumPy's and PyTorch's global generators, the last on every device.

    Raises:
        UsageError: the seed is not one that NumPy takes.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed is {seed}; choose one from 0 to {2**32 - 1}")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - stock code draws from the global generator
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def check_availability(requested: str, available: Iterable[str], kind: str = "name") -> None:
    """Refuse a name that is not among the available ones.

    Args:
        requested: what was asked for.
        available: what there is.
        kind: the noun for the message, for instance "trainer".

    Raises:
        UsageError: names the nearest available ones, or all of them when nothing is near.
    """
    available = list(available)
    if requested in available:
        return
    near = nearest(str(requested), available)
    if near:
        hint = f"nearest known: {', '.join(near)}"
    else:
        hint = f"known: {', '.join(sorted(available)) or 'none registered'}"
    raise UsageError(f"unknown {kind} {requested!r}; {hint}")


def collect_env_info() -> str:
    """Versions and hardware as a few lines of text, for the log."""
    import torch

    lines = [
        f"Python: {platform.python_version()} ({platform.platform()})",
        f"PyTorch: {torch.__version__} ({torch.get_num_threads()} threads)",
        f"torchvision: {_version_of('torchvision')}",
        f"NumPy: {_version_of('numpy')}",
        f"Pillow: {_version_of('pillow')}",
        f"CPU: {os.cpu_count()} cores",
    ]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        lines.append(f"CUDA: {torch.version.cuda}, cuDNN: {torch.backends.cudnn.version()}")
        lines.append(f"GPU: {', '.join(names)}")
    else:
        lines.append("CUDA: not available")
    return "\n".join(lines)


def _version_of(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
