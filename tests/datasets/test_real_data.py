"""Official split files and real trees, where they are at hand (ANPROMPT_TEST_DATA)."""

import os
from pathlib import Path

import pytest
from fake_trees import make_cfg

from anprompt.commands import data
from datasets import prepare
from datasets.caltech101 import Caltech101
from datasets.classnames import read_classnames
from datasets.eurosat import EuroSAT
from datasets.splits import check_labels, read_split, split_digest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ANPROMPT_TEST_DATA") or ROOT / "data")
CATALOGUE = prepare.read_catalogue()
WITH_DIGEST = {entry["name"]: entry for entry in CATALOGUE.values() if "split_sha256" in entry}


def find(path: str) -> Path:
    if not (DATA / path).exists():
        pytest.skip(f"no {path} under {DATA} (ANPROMPT_TEST_DATA names the folder)")
    return DATA / path


@pytest.mark.parametrize("name", WITH_DIGEST)
def test_official_split(name):
    entry = WITH_DIGEST[name]
    folder = "caltech-101" if name == "Caltech101" else "splits"
    split = read_split(find(f"{folder}/split_zhou_{name}.json"))
    assert prepare.count(split) == entry["figures"]
    assert split_digest(split) == entry["split_sha256"]
    assert len(check_labels(split, name)) == entry["figures"]["classes"]


def test_pets_are_named_as_in_the_official_split():
    """The rule by which a split is drawn from the annotations gives the official class names."""
    for part in read_split(find("splits/split_zhou_OxfordPets.json")):
        for path, _, classname in part:
            assert path.removesuffix(".jpg").rpartition("_")[0].lower() == classname


def test_imagenet_class_names():
    names = read_classnames(find("splits/imagenet_classnames.txt"))
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert names["n01440764"] == "tench" and names["n01484850"] == "great white shark"


def test_caltech_is_complete():
    find("caltech-101")
    assert data.main(["caltech101", "--root", str(DATA), "--check"]) == 0
    dataset = Caltech101(make_cfg(Caltech101, DATA, 16, 1, "base"))
    assert len(dataset.train_x) == 800 and len(dataset.test) == 1549


def test_what_is_reduced_in_eurosat_is_named(capsys):
    find("eurosat")
    assert data.main(["eurosat", "--root", str(DATA), "--check"]) == 2
    output = capsys.readouterr().out
    assert "train: 3,000 images, expected 13,500 (reduced)" in output
    assert "val: 600 images, expected 5,400 (reduced)" in output
    assert "test" not in output.replace(str(DATA), "")
    assert EuroSAT(make_cfg(EuroSAT, DATA, 16, 1, "new")).num_classes == 5
