"""Class tokens in deeper layers and changes inside blocks, against plain whole sequences."""

import pytest
import torch

from clip.blocks import BlockChange
from clip.model import build_model
from clip.text import SharedText

WIDTH = 128


@pytest.fixture(scope="module")
def model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).eval()


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(4)
    prefix = torch.randn(1, 6, WIDTH, generator=generator)
    own = torch.randn(1, 3, 5, WIDTH, generator=generator)
    return SharedText(prefix, own, torch.tensor([2, 4, 3]))


def whole(text):
    prefix = text.prefix.unsqueeze(1).expand(-1, text.own.shape[1], -1, -1)
    return torch.cat([prefix, text.own], dim=2)[0]


def at_ends(x, text):
    return x[torch.arange(len(x)), text.eot + text.prefix.shape[1]]


class Doubling(BlockChange):
    """Visible in every part of a block."""

    def __init__(self, weight):
        self.weight = weight

    def qkv(self, x, qkv):
        return qkv + 0.1 * (x @ self.weight).repeat(1, 1, 3)

    def beside(self, x):
        return 0.2 * (x @ self.weight)


def plain_block(block, x, change):
    """A block with its change, of (B, L, D), by multi-head attention written out."""
    length = x.shape[1]
    normed = block.ln_1(x)
    qkv = normed @ block.attn.in_proj_weight.t() + block.attn.in_proj_bias
    q, k, v = (
        part.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2)
        for part in change.qkv(normed, qkv).chunk(3, dim=-1)
    )
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if block.causal:
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    out = x + block.attn.out_proj(attended)
    return out + block.mlp(block.ln_2(out)) + change.beside(normed)


@pytest.mark.parametrize("layer", [0, 8])
@pytest.mark.parametrize("position", [1, 2])
def test_class_tokens_are_those_of_whole_sequences(layer, position, model, text):
    tokens = torch.randn(3, 3, WIDTH, generator=torch.Generator().manual_seed(5))
    results = []
    for shared in (True, False):
        given = tokens.clone().requires_grad_()
        if shared:
            low = text.run(model.transformer, stop=layer).with_class_tokens(given, position)
            end = low.run(model.transformer, start=layer).own[0, :, 0]
        else:
            x = model.transformer.run(whole(text), stop=layer)
            x = torch.cat([x[:, :position], given, x[:, position + 3 :]], dim=1)
            end = at_ends(model.transformer.run(x, start=layer), text)
        end.square().sum().backward()
        results.append((end.detach(), given.grad))
    torch.testing.assert_close(*results, atol=2e-4, rtol=1e-4)


def test_changes_of_texts_are_those_of_whole_sequences(model, text):
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(6)) / WIDTH**0.5
    changes = {3: Doubling(weight), 11: Doubling(weight)}
    end = text.run(model.transformer, changes=changes).own[0, :, 0]
    x = model.transformer.run(whole(text), stop=3)
    x = plain_block(model.transformer.resblocks[3], x, changes[3])
    x = model.transformer.run(x, start=4, stop=11)
    x = plain_block(model.transformer.resblocks[11], x, changes[11])
    torch.testing.assert_close(end, at_ends(x, text), atol=2e-4, rtol=1e-4)
    assert (end - text.run(model.transformer).own[0, :, 0]).abs().max() > 0.01


def test_changes_of_images_are_those_of_whole_sequences(model):
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(7)) / WIDTH**0.5
    x = torch.randn(2, 17, WIDTH, generator=torch.Generator().manual_seed(8))
    tower = model.visual.transformer
    kept = tower.run(x, changes={11: Doubling(weight)}, keep=slice(0, 1))
    plain = plain_block(tower.resblocks[11], tower.run(x, stop=11), Doubling(weight))
    torch.testing.assert_close(kept, plain[:, :1], atol=2e-4, rtol=1e-4)
