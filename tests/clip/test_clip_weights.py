"""Backbones by name and path: every format gives the same features, bad files a one-line error."""

import hashlib
import pickle
import struct
import urllib.error
import zipfile
from argparse import Namespace
from collections import defaultdict
from datetime import date
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP as OpenClip
from safetensors.torch import save_file

import clip
from clip import load_model
from clip.weights import archive, hub, names
from clip.weights.configs import Preprocessing
from clip.weights.loading import load_state_dict
from clip.weights.names import UnknownBackboneError
from common.errors import UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.jit.save and load
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

SHAPES = dict(
    embed_dim=64,
    vision_cfg=dict(layers=2, width=64, patch_size=8, image_size=32),
    text_cfg=dict(width=64, heads=1, layers=2),
    quick_gelu=True,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty download cache, and nothing beyond this machine."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CLIP_CACHE", str(folder))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(hub.socket, "getaddrinfo", unreachable)
    return folder


@pytest.fixture(scope="module")
def reference() -> OpenClip:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OpenClip(**SHAPES).eval()


@pytest.fixture(scope="module")
def weights(reference) -> dict[str, torch.Tensor]:
    """A small CLIP whose untrained token rows are those that a compact file implies."""
    state_dict = {key: value.clone() for key, value in reference.state_dict().items()}
    draws = np.random.RandomState(0).standard_normal((49408, 64)) * 0.02  # noqa: NPY002
    state_dict["token_embedding.weight"] = torch.from_numpy(draws).float()
    ids = clip.tokenize(["a photo of a cat", "a dog"]).unique()
    state_dict["token_embedding.weight"][ids] += 0.1
    return state_dict


def features(model) -> torch.Tensor:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = clip.tokenize(["a photo of a cat", "a dog", "zebra"])
    with torch.no_grad():
        return torch.cat([model.encode_image(image), model.encode_text(tokens)])


def save_archive(weights: dict, path: Path) -> None:
    """As OpenAI's: a traced model with the sizes as buffers."""
    model = OpenClip(**SHAPES).eval()
    model.load_state_dict(weights)
    image, tokens = torch.zeros(2, 3, 32, 32), clip.tokenize(["a", "b"])
    traced = torch.jit.trace(model, (image, tokens), check_trace=False)
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    for name, value in sizes.items():
        traced._c._register_attribute(name, torch._C.TensorType.get(), torch.tensor(value))
    torch.jit.save(traced, path)


def save_compact(weights: dict, path: Path) -> None:
    ids = clip.tokenize(["a photo of a cat", "a dog"]).unique()
    compact = dict(weights) | {"token_embedding.ids": ids.int()}
    compact["token_embedding.weight"] = weights["token_embedding.weight"][ids].contiguous()
    save_file(compact, path)


WRITERS = {
    "plain.pt": torch.save,
    "training.pt": lambda w, path: torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in w.items()}}, path
    ),
    "legacy.pt": lambda w, path: torch.save(w, path, _use_new_zipfile_serialization=False),
    "archive.pt": save_archive,
    "openai.safetensors": save_file,
    "no-suffix": save_file,
    "compact.safetensors": save_compact,
    "custom-text.safetensors": lambda w, path: save_file(
        {
            key if key.startswith(("visual", "logit")) else f"text.{key}": value
            for key, value in w.items()
        },
        path,
    ),
}


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


# --- archives ---


