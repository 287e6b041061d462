"""OpenAI's functions as code written for OpenAI's package and for CoOp's copy calls them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clip
from clip import clip as clip_functions
from clip.model import CLIP
from clip.weights import hub, names
from common.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit, as stock code

OPENAI = [
    *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
    *("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stock_load(name: str) -> CLIP:
    """How CoOp-family code loads a backbone."""
    url = clip_functions._MODELS[name]
    model_path = clip_functions._download(url)
    try:
        model = torch.jit.load(model_path, map_location="cpu").eval()
        state_dict = None
    except RuntimeError:
        state_dict = torch.load(model_path, map_location="cpu")
    return clip_functions.build_model(state_dict or model.state_dict())


def features(model: CLIP) -> torch.Tensor:
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = model.encode_image(image), model.encode_text(clip.tokenize(["a cat", "a dog"]))
    return torch.cat(encoded)


@pytest.fixture(scope="module")
def expected(tiny_clip_state_dict) -> torch.Tensor:
    return features(clip.build_model(tiny_clip_state_dict))


def test_names():
    assert clip.available_models() == ["small", *OPENAI]
    assert list(clip_functions._MODELS) == ["small", *OPENAI] and len(clip_functions._MODELS) == 10
    assert "ViT-B/16" in clip_functions._MODELS and "" in clip_functions._MODELS
    for unknown in ("ViT-B/61", "nowhere.pt"):
        assert unknown not in clip_functions._MODELS
    assert clip_functions._MODELS.get("ViT-B/61") is None
    with pytest.raises(KeyError, match="nearest known: ViT-B/16"):
        clip_functions._MODELS["ViT-B/61"]
    assert clip.tokenize is clip_functions.tokenize and clip.load is clip_functions.load


def test_plain_state_dict_is_used_where_it_lies(tiny_clip_path, expected, cache):
    path = str(tiny_clip_path)
    assert path in clip_functions._MODELS
    assert clip_functions._download(clip_functions._MODELS[path]) == path
    torch.testing.assert_close(features(stock_load(path)), expected)
    assert not cache.exists()


def test_other_formats_are_written_to_the_cache_once(
    tiny_clip_state_dict, tmp_path, expected, cache
):
    path = str(tmp_path / "weights.pt")
    torch.save({"state_dict": tiny_clip_state_dict}, path)
    torch.testing.assert_close(features(stock_load(path)), expected)
    (written,) = cache.iterdir()
    assert written.name.startswith("weights-") and written.suffix == ".pt"
    modified = written.stat().st_mtime_ns
    assert clip_functions._download(path) == str(written)
    assert written.stat().st_mtime_ns == modified
    # Other content under the same name, and the same content with another activation, are others.
    other_activation = clip_functions._download(f"ViT-B-32::{path}")
    assert torch.load(other_activation)["quick_gelu"].item() is False
    assert not torch.allclose(features(stock_load(f"ViT-B-32::{path}")), expected)
    torch.save({"state_dict": tiny_clip_state_dict | {"logit_scale": torch.tensor(1.0)}}, path)
    assert clip_functions._download(path) not in (str(written), other_activation)
    assert len(list(cache.iterdir())) == 3


def test_bundled_clip_for_stock_code(tiny_clip_state_dict, tmp_path, monkeypatch, cache):
    ids = clip.tokenize(["a cat", "a dog"]).unique()
    compact = {key: value.half() for key, value in tiny_clip_state_dict.items()}
    compact["token_embedding.weight"] = compact["token_embedding.weight"][ids].contiguous()
    path = tmp_path / "small_clip.safetensors"
    save_file(compact | {"token_embedding.ids": ids.int()}, path)
    names.write_digest(path)
    monkeypatch.setattr(names, "BUNDLED", path)
    model = stock_load("small")
    assert model.dtype == torch.float16 and model.vocab_size == 49408
    expected = features(clip.load_model("small"))
    torch.testing.assert_close(features(model.float()), expected)
    assert [file.name[:11] for file in cache.iterdir()] == ["small_clip-"]


def test_archive_of_unknown_origin_never_reaches_stock_code(tiny_clip_state_dict, tmp_path, cache):
    class Empty(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = clip.build_model(tiny_clip_state_dict)
    for parent in model.modules():  # the tree with its tensors; the code does not matter here
        for name, child in parent.named_children():
            if not isinstance(child, torch.nn.Sequential):
                hollow = Empty()
                hollow._parameters, hollow._buffers = child._parameters, child._buffers
                hollow._modules = child._modules
                parent._modules[name] = hollow
    hollow = Empty()
    hollow._parameters, hollow._modules = model._parameters, model._modules
    path = str(tmp_path / "archive.pt")
    torch.jit.save(torch.jit.script(hollow), path)
    written = clip_functions._download(path)
    assert Path(written).parent == cache
    with pytest.raises(RuntimeError):
        torch.jit.load(written)
    # The same archive with a checksum that the registry states is OpenAI's own.
    source = names.CheckpointFile(Path(path), verified=True)
    assert clip_functions._stock_code_can_read(source)


def test_cache_that_cannot_be_written_is_named(tiny_clip_state_dict, tmp_path):
    path, blocked = tmp_path / "weights.pt", tmp_path / "file"
    torch.save({"state_dict": tiny_clip_state_dict}, path)
    blocked.touch()
    with pytest.raises(UsageError, match=f"cannot write to {blocked}.*set CLIP_CACHE"):
        clip_functions._download(str(path), root=str(blocked))


def test_interrupted_write_leaves_nothing(tiny_clip_state_dict, tmp_path, monkeypatch, cache):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": tiny_clip_state_dict}, path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clip_functions._download(str(path))
    assert list(cache.iterdir()) == []


def test_load_returns_model_and_transform(tiny_clip_path, expected):
    model, preprocess = clip.load(str(tiny_clip_path), device="cpu")
    assert model.dtype == torch.float32 and not model.training
    torch.testing.assert_close(features(model), expected)
    pixels = np.random.default_rng(0).integers(0, 256, (72, 80, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    theirs = open_clip.image_transform(64, is_train=False)
    assert torch.equal(preprocess(image), theirs(image))
    assert preprocess(image.convert("L")).shape == (3, 64, 64)
    with pytest.raises(ValueError, match="jit=True is not offered"):
        clip.load(str(tiny_clip_path), jit=True)


def test_download_root(monkeypatch, tmp_path):
    asked = []

    def fetch(architecture, tag, folder):
        asked.append(folder)
        raise FileNotFoundError

    monkeypatch.setattr(hub, "fetch", fetch)
    for call in (
        lambda: clip.load("ViT-B/16", download_root=str(tmp_path)),
        lambda: clip_functions._download("ViT-B/16", str(tmp_path)),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    assert asked == [tmp_path, tmp_path]


def test_import_is_light():
    """Neither open_clip nor torchvision (seconds each) just to tokenise and load a file; no PyTorch
    for what is known of a backbone without its weights."""
    code = (
        "import sys, clip; from clip.weights import names\n"
        "clip.preprocessing('small'), clip.preprocessing('ViT-B/16'), names.resolve('RN50')\n"
        "assert 'torch' not in sys.modules\n"
        "from clip import clip as c; clip.tokenize('a cat'); clip.load_model('small')\n"
        "print([m for m in ('open_clip', 'torchvision', 'dassl') if m in sys.modules])"
    )
    root = Path(clip.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
