"""python -m anprompt data: what it says and how it exits."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from anprompt.commands import data
from common.cli import run
from common.errors import UsageError
from datasets import prepare
from datasets.eurosat import EuroSAT
from datasets.splits import split_digest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "datasets"))

import fake_trees  # noqa: E402

CATALOGUE = {key: entry for key, entry in prepare.read_catalogue().items() if "task" not in entry}
KEY_OF = {entry["name"]: key for key, entry in CATALOGUE.items()}


def call(*arguments, capsys):
    status = run(data.main, "anprompt data", [str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out + output.err


def test_a_split_that_cannot_be_verified_is_said_to_be_so(tmp_path, capsys, monkeypatch):
    """Figures alone do not tell a published split from one that was drawn."""
    catalogue = {}
    for name in ("Food101", "DescribableTextures", "FGVCAircraft"):
        fake_trees.write_tree(name, tmp_path)
        catalogue[KEY_OF[name]] = fake_trees.small_entry(name, tmp_path)
    dtd = catalogue["dtd"]
    split = prepare.open_dataset(dtd, tmp_path).read_data()
    dtd["split_sha256"] = split_digest(split)
    monkeypatch.setattr(prepare, "read_catalogue", lambda: catalogue)
    status, output = call("all", "--root", tmp_path, "--check", capsys=capsys)
    assert status == 0
    food, note, dtd_line, aircraft, summary = output.splitlines()
    assert summary == "3 of 3 complete"
    assert food.startswith("food101: complete") and "no checksum" in note
    assert dtd_line.startswith("dtd: complete") and aircraft.startswith("fgvc_aircraft: complete")


def test_one_failure_does_not_stop_the_rest(tmp_path, served, capsys):
    source = tmp_path / "split.json"
    source.write_text('{"train": [], "val": [], "test": []}')
    served[CATALOGUE["oxford_pets"]["files"][0]["url"]] = source
    status, output = call("oxford_pets", "stanford_cars", "--root", tmp_path / "d", capsys=capsys)
    assert status == 2
    assert (tmp_path / "d" / "oxford_pets" / "split_zhou_OxfordPets.json").is_file()
    assert "oxford_pets: incomplete" in output
    assert "stanford_cars: incomplete" in output
    assert "cars_train" in output and "is gone" in output  # what is to be done by hand


def test_dry_run_touches_nothing(tmp_path, served, capsys):
    status, output = call("all", "--root", tmp_path / "data", "--dry-run", capsys=capsys)
    assert status == 2
    assert served["asked"] == [] and not (tmp_path / "data").exists()
    for key in CATALOGUE:
        assert f"{key}: incomplete" in output
    first, *_, last = output.splitlines()
    assert re.match(r"to get: 2\d\d\.\d GB of archives, .* GB are free on the disk", first)
    assert last == "0 of 15 complete"


def test_make_split(tmp_path, capsys):
    folders = [f"{name}/{k}.jpg" for name in ("Forest", "River") for k in range(10)]
    fake_trees.touch(tmp_path / "eurosat" / "2750", folders)
    assert call("EuroSAT", "--root", tmp_path, "--make-split", capsys=capsys)[0] == 0
    path = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    written = path.read_text()
    dataset = EuroSAT(fake_trees.make_cfg(EuroSAT, tmp_path))
    assert [len(dataset.train_x), len(dataset.val), len(dataset.test)] == [10, 4, 6]
    status, output = call("eurosat", "--root", tmp_path, "--make-split", capsys=capsys)
    assert status == 2 and "is there already" in output
    assert path.read_text() == written


def test_make_split_without_the_files_it_needs(tmp_path, capsys):
    fake_trees.touch(tmp_path / "oxford_pets", ["x"])
    status, output = call("oxford_pets", "--root", tmp_path, "--make-split", capsys=capsys)
    assert status == 2
    assert "OxfordPets: a split cannot be drawn" in output and "trainval.txt" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["eurosta", "--root", "."], "unknown data set 'eurosta'; nearest known: eurosat"),
        (["eurosat", "--check", "--root", "nowhere"], "no folder"),
        (["eurosat"], "--root"),
        (["Shapes"], "nothing to prepare: Shapes draws"),
        (["check"], "check what?"),
        (["check", "nowhere"], "no such folder or table"),
        (
            ["tests", "--root", "."],
            "images of your own are checked with: anprompt data check tests",
        ),
    ],
)
def test_bad_input_is_one_line(capsys, monkeypatch, arguments, complaint):
    monkeypatch.delenv("DATA", raising=False)
    status, output = call(*arguments, capsys=capsys)
    assert status == 2
    assert complaint in output and len(output.splitlines()) == 1


def test_runs_as_a_command_from_anywhere(tmp_path):
    command = [sys.executable, "-m", "anprompt", "data", "--help"]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0
    assert "imagenet_sketch" in result.stdout


def pictures(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    return folder


def test_own_images_are_checked(tmp_path, capsys):
    folder = pictures(
        tmp_path / "pets", [f"{c}/{k}.png" for c in ("cat", "dog") for k in range(10)]
    )
    (folder / "cat" / "notes.txt").touch()
    status, output = call("check", folder, capsys=capsys)
    assert status == 0
    assert output.splitlines() == [
        f"{folder}: note: 1 file left out, no images by their names: 1 .txt, such as cat/notes.txt",
        f"{folder}: complete, 2 classes, 10 train, 4 val, 6 test images",
        "  classes: cat, dog",
    ]


def test_all_that_is_wrong_with_own_images_is_said(tmp_path, capsys):
    names = [f"{part}/{c}/{k}.png" for part in ("Train", "Val", "Test") for c in "ab" for k in "12"]
    folder = pictures(tmp_path / "x", names)
    shutil.copy(folder / "Train/a/1.png", folder / "Test/a/copy.png")
    (folder / "Test/b/2.png").write_bytes(b"")
    (folder / "Train/b/1.png").write_text("<html>")
    status, output = call("check", folder, capsys=capsys)
    assert status == 2
    assert "Test/b/2.png (an empty file)" in output
    assert "Train/b/1.png (not an image" in output
    assert f"{folder}: 3 problem(s); " in output
    (folder / "Test" / "c").mkdir()
    (folder / "Test" / "d").mkdir()
    status, output = call("check", folder, capsys=capsys)
    assert status == 2 and f"{folder}: 2 problem(s)" in output


def test_own_table_is_checked(tmp_path, capsys):
    pictures(tmp_path / "images", [f"{k}.png" for k in range(8)])
    rows = ["file_name,label", *(f"{k}.png,{'ab'[k % 2]}" for k in range(8))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows))
    assert call("check", table, "--images", tmp_path / "images", capsys=capsys)[0] == 0
    table.write_text("\n".join([*rows, "gone.png,a", "../x.png,b", "0.png,b"]))
    status, output = call("check", table, "--images", tmp_path / "images", capsys=capsys)
    assert status == 2
    assert "line 11: path '../x.png' leaves" in output
    assert "line 12: 0.png is listed in line 2 already" in output
    table.write_text("\n".join([*rows, "gone.png,a"]))
    assert (
        "gone.png is not there"
        in call("check", table, "--images", tmp_path / "images", capsys=capsys)[1]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", ".", "--images", "nowhere"], "--images nowhere: no such folder"),
        (["check", ".", "--make-split"], "are for published data sets"),
        (["check", ".", "--dry-run"], "are for published data sets"),
        (["eurosat", "--root", ".", "--check", "--images", "."], "go with: check FOLDER"),
        (["eurosat", "--root", ".", "--check", "--classnames", "x"], "go with: check FOLDER"),
    ],
)
def test_flags_without_an_effect_are_refused(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        data.main(arguments)