def test_archive_is_read_without_its_code(weights, tmp_path):
    """With the code cut out, torch.jit.load fails; the tensors are still there."""
    path, without_code = tmp_path / "archive.pt", tmp_path / "no_code.pt"
    save_archive(weights, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(without_code, "w") as rest:
        for name in whole.namelist():
            if "/code/" not in name:
                rest.writestr(name, whole.read(name))
    with pytest.raises(RuntimeError):
        torch.jit.load(without_code)
    tensors = archive.read_archive(without_code)
    stored = torch.jit.load(path).state_dict()
    assert set(stored) <= set(tensors)
    assert {"input_resolution", "vocab_size"} <= set(tensors)
    assert all(torch.equal(tensors[key], value) for key, value in stored.items())


def rewrite(path: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, value in content.items():
            new.writestr(name, data if name.endswith(member) else value)


class Call:
    """Pickles as a call of any function; what a hostile file would hold."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["archive.pt", "plain.pt"])
def test_hostile_pickle_is_refused_and_not_run(kind, weights, tmp_path):
    path, victim = tmp_path / kind, tmp_path / "created"
    WRITERS[kind](weights, path)
    rewrite(path, "/data.pkl", pickle.dumps(Call(Path.touch, victim), protocol=2))
    with pytest.raises(UsageError, match=rf"{kind}: holds a \w+, not a state dict"):
        load_state_dict(str(path))
    assert not victim.exists()


def test_archive_of_other_dtypes_and_shared_storage(tmp_path):
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.arange(6.0)
            self.register_buffer("base", base)
            self.register_buffer("view", base[1:].reshape(5))
            self.register_buffer("transposed", base.reshape(2, 3).t())
            self.register_buffer("brain_float", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("flags", torch.tensor([True, False]))
            self.register_buffer("empty", torch.zeros(0, dtype=torch.long))
            self.sizes = [1, 2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.base.sum() + self.sizes[0]

    scripted = torch.jit.script(Holder())
    torch.jit.save(scripted, tmp_path / "holder.pt")
    tensors = archive.read_archive(tmp_path / "holder.pt")
    assert tensors.keys() == scripted.state_dict().keys()
    for key, value in scripted.state_dict().items():
        assert tensors[key].dtype == value.dtype and torch.equal(tensors[key], value)


# --- bad files and names ---


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_named(name, share, weights, tmp_path):
    path = tmp_path / name
    WRITERS[name](weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=f"{name}: ") as error:
        load_state_dict(str(path))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == whole[: int(len(whole) * share)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": torch.ones(1)}, "no CLIP in a layout known here: 1 tensors, none named 'token_emb"),
        ({"epoch": 3}, "not a state dict, it holds no tensors by name"),
        ({3: torch.ones(1)}, "not a state dict, it holds no tensors by name"),
        ([1], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
        ({"text_model.embeddings.weight": torch.ones(1)}, "no CLIP in a layout known here"),
        (torch.nn.Linear(1, 1), "holds a Linear, not a state dict; save its state_dict() alone"),
    ],
)
def test_foreign_content_is_named(content, says, tmp_path):
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="foreign.pt: ") as error:
        load_state_dict(str(tmp_path / "foreign.pt"))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_objects_beside_the_tensors_are_passed_over(weights, tmp_path):
    """As trainings save them; their classes are not built, whatever they are."""
    path = tmp_path / "training.pt"
    extra = {"best": np.float64(0.5), "args": Namespace(lr=0.1), "when": date(2025, 1, 1)}
    extra["history"] = defaultdict(list, {"loss": [1.0]})
    for content in ({"state_dict": weights} | extra, {"model": weights} | extra, weights | extra):
        torch.save(content, path)
        found = load_state_dict(str(path))
        assert set(found) == set(weights)
        assert all(torch.equal(found[key], value) for key, value in weights.items())
    torch.save({"state_dict": weights} | extra, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match=r"it holds [\w.]+ beside tensors; save its state_dict"):
        load_state_dict(str(path))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("text_projection", float("nan"), "text_projection holds NaN"),
        ("visual.proj", float("inf"), "visual.proj holds values up to inf"),
        ("ln_final.bias", -1e30, "ln_final.bias holds values up to 1e[+]30"),
        ("logit_scale", 50.0, r"logit_scale is \[50.0\]"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_cannot_be_are_refused(name, value, says, dtype, weights, tmp_path):
    path = tmp_path / "damaged.pt"
    damaged = {key: tensor.to(dtype) for key, tensor in weights.items()}
    damaged[name] = damaged[name].clone()
    damaged[name].view(-1)[-1] = value
    torch.save(damaged, path)
    says = says.replace("1e[+]30", "inf") if dtype == torch.float16 else says
    with pytest.raises(UsageError, match=f"damaged.pt: damaged, {says}"):
        load_state_dict(str(path))


def test_flipped_bits_of_zip_files_are_noticed(weights, tmp_path):
    """PyTorch itself does not compare the checksums that are in the file."""
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    at = content.find(weights["visual.proj"].numpy().tobytes()[:64])
    content[at + 8] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["visual.proj"], weights["visual.proj"])
    with pytest.raises(UsageError, match="weights.pt: .*Bad CRC-32"):
        load_state_dict(str(path))


def test_safetensors_headers(weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    whole = path.read_bytes()
    for length in (2**63, 2**64 - 1, len(whole), 10**8):
        path.write_bytes(struct.pack("<Q", length) + whole[8:])
        with pytest.raises(UsageError, match="its header would be [0-9,]+ bytes long"):
            load_state_dict(str(path))
    deep = b'{"a":' * 100_000
    path.write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(UsageError, match="weights.safetensors: truncated, or not a checkpoint"):
        load_state_dict(str(path))


def test_siglip_and_misshapen_clip_are_refused(weights, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(weights | {"logit_bias": torch.zeros(())}, path)
    with pytest.raises(ValueError, match="other.pt: a SigLIP"):
        load_state_dict(str(path))
    torch.save(weights | {"visual.ln_pre.weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="other.pt: .*visual.ln_pre.weight") as error:
        load_model(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-B/61", "ViT-B/16"),
        ("vit-b/16", "ViT-B/16"),
        ("RN5O", "RN50"),
        ("smal", "small"),
        ("ViT-B-32", "ViT-B/32"),
        ("VitB32::openai", "ViT-B-32::openai"),
    ],
)
def test_unknown_name_says_the_nearest(name, nearest):
    with pytest.raises(UnknownBackboneError) as error:
        load_state_dict(name)
    message = str(error.value)
    assert message.startswith(f"backbone {name!r} is not known; nearest known: ")
    assert nearest in message.split(". ")[0].split(": ")[1].split(", ")


def test_path_to_nothing():
    for name in ("/nowhere/clip.pt", "nowhere.safetensors", "ViT-B-32::nowhere.pt"):
        with pytest.raises(FileNotFoundError, match="nowhere.*: no such file"):
            load_state_dict(name)


def test_unknown_tag_says_the_known_ones():
    with pytest.raises(ValueError, match="ViT-B-32 has no pretrained tag 'laion'; it has: openai,"):
        load_state_dict("ViT-B-32::laion")


# --- open_clip's registry ---


@pytest.mark.parametrize(
    ("name", "obstacle"),
    [
        ("ViT-B-16-SigLIP::webli", "in its text tower words attend to later words"),
        ("MobileCLIP-S1::datacompdr", "in its text tower words attend to later words"),
        ("ViT-L-14-CLIPA::datacomp1b", "in its text tower words attend to later words"),
        ("ViT-H-14-worldwide::metaclip2_worldwide", "its texts are tokenised by 'facebook/xlm-v-b"),
        ("coca_ViT-B-32::laion2b_s13b_b90k", "its text tower adds a class token"),
        ("roberta-ViT-B-32::laion2b_s12b_b32k", "its text tower is 'roberta-base'"),
    ],
)
def test_other_text_towers_are_refused_before_any_download(name, obstacle):
    with pytest.raises(UsageError, match=f"{name}: {obstacle}.*; learned prompts need CLIP's own"):
        load_state_dict(name)


def test_names_mean_registry_entries(monkeypatch):
    asked = []

    def fetch(architecture, tag, folder):
        asked.append((architecture, tag))
        raise FileNotFoundError

    monkeypatch.setattr(hub, "fetch", fetch)
    names = {
        "ViT-B/16": ("ViT-B-16", "openai"),
        "ViT-L/14@336px": ("ViT-L-14-336", "openai"),
        "ViT-B-16:openai": ("ViT-B-16", "openai"),
        "ViT-B-32::laion2b_s34b_b79k": ("ViT-B-32", "laion2b_s34b_b79k"),
        "ViT-B/32::laion2b_s34b_b79k": ("ViT-B-32", "laion2b_s34b_b79k"),
    }
    for name in names:
        with pytest.raises(FileNotFoundError):
            load_state_dict(name)
    assert asked == list(names.values())


def test_registry_knows_all_openai_names():
    for architecture in hub.OPENAI_NAMES.values():
        entry = open_clip.pretrained.get_pretrained_cfg(architecture, "openai")
        assert len(hub.stated_sha256(entry["url"])) == 64
        assert hub.facts(architecture, "openai").settings == {}


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


def test_one_half_precision_scalar_rounds_nothing(weights, tmp_path):
    path = tmp_path / "mixed.pt"
    torch.save(weights | {"logit_scale": weights["logit_scale"].half()}, path)
    projection = load_model(str(path)).text_projection
    assert torch.equal(projection, weights["text_projection"].float())


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


# --- downloads ---


@pytest.fixture
def published(weights, tmp_path, monkeypatch):
    """Makes the registry state one URL, with the checksum of a file that can be had there."""
    original = tmp_path / "published.pt"
    torch.save(weights, original)
    url = f"https://openaipublic.example/{hub.sha256(original)}/ViT-B-32.pt"
    entry = {"url": url, "hf_hub": "timm/some/", "quick_gelu": True}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda *_: entry)
    downloads = []

    def download(asked, cache_dir):
        assert asked == url
        downloads.append(asked)
        target = Path(cache_dir) / "ViT-B-32.pt"
        target.write_bytes(original.read_bytes())
        return str(target)

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", download)
    return downloads


def test_download_once_into_the_cache(published, cache):
    first = load_model("ViT-B/32")
    second = load_model("ViT-B/32")
    assert len(published) == 1
    assert [file.name for file in cache.iterdir()] == ["ViT-B-32.pt"]
    assert torch.equal(features(first), features(second))


def test_cached_file_with_a_wrong_checksum_is_named_and_left(published, cache):
    cache.mkdir()
    (cache / "ViT-B-32.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"ViT-B-32.pt: its SHA-256 is .* Move it away"):
        load_state_dict("ViT-B/32")
    assert (cache / "ViT-B-32.pt").read_bytes() == b"half a file"
    assert not published


def test_offline_says_what_was_tried_and_leaves_nothing(cache):
    with pytest.raises(FileNotFoundError) as error:
        load_state_dict("ViT-B/32")
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "https://openaipublic",
        "timm/vit_base_patch32_clip_224.openai",
        "no network in tests",
        f"put the file at {cache / 'ViT-B-32.pt'}",
        "give ViT-B-32-quickgelu::PATH",
    ):
        assert part in message
    assert list(cache.iterdir()) == []


def test_advice_on_local_files_keeps_the_activation(cache):
    for name, advice in (
        ("ViT-B-16::laion2b_s34b_b88k", "give ViT-B-16::PATH"),
        ("ViT-B-16::metaclip_400m", "give ViT-B-16-quickgelu::PATH"),
        ("ViT-L/14@336px", "give ViT-L-14-336-quickgelu::PATH"),
    ):
        with pytest.raises(FileNotFoundError) as error:
            load_state_dict(name)
        assert str(error.value).endswith(advice)
        architecture = advice.removeprefix("give ").removesuffix("::PATH")
        named = hub.facts(architecture).settings
        assert named.get("quick_gelu", True) == ("quickgelu" in architecture)


def test_broken_download_leaves_nothing(published, cache, monkeypatch):
    def break_off(url, cache_dir):
        (Path(cache_dir) / "ViT-B-32.pt").write_bytes(b"half")
        raise RuntimeError("Model has been downloaded but the SHA256 checksum does not match")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", break_off)
    with pytest.raises(FileNotFoundError, match="checksum does not match"):
        load_state_dict("ViT-B/32")
    assert list(cache.iterdir()) == []


def test_a_download_that_breaks_off_unnoticed_leaves_nothing(weights, cache, monkeypatch):
    """Where no checksum is stated the file's own end is looked for."""
    url = "https://example.org/metaclip/b32.pt"
    entry = {"url": url, "hf_hub": "", "quick_gelu": True}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda *_: entry)
    whole = cache.parent / "whole.pt"
    torch.save(weights, whole)
    share = 0.5

    def download(asked, cache_dir):
        content = whole.read_bytes()
        (Path(cache_dir) / "b32.pt").write_bytes(content[: int(share * len(content))])
        return str(Path(cache_dir) / "b32.pt")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", download)
    with pytest.raises(FileNotFoundError, match="the download broke off"):
        load_state_dict("ViT-B-32::metaclip_400m")
    assert list(cache.iterdir()) == []
    share = 1
    assert set(load_state_dict("ViT-B-32::metaclip_400m")) == set(weights)


def test_stated_checksums():
    assert hub.stated_sha256("https://openaipublic.azureedge.net/clip/abc/RN50.pt") == "abc"
    release = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/"
    assert hub.stated_sha256(release + "vit_b_16-laion400m_e31-00efa78f.pt") == "00efa78f"
    assert hub.stated_sha256("https://dl.fbaipublicfiles.com/MMPT/metaclip/b32_400m.pt") == ""


def test_prefix_of_a_checksum_is_enough(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    hub.verify(file, digest[:8])
    with pytest.raises(ValueError, match="truncated or another file"):
        hub.verify(file, "0" * 8)
