"""Activation and pixels of a backbone, as its tag, its file or a configuration beside it states."""

import open_clip
import pytest
import torch
from backbone_files import SHAPES, TRACING, features, save_archive
from open_clip.model import CLIP as OpenClip
from safetensors.torch import save_file

import clip
from clip import load_model
from clip.weights import hub
from clip.weights.configs import Preprocessing
from clip.weights.loading import load_state_dict
from common.errors import UsageError

pytestmark = [pytest.mark.usefixtures("cache"), *TRACING]


@pytest.mark.parametrize(
    ("tag", "config_gelu"),
    [("laion2b_e16", {"quick_gelu": False}), ("laion400m_e32", {}), ("metaclip_400m", {})],
)
def test_activation_is_the_tags(tag, config_gelu):
    assert hub.facts("ViT-B-32", tag).settings == config_gelu


def test_pixel_statistics_are_the_tags():
    half = (0.5, 0.5, 0.5)
    pixels = clip.preprocessing("ViT-L-14::laion2b_s32b_b82k")
    assert (pixels.resolution, pixels.mean, pixels.std) == (224, half, half)
    assert pixels.interpolation == "bicubic" and pixels.resize_mode == "shortest"
    assert clip.preprocessing("ViT-L/14@336px") == Preprocessing(336)
    assert clip.preprocessing("ViT-L-14-336::openai") == Preprocessing(336)


def test_resolutions_of_openais_models_are_the_registrys():
    for name, architecture in hub.OPENAI_NAMES.items():
        stated = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
        assert clip.preprocessing(name).resolution == stated


def test_file_read_as_an_architecture(weights, reference, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    plain_gelu = OpenClip(**SHAPES | {"quick_gelu": False}).eval()
    plain_gelu.load_state_dict(weights)
    name = f"ViT-B-32::{path}"
    assert load_state_dict(name)["quick_gelu"].item() is False
    torch.testing.assert_close(
        features(load_model(name)), features(plain_gelu), atol=1e-5, rtol=1e-5
    )
    for quick in ("ViT-B-32-quickgelu", "ViT-B/32"):  # OpenAI's own name means OpenAI's GELU
        assert "quick_gelu" not in load_state_dict(f"{quick}::{path}")


def test_an_archive_of_openais_has_openais_activation(weights, tmp_path, monkeypatch):
    path = tmp_path / "archive.pt"
    save_archive(weights, path)
    assert load_state_dict(f"ViT-B-32::{path}")["quick_gelu"].item() is False
    (tmp_path / "open_clip_config.json").write_text(
        '{"model_cfg": {"embed_dim": 64, "vision_cfg": {}, "text_cfg": {}}}'
    )
    url = f"https://openaipublic.example/{hub.sha256(path)}/ViT-B-32.pt"
    entry = {"url": url, "quick_gelu": True}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda *_: entry)
    for name in (f"ViT-B-32::{path}", str(path)):
        assert "quick_gelu" not in load_state_dict(name)


def test_configuration_beside_a_file_is_heeded(weights, tmp_path):
    path, config = tmp_path / "weights.safetensors", tmp_path / "open_clip_config.json"
    save_file(weights, path)
    config.write_text('{"model_cfg": {"embed_dim": 64, "vision_cfg": {}, "text_cfg": {}}}')
    assert load_state_dict(str(path))["quick_gelu"].item() is False
    config.write_text('{"model_cfg": {"vision_cfg": {}, "text_cfg": {"pool_type": "last"}}}')
    with pytest.raises(
        UsageError, match="open_clip_config.json: text_cfg.pool_type = 'last' is no"
    ):
        load_state_dict(str(path))
    towers = '"model_cfg": {"vision_cfg": {}, "text_cfg": {}}'
    for damaged, says in (
        ("{", "open_clip_config.json: not valid JSON"),
        ("[]", "open_clip_config.json: not a configuration of a CLIP"),
        ('{"model_cfg": {"vision_cfg": 3, "text_cfg": []}}', "not a configuration of a CLIP"),
        ('{"model_cfg": {"vision_cfg": {"head_width": "a"}, "text_cfg": {}}}', "not a config"),
        (f'{{{towers}, "preprocess_cfg": {{"mean": [1]}}}}', "not a configuration of a CLIP"),
        (f'{{{towers}, "preprocess_cfg": {{"std": [0, 1, 1]}}}}', "images of 224 pixels with"),
    ):
        config.write_text(damaged)
        with pytest.raises(UsageError, match=says) as error:
            load_state_dict(str(path))
        assert "\n" not in str(error.value)
