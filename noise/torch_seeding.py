"""Torch generators seeded by content; apart from `noise.seeding`, which is used without torch."""

import torch

from noise.seeding import seed_for


def torch_generator_for(seed: int, *keys: str | int) -> torch.Generator:
    """Return a CPU torch generator; arguments and errors of `noise.seeding.seed_for`.

    On the CPU so that a model on a GPU meets the same noise as one on the CPU.
    """
    return torch.Generator().manual_seed(seed_for(seed, *keys))
