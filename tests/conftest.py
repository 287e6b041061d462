"""Shared fixtures: seeded inputs that every room's tests use."""

import json
import os
import pathlib
import shutil
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
for path in (ROOT, ROOT / "tests"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

# Small tensors: more threads cost more than they bring, and results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import inputs  # noqa: E402
import torch  # noqa: E402

import common.torchvision_compat  # noqa: E402, F401

torch.set_num_threads(1)

# A busy machine may take long over any example, and what fails is to fail again.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

TINY_DIGEST = "31440182e0164b9564c2cb56e568dc257b2332f48f6573b84a2b0fd4c97f0a96"
PIXELS_DIGEST = "709a5225c6363670950e92d2899a935bb42ef847275a779fd11d5f9e753501d5"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> pathlib.Path:
    """Caches of a test session are its own: nothing is read from or left in the user's."""
    cache = tmp_path_factory.mktemp("cache")
    os.environ["ANPROMPT_CACHE"] = str(cache)
    return cache


@pytest.fixture(scope="session")
def tiny_clip_state_dict() -> dict[str, torch.Tensor]:
    """Random CLIP in OpenAI's ViT layout: 12 + 12 blocks of width 128, 64-pixel images."""
    state_dict = inputs.random_clip_state_dict("tiny")
    if inputs.state_dict_digest(state_dict) != TINY_DIGEST:
        pytest.skip(f"torch {torch.__version__} draws other random numbers than were recorded")
    return state_dict


@pytest.fixture(scope="session")
def tiny_clip_path(tiny_clip_state_dict, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(tiny_clip_state_dict, path)
    return path


@pytest.fixture(scope="session")
def fake_eurosat(tmp_path_factory) -> pathlib.Path:
    """A data root with the fake EuroSAT that the golden numbers were recorded on."""
    root = tmp_path_factory.mktemp("data")
    digest = inputs.make_fake_eurosat(str(root))
    assert digest == PIXELS_DIGEST
    return root


@pytest.fixture(scope="session")
def golden():
    """Reader of the recorded numbers: ``golden("coop")["steps"]``."""

    def read(name: str) -> dict:
        return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text())

    return read


@pytest.fixture
def served(monkeypatch):
    """Local files by address, in place of the network; records what was asked for."""
    import gdown

    files, asked = {}, []

    def download(url, output, resume):
        assert resume
        asked.append(url)
        if url not in files:
            raise ConnectionError(f"cannot reach\n{url}")
        shutil.copy(files[url], output)

    monkeypatch.setattr(gdown, "download", download)
    files["asked"] = asked
    return files


@pytest.fixture(scope="session")
def old_tree(tmp_path_factory) -> pathlib.Path:
    """Runs of an earlier version, and what it made of them (tests/data/README.md)."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests/data/old_output.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder
