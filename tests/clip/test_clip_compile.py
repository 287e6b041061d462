"""Compiled blocks compute what the blocks compute; traced here, without generating kernels."""

import pytest
import torch

from benchmarks.random_clip import random_clip_state_dict
from clip import tokenize
from clip.compile import compile_blocks
from clip.model import build_model

pytestmark = pytest.mark.slow

SIZE = dict(vw=64, vl=2, patch=16, image=32, tw=64, tl=2, embed=64)


@pytest.mark.slow
def test_compiled_blocks_equal_plain_ones():
    plain, compiled = (build_model(random_clip_state_dict(SIZE)) for _ in range(2))
    compile_blocks(compiled, backend="aot_eager")
    text = tokenize(["a photo of a cat.", "a photo of two grey dogs."])
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (plain, compiled):
        model.requires_grad_(False)
        pixels = image.clone().requires_grad_()
        logits, _ = model(pixels, text)
        logits.sum().backward()
        gradients.append((logits.detach(), pixels.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
