import json
import os

import pytest
from fake_trees import listing, make_cfg, touch

from dassl.utils import UsageError
from datasets.classnames import read_classnames
from datasets.folders import Found
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


def test_val_serves_as_test(tmp_path, caplog):
    touch(
        tmp_path, [f"{part}/{c}/{k}.png" for part in ("train", "val") for c in "ab" for k in "12"]
    )
    assert sizes(build(tmp_path, IMAGE_DIR=tmp_path)) == [4, 4, 4]
    assert "val is the test set" in caplog.text


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ([], "no images under {}; names that count end in .jpg"),
        (["a/1.png", "b/1.png", "b/2.png"], "'a' has 1 image"),
        (["a/1.png", "a/2.png"], "1 class"),
        (["train/a/1.png", "train/b/1.png"], "neither val nor test"),
        (["train/a/1.png", "extra/b/1.png"], "{} has train beside extra"),
        (["test/a/1.png", "cat/1.png"], "{} has test beside cat"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "no training image"),
        (["val/a/1.png", "test/a/1.png"], "{} has val and test but no folder train"),
        (["Test/a/1.png"], "{} has Test but no folder train"),
        (["train/a/1.png", "Training/a/1.png", "test/a/1.png"], "and train both mean train"),
        (["1.png", "2.png"], "{} has no class folders: 2 images in it directly"),
        (["1.heic", "2.HEIC"], "{} but 2 .heic (HEIC photographs are not read: save them as JPEG)"),
        (["a/1.png", "b/notes.txt"], "class folder {}/b holds no image (1 .txt); fill or remove"),
        (["a/1.png", "b/1.xyz", "c/d/2.xyz"], "{}/b holds no image (1 .xyz); fill or remove it; "),
        (["train/a/1.png", "test/1.png"], "{}/test has no class folders: 1 image in it directly"),
        (["pets/a/1.png", "pets/b/1.png"], "one folder, pets, and that a, b; name {}/pets if"),
    ],
)
def test_unusable_trees_are_refused(tmp_path, paths, complaint):
    touch(tmp_path / "x", paths)
    (tmp_path / "x").mkdir(exist_ok=True)
    with pytest.raises(UsageError) as raised:
        build(tmp_path, IMAGE_DIR="x")
    assert complaint.format(tmp_path / "x") in str(raised.value)


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Test"), ("Training", "Testing"), ("TRAIN", "valid", "TEST"),
        ("train", "Validation", "test"), ("train_set", "test_set"), ("TrainData", "test-images"),
    ],
)  # fmt: skip
def test_parts_by_other_names(tmp_path, names):
    touch(tmp_path, [f"{part}/{c}/{part}{k}.png" for part in names for c in "ab" for k in range(5)])
    dataset = build(tmp_path, IMAGE_DIR=tmp_path)
    assert dataset.classnames == ["a", "b"]
    assert sizes(dataset) == ([10, 10, 10] if len(names) == 3 else [8, 2, 10])


def test_what_is_left_out_is_said(tree, caplog):
    names = ["dog/x.heic", "1.png", "2.png", "cat/a/b.xyz", "__MACOSX/dog/._1.jpg", "dog/Thumbs.db"]
    touch(tree / "pets", names)
    dataset = build(tree, IMAGE_DIR="pets")
    assert sizes(dataset) == [15, 6, 9]
    notes = [record.getMessage() for record in caplog.records]
    assert notes == [
        f"ImageFolder: 2 images in {tree / 'pets'} itself: in no class folder, left out",
        "ImageFolder: 3 files left out, no images by their names: 1 .txt, 1 .xyz, 1 .heic (HEIC "
        "photographs are not read: save them as JPEG), such as cat/notes.txt",
    ]


def test_further_suffixes_are_images(tmp_path):
    suffixes = ["jfif", "jpe", "pgm", "avif", "tif", "webp", "JPEG", "ppm", "bmp", "gif"]
    touch(tmp_path, [f"x/{c}/1.{suffix}" for c in "ab" for suffix in suffixes])
    assert sizes(build(tmp_path, IMAGE_DIR="x")) == [10, 4, 6]


TWO_PARTS = [f"{part}/{c}/{k}.png" for part in ("train", "test") for c in "ab" for k in "12"]


