"""Image towers of open_clip's: the features are open_clip's, whatever the way the file is named."""

import json

import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

import clip
from clip.image_tower import build_image_tower
from clip.weights import hub
from clip.weights.configs import Preprocessing
from clip.weights.loading import load_state_dict
from common.errors import UsageError

pytestmark = pytest.mark.slow

TEXT = dict(context_length=77, vocab_size=49408, width=64, heads=2, layers=2)
# A small model of each kind; settings as the registry's models of that kind have them.
TOWERS = {
    "EVA02": dict(timm_model_name="eva02_tiny_patch14_224", timm_pool="token", timm_proj=None),
    "ConvNeXt": dict(timm_model_name="convnext_atto", timm_pool="", timm_drop_path=0.1),
    "ConvNeXt with MLP": dict(timm_model_name="convnext_atto", timm_pool="", timm_proj="mlp"),
    "ViTamin": dict(timm_model_name="vitamin_small_224", timm_pool="", timm_drop_path=0.1),
    "MobileCLIP-B": dict(timm_model_name="vit_base_mci_224", timm_pool="token", timm_proj=None),
    "PE": dict(
        timm_model_name="vit_pe_core_tiny_patch16_384",
        timm_pool="map",
        timm_proj=None,
        image_size=384,
    ),
}


def make(kind: str, folder) -> CustomTextCLIP:
    """Write a model of random weights as open_clip's hub folders are; return open_clip's model."""
    vision = {"image_size": 224} | TOWERS[kind]
    text = TEXT | ({"context_length": 32} if kind == "PE" else {})
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CustomTextCLIP(**config).eval()
    folder.mkdir(exist_ok=True)
    written = {
        "model_cfg": config | {"custom_text": True},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def features(model, size: int, length: int = 77) -> list[torch.Tensor]:
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    texts = clip.tokenize(["a photo of a cat.", "annual crop land"], context_length=length)
    with torch.no_grad():
        return [model.encode_image(image), model.encode_text(texts)]


@pytest.mark.parametrize("kind", TOWERS)
def test_features_are_open_clips(kind, tmp_path):
    theirs = make(kind, tmp_path)
    ours = clip.load_model(str(tmp_path))
    size = 384 if kind == "PE" else 224
    assert ours.visual.input_resolution == size and ours.visual.output_dim == 32
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())
    expected = features(theirs, size, ours.context_length)
    assert (expected[0][0] - expected[0][1]).norm() > 1e-4 * expected[0][0].norm()
    found = features(ours, size, ours.context_length)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_fp32(dtype, tmp_path):
    expected = features(make("EVA02", tmp_path), 224)
    model = clip.load_model(str(tmp_path), dtype=dtype)
    assert model.dtype == dtype and model.ln_final.weight.dtype == torch.float32
    for found, exact in zip(features(model, 224), expected, strict=True):
        assert found.dtype == dtype
        assert torch.cosine_similarity(found.float(), exact, dim=-1).min() > 0.99


def test_openais_functions_and_stock_code(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    expected = features(make("ConvNeXt", tmp_path / "model"), 224)
    name = str(tmp_path / "model")
    model, transform = clip.load(name, device="cpu")
    assert transform.transforms[-1].mean == (0.5, 0.5, 0.5)
    state_dict = torch.load(clip.clip._download(clip.clip._MODELS[name]), map_location="cpu")
    for found in (model, clip.build_model(state_dict)):
        for one, other in zip(features(found, 224), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_file_read_as_an_architecture(tmp_path):
    """Weights alone, as somebody downloaded them: the registry says what they are."""
    config = open_clip.get_model_config("MobileCLIP-B")
    facts = hub.facts("MobileCLIP-B", "datacompdr")
    assert facts.settings["image_tower"]["vision_cfg"] == config["vision_cfg"]
    assert facts.pixels == Preprocessing(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    make("ConvNeXt", tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    path = tmp_path / "open_clip_model.safetensors"
    with pytest.raises(UsageError, match="open_clip_model.safetensors: its image tower") as error:
        clip.load_model(str(path))
    assert "convnext_base::PATH" in str(error.value)
    with pytest.raises(UsageError, match="states embed_dim 512, the weights are for 32"):
        clip.load_model(f"convnext_base::{path}")


def test_towers_that_cannot_be_built(tmp_path):
    make("ConvNeXt", tmp_path)
    file = tmp_path / "open_clip_config.json"
    content = json.loads(file.read_text())
    for key, value, says in (
        ("timm_model_name", "no_such_net", "open_clip cannot build the image tower no_such_net"),
        (
            "timm_model_name",
            "hf-hub:org/name",
            "'hf-hub:org/name' is not the name of one",
        ),
        ("timm_pool", "nonsense", "open_clip cannot build the image tower"),
        ("timm_model_name", 3, "open_clip cannot build the image tower 3"),
        ("not_a_setting", 3, "open_clip cannot build the image tower"),
        (
            "embed_dim",
            10**9,
            "states embed_dim 1000000000, the weights are for 32",
        ),
        ("image_size", [64, 32], "its images are not square"),
    ):
        changed = json.loads(json.dumps(content))
        part = changed["model_cfg"] if key == "embed_dim" else changed["model_cfg"]["vision_cfg"]
        part[key] = value
        file.write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=says) as error:
            clip.load_model(str(tmp_path))
        assert "\n" not in str(error.value)


def test_random_numbers_are_left_alone(tmp_path):
    """What a run draws after loading does not depend on what timm draws."""
    make("ConvNeXt", tmp_path)
    entry = load_state_dict(str(tmp_path))["image_tower"]
    before = torch.get_rng_state()
    build_image_tower(entry, 32)
    assert torch.equal(torch.get_rng_state(), before)
