import json

import pytest
from fake_trees import listing, make_cfg, touch

from dassl.utils import UsageError
from datasets.classnames import read_classnames
from datasets.imagefolder import ImageFolder


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "user_cache"))


def build(root, shots=0, **keys):
    return ImageFolder(make_cfg(ImageFolder, root, shots, **keys))


def sizes(dataset):
    return [len(part) for part in (dataset.train_x, dataset.val, dataset.test)]


@pytest.fixture
def tree(tmp_path):
    names = [f"{folder}/{k}.JPG" for folder in ("red fox", "cat", "dog") for k in range(10)]
    touch(tmp_path / "pets", [*names, "cat/notes.txt", "cat/.hidden.jpg", ".git/x.jpg"])
    return tmp_path


def test_plain_tree_is_split_the_same_way_every_time(tree):
    dataset = build(tree, IMAGE_DIR="pets")
    assert dataset.classnames == ["cat", "dog", "red fox"]
    assert sizes(dataset) == [15, 6, 9]
    lists = [listing(part, tree) for part in (dataset.train_x, dataset.val, dataset.test)]
    again = build(tree.parent, IMAGE_DIR=tree / "pets")  # an absolute folder, another root
    assert [listing(part, tree) for part in (again.train_x, again.val, again.test)] == lists
    assert len({path for part in lists for path, _ in part}) == 30


def test_nothing_is_written_beside_the_images(tree):
    before = sorted(tree.joinpath("pets").rglob("*"))
    assert sizes(build(tree, shots=2, IMAGE_DIR="pets")) == [6, 6, 9]
    assert sorted(tree.joinpath("pets").rglob("*")) == before
    assert list((tree / "user_cache").rglob("shot_2-seed_1.json"))


def test_given_parts_are_kept(tmp_path):
    touch(tmp_path, [f"train/{c}/deep/{k}.png" for c in "ab" for k in range(10)])
    touch(tmp_path, [f"test/{c}/t{k}.png" for c in "ab" for k in range(3)])
    dataset = build(tmp_path, IMAGE_DIR=tmp_path)
    assert sizes(dataset) == [16, 4, 6]
    touch(tmp_path, [f"val/{c}/v{k}.png" for c in "ab" for k in range(2)])
    assert sizes(build(tmp_path, IMAGE_DIR=tmp_path)) == [20, 4, 6]


def test_val_serves_as_test(tmp_path, capsys):
    touch(
        tmp_path, [f"{part}/{c}/{k}.png" for part in ("train", "val") for c in "ab" for k in "12"]
    )
    assert sizes(build(tmp_path, IMAGE_DIR=tmp_path)) == [4, 4, 4]
    assert "val is the test set" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ([], "no images under"),
        (["a/1.png", "b/1.png", "b/2.png"], "'a' has 1 image"),
        (["a/1.png", "a/2.png"], "1 class"),
        (["train/a/1.png", "train/b/1.png"], "neither val nor test"),
        (["train/a/1.png", "extra/b/1.png"], "extra"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "no training image"),
    ],
)
def test_unusable_trees_are_refused(tmp_path, paths, complaint):
    touch(tmp_path / "x", paths)
    (tmp_path / "x").mkdir(exist_ok=True)
    with pytest.raises(UsageError) as raised:
        build(tmp_path, IMAGE_DIR="x")
    assert complaint in str(raised.value)


def test_csv(tmp_path):
    touch(tmp_path / "images", [f"{k}.jpg" for k in range(8)])
    rows = [
        f"{k}.jpg,{'cat' if k % 2 else 'a dog'},{'train' if k < 4 else 'test'}" for k in range(8)
    ]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    dataset = build(tmp_path, CSV="table.csv", IMAGE_DIR="images")
    assert dataset.classnames == ["a dog", "cat"]
    assert sizes(dataset) == [2, 2, 4]
    assert listing(dataset.test, tmp_path / "images")[0] == ["4.jpg", 0]


