"""Getting published data sets and comparing them with the catalogue."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import fake_trees
import numpy as np
import pytest
from fake_archives import archive_of

from common.files import temporary_folder
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UsageError
from datasets import prepare
from datasets.splits import split_digest

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = prepare.read_catalogue()
KEY_OF = {entry["name"]: key for key, entry in CATALOGUE.items()}
LINK = "https://example.org/file"


@pytest.mark.parametrize("key", CATALOGUE)
def test_catalogue_agrees_with_the_readers(key):
    entry = CATALOGUE[key]
    dataset = DATASET_REGISTRY.get(entry["name"])
    assert dataset.dataset_dir == entry["folder"]
    assert dataset.help_line() == f"Run python -m anprompt data {key}"
    assert (ROOT / "configs" / "datasets" / f"{key}.yaml").is_file()
    wanted = [target for item in entry["files"] for target in prepare.targets(item)]
    if dataset.split_file:
        assert dataset.split_file in wanted
    figures = entry["figures"]
    if "test_base" in figures:
        assert figures["test_base"] + figures["test_new"] == figures["test"]
    for item in entry["files"]:
        assert ("manual" in item) != ("url" in item)


@pytest.mark.parametrize("name", fake_trees.NAMES)
def test_complete_tree_passes(tmp_path, name):
    fake_trees.write_tree(name, tmp_path)
    figures, problems = prepare.check(fake_trees.small_entry(name, tmp_path), tmp_path)
    assert problems == []
    assert figures["classes"] == 3


def test_everything_wrong_is_named(tmp_path):
    folder, _ = fake_trees.write_tree("EuroSAT", tmp_path)
    entry = fake_trees.small_entry("EuroSAT", tmp_path)
    entry["split_sha256"] = "0" * 64
    (folder / "2750" / "Forest" / "Forest_2.jpg").unlink()
    (folder / "2750" / "Forest" / "Forest_4.jpg").unlink()
    (folder / "2750" / "SeaLake" / "SeaLake_14.jpg").unlink()
    entry["figures"].update(classes=10, train=4, test_new=30)
    problems = "\n".join(prepare.check(entry, tmp_path)[1])
    assert "classes: 3 classes, expected 10 (reduced)" in problems
    assert "train: 18 images, expected 4 (too many)" in problems
    assert "test_new: 3 images, expected 30 (reduced)" in problems
    assert "train: 2 of 18 images not found" in problems
    assert "the first is Forest/Forest_2.jpg" in problems
    assert "test: 1 of 9 images not found" in problems
    assert "is not the published split" in problems
    assert len(problems.splitlines()) == 6


def test_test_images_among_training_images_are_named(tmp_path):
    folder, _ = fake_trees.write_tree("EuroSAT", tmp_path)
    path = folder / "split_zhou_EuroSAT.json"
    split = json.loads(path.read_text())
    split["test"][0] = split["train"][3]
    path.write_text(json.dumps(split))
    _, problems = prepare.check(fake_trees.small_entry("EuroSAT", tmp_path), tmp_path)
    assert len(problems) == 1
    assert "1 test images are training images" in problems[0]


def test_same_split_in_another_layout_is_the_published_one(tmp_path):
    folder, _ = fake_trees.write_tree("EuroSAT", tmp_path)
    entry = fake_trees.small_entry("EuroSAT", tmp_path)
    entry["split_sha256"] = split_digest(prepare.open_dataset(entry, tmp_path).read_data())
    path = folder / "split_zhou_EuroSAT.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert prepare.check(entry, tmp_path)[1] == []


def test_unreadable_data_set_is_a_line(tmp_path):
    figures, problems = prepare.check(CATALOGUE["eurosat"], tmp_path)
    assert figures == {}
    assert problems == [
        f"EuroSAT: no folder {tmp_path / 'eurosat'}. Run python -m anprompt data eurosat"
    ]


def obtain(item, folder):
    said = []
    prepare.obtain(item, folder, said.append)
    return said


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
def test_archive_is_fetched_and_unpacked(tmp_path, served, suffix):
    members = {"a/pics/1.jpg": b"1", "a/list.txt": b"2", "b": b""}
    source = archive_of(tmp_path / f"x{suffix}", members)
    served[LINK] = source
    gives = {"images": "a/pics", "list.txt": "a/list.txt"}
    item = {"archive": source.name, "url": LINK, "gives": gives}
    folder = tmp_path / "data" / "set"
    said = obtain(item, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["images", "list.txt", source.name]
    assert (folder / "images" / "1.jpg").read_bytes() == b"1"
    assert "no checksum" in said[0] and "no longer needed" in said[1]
    assert prepare.missing_targets(item, folder) == []


def test_inner_archive(tmp_path, served):
    """Caltech101 comes as a zip file with a tar file in it."""
    inner = archive_of(tmp_path / "inner.tgz", {"101/ant/1.jpg": b"ant", "other": b""})
    served[LINK] = archive_of(tmp_path / "o.zip", {"c/inner.tgz": inner.read_bytes()})
    item = {"archive": "o.zip", "url": LINK, "gives": {"101": "c/inner.tgz!101"}}
    obtain(item, tmp_path / "set")
    assert (tmp_path / "set" / "101" / "ant" / "1.jpg").read_bytes() == b"ant"
    assert sorted(os.listdir(tmp_path / "set")) == ["101", "o.zip"]


@pytest.mark.parametrize("suffix", [".zip", ".tgz"])
@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "ok/../../outside.txt"])
def test_members_cannot_leave_the_folder(tmp_path, suffix, name):
    source = archive_of(tmp_path / f"x{suffix}", {name: b"x", "ok.txt": b"y"})
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be unpacked .its member .* leaves the folder"):
        prepare.place(source, {"gives": {"ok.txt": "ok.txt"}}, folder)
    assert not list(tmp_path.rglob("outside.txt"))
    assert not Path("/outside.txt").exists()
    assert os.listdir(folder) == []


def test_member_that_is_not_there(tmp_path):
    source = archive_of(tmp_path / "x.zip", {"a/1.jpg": b""})
    (tmp_path / "set").mkdir()
    with pytest.raises(UsageError, match="has no b/pics; unpack it by hand"):
        prepare.place(source, {"gives": {"images": "b/pics"}}, tmp_path / "set")
    assert os.listdir(tmp_path / "set") == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    source = archive_of(tmp_path / "x.zip", {"a/1.jpg": b""})
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with temporary_folder(tmp_path, prepare.UNPACKING) as mine:
        assert mine.is_dir()
        dead = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-")
        (dead / "x").mkdir(parents=True)
        prepare.place(source, {"gives": {"a": "a"}}, tmp_path)
        assert mine.is_dir() and not dead.exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "x.zip"]


def test_checksum(tmp_path, served):
    served[LINK] = archive_of(tmp_path / "x.zip", {"a": b""})
    with pytest.raises(UsageError, match="y.zip: not the published file .MD5"):
        prepare.download({"url": LINK, "md5": "0" * 32}, tmp_path / "y.zip")
    (tmp_path / "hello").write_text("hello")
    sums = {
        "md5": "5d41402abc4b2a76b9719d911017c592",
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    }
    for name, digest in sums.items():
        assert prepare.download({"url": LINK, name: digest}, tmp_path / "hello")
    assert not prepare.download({"url": LINK}, tmp_path / "hello")
    assert served["asked"] == [LINK]  # what lies there already is verified, not fetched


def test_failed_download_says_where_to_put_the_file(tmp_path, served):
    with pytest.raises(UsageError) as raised:
        prepare.download({"url": LINK}, tmp_path / "x.json")
    assert str(raised.value) == (
        f"{LINK}: cannot reach {LINK}; fetch it by hand to {tmp_path / 'x.json'}"
    )


def test_a_page_instead_of_a_split_is_noticed(tmp_path, served):
    (tmp_path / "page").write_text("<html>quota exceeded</html>")
    served[LINK] = tmp_path / "page"
    with pytest.raises(UsageError, match="split_zhou_X.json: not valid JSON .*; remove it and run"):
        obtain({"file": "split_zhou_X.json", "url": LINK}, tmp_path / "set")


def test_a_full_disk_is_said_before(tmp_path, served, monkeypatch):
    monkeypatch.setattr(prepare, "free_gigabytes", lambda folder: 1.5)
    item = {"archive": "x.zip", "url": LINK, "gb": 1.0, "gives": {"a": "a"}}
    with pytest.raises(UsageError, match="2.0 GB are needed for x.zip .* 1.5 GB are free"):
        obtain(item, tmp_path / "set")
    assert served["asked"] == []


def stub_imagenet(folder, monkeypatch):
    """ImageNet's three archives with two classes, and their items without checksums."""
    scipy_io = pytest.importorskip("scipy.io")
    wnids = ["n01440764", "n01443537"]
    folder.mkdir()
    buffer = io.BytesIO()
    synsets = np.zeros(3, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for k, wnid in enumerate([wnids[1], wnids[0], "n00000001"]):
        synsets[k] = (k + 1, wnid)
    scipy_io.savemat(buffer, {"synsets": synsets})
    archive_of(
        folder / "ILSVRC2012_devkit_t12.tar.gz",
        {
            "ILSVRC2012_devkit_t12/data/meta.mat": buffer.getvalue(),
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1\n",
        },
    )
    val = {f"ILSVRC2012_val_0000000{k}.JPEG": bytes([k]) for k in (1, 2, 3)}
    archive_of(folder / "ILSVRC2012_img_val.tar", val)
    inner = {
        wnid: archive_of(folder / f"{wnid}.tar", {f"{wnid}_{k}.JPEG": b"x" for k in range(2)})
        for wnid in wnids
    }
    members = {f"{wnid}.tar": path.read_bytes() for wnid, path in inner.items()}
    archive_of(folder / "ILSVRC2012_img_train.tar", members)
    for path in inner.values():
        path.unlink()
    monkeypatch.setattr(prepare, "verify", lambda path, item: True)
    return [item for item in CATALOGUE["imagenet"]["files"] if "unpack" in item]


def test_imagenets_archives_are_taken_directly(tmp_path, monkeypatch):
    folder = tmp_path / "imagenet"
    for item in stub_imagenet(folder, monkeypatch):
        obtain(item, folder)
    images = {
        path.relative_to(folder / "images").as_posix()
        for path in (folder / "images").rglob("*.JPEG")
    }
    assert images == {
        *(f"train/{wnid}/{wnid}_{k}.JPEG" for wnid in ("n01440764", "n01443537") for k in (0, 1)),
        "val/n01443537/ILSVRC2012_val_00000001.JPEG",
        "val/n01440764/ILSVRC2012_val_00000002.JPEG",
        "val/n01443537/ILSVRC2012_val_00000003.JPEG",
    }
    assert not [name for name in os.listdir(folder) if name.startswith(prepare.UNPACKING)]


def test_an_incomplete_val_archive_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "imagenet"
    _, val = stub_imagenet(folder, monkeypatch)
    archive_of(folder / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000001.JPEG": b""})
    with pytest.raises(UsageError, match="1 of ImageNet's 3 val images"):
        obtain(val, folder)
    assert not (folder / "images").exists()


def test_archives_that_only_the_user_can_get(tmp_path):
    _, train, _ = CATALOGUE["stanford_cars"]["files"]
    with pytest.raises(UsageError, match="cars_train: .* is gone; .*Put the folder, or cars_tr"):
        obtain(train, tmp_path)


def test_class_names_of_imagenet_serve_its_variants(tmp_path):
    item = CATALOGUE["imagenet_a"]["files"][0]
    folder = tmp_path / "imagenet-adversarial"
    assert prepare.missing_targets(item, folder) == ["classnames.txt"]
    fake_trees.touch(tmp_path / "imagenet", ["classnames.txt"])
    assert prepare.missing_targets(item, folder) == []
