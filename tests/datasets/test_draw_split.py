"""Splits drawn from the data sets' own files, where the official split file is not at hand."""

import numpy as np
import pytest
from fake_trees import touch

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UsageError
from datasets.splits import check_labels


def draw(name, root):
    reader = DATASET_REGISTRY.get(name).reader(root)
    split = reader.draw_split()
    assert split == reader.draw_split()
    return split, check_labels(split, name)


def sizes(split):
    return [len(part) for part in split]


@pytest.mark.parametrize(
    ("name", "where", "folders", "classnames"),
    [
        ("EuroSAT", "eurosat/2750", ["SeaLake", "Highway"], ["Highway or Road", "Sea or Lake"]),
        (
            "Caltech101",
            "caltech-101/101_ObjectCategories",
            ["ant", "Faces", "Faces_easy", "BACKGROUND_Google"],
            ["face", "ant"],
        ),
        ("DescribableTextures", "dtd/images", ["dotted", "banded"], ["banded", "dotted"]),
        ("Food101", "food-101/images", ["tacos", "apple_pie"], ["apple_pie", "tacos"]),
    ],
)
def test_from_folders(tmp_path, name, where, folders, classnames):
    for folder in folders:
        touch(tmp_path / where / folder, [f"{k}.jpg" for k in range(10)])
    split, names = draw(name, tmp_path)
    assert names == classnames
    assert sizes(split) == [10, 4, 6]


def test_pets(tmp_path):
    lists = tmp_path / "oxford_pets" / "annotations"
    touch(lists, ["x"])
    breeds = {"Abyssinian": 1, "great_pyrenees": 2}
    for part, start in (("trainval", 0), ("test", 10)):
        lines = [
            f"{breed}_{start + k} {label} 1 1\n"
            for k in range(10 if part == "trainval" else 3)
            for breed, label in breeds.items()
        ]
        (lists / f"{part}.txt").write_text("".join(lines))
    split, names = draw("OxfordPets", tmp_path)
    assert names == ["abyssinian", "great_pyrenees"]
    assert sizes(split) == [16, 4, 6]
    assert split[2][0] == ("Abyssinian_10.jpg", 0, "abyssinian")


def test_sun(tmp_path):
    folder = tmp_path / "sun397"
    touch(folder, ["x"])
    (folder / "ClassName.txt").write_text("/a/abbey\n/a/apartment_building/outdoor\n")
    for part, numbers in (("Training", range(5)), ("Testing", range(5, 8))):
        lines = [
            f"/{where}/sun_{k}.jpg\n"
            for where in ("a/abbey", "a/apartment_building/outdoor")
            for k in numbers
        ]
        (folder / f"{part}_01.txt").write_text("".join(lines))
    split, names = draw("SUN397", tmp_path)
    assert names == ["abbey", "outdoor apartment_building"]
    assert sizes(split) == [8, 2, 6]
    assert split[2][0] == ("a/abbey/sun_5.jpg", 0, "abbey")


def test_ucf(tmp_path):
    lists = tmp_path / "ucf101" / "ucfTrainTestlist"
    touch(lists, ["x"])
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 YoYo\n")
    for part, numbers in (("train", range(5)), ("test", range(5, 8))):
        lines = [
            f"{action}/v_{action}_g{k:02d}_c01.avi{' 1' if part == 'train' else ''}\n"
            for action in ("ApplyEyeMakeup", "YoYo")
            for k in numbers
        ]
        (lists / f"{part}list01.txt").write_text("".join(lines))
    split, names = draw("UCF101", tmp_path)
    assert names == ["Apply_Eye_Makeup", "Yo_Yo"]
    assert sizes(split) == [8, 2, 6]
    assert split[2][0][0] == "Apply_Eye_Makeup/v_ApplyEyeMakeup_g05_c01.jpg"


def strings(values):
    """As MATLAB's cell arrays of strings come out of scipy."""
    cells = np.empty((1, len(values)), dtype=object)
    for number, value in enumerate(values):
        cells[0, number] = value
    return cells


def test_flowers(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    folder = tmp_path / "oxford_flowers"
    touch(folder, ["x"])
    labels = np.array([[2] * 10 + [1] * 10])
    scipy_io.savemat(folder / "imagelabels.mat", {"labels": labels})
    (folder / "cat_to_name.json").write_text('{"1": "pink primrose", "2": "tiger lily"}')
    split, names = draw("OxfordFlowers", tmp_path)
    assert names == ["pink primrose", "tiger lily"]
    assert sizes(split) == [10, 4, 6]
    numbers = {int(path[6:11]) for part in split for path, label, _ in part if label == 0}
    assert numbers == set(range(11, 21))


def test_cars(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    folder = tmp_path / "stanford_cars"
    touch(folder / "devkit", ["x"])
    names = strings(["AM General Hummer SUV 2000", "Audi TTS Coupe 2012"])
    scipy_io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for path, count in (("devkit/cars_train_annos.mat", 10), ("cars_test_annos_withlabels.mat", 3)):
        rows = np.zeros((1, 2 * count), dtype=[("class", object), ("fname", object)])
        for k in range(2 * count):
            rows[0, k] = (np.array([[1 + k % 2]], dtype=np.uint8), f"{k:05d}.jpg")
        scipy_io.savemat(folder / path, {"annotations": rows})
    split, names = draw("StanfordCars", tmp_path)
    assert names == ["2000 AM General Hummer SUV", "2012 Audi TTS Coupe"]
    assert sizes(split) == [16, 4, 6]
    assert split[2][0] == ("cars_test/00000.jpg", 0, "2000 AM General Hummer SUV")


def test_sets_without_a_drawn_split_say_so(tmp_path):
    touch(tmp_path / "fgvc_aircraft", ["x"])
    with pytest.raises(UsageError, match="FGVCAircraft: a split cannot be drawn"):
        draw("FGVCAircraft", tmp_path)