def test_csv_with_header_in_any_order_and_class_names(tmp_path):
    touch(tmp_path, [f"{k}.jpg" for k in range(20)])
    rows = ["label,path", *(f'"{10 - k % 2}","{k}.jpg"' for k in range(20))]
    (tmp_path / "table.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    (tmp_path / "names.json").write_text(json.dumps({"10": "an apple", "9": "a bee"}))
    dataset = build(tmp_path, CSV="table.csv")
    assert dataset.classnames == ["9", "10"]  # numbers in numerical order
    dataset = build(tmp_path, CSV="table.csv", CLASSNAMES_FILE="names.json")
    assert dataset.classnames == ["an apple", "a bee"]  # the file's order
    assert sizes(dataset) == [10, 4, 6]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("a.jpg,cat\n../b.jpg,dog", "line 2: path '../b.jpg' leaves"),
        ("a.jpg,cat\n/etc/b.jpg,dog", "line 2: path"),
        ("a.jpg,cat\nb.jpg", "line 2: expected path,label"),
        ("a.jpg,cat\na.jpg,dog", "line 2: a.jpg is listed in line 1"),
        ("a.jpg,cat,trian", "line 1: split 'trian'; choose from train, val, test"),
        ("a.jpg,cat,train\nb.jpg,cat", "b.jpg has no split"),
        ("a.jpg,cat,test\nb.jpg,cat,test", "no training images"),
        ("gone.jpg,cat\nb.jpg,cat\na.jpg,dog\nc.jpg,dog", "gone.jpg, not found"),
        ("", "no images"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, rows, complaint):
    touch(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(UsageError) as raised:
        build(tmp_path, CSV="table.csv")
    assert complaint in str(raised.value)


def test_class_names_file_and_folders_must_agree(tree):
    names = tree / "names.json"
    names.write_text(json.dumps({"dog": "Dog", "red fox": "Fox", "cat": "Cat"}))
    dataset = build(tree, IMAGE_DIR="pets", CLASSNAMES_FILE="names.json")
    assert dataset.classnames == ["Dog", "Fox", "Cat"]
    assert listing(dataset.test, tree / "pets")[0][0].startswith("dog/")
    names.write_text(json.dumps({"dog": "Dog", "red fox": "Fox"}))
    with pytest.raises(UsageError, match="names no class 'cat'"):
        build(tree, IMAGE_DIR="pets", CLASSNAMES_FILE="names.json")
    names.write_text(json.dumps({"dog": "D", "red fox": "F", "cat": "C", "cow": "W"}))
    with pytest.raises(UsageError, match="no image of class 'cow'"):
        build(tree, IMAGE_DIR="pets", CLASSNAMES_FILE="names.json")


def test_two_classes_may_share_a_name(tree):
    """As ImageNet's cranes do: labels follow the key, not the name."""
    (tree / "names.json").write_text(json.dumps({"dog": "pet", "cat": "pet", "red fox": "fox"}))
    assert build(tree, IMAGE_DIR="pets", CLASSNAMES_FILE="names.json").num_classes == 3


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("n.txt", "n1 a cat\nn2\n", "'n2' has no name"),
        ("n.txt", "n1 a cat\nn1 a dog\n", "named twice"),
        ("n.json", '{"a": 1}', "expected"),
        ("n.json", '{"a": "x", "a": "y"}', "named twice"),
        ("n.json", "5", "expected"),
        ("n.json", "{", "not readable"),
    ],
)
def test_unusable_name_files(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_classnames(tmp_path / name)


def test_what_was_not_given_is_said(tmp_path):
    with pytest.raises(UsageError, match="IMAGE_DIR FOLDER"):
        build(tmp_path)
    with pytest.raises(UsageError, match="nowhere .DATASET.IMAGE_DIR"):
        build(tmp_path, IMAGE_DIR="nowhere")
    with pytest.raises(UsageError, match="nothing.csv .DATASET.CSV"):
        build(tmp_path, CSV="nothing.csv")
