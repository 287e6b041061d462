"""Data that contradicts itself, through train.py: one line that names the first offender."""

import json
import shutil
from pathlib import Path

import pytest

import train

ROOT = Path(__file__).resolve().parents[2]
SPLIT = "split_zhou_EuroSAT.json"


@pytest.fixture
def root(fake_eurosat, tmp_path) -> Path:
    """A data folder of the test's own: the images are links, the split file is a copy."""
    folder = tmp_path / "data" / "eurosat"
    folder.mkdir(parents=True)
    (folder / "2750").symlink_to(fake_eurosat / "eurosat" / "2750")
    shutil.copy(fake_eurosat / "eurosat" / SPLIT, folder)
    return folder.parent


@pytest.fixture
def refusal(root, tiny_clip_path, tmp_path, capsys):
    """Runs train.py on that data and gives the line with which it ends."""

    def run(*options: str) -> str:
        output = tmp_path / "run"
        arguments = ["--root", str(root), "--seed", "1", "--backbone", str(tiny_clip_path)]
        arguments += ["--trainer", "CoOp", "--output-dir", str(output)]
        arguments += ["--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")]
        status = train.main([*arguments, "DATASET.NUM_SHOTS", "2", *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert status == 2 and line.startswith("train.py: error: ")
        assert not output.exists()
        return line

    return run


def drop_a_class(split):
    """Label 9 stays, label 8 goes."""
    split["train"] = [entry for entry in split["train"] if entry[1] != 8]


def high_label(split):
    split["test"][7][1] = 99


def other_name(split):
    split["test"][7][2] = "Forest"


def other_label(split):
    split["test"].append([split["train"][0][0], 1, "Forest"])


def missing_image(split):
    split["val"][3][0] = "AnnualCrop/none.png"


def path_upwards(split):
    split["train"][2][0] = "../../../secret.png"


def absolute_path(split):
    split["train"][2][0] = "/etc/hostname"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_a_class, ["River", "label 8", "no training image"]),
        (high_label, ["label 99", "AnnualCrop_34.png", "no training image"]),
        (other_name, ["label 0", "'Annual Crop Land'", "'Forest'", "AnnualCrop_34.png"]),
        (other_label, ["AnnualCrop_1.png", "label 1", "0"]),
        (missing_image, ["AnnualCrop/none.png", "not found", "2750"]),
        (path_upwards, ["train[2]", "../../../secret.png", "leaves the image folder"]),
        (absolute_path, ["train[2]", "/etc/hostname", "leaves the image folder"]),
    ],
)
def test_split(root, refusal, spoil, words):
    path = root / "eurosat" / SPLIT
    split = json.loads(path.read_text())
    spoil(split)
    path.write_text(json.dumps(split))
    line = refusal()
    for word in words:
        assert word in line
    assert not (root / "eurosat" / "split_fewshot").exists()


@pytest.mark.parametrize("image", ["../../secret.png", "/etc/hostname", "Forest/none.png"])
def test_few_shot_cache(root, refusal, image):
    from datasets.fewshot import draw
    from datasets.splits import read_split, split_digest

    train_list, val, _ = read_split(root / "eurosat" / SPLIT)
    chosen, chosen_val = draw(train_list, val, 2, 1)
    content = {"format": 1, "split_sha256": split_digest((train_list, val))}
    content |= {"train": [[image, *chosen[0][1:]], *chosen[1:]], "val": chosen_val}
    path = root / "eurosat" / "split_fewshot" / "shot_2-seed_1.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    line = refusal()
    assert str(path) in line and image in line and "remove it" in line
    assert path.read_bytes() == before
