"""Toy data and trainers, registered for one test at a time."""

import dassl_toy
import pytest

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """Folder of the toy images."""
    root = tmp_path_factory.mktemp("toy")
    dassl_toy.make_images(root)
    return root


@pytest.fixture(autouse=True)
def toy_names(monkeypatch):
    """Makes the toy classes known by name, for this test only."""
    monkeypatch.setitem(DATASET_REGISTRY._objects, "ToyImages", dassl_toy.ToyImages)
    for trainer in (dassl_toy.ToyTrainer, dassl_toy.TwoRuleTrainer):
        monkeypatch.setitem(TRAINER_REGISTRY._objects, trainer.__name__, trainer)


@pytest.fixture
def toy_cfg(toy_root, tmp_path):
    """``toy_cfg("OPTIM.LR", 0.1, output="name")``: a configuration with a folder of its own."""

    def make(*options, output="run"):
        return dassl_toy.make_cfg(toy_root, tmp_path / output, *options)

    return make
