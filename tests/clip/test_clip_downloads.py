"""Backbones are downloaded once, whole and checked; offline a line says what to do."""

import hashlib
from pathlib import Path

import open_clip
import pytest
import torch
from backbone_files import features

from clip import load_model
from clip.weights import hub
from clip.weights.loading import load_state_dict

pytestmark = pytest.mark.usefixtures("cache")


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
