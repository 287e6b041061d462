import json

import pytest
from fake_trees import EUROSAT, make_split
from hypothesis import given, settings
from hypothesis import strategies as st

from dassl.utils import UsageError
from datasets import splits


def write(folder, content):
    path = folder / "split_zhou_X.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_what_was_written(tmp_path):
    split = make_split(EUROSAT, (2, 1, 3))
    train, val, test = splits.read_split(write(tmp_path, split))
    assert train == [tuple(entry) for entry in split["train"]]
    assert (len(val), len(test)) == (10, 30)
    assert splits.check_labels((train, val, test), "X") == list(EUROSAT.values())


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (["../secret.jpg", 0, "a"], "leaves the image folder"),
        (["a/../../secret.jpg", 0, "a"], "leaves the image folder"),
        (["/etc/passwd", 0, "a"], "leaves the image folder"),
        (["..\\secret.jpg", 0, "a"], "leaves the image folder"),
        (["C:\\secret.jpg", 0, "a"], "leaves the image folder"),
        (["\\\\host\\x.jpg", 0, "a"], "leaves the image folder"),
        (["a\0.jpg", 0, "a"], "leaves the image folder"),
        (["", 0, "a"], "leaves the image folder"),
        ([7, 0, "a"], "leaves the image folder"),
        (["a.jpg", -1, "a"], "label -1"),
        (["a.jpg", "0", "a"], "label '0'"),
        (["a.jpg", True, "a"], "label True"),
        (["\ud800/a.jpg", 0, "a"], "leaves the image folder"),
        (["a.jpg", 0, " "], "no class name"),
        (["a.jpg", 0, "a\nb"], "control character"),
        (["a.jpg", 0, "\udcc4"], "not UTF-8 text"),
        (["a.jpg", 0, "a" * 301], "has 301 letters"),
        (["a.jpg", 0], "expected"),
        ("a.jpg", "expected"),
    ],
)
def test_names_the_first_unusable_entry(tmp_path, entry, complaint):
    split = {"train": [["ok.jpg", 0, "a"], entry], "val": [], "test": []}
    with pytest.raises(UsageError, match="train") as raised:
        splits.read_split(write(tmp_path, split))
    assert complaint in str(raised.value)
    assert "train[1]" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"train": []}', "[" * 100_000, '{"train": 1}'])
def test_refuses_other_files(tmp_path, content):
    with pytest.raises(UsageError, match="split_zhou_X.json"):
        splits.read_split(write(tmp_path, content))


def test_an_image_has_one_label(tmp_path):
    split = {
        "train": [["a.jpg", 0, "a"], ["b.jpg", 1, "b"]],
        "val": [],
        "test": [["a.jpg", 1, "b"]],
    }
    with pytest.raises(UsageError, match="a.jpg has label 1 and, in another entry, 0"):
        splits.read_split(write(tmp_path, split))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
ENTRY = st.tuples(st.text(max_size=12), st.integers(-1, 4), st.text(max_size=3)).map(list) | JSON


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({part: st.lists(ENTRY, max_size=5) for part in splits.SPLITS}))
def test_any_content_is_read_or_refused(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), content)
    try:
        split = splits.read_split(path)
        names = splits.check_labels(split, "X")
    except UsageError as error:
        assert str(error).splitlines() == [str(error)]
        return
    entries = [entry for part in split for entry in part]
    assert {label for _, label, _ in entries} == set(range(len(names)))
    assert all(names[label] == name for _, label, name in entries)
    root = path.parent / "images"
    for image, _, _ in entries:
        assert (root / image).resolve().is_relative_to(root.resolve())


@pytest.mark.parametrize(
    ("train", "test", "complaint"),
    [
        ([("a", 0, "cat"), ("b", 2, "dog")], [], "b has label 2 and no training image has label 1"),
        ([("a", 0, "cat"), ("b", 0, "dog")], [], "'cat' for a but 'dog' for b"),
        ([("a", 0, "cat")], [("b", 1, "dog")], "b (test) has label 1 (dog)"),
        ([("a", 0, "cat")], [("b", 0, "dog")], "'cat' for a but 'dog' for b"),
    ],
)
def test_labels_must_agree(train, test, complaint):
    with pytest.raises(UsageError) as raised:
        splits.check_labels((train, [], test), "X")
    assert complaint in str(raised.value)


def test_what_is_unusual_is_noted():
    train = [("1", 0, "a"), ("2", 1, "b"), ("1", 0, "a")]
    lists = (train, [("1", 0, "a")], [("3", 0, "a")])
    assert splits.notes_on(lists) == [
        "no test images of b",
        "1 validation images train, too, such as 1",
        "train lists 1 2 times",
    ]
    test = [("3", 0, "a"), ("4", 1, "b")]
    assert splits.notes_on((test, [], test)) == []


def test_missing_images_keep_their_order(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    asked = ["b/2.jpg", "a/1.jpg", "a/0.jpg"]
    assert splits.missing_images(tmp_path, asked) == ["b/2.jpg", "a/0.jpg"]


@settings(deadline=None)
@given(st.integers(2, 300))
def test_cut_covers_everything_once(count):
    train, val, test = splits.cut(list(range(count)))
    assert train + val + test == list(range(count))
    assert train and test
    if count >= 10:  # upstream's own figures
        assert len(train) == round(count * 0.5) and len(val) == round(count * 0.2)


def test_drawn_splits_repeat_and_do_not_depend_on_listing_order():
    paths = [f"{k}.jpg" for k in range(10)]
    first = splits.draw_split([("a", paths), ("b", paths)], "X")
    again = splits.draw_split([("a", paths[::-1]), ("b", paths[3:] + paths[:3])], "X")
    assert first == again
    assert [len(part) for part in first] == [10, 4, 6]
    assert [path for path, _, _ in first[0][:5]] != paths[:5]
    with pytest.raises(UsageError, match="'b' has 1 image"):
        splits.draw_split([("a", paths), ("b", paths[:1])], "X")


def test_val_is_a_fifth_of_every_class():
    trainval = [(f"{label}/{k}", label, str(label)) for label in range(3) for k in range(10)]
    train, val = splits.draw_val(trainval)
    assert sorted(train + val) == trainval
    assert [sum(entry[1] == label for entry in val) for label in range(3)] == [2, 2, 2]
    assert splits.draw_val([("a", 0, "x")]) == ([("a", 0, "x")], [])
