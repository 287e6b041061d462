"""Image files of one's own: what decodes, what is remembered of it, and copies."""

import os
import shutil

import numpy as np
import pytest
from fake_trees import make_cfg
from PIL import Image

from dassl.utils import UsageError
from datasets import verify
from datasets.imagefolder import ImageFolder, examine
from datasets.verify import Files

TWO_PARTS = [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in "ab" for k in "12"]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "user_cache"))


def build(root, shots=0, **keys):
    return ImageFolder(make_cfg(ImageFolder, root, shots, **keys))


def pictures(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)


def test_images_that_do_not_decode_are_found_at_once(tmp_path):
    pictures(
        tmp_path, [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in "ab" for k in "12"]
    )
    dataset = build(tmp_path, IMAGE_DIR=tmp_path)
    dataset.verify()
    (tmp_path / "test/a/1.png").write_bytes(b"")
    (tmp_path / "test/b/2.png").write_text("<html>")
    with pytest.raises(UsageError) as raised:
        build(tmp_path, IMAGE_DIR=tmp_path).verify()
    assert str(raised.value) == (
        f"ImageFolder: image cannot be decoded: {tmp_path}/test/a/1.png (an empty file); replace "
        f"or remove it; image cannot be decoded: {tmp_path}/test/b/2.png (not an image in a format "
        "that Pillow reads); replace or remove it"
    )
    build(tmp_path, IMAGE_DIR=tmp_path, CHECK_IMAGES=False).verify()


def test_an_image_is_decoded_once_until_it_changes(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        verify, "read_image", lambda path, reading: read.append(os.path.relpath(path, tmp_path))
    )
    pictures(tmp_path, [f"x/{c}/{k}.png" for c in "ab" for k in "1234"])
    build(tmp_path, IMAGE_DIR=tmp_path / "x").verify()
    assert len(read) == 8
    build(tmp_path, shots=1, IMAGE_DIR=tmp_path / "x").verify()
    assert len(read) == 8
    content = bytearray((tmp_path / "x/a/1.png").read_bytes())
    content[-20] ^= 1  # of the same size
    (tmp_path / "x/a/1.png").write_bytes(content)
    build(tmp_path, IMAGE_DIR=tmp_path / "x").verify()
    assert read[8:] == ["x/a/1.png"]


def test_copies_are_said(tmp_path, caplog):
    pictures(tmp_path / "x", [*TWO_PARTS, "val/a/1.png"])
    shutil.copy(tmp_path / "x/train/a/1.png", tmp_path / "x/train/b/copy.png")
    for name in "12":
        shutil.copy(tmp_path / f"x/train/a/{name}.png", tmp_path / f"x/test/a/copy{name}.png")
    build(tmp_path, IMAGE_DIR="x").verify()
    assert "2 test images are copies of training images, such as test/a/copy" in caplog.text
    assert "1 image(s) are in two classes (same content)" in caplog.text


def test_copies_are_looked_for_among_many_large_files_of_one_size(tmp_path, caplog, monkeypatch):
    """As of cameras that write BMP: files are read as a whole only where parts of them agree."""
    rng = np.random.default_rng(0)
    for name in [*TWO_PARTS, "val/a/1.png"]:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x" / name, format="BMP")
    shutil.copy(tmp_path / "x/train/a/1.png", tmp_path / "x/test/a/1.png")
    monkeypatch.setattr(verify, "CONTENT_BYTES", 0)
    read, content = [], Files._content
    monkeypatch.setattr(
        Files, "_content", lambda self, path: read.append(path) or content(self, path)
    )
    build(tmp_path, IMAGE_DIR="x").verify()
    assert "1 test images are copies of training images, such as test/a/1.png of" in caplog.text
    assert sorted(read) == ["test/a/1.png", "train/a/1.png"]


def test_files_that_differ_in_the_middle_are_no_copies(tmp_path):
    content = bytearray(100_000)
    for number in range(3):
        content[30_000] = number % 2
        (tmp_path / f"{number}.png").write_bytes(content)
    assert Files(tmp_path, [f"{k}.png" for k in range(3)]).groups() == [["0.png", "2.png"]]


def test_a_large_set_is_decoded_again_where_a_file_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "CONTENT_BYTES", 0)
    pictures(tmp_path, [f"x/{c}/{k}.png" for c in "ab" for k in "1234"])
    build(tmp_path, IMAGE_DIR=tmp_path / "x").verify()
    size = (tmp_path / "x/a/1.png").stat().st_size
    (tmp_path / "x/a/1.png").write_bytes(bytes(size))
    with pytest.raises(UsageError, match="cannot be decoded: .*x/a/1.png"):
        build(tmp_path, IMAGE_DIR=tmp_path / "x").verify()


def test_a_check_decodes_what_is_remembered_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "CONTENT_BYTES", 0)
    pictures(tmp_path, [f"x/{c}/{k}.png" for c in "ab" for k in "1234"])
    assert examine(str(tmp_path / "x")).problems == []
    before = (tmp_path / "x/a/1.png").stat()
    (tmp_path / "x/a/1.png").write_bytes(bytes(before.st_size))
    os.utime(tmp_path / "x/a/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    (problem,) = examine(str(tmp_path / "x")).problems
    assert "cannot be decoded" in problem and "x/a/1.png" in problem


@pytest.mark.parametrize("train_per_class", [0, 2, 3])
def test_a_class_that_cannot_be_divided_hides_no_other_problem(tmp_path, train_per_class):
    pictures(tmp_path, [*(f"x/{c}/{k}.png" for c in "ab" for k in "1234"), "x/lone/1.png"])
    (tmp_path / "x/a/2.png").write_bytes(b"")
    (tmp_path / "x/a/notes.txt").touch()
    found = examine(str(tmp_path / "x"), train_per_class=train_per_class)
    assert "class 'lone' has 1 image(s)" in found.no_split and found.problems[0] == found.no_split
    assert any("x/a/2.png (an empty file)" in line for line in found.problems[1:])
    assert "1 file left out" in found.notes[0]


def test_images_without_labels_are_looked_at_where_they_are_read(tmp_path, caplog):
    names = [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in "ab" for k in "123"]
    pictures(tmp_path, names)
    how = {"shots": 1, "IMAGE_DIR": tmp_path}
    drawn = {os.path.relpath(item.impath, tmp_path) for item in build(tmp_path, **how).train_x}
    spare = next(name for name in names if name.startswith("train/b") and name not in drawn)
    shutil.copy(tmp_path / "test/a/1.png", tmp_path / spare)  # and in another class
    build(tmp_path, **how).verify()
    assert "copies" not in caplog.text
    build(tmp_path, UNLABELLED=True, **how).verify()
    assert f"1 test images are copies of training images, such as test/a/1.png of {spare}" in (
        caplog.text
    )
    assert "two classes" not in caplog.text  # its own is not read
    (tmp_path / spare).write_text("")
    build(tmp_path, **how).verify()
    with pytest.raises(UsageError, match=f"cannot be decoded: .*{spare} .an empty file"):
        build(tmp_path, UNLABELLED=True, **how).verify()
