"""What lies below a folder: through links, each folder once, and never a part without a word."""

import os
from pathlib import Path

import pytest

from common.errors import UsageError
from common.walk import files_below, folders_with


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name in ("a/run/x.json", "b/.hidden/x.json", "b/y.txt", "z.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(root, found):
    return [Path(path).relative_to(root).as_posix() for path in found]


def test_all_files_in_order(tree):
    expected = ["a/run/x.json", "b/.hidden/x.json", "b/y.txt", "z.json"]
    assert names(tree, files_below(tree)) == expected
    visible = files_below(tree, is_left_out=lambda name: name.startswith("."))
    assert names(tree, visible) == ["a/run/x.json", "b/y.txt", "z.json"]
    assert names(tree, folders_with(tree, ["x.json", "z*"])) == [".", "a/run", "b/.hidden"]


def test_links_are_followed_once_and_never_in_circles(tree, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.json").touch()
    for name in ("c", "d"):
        (tree / name).symlink_to(tmp_path / "elsewhere")
    (tree / "a/latest").symlink_to("run")  # is below anyway: stays where it really is
    (tree / "a/run/up").symlink_to(tree)
    (tree / "nowhere.json").symlink_to(tmp_path / "gone")
    (tree / "self").symlink_to("self")
    found = names(tree, files_below(tree))
    assert sum(name.endswith("x.json") for name in found) == 3
    assert "c/x.json" in found and "a/run/x.json" in found
    assert {"nowhere.json", "self"} <= set(found)
    assert names(tree, folders_with(tree, ["x.json", "nowhere.json"])) == [
        *("a/run", "b/.hidden", "c")
    ]


def test_a_folder_that_cannot_be_listed_is_named(tree, monkeypatch):
    original = os.scandir

    def refusing(place):
        if Path(place).name == "run":
            raise PermissionError(13, "Permission denied", str(place))
        return original(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match="run: Permission denied"):
        files_below(tree)
