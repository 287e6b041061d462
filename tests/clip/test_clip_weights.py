"""Backbone files: every format gives the same features, in the precision asked for."""

import pytest
import torch
from backbone_files import TRACING, WRITERS, features, save_compact
from safetensors.torch import save_file

import clip
from clip import load_model
from clip.weights import names
from clip.weights.loading import load_state_dict
from common.errors import UsageError

pytestmark = [pytest.mark.usefixtures("cache"), *TRACING]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_features(name, weights, tmp_path):
    path = tmp_path / name
    WRITERS[name](weights, path)
    state_dict = load_state_dict(str(path))
    assert set(state_dict) == set(weights)
    expected = clip.build_model(weights).requires_grad_(False)
    assert torch.equal(features(load_model(str(path))), features(expected))


def test_load_model_is_frozen_and_in_the_precision_asked_for(weights, tmp_path):
    torch.save({key: value.half() for key, value in weights.items()}, tmp_path / "half.pt")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = load_model(str(tmp_path / "half.pt"), dtype=dtype)
        assert model.dtype == model.text_projection.dtype == dtype
        assert model.ln_final.weight.dtype == torch.float32
        assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_one_half_precision_scalar_rounds_nothing(weights, tmp_path):
    path = tmp_path / "mixed.pt"
    torch.save(weights | {"logit_scale": weights["logit_scale"].half()}, path)
    projection = load_model(str(path)).text_projection
    assert torch.equal(projection, weights["text_projection"].float())


def test_bundled_compact_file_by_name(weights, tmp_path, monkeypatch):
    path = tmp_path / "small.safetensors"
    save_compact(weights, path)
    names.write_digest(path)
    monkeypatch.setattr(names, "BUNDLED", path)
    for name in ("", "small"):
        embedding = load_state_dict(name)["token_embedding.weight"]
        torch.testing.assert_close(embedding, weights["token_embedding.weight"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="small.safetensors: damaged, or another file than small"):
        load_state_dict("small")


def test_bundled_clip_has_the_shapes_that_paper_configurations_need():
    model = load_model()
    assert len(model.visual.transformer.resblocks) == len(model.transformer.resblocks) == 12
    assert model.vocab_size == 49408 and model.context_length == 77
    assert model.visual.output_dim == model.text_projection.shape[1]
    image = torch.zeros(1, 3, model.visual.input_resolution, model.visual.input_resolution)
    logits, _ = model(image, clip.tokenize(["a red circle", "a zebra"]))
    assert logits.shape == (1, 2) and logits.isfinite().all()


@pytest.mark.parametrize("ids", [[0, 0], [0, 49408], [-1, 3], [1]])
def test_compact_file_with_wrong_ids_is_refused(ids, weights, tmp_path):
    path = tmp_path / "compact.safetensors"
    rows = weights["token_embedding.weight"][:2].clone()
    tensors = dict(weights) | {"token_embedding.weight": rows}
    save_file(tensors | {"token_embedding.ids": torch.tensor(ids, dtype=torch.int32)}, path)
    with pytest.raises(ValueError, match="compact.safetensors: token_embedding.ids"):
        load_state_dict(str(path))