def test_folders_without_images_beside_the_parts(tmp_path, caplog):
    touch(tmp_path, TWO_PARTS)
    touch(tmp_path, ["annotations/a.json"])
    assert sizes(build(tmp_path, IMAGE_DIR=tmp_path)) == [2, 2, 4]
    assert "annotations: no image in it, left out" in caplog.text


def test_a_class_without_test_images_is_said(tmp_path, caplog):
    touch(tmp_path, [f"train/{c}/{k}.png" for c in "abc" for k in "123"] + ["test/a/1.png"])
    assert build(tmp_path, IMAGE_DIR=tmp_path).num_classes == 3
    assert "no test images of b, c" in caplog.text


def test_links_to_folders_are_followed_once(tmp_path):
    touch(
        tmp_path, [f"elsewhere/{k}.png" for k in range(3)] + ["x/a/1.png", "x/b/1.png", "x/b/2.png"]
    )
    (tmp_path / "x" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    assert sum(sizes(build(tmp_path, IMAGE_DIR="x"))) == 6
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "x" / "a")
    with pytest.raises(UsageError, match="a link back to"):
        build(tmp_path, IMAGE_DIR="x")


def test_what_is_no_regular_file_is_said(tree, caplog):
    os.mkfifo(tree / "pets" / "dog" / "pipe.jpg")
    (tree / "pets" / "dog" / "broken.jpg").symlink_to("nowhere")
    assert sizes(build(tree, IMAGE_DIR="pets")) == [15, 6, 9]
    assert "3 files left out, no images by their names: 2 .jpg, 1 .txt (broken links" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed(tree):
    (tree / "pets" / "dog").chmod(0)
    with pytest.raises(UsageError, match="pets/dog: Permission denied"):
        build(tree, IMAGE_DIR="pets")
    (tree / "pets" / "dog").chmod(0o755)


def test_a_folder_that_cannot_be_listed_is_a_problem(tree, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match="^ImageFolder: .*/pets/dog: Permission denied$"):
        build(tree, IMAGE_DIR="pets")


@pytest.mark.parametrize(
    "folders",
    [
        ("golden_retriever", "golden retriever"),
        ("ketch", "Ketch"),
        ("a&amp;b", "a&b"),
        ("ketch", "ke\u200btch"),
        ("ketch", "\u202eketch"),
    ],
    ids=ascii,
)
def test_two_classes_of_one_name_are_refused(tmp_path, folders):
    touch(tmp_path, [f"x/{c}/{k}.png" for c in (*folders, "dog") for k in "1234"])
    with pytest.raises(UsageError, match="classes '.*', '.*' have one name in prompts"):
        build(tmp_path, IMAGE_DIR="x")


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    """As folders of an archive that was packed on another system."""
    touch(tmp_path, [f"x/{c}/{k}.png" for c in "ab" for k in "1234"])
    try:
        os.rename(tmp_path / "x" / "b", os.fsencode(tmp_path / "x") + b"/\xc4\xd6")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    with pytest.raises(UsageError, match="is not UTF-8 text; rename it"):
        build(tmp_path, IMAGE_DIR="x")


def test_so_many_for_training_and_the_rest_for_testing(tree):
    dataset = build(tree, IMAGE_DIR="pets", TRAIN_PER_CLASS=7)
    assert sizes(dataset) == [21, 0, 9]
    assert not {item.impath for item in dataset.train_x} & {item.impath for item in dataset.test}
    with pytest.raises(UsageError, match="class 'cat' has 10 image.*; a split takes 11 or more"):
        build(tree, IMAGE_DIR="pets", TRAIN_PER_CLASS=10)


def test_too_few_shots_are_said(tree, caplog):
    build(tree, shots=16, IMAGE_DIR="pets")
    assert (
        "class 'cat' has only 5 of the 16 images asked for, and 2 more classes too few"
        in caplog.text
    )


def test_classes_and_title(tree, caplog):
    caplog.set_level("INFO")
    assert build(tree, IMAGE_DIR="pets").title == "pets"
    assert "Classes: cat, dog, red fox" in caplog.text
    assert build(tree, IMAGE_DIR="pets", TITLE="My pets").title == "My pets"


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


