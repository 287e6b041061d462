"""Hugging Face transformers' layout and the hub: the model is the one that was written."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file
from test_clip_damage import SIZE, to_transformers

import clip
from benchmarks.random_clip import random_clip_state_dict
from clip.weights import hub
from clip.weights.configs import Preprocessing
from common.errors import UsageError

CONFIG = {
    "model_type": "clip",
    "vision_config": {"hidden_size": 64, "num_attention_heads": 1, "image_size": 32},
    "text_config": {"hidden_size": 64, "num_attention_heads": 1},
}
PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4], "resample": 2}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_clip_state_dict(SIZE)


def write(folder: Path, weights: dict, config: dict = CONFIG, pixels: dict = PIXELS) -> Path:
    folder.mkdir(exist_ok=True)
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}  # older files
    save_file(to_transformers(weights) | positions, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


def features(model) -> torch.Tensor:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = clip.tokenize(["a photo of a cat", "a dog"])
    with torch.no_grad():
        return torch.cat([model.encode_image(image), model.encode_text(tokens)])


def expected(weights: dict, **settings: int) -> torch.Tensor:
    model = clip.build_model(weights | {k: torch.tensor(v) for k, v in settings.items()})
    return features(model.requires_grad_(False))


def test_folder_and_file(weights, tmp_path):
    folder = write(tmp_path / "clip", weights)
    for name in (folder, folder / "model.safetensors"):
        assert torch.equal(features(clip.load_model(str(name))), expected(weights))
        assert clip.preprocessing(str(name)) == Preprocessing(
            32, (0.5, 0.5, 0.5), (0.2, 0.3, 0.4), "bilinear"
        )
    _, transform = clip.load(str(folder), device="cpu")
    assert transform.transforms[-1].std == (0.2, 0.3, 0.4)
    alone = tmp_path / "alone.pt"
    torch.save(to_transformers(weights), alone)
    assert torch.equal(features(clip.load_model(str(alone))), expected(weights))
    assert clip.preprocessing(str(alone)) == Preprocessing(32)


def test_activation_and_heads_are_the_configurations(weights, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    for part, heads in (("vision_config", 2), ("text_config", 4)):
        config[part] |= {"hidden_act": "gelu", "num_attention_heads": heads}
    folder = write(tmp_path / "clip", weights, config)
    found = features(clip.load_model(str(folder)))
    assert torch.equal(found, expected(weights, quick_gelu=0, vision_heads=2, text_heads=4))
    assert not torch.allclose(found, expected(weights))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "siglip"}, "it is a 'siglip' model, whose texts are not CLIP's"),
        ({"model_type": "chinese_clip"}, "it is a 'chinese_clip' model, whose texts"),
        ({"text_config": {"hidden_act": "gelu"}}, "its activations are gelu, quick_gelu"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "text_config.layer_norm_eps = 1e-06; learned"),
        ({"vision_config": {"image_size": "x"}}, "not a configuration of a CLIP"),
        ({"vision_config": {"num_attention_heads": 0}}, "not a configuration of a CLIP"),
        ({"vision_config": 3}, "not a configuration of a CLIP"),
    ],
)
def test_other_models_and_damaged_configurations_are_refused(change, says, weights, tmp_path):
    folder = write(tmp_path / "clip", weights, CONFIG | change)
    with pytest.raises(UsageError, match=says) as error:
        clip.load_model(str(folder))
    assert "\n" not in str(error.value)


def test_files_with_other_text_towers_say_so(weights, tmp_path):
    path = tmp_path / "other.pt"
    for key, says in (
        ("text.transformer.embeddings.word_embeddings.weight", "its text tower is a BERT"),
        ("text_model.embeddings.word_embeddings.weight", "its text tower is a BERT"),
        ("logit_bias", "a SigLIP"),
        ("text.cls_emb", "a CoCa"),
    ):
        torch.save(weights | {key: torch.ones(2, 2)}, path)
        with pytest.raises(UsageError, match=f"other.pt: .*{says}.*CLIP's own text tower"):
            clip.load_model(str(path))
    rows = weights["token_embedding.weight"][:21128]
    torch.save(weights | {"token_embedding.weight": rows}, path)
    with pytest.raises(UsageError, match="vocabulary has 21,128 tokens, CLIP's has 49,408"):
        clip.load_model(str(path))


# --- the hub ---


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Makes ``hf_hub_download`` serve folders ORG/NAME; returns their parent and what was asked."""
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.socket, "getaddrinfo", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    asked = []

    def download(repository, name, cache_dir):
        asked.append(name)
        source = tmp_path / "remote" / repository
        if not source.is_dir():
            raise OSError(f"404: no repository {repository}")
        if not (source / name).is_file():
            raise EntryNotFoundError(f"404: no {name}")
        target = Path(cache_dir) / repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    (tmp_path / "remote" / "org").mkdir(parents=True)
    return tmp_path / "remote" / "org", asked


def test_hub_model_in_transformers_layout(weights, remote):
    folder, asked = remote
    write(folder / "name", weights)
    assert clip.preprocessing("hf-hub:org/name").mean == (0.5, 0.5, 0.5)
    assert "model.safetensors" not in asked
    assert torch.equal(features(clip.load_model("hf-hub:org/name")), expected(weights))


def test_hub_model_in_open_clips_layout(weights, remote):
    folder, asked = remote
    write(folder / "name", weights)  # both layouts in one repository, as LAION's have
    model = {"embed_dim": 32, "vision_cfg": {"width": 64, "image_size": 32}, "text_cfg": {}}
    content = {"model_cfg": model, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (folder / "name" / "open_clip_config.json").write_text(json.dumps(content))
    torch.save(weights, folder / "name" / "open_clip_pytorch_model.bin")
    found = features(clip.load_model("hf-hub:org/name"))
    assert torch.equal(found, expected(weights, quick_gelu=0))
    assert asked == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ]
    assert clip.preprocessing("hf-hub:org/name").mean == (0.1, 0.2, 0.3)


def test_hub_models_that_cannot_be_used(weights, remote):
    folder, asked = remote
    write(folder / "siglip", weights, CONFIG | {"model_type": "siglip"})
    with pytest.raises(UsageError, match="it is a 'siglip' model, whose texts are not CLIP's"):
        clip.load_model("hf-hub:org/siglip")
    assert "model.safetensors" not in asked  # refused before the download
    with pytest.raises(FileNotFoundError, match="hf-hub:org/nothing: could not be had .*404"):
        clip.load_model("hf-hub:org/nothing")
    for name in ("hf-hub:", "hf-hub:a/b/c", "hf-hub:../../x", "hf-hub:a b"):
        with pytest.raises(UsageError, match="a model of the hub is hf-hub:ORG/NAME"):
            clip.load_model(name)
    with pytest.raises(UsageError, match="of the Hugging Face hub is hf-hub:openai/clip-vit-base-"):
        clip.load_model("openai/clip-vit-base-patch16")
    assert issubclass(RepositoryNotFoundError, OSError)  # what the real client raises is caught


def test_folders(weights, tmp_path):
    with pytest.raises(UsageError, match="a folder with 0 files of weights"):
        clip.load_model(str(tmp_path))
    torch.save(weights, tmp_path / "any_name.pt")
    assert torch.equal(features(clip.load_model(str(tmp_path))), expected(weights))
    torch.save(weights, tmp_path / "another.pt")
    with pytest.raises(UsageError, match="a folder with 2 files of weights.*; name the file"):
        clip.load_model(str(tmp_path))
