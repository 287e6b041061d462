"""Features of an image's patches: tokens of chosen layers, and local features in CLIP's space.

CLIP's own attention mixes a patch with the whole image. A second path beside it keeps each patch
local: it adds up, block by block, what patches exchange when the values are queries and keys, too
(value-value attention), within a window around each patch, and without the MLPs.

References:
    [0] Li et al., PromptAD: Learning Prompts with only Normal Samples for Few-Shot Anomaly
        Detection, 2024, https://arxiv.org/abs/2404.05231 (value-value attention in a second path)
    [1] Human-Free Automated Prompting for Vision-Language Anomaly Detection, 2024,
        https://arxiv.org/abs/2406.18197 (patches that attend to nearby patches only)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import BlockChange, ResidualAttentionBlock
from .model import VisionTransformer


class ValueAttention(BlockChange):
    """Takes the values for queries and keys as well."""

    def qkv(self, x: Tensor, qkv: Tensor) -> Tensor:
        value = qkv.chunk(3, dim=-1)[2]
        return torch.cat([value, value, value], dim=-1)


def window_mask(grid: tuple[int, int], radius: int, device: torch.device | None = None) -> Tensor:
    """Return which patch sees which: those at most ``radius`` rows and columns away.

    Args:
        grid: rows and columns of patches.
        radius: 0: itself alone; from the grid's longer side less one on: all.

    Returns:
        (P, P) booleans, P = rows * columns, patches row by row.
    """
    rows, columns = (torch.arange(size, device=device) for size in grid)
    place = torch.cartesian_prod(rows, columns)  # (P, 2)
    return (place[:, None] - place[None]).abs().amax(dim=-1) <= radius


def local_block(
    block: ResidualAttentionBlock, y: Tensor, mask: Tensor | None, source: Tensor | None = None
) -> Tensor:
    """Return patches (B, P, D) with what value-value attention of a block adds to them.

    Args:
        source: patches whose values are exchanged, where these are not ``y``'s own.
    """
    normed = block.ln_1(y if source is None else source)
    return y + block.attn(normed, change=ValueAttention(), mask=mask)


@dataclass(frozen=True)
class PatchTokens:
    """What an image tower says of images and their patches; nothing is normalised.

    Attributes:
        image: (B, E), the stock output.
        local: (B, P, E), patches of the second path in the joint space.
        layers: (B, P, D) patches after chosen blocks of the stock path, by block.
        grid: rows and columns of patches, P of them.
    """

    image: Tensor
    local: Tensor
    layers: dict[int, Tensor]
    grid: tuple[int, int]


def patch_tokens(
    visual: VisionTransformer,
    image: Tensor,
    layers: Iterable[int] = (),
    start: int = 0,
    radius: int | None = None,
    of_stock: bool = False,
) -> PatchTokens:
    """Run both paths over images of any size that the patches divide.

    Args:
        image: (B, 3, H, W) in the tower's precision.
        layers: 0-based blocks of the stock path whose output is wanted.
        start: block from which on the second path runs; before it both are one.
        radius: of the window in patches; None: every patch sees all.
        of_stock: the second path adds up values of the stock path's patches, as [0] does, not of
            its own.

    Raises:
        ValueError: a layer that the tower does not have.
    """
    tower, wanted = visual.transformer, set(layers)
    if not wanted <= set(range(tower.layers)) or not 0 <= start < tower.layers:
        raise ValueError(f"layers {sorted(wanted)}, start {start}: the tower has {tower.layers}")
    patch = visual.conv1.stride[0]
    grid = image.shape[-2] // patch, image.shape[-1] // patch
    x = visual.ln_pre(visual.embed(image))  # (B, 1 + P, D)
    found: dict[int, Tensor] = {}
    done = 0
    stops = {layer + 1 for layer in wanted} | ({start} - {0})
    inputs = {0: x[:, 1:]}
    if of_stock:
        stops |= set(range(start + 1, tower.layers))
    for stop in sorted(stops):
        x, done = tower.run(x, done, stop), stop
        if stop - 1 in wanted:
            found[stop - 1] = x[:, 1:]
        inputs[stop] = x[:, 1:]
    if done < tower.layers:
        x = tower.run(x, done, keep=slice(0, 1))
    mask = None if radius is None else window_mask(grid, radius, x.device)
    y = inputs[start]
    for layer, block in enumerate(tower.blocks()[start:], start=start):
        y = local_block(block, y, mask, inputs[layer] if of_stock else None)
    return PatchTokens(visual.project(x[:, 0]), visual.project(y), found, grid)
