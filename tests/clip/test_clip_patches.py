"""Patch features: both paths against plain twins, windows, and images of other sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from clip.model import build_model
from clip.patches import local_block, patch_tokens, window_mask


@pytest.fixture(scope="module")
def visual(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval().visual


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def plain_local_block(block, y, grid, radius):
    """Value-value attention patch by patch, head by head, from the equation."""
    width, heads = y.shape[-1], block.attn.heads
    normed = F.layer_norm(y, (width,), block.ln_1.weight, block.ln_1.bias)
    weight, bias = block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:]
    value = normed @ weight.t() + bias
    out = torch.zeros_like(y)
    size = width // heads
    for i in range(y.shape[1]):
        seen = [
            j
            for j in range(y.shape[1])
            if radius is None
            or max(abs(i // grid[1] - j // grid[1]), abs(i % grid[1] - j % grid[1])) <= radius
        ]
        for h in range(heads):
            v = value[:, :, h * size : (h + 1) * size]
            scores = (v[:, seen] @ v[:, i, :, None])[..., 0] / math.sqrt(size)
            out[:, i, h * size : (h + 1) * size] = (
                scores.softmax(dim=-1)[..., None] * v[:, seen]
            ).sum(dim=1)
    return y + out @ block.attn.out_proj.weight.t() + block.attn.out_proj.bias


@pytest.mark.parametrize("radius", [None, 0, 1])
def test_local_block_is_the_equation(visual, radius):
    grid = (2, 3)
    y = torch.randn(2, 6, visual.transformer.width, generator=torch.Generator().manual_seed(1))
    mask = None if radius is None else window_mask(grid, radius)
    block = visual.transformer.blocks()[0]
    torch.testing.assert_close(
        local_block(block, y, mask), plain_local_block(block, y, grid, radius)
    )


def test_a_window_over_the_whole_grid_is_none(visual, images):
    grid = patch_tokens(visual, images).grid
    plain = patch_tokens(visual, images).local
    for radius in (max(grid), max(grid) - 1, 1000):
        torch.testing.assert_close(patch_tokens(visual, images, radius=radius).local, plain)
    assert not torch.allclose(patch_tokens(visual, images, radius=0).local, plain)


def test_windows_do_not_wrap_around():
    mask = window_mask((2, 3), 1)
    assert mask[0].tolist() == [True, True, False, True, True, False]
    assert mask[2].tolist() == [False, True, True, False, True, True]
    assert window_mask((2, 3), 0).equal(torch.eye(6, dtype=torch.bool))


def test_stock_path_is_stock(visual, images):
    tokens = patch_tokens(visual, images, layers=(0, 5, 11))
    torch.testing.assert_close(tokens.image, visual(images))
    x = visual.ln_pre(visual.embed(images))
    for layer, block in enumerate(visual.transformer.blocks()):
        x = block.run(x)
        if layer in tokens.layers:
            torch.testing.assert_close(tokens.layers[layer], x[:, 1:])
    assert sorted(tokens.layers) == [0, 5, 11]


def test_second_path_starts_where_it_is_told_to(visual, images):
    x = visual.ln_pre(visual.embed(images))
    y = visual.transformer.run(x, stop=10)[:, 1:]
    for block in visual.transformer.blocks()[10:]:
        y = local_block(block, y, None)
    tokens = patch_tokens(visual, images, layers=(2,), start=10)
    torch.testing.assert_close(tokens.local, visual.project(y))


def test_second_path_of_the_stock_paths_values(visual, images):
    blocks = visual.transformer.blocks()
    x = visual.ln_pre(visual.embed(images))
    y = x[:, 1:]
    mask = window_mask(patch_tokens(visual, images).grid, 2)
    for block in blocks:
        y = y + local_block(block, x[:, 1:], mask) - x[:, 1:]
        x = block.run(x)
    tokens = patch_tokens(visual, images, layers=(1,), radius=2, of_stock=True)
    torch.testing.assert_close(tokens.local, visual.project(y), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens.image, visual(images))


def test_layers_that_are_not_there(visual, images):
    with pytest.raises(ValueError, match="the tower has 12"):
        patch_tokens(visual, images, layers=(12,))


def test_images_of_other_sizes(visual, images):
    grid = patch_tokens(visual, images).grid
    patch = 64 // grid[0]
    wide = F.interpolate(images, (64, 64 + 2 * patch))
    tokens = patch_tokens(visual, wide, layers=(1,))
    assert tokens.grid == (grid[0], grid[1] + 2)
    assert tokens.local.shape[1] == tokens.layers[1].shape[1] == grid[0] * (grid[1] + 2)
    assert visual(wide).shape == (2, visual.output_dim)


def test_positions_are_interpolated_as_open_clip_does(visual):
    from open_clip.model import resize_pos_embed

    from clip.model import VisionTransformer

    own = visual.positional_embedding
    larger = VisionTransformer(96, visual.conv1.stride[0], own.shape[1], 1, 2, 8)
    larger.grid_size = (96 // larger.conv1.stride[0],) * 2

    class Holder:
        pass

    holder = Holder()
    holder.visual = larger
    state = {"visual.positional_embedding": own.clone()}
    resize_pos_embed(state, holder)
    found = visual.positions(larger.grid_size)
    torch.testing.assert_close(found, state["visual.positional_embedding"])
    side = round((len(own) - 1) ** 0.5)
    assert visual.positions((side, side)) is own
