"""Image towers of open_clip's: the features are open_clip's, whatever the way the file is named."""

import json

import pytest
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

import clip

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
