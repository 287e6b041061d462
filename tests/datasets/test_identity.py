"""The digests by which a run's data is recognised."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_trees import make_cfg, touch, write_eurosat, write_tree

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from datasets import identity
from datasets.eurosat import EuroSAT
from datasets.imagefolder import ImageFolder
from datasets.imagenet_r import ImageNetR

ROOT = Path(__file__).resolve().parents[2]
LISTS = {"train", "val", "test"}
FILES = {"train_files", "test_files"}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "user_cache"))


def of(dataset, root, *args, known=None, **keys):
    cfg = make_cfg(dataset, root, *args, **keys)
    cfg.DATASET.NAME = dataset.__name__
    return identity(cfg, known)


def changed(before, after):
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def test_the_same_data_elsewhere_is_the_same(tmp_path):
    for place in ("here", "there"):
        write_eurosat(tmp_path / place)
    here = of(EuroSAT, tmp_path / "here", 4)
    assert here == of(EuroSAT, tmp_path / "there", 4)
    assert set(here) == {*LISTS, *FILES, "few_shot"}


def test_what_changed_is_told_apart(tmp_path):
    folder = write_eurosat(tmp_path)
    before = of(EuroSAT, tmp_path, 4, 1)
    assert changed(before, of(EuroSAT, tmp_path, 4, 2)) == {"few_shot"}  # files are all empty here
    assert changed(before, of(EuroSAT, tmp_path, 4, 1, "new")) == set()  # that is a setting
    path = folder / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    drawn = set(EuroSAT(make_cfg(EuroSAT, tmp_path, 4, 1)).train_x)
    image = folder / "2750" / split["test"][0][0]
    image.write_text("other pixels")
    after = of(EuroSAT, tmp_path, 4, 1)
    assert changed(before, after) == {"test_files"}
    image.write_text("OTHER pixels")  # of the same size
    assert changed(after, of(EuroSAT, tmp_path, 4, 1)) == {"test_files"}
    Path(next(iter(drawn)).impath).write_text("x")
    assert changed(before, of(EuroSAT, tmp_path, 4, 1)) == FILES
    split["test"][0], split["test"][-1] = split["test"][-1], split["test"][0]
    path.write_text(json.dumps(split))
    assert changed(before, of(EuroSAT, tmp_path, 4, 1)) == {"test", *FILES}


def test_nothing_is_written_and_an_open_draw_has_no_digest(tmp_path):
    folder = write_eurosat(tmp_path)
    assert set(of(EuroSAT, tmp_path, 4, -1)) == {*LISTS, "test_files"}
    assert not (folder / "split_fewshot").exists()
    EuroSAT(make_cfg(EuroSAT, tmp_path, 4, -1))
    assert set(of(EuroSAT, tmp_path, 4, -1)) == {*LISTS, *FILES, "few_shot"}


def test_of_test_images_alone(tmp_path):
    write_tree("ImageNetR", tmp_path)
    assert set(of(ImageNetR, tmp_path, 16)) == {*LISTS, "test_files"}


def test_a_renamed_class_of_ones_own(tmp_path):
    touch(tmp_path, [f"x/{c}/{k}.png" for c in "ab" for k in range(10)])
    before = of(ImageFolder, tmp_path, IMAGE_DIR="x")
    (tmp_path / "x" / "b").rename(tmp_path / "x" / "c")
    assert changed(before, of(ImageFolder, tmp_path, IMAGE_DIR="x")) == LISTS


def test_a_data_set_in_dassls_terms(tmp_path, monkeypatch):
    class Plain(DatasetBase):
        @staticmethod
        def extend_cfg(cfg):
            EuroSAT.extend_cfg(cfg)

        def __init__(self, cfg):
            items = [Datum(str(tmp_path / f"{k}.png"), k, classname=f"c{k}") for k in range(2)]
            super().__init__(train_x=items, test=items)

    monkeypatch.setitem(DATASET_REGISTRY._objects, "Plain", Plain)
    touch(tmp_path, ["0.png", "1.png"])
    before = of(Plain, tmp_path)
    assert set(before) == LISTS | FILES
    (tmp_path / "1.png").write_text("x")
    assert changed(before, of(Plain, tmp_path)) == FILES


def test_many_runs_share_what_was_read(tmp_path, monkeypatch):
    write_eurosat(tmp_path)
    known = {}
    first = of(EuroSAT, tmp_path, 4, 1, known=known)
    monkeypatch.setattr(EuroSAT, "read", None)
    assert of(EuroSAT, tmp_path, 4, 1, known=known) == first
    assert changed(first, of(EuroSAT, tmp_path, 4, 2, known=known)) == {"few_shot"}


def test_needs_no_torch(tmp_path):
    write_eurosat(tmp_path)
    program = (
        "import sys, datasets\n"
        "from yacs.config import CfgNode\n"
        "node = {'NAME': 'EuroSAT', 'ROOT': sys.argv[1], 'NUM_SHOTS': 2}\n"
        "assert len(datasets.identity(CfgNode({'SEED': 1, 'DATASET': node}))) == 6\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, check=True)


def test_where_all_training_images_are_read_they_all_count(tmp_path):
    """PromptKD learns from those beside the few shots, too, without labels."""
    folder = write_eurosat(tmp_path)
    some, all_of_them = of(EuroSAT, tmp_path, 1), of(EuroSAT, tmp_path, 1, UNLABELLED=True)
    drawn = {item.impath for item in EuroSAT(make_cfg(EuroSAT, tmp_path, 1)).train_x}
    split = json.loads((folder / "split_zhou_EuroSAT.json").read_text())
    paths = [folder / "2750" / path for path, *_ in split["train"]]
    next(path for path in paths if str(path) not in drawn).write_text("other pixels")
    assert changed(some, of(EuroSAT, tmp_path, 1)) == set()
    assert changed(all_of_them, of(EuroSAT, tmp_path, 1, UNLABELLED=True)) == {"train_files"}
