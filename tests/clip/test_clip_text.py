"""Shared-prefix text encoding and token edits against their plain twins: values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip import tokenize
from clip.blocks import SEQUENCES_AT_ONCE
from clip.edits import (
    InsertThenReplace,
    ReplaceTokens,
    append_tokens,
    insert_tokens,
    replace_tokens,
)
from clip.model import build_model
from clip.text import (
    SharedText,
    common_prefix_length,
    encode_embeddings,
    end_positions,
    share_text,
    split_embeddings,
)

WIDTH = 128


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict)


def plain_features(model, text: SharedText, edit=None) -> torch.Tensor:
    """The obvious twin of ``text.run(...).features(...)``: whole sequences, one per class and
    group.

    Returns:
        (G, C, embed_dim), or (C, embed_dim) for one group.
    """
    groups, classes = text.own.shape[:2]
    prefix = text.prefix.unsqueeze(1).expand(-1, classes, -1, -1)
    x = torch.cat([prefix, text.own], dim=2).flatten(0, 1)  # (G * C, P + S, D)
    own_length = text.own.shape[2]
    x = model.transformer.run(x, edit=edit)
    own = x[:, x.shape[1] - own_length :].unflatten(0, (groups, classes))
    return SharedText(text.prefix, own, text.eot).features(model)


def whole_sequences(model, tokens: torch.Tensor) -> torch.Tensor:
    """CLIP's text tower as the paper has it: all 77 positions of every text."""
    x = model.token_embedding(tokens) + model.positional_embedding
    x = model.ln_final(model.transformer(x.transpose(0, 1)).transpose(0, 1))
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


@pytest.mark.parametrize(
    "texts",
    [
        ["a photo of a cat.", "a photo of a very large dog.", "a photo of a c."],
        ["a photo of a cat."],  # nothing but the prefix and the end token
        ["cat", "dog"],  # nothing shared but the start token
        ["", "a"],  # an empty text ends right after its start
        ["same", "same"],
    ],
)
def test_encode_text_equals_whole_sequences(model, texts):
    tokens = tokenize(texts)
    with torch.no_grad():
        expected = whole_sequences(model, tokens)
        torch.testing.assert_close(model.encode_text(tokens), expected, atol=1e-5, rtol=1e-5)


