"""The drawn data set: the same everywhere, complete, and in CoOp's layout."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_trees import make_cfg
from PIL import Image

from dassl.utils import UsageError
from datasets import _shapes_pictures, shapes
from datasets._shapes_pictures import (
    CLASSES,
    CLASSNAMES,
    COLOURS,
    PATTERNS,
    SHAPES,
    SIZE,
    picture_of,
)
from datasets.shapes import Shapes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def few():
    """One image a class and split, so that drawing is quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "IMAGES_PER_CLASS", {"train": 1, "val": 1, "test": 1})
        yield


@pytest.fixture(scope="module")
def root(few, tmp_path_factory):
    """A data folder with the data set drawn."""
    folder = tmp_path_factory.mktemp("data")
    shapes.ensure_drawn(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_classes_are_compositional_and_mixed():
    assert len(CLASSES) == len(set(CLASSNAMES)) >= 40
    half = len(CLASSES) // 2
    for part in (CLASSES[:half], CLASSES[half:]):
        colours, patterns, kinds = (set(words) for words in zip(*part, strict=True))
        assert kinds == set(SHAPES)
        assert patterns == set(PATTERNS)
        assert len(colours) >= 0.75 * len(COLOURS)
    assert {colour for colour, _, _ in CLASSES} == set(COLOURS)
    # No attribute can be left out: leaving it out, classes coincide.
    for left_out in range(3):
        rest = {tuple(word for i, word in enumerate(c) if i != left_out) for c in CLASSES}
        assert len(rest) < len(CLASSES)


def test_pictures_differ_and_repeat():
    first, again = picture_of("train", 3, 0), picture_of("train", 3, 0)
    other = picture_of("train", 3, 1)
    assert first.size == (SIZE, SIZE)
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))
    assert not np.array_equal(np.asarray(first), np.asarray(picture_of("test", 3, 0)))


def test_every_attribute_shows():
    """Over the pictures of a colour, the middle is nearer to its tones than to most others."""
    hits = 0
    plain = [i for i, (_, pattern, shape) in enumerate(CLASSES) if not pattern and shape != "ring"]
    for label in plain:
        wanted = CLASSES[label][0]
        middles = [
            np.asarray(picture_of("test", label, n), dtype=float)[24:40, 24:40].mean(axis=(0, 1))
            for n in range(5)
        ]
        middle = np.median(middles, axis=0)
        near = {
            colour: min(np.abs(middle / middle.sum() - np.array(t) / sum(t)).sum() for t in tones)
            for colour, tones in COLOURS.items()
        }
        hits += wanted in sorted(near, key=near.get)[:3]
    assert hits >= 0.8 * len(plain)


def test_drawn_twice_is_byte_for_byte_the_same(root, tmp_path):
    second = shapes.ensure_drawn(tmp_path / "new")
    assert digests(root / "shapes") == digests(second)
    assert [path.name for path in second.parent.iterdir()] == ["shapes"]  # nothing left behind


def test_layout_and_split(root):
    folder = root / "shapes"
    split = json.loads((folder / "split_zhou_Shapes.json").read_text())
    assert {part: len(items) for part, items in split.items()} == {
        part: count * len(CLASSES) for part, count in shapes.IMAGES_PER_CLASS.items()
    }
    paths = [item[0] for items in split.values() for item in items]
    assert len(set(paths)) == len(paths)
    assert sorted(paths) == sorted(
        path.relative_to(folder / "images").as_posix() for path in folder.rglob("*.jpg")
    )
    for items in split.values():
        for path, label, name in items:
            assert name == CLASSNAMES[label]
            assert path.split("/")[0] == name.replace(" ", "_")
    with Image.open(folder / "images" / paths[0]) as image:
        assert image.format == "JPEG" and image.size == (SIZE, SIZE)


def test_drawn_once_and_redrawn_for_a_new_version(root, tmp_path, monkeypatch):
    folder = tmp_path / "shapes"
    shutil.copytree(root / "shapes", folder)
    monkeypatch.setattr(_shapes_pictures, "CLASSNAMES", CLASSNAMES[:3])
    picture = next((folder / "images" / CLASSNAMES[0].replace(" ", "_")).glob("*.jpg"))
    picture.write_bytes(b"touched")
    assert shapes.ensure_drawn(tmp_path) == folder
    assert picture.read_bytes() == b"touched"
    monkeypatch.setattr(shapes, "DRAWING_VERSION", shapes.DRAWING_VERSION + 1)
    shapes.ensure_drawn(tmp_path)
    assert picture.read_bytes() != b"touched"
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_killed_drawing_leaves_no_data_set(tmp_path, monkeypatch):
    calls = []

    def killed(*args):
        calls.append(args)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return picture_of(*args)

    monkeypatch.setattr(_shapes_pictures, "picture_of", killed)
    with pytest.raises(KeyboardInterrupt):
        shapes.ensure_drawn(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not this data set"):
        shapes.ensure_drawn(tmp_path)
    assert (tmp_path / "shapes" / "mine.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be drawn"):
        shapes.ensure_drawn(tmp_path / "shapes" / "mine.txt")


def test_data_set(root):
    whole = Shapes(make_cfg(Shapes, root))
    assert whole.classnames == CLASSNAMES
    base = Shapes(make_cfg(Shapes, root, 1, 1, "base"))
    new = Shapes(make_cfg(Shapes, root, 1, 1, "new"))
    assert base.classnames + new.classnames == CLASSNAMES
    assert len(base.train_x) == base.num_classes == len(CLASSES) // 2


def test_without_a_data_folder_it_lives_in_the_cache(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path))
    shutil.copytree(root, tmp_path / "data")
    dataset = Shapes(make_cfg(Shapes, ""))
    assert Path(dataset.test[0].impath).is_relative_to(tmp_path / "data" / "shapes")


DRAW = """
import sys, time
from pathlib import Path
from datasets import shapes
shapes.IMAGES_PER_CLASS = {"train": 1, "val": 1, "test": 1}
together = Path(sys.argv[2])
(together / sys.argv[3]).touch()
while len(list(together.iterdir())) < 2:
    time.sleep(0.01)
shapes.ensure_drawn(sys.argv[1])
"""


@pytest.mark.parametrize("has_older", [False, True])
def test_two_processes_may_draw_at_once(tmp_path, has_older):
    together, data = tmp_path / "together", tmp_path / "data"
    together.mkdir()
    if has_older:
        (data / "shapes").mkdir(parents=True)
        (data / "shapes" / "drawing_version.txt").write_text("0\n")
    command = [sys.executable, "-c", DRAW, str(data), str(together)]
    processes = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ab"]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert [path.name for path in data.iterdir()] == ["shapes"]
    split = json.loads((data / "shapes" / "split_zhou_Shapes.json").read_text())
    for entries in split.values():
        assert len(entries) == len(CLASSNAMES)
        assert all((data / "shapes" / "images" / path).is_file() for path, _, _ in entries)
