"""A small CLIP and its weights, made once per session, and an empty cache without a network."""

import urllib.error
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from backbone_files import SHAPES
from open_clip.model import CLIP as OpenClip

import clip
from clip.weights import hub


@pytest.fixture
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


@pytest.fixture(scope="session")
def reference() -> OpenClip:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OpenClip(**SHAPES).eval()


@pytest.fixture(scope="session")
def weights(reference) -> dict[str, torch.Tensor]:
    """A small CLIP whose untrained token rows are those that a compact file implies."""
    state_dict = {key: value.clone() for key, value in reference.state_dict().items()}
    draws = np.random.RandomState(0).standard_normal((49408, 64)) * 0.02  # noqa: NPY002
    state_dict["token_embedding.weight"] = torch.from_numpy(draws).float()
    ids = clip.tokenize(["a photo of a cat", "a dog"]).unique()
    state_dict["token_embedding.weight"][ids] += 0.1
    return state_dict
