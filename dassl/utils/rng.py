"""Random states: run something under its own seed, and save and restore where a process stands."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from common.ranks import here

__all__ = ["get_rng_state", "seeded", "set_rng_state"]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with python's, NumPy's and PyTorch's CPU generators seeded, then put them back.

    CUDA generators are not touched: the block is meant for work on images, which happens on the
    CPU.

    Args:
        seed: any non-negative integer below 2**63.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)


def get_rng_state() -> dict[str, Any]:
    """Return all global random states as tensors and numbers (see :func:`set_rng_state`)."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states(),
    }


def _cuda_states() -> list[torch.Tensor]:
    """Return all devices' states; where processes share a run, that of this one's device."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_rng_state()] if here().size > 1 else torch.cuda.get_rng_state_all()


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue all generators from a state made by :func:`get_rng_state`.

    CUDA states are restored for as many devices as there are both here and in the state; where
    processes share a run, the first state on each one's own device.
    """
    python, numpy_ = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(  # noqa: NPY002
        (
            numpy_["name"],
            numpy_["keys"].numpy().astype(np.uint32),
            numpy_["position"],
            numpy_["has_gauss"],
            numpy_["cached"],
        )
    )
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        if here().size > 1:
            for cuda_state in state["cuda"][:1]:
                torch.cuda.set_rng_state(cuda_state)
            return
        for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state, device)