@pytest.mark.parametrize(
    "header",
    ["label,path", "class,image", "label,file_name", "Label,FileName", "class_name,img path"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_with_header_in_any_order_and_class_names(tmp_path, header, encoding):
    touch(tmp_path, [f"{k}.jpg" for k in range(20)])
    rows = [header, *(f'"{10 - k % 2}","{k}.jpg"' for k in range(20))]
    (tmp_path / "table.csv").write_text("\r\n".join(rows), encoding=encoding)
    (tmp_path / "names.json").write_text(json.dumps({"10": "an apple", "9": "a bee"}))
    dataset = build(tmp_path, CSV="table.csv")
    assert dataset.classnames == ["9", "10"]  # numbers in numerical order
    dataset = build(tmp_path, CSV="table.csv", CLASSNAMES_FILE="names.json")
    assert dataset.classnames == ["an apple", "a bee"]  # the file's order
    assert sizes(dataset) == [10, 4, 6]


@pytest.mark.parametrize("sign", [";", "\t"])
def test_csv_of_other_spreadsheets(tmp_path, sign):
    touch(tmp_path, [f"{k}.jpg" for k in range(8)])
    rows = [sign.join((f"{k}.jpg", "ab"[k % 2], "Training" if k < 4 else "TEST")) for k in range(8)]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n\n")
    assert sizes(build(tmp_path, CSV="table.csv")) == [2, 2, 4]


@pytest.mark.parametrize("folders", [("1", "01", "001", "10", "9")])
def test_classes_of_one_number_have_one_order(tmp_path, folders):
    touch(tmp_path / "x", [f"{c}/{k}.jpg" for c in folders for k in range(10)])
    names = sorted(folders, key=lambda name: (int(name), name))
    found = Found()
    for keys in (folders, folders[::-1]):  # in whichever order a set has them
        reader = ImageFolder.reader(tmp_path, image_dir="x")
        assert list(reader._names_by_key(dict.fromkeys(keys), found)) == names
    assert build(tmp_path, IMAGE_DIR="x").classnames == names


def test_a_number_too_long_for_a_name_is_refused(tmp_path):
    touch(tmp_path, [f"{k}.jpg" for k in range(8)])
    rows = [f"{k}.jpg,{'7' * 5000 if k % 2 else '8'}" for k in range(8)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    with pytest.raises(UsageError, match="class name '77.* has 5,000 letters"):
        build(tmp_path, CSV="table.csv")


def test_numbers_for_class_names_and_unused_columns_are_said(tmp_path, caplog):
    touch(tmp_path, [f"{k}.jpg" for k in range(8)])
    rows = ["path,label,width", *(f"{k}.jpg,{k % 2},640" for k in range(8))]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    build(tmp_path, CSV="table.csv")
    assert "class names are numbers, so prompts say 'a photo of a 0.'" in caplog.text
    assert "columns that are not used: width" in caplog.text


def test_labels_that_are_hardly_names_are_said_or_refused(tmp_path, caplog):
    touch(tmp_path, [f"{k}.jpg" for k in range(12)])
    rows = ["path,label", *(f"{k}.jpg,{('nan', '7', 'owl')[k % 3]}" for k in range(12))]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    build(tmp_path, CSV="table.csv")
    assert "numbers as class names (7), so prompts say 'a photo of a 7.'" in caplog.text
    assert "class 'nan': is that a missing label?" in caplog.text
    (tmp_path / "table.csv").write_text("\n".join(rows).replace("owl", "_ _"))
    with pytest.raises(UsageError, match="class name '_ _' is empty in prompts"):
        build(tmp_path, CSV="table.csv")


def test_folders_that_hold_the_same_folders_may_be_splits(tmp_path, caplog):
    names = [f"{a}/{b}/{k}.jpg" for a in ("eval", "run1") for b in ("cat", "dog") for k in range(4)]
    touch(tmp_path, names)
    assert build(tmp_path, IMAGE_DIR=".").classnames == ["eval", "run1"]
    assert "eval, run1" in caplog.text and "hold the same folders (cat, dog)" in caplog.text
    caplog.clear()
    touch(tmp_path, ["run1/4.jpg"])
    build(tmp_path, IMAGE_DIR=".")
    assert "hold the same folders" not in caplog.text


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("a.jpg,cat\n../b.jpg,dog", "line 2: path '../b.jpg' leaves"),
        ("a.jpg,cat\n/etc/b.jpg,dog", "line 2: path"),
        ("a.jpg,cat\nb.jpg", "line 2: 1 cells where the first row has 2: 'b.jpg'"),
        (
            "path,label\na.jpg,cat,test\nb.jpg,dog,train",
            "line 2: 3 cells where the first row has 2",
        ),
        ("a.jpg,cat\nb.jpg,", "line 2: expected path,label"),
        ("a.jpg,cat\na.jpg,dog", "line 2: a.jpg is listed in line 1"),
        ("a.jpg,cat\n./a.jpg,dog", "line 2: a.jpg is listed in line 1"),
        ("a.jpg,cat,train\na.jpg,cat,test", "line 2: a.jpg is listed in line 1"),
        ("a.jpg,cat,trian", "line 1: split 'trian'; choose from train, val, test"),
        ("a.jpg,cat,train\nb.jpg,cat,", "b.jpg has no split"),
        ("a.jpg,cat,test\nb.jpg,cat,test", "no training images"),
        ("gone.jpg,cat\nb.jpg,cat\na.jpg,dog\nc.jpg,dog", "gone.jpg, not found"),
        ("", "no images"),
        (
            "id,species\na.jpg,cat",
            "line 1: expected path,label[,split], found 'id,species'; columns",
        ),
        ("file_name,species\na.jpg,cat", "line 1: no column is called label (or labels, class"),
        ("label,x\ncat,a.jpg", "line 1: no column is called path (or file, filename, file_name"),
        ("image,file_name,label\na.jpg,b,cat", "line 1: image and file_name both mean path"),
        ("a.jpg\nb.jpg", "line 1: expected path,label"),
        ('a.jpg,"cat\nb.jpg,dog', "line 2: not a CSV file (unexpected end of data)"),
        ("a.jpg,c\0t\nb.jpg,dog", "control character|table.csv, line 1: not a CSV"),
        ("a.jpg,cat\n" * 3, "(and 1 more)|line 3: a.jpg is listed in line 1 already"),
        ("a.jpg,Cat\nb.jpg,cat", "classes 'Cat', 'cat' have one name in prompts ('Cat')"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, rows, complaint):
    touch(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "table.csv").write_text(rows)
    with pytest.raises(UsageError) as raised:
        build(tmp_path, CSV="table.csv")
    assert any(part in str(raised.value) for part in complaint.split("|"))
    assert str(raised.value).splitlines() == [str(raised.value)]


@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_a_table_in_another_encoding(tmp_path, encoding):
    text = {"gbk": "a.jpg,\u732b\nb.jpg,\u72d7", "latin-1": "a.jpg,M\u00f6we\nb.jpg,dog"}[encoding]
    (tmp_path / "table.csv").write_text(text, encoding=encoding)
    with pytest.raises(UsageError, match="table.csv: not UTF-8 .*save it with the encoding UTF-8"):
        build(tmp_path, CSV="table.csv")


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


def test_all_problems_of_a_names_file_are_said(tree):
    (tree / "names.json").write_text(json.dumps({"dog": "pet", "cat": "pet", "cow": "cow"}))
    with pytest.raises(UsageError) as raised:
        build(tree, IMAGE_DIR="pets", CLASSNAMES_FILE="names.json")
    for part in (
        "names no class 'red fox'",
        "no image of class 'cow'",
        "classes 'dog', 'cat' have",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("n.txt", "n1 a cat\nn2\n", "'n2' has no name; lines are 'key class name' .keys with bla"),
        ("n.json", "[" * 100_000, "not readable"),
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


@pytest.mark.parametrize("text", ["\ufeffn1 a cat\nn2\ta dog", "n1  a cat\r\n\r\nn2 a dog\r\n"])
def test_names_files(tmp_path, text):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    assert read_classnames(tmp_path / "names.txt") == {"n1": "a cat", "n2": "a dog"}


def test_what_was_not_given_is_said(tmp_path):
    with pytest.raises(UsageError, match="IMAGE_DIR FOLDER"):
        build(tmp_path)
    with pytest.raises(UsageError, match="nowhere .DATASET.IMAGE_DIR"):
        build(tmp_path, IMAGE_DIR="nowhere")
    with pytest.raises(UsageError, match="nothing.csv .DATASET.CSV"):
        build(tmp_path, CSV="nothing.csv")
