"""``torch.compile`` for the transformer blocks: faster on some machines, other last digits."""

from __future__ import annotations

from typing import Any

import torch

from .model import CLIP, VisionTransformer


def compile_blocks(model: CLIP, **options: Any) -> None:
    """Compile both towers' blocks in place; the first passes through them take a minute or so.

    Fused kernels round elsewhere, so results differ from the uncompiled model's in the last digits.

    Args:
        options: of ``torch.compile``, such as ``mode="reduce-overhead"`` (on a GPU: CUDA graphs).
    """
    towers = [model.transformer]
    if isinstance(model.visual, VisionTransformer):
        towers.append(model.visual.transformer)
    for tower in towers:
        for block in tower.blocks():
            for name in ("run", "run_prefix", "run_own"):
                setattr(block, name, torch.compile(getattr(block, name), **options))