def test_encode_embeddings_equals_encode_text(model):
    tokens = tokenize(["a photo of a cat.", "two dogs"])
    with torch.no_grad():
        from_embeddings = encode_embeddings(
            model, model.token_embedding(tokens), end_positions(tokens)
        )
        torch.testing.assert_close(from_embeddings, model.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_common_prefix_length():
    def length(*texts):
        return common_prefix_length(tokenize(list(texts)))

    assert length("a photo of a cat", "a photo of a dog") == 5  # start, a, photo, of, a
    assert length("cat", "dog") == 1
    assert length("cat") == 2  # up to the end token, which stays the text's own
    assert length("cat", "cat food") == 2


def random_text(groups: int, classes: int, prefix: int, own: int, seed: int) -> SharedText:
    generator = seeded(seed)
    return SharedText(
        torch.randn(groups, prefix, WIDTH, generator=generator).requires_grad_(),
        torch.randn(groups, classes, own, WIDTH, generator=generator).requires_grad_(),
        torch.randint(0, own, (classes,), generator=generator),
    )


@settings(max_examples=15, deadline=None)
@given(
    groups=st.integers(1, 3),
    classes=st.integers(1, 4),
    prefix=st.integers(1, 6),
    own=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_shared_prefix_equals_plain(groups, classes, prefix, own, seed):
    model = small_model()
    text = random_text(groups, classes, prefix, own, seed)
    torch.testing.assert_close(
        text.run(model.transformer).features(model), plain_features(model, text),
        atol=2e-5, rtol=1e-4,
    )  # fmt: skip


_MODELS = {}


def small_model():
    """Three blocks of random weights, built once."""
    if "small" not in _MODELS:
        import inputs

        size = dict(vw=128, vl=3, patch=16, image=64, tw=128, tl=3, embed=64)
        _MODELS["small"] = build_model(inputs.random_clip_state_dict(size))
    return _MODELS["small"]


@pytest.mark.parametrize("edit_kind", ["none", "insert", "blend", "replace"])
@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_equal_plain(model, edit_kind, groups):
    text = random_text(groups, classes=4, prefix=5, own=4, seed=7)
    learned = {
        layer: torch.randn(2, WIDTH, generator=seeded(layer)).requires_grad_()
        for layer in range(5, 12)
    }
    edit = {
        "none": None,
        "insert": InsertThenReplace(learned),
        "blend": InsertThenReplace(learned, beta=0.4),
        "replace": ReplaceTokens(learned, position=1),
    }[edit_kind]
    fast = text.run(model.transformer, edit=edit).features(model)
    plain = plain_features(model, text, edit)
    assert fast.shape == plain.shape
    torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-4)
    leaves = [text.prefix, text.own, *(learned.values() if edit else ())]
    direction = torch.randn(fast.shape, generator=seeded(0))
    for a, b in zip(
        torch.autograd.grad((fast * direction).sum(), leaves),
        torch.autograd.grad((plain * direction).sum(), leaves),
        strict=True,
    ):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_running_in_ranges_equals_running_at_once(model):
    tokens = tokenize(["a photo of a cat.", "a photo of a dog on a mat."])
    with torch.no_grad():
        parts = split_embeddings(
            model.token_embedding(tokens), end_positions(tokens), common_prefix_length(tokens)
        )
        text = share_text(model, *parts)
        whole = text.run(model.transformer).features(model)
        halves = text.run(model.transformer, stop=5).run(model.transformer, start=5)
        assert torch.equal(whole, halves.features(model))


def test_kept_positions_of_the_image_tower_equal_all(model):
    image = torch.randn(2, 3, 64, 64, generator=seeded(0))
    with torch.no_grad():
        tokens = model.visual.ln_pre(model.visual.embed(image))
        everything = model.visual.transformer.run(tokens)
        kept = model.visual.transformer.run(tokens, keep=slice(0, 3))
    torch.testing.assert_close(kept, everything[:, :3], atol=1e-5, rtol=1e-5)


def test_a_large_batch_without_gradients_equals_one_with():
    model = small_model()
    x = torch.randn(2 * SEQUENCES_AT_ONCE + 3, 5, WIDTH, generator=seeded(0))
    edit = ReplaceTokens({1: torch.randn(2, WIDTH, generator=seeded(1))})
    with torch.no_grad():
        in_pieces = model.visual.transformer.run(x, edit=edit, keep=slice(0, 1))
    at_once = model.visual.transformer.run(x, edit=edit, keep=slice(0, 1))
    torch.testing.assert_close(in_pieces, at_once, atol=1e-5, rtol=1e-5)


def test_edits():
    x = torch.arange(10.0).view(1, 5, 2)
    tokens = torch.full((2, 2), -1.0)
    assert insert_tokens(x, tokens)[0, :, 0].tolist() == [0, -1, -1, 2, 4, 6, 8]
    assert replace_tokens(x, tokens)[0, :, 0].tolist() == [0, -1, -1, 6, 8]
    assert replace_tokens(x, tokens, position=-2)[0, :, 0].tolist() == [0, 2, 4, -1, -1]
    assert append_tokens(x, tokens)[0, :, 0].tolist() == [0, 2, 4, 6, 8, -1, -1]
    blend = InsertThenReplace({3: tokens, 4: tokens}, beta=0.5)
    assert blend(2, x) is x
    assert blend(3, x).shape[1] == 7
    assert blend(4, x)[0, :, 0].tolist() == [0, 0.5, 1.5, 6, 8]
