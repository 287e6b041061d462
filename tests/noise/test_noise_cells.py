import pytest

from common.errors import UsageError
from noise.cells import GROUPS, Cell, image_cell, in_order


def test_keys_go_there_and_back():
    for key in ("text/char/3/1", "both/blur+char/5/2", "image/jpeg/1/-", "adversarial/pgd/255/1"):
        assert Cell.from_key(key).key == key


@pytest.mark.parametrize(
    "key",
    ["", "text/char/3", "text/char/3/1/2", "words/char/3/1", "text//3/1", "text/char/x/1",
     "text/char/-1/1", "text/char/3/one", "text/char/³/1", "text/" + "c" * 200 + "/3/1"],
)  # fmt: skip
def test_other_keys_are_refused(key):
    with pytest.raises(UsageError, match="names no cell"):
        Cell.from_key(key)


def test_what_a_cell_perturbs():
    pair = Cell("both", "blur+char", 3, 2)
    assert (pair.image_kind, pair.text_kind) == ("blur", "char")
    assert pair.image_cell == Cell("image", "blur", 3, None)  # a blur draws nothing
    assert pair.text_cell == Cell("text", "char", 3, 2)
    released = image_cell("imagenet-c", "fog", 3, 2)
    assert released.image_cell == released and released.text_cell is None
    assert image_cell("imagenet-c-disk", "fog", 3, 2).seed is None  # there is one of each
    named = Cell("text-name", "char", 3, 2)
    assert named.text_cell == named and named.image_cell is None and named.text_kind == "char"
    for group in ("learned", "adversarial", "worst-text"):
        cell = Cell(group, "any", 1, 1)
        assert (cell.image_kind, cell.text_kind) == ("", "")
        assert cell.image_cell is None and cell.text_cell is None


def test_order_is_groups_then_kinds_then_severities_then_seeds():
    keys = [
        "text/char/1/1",
        "text/char/1/2",
        "text/char/5/1",
        "text/word/1/1",
        "text-name/case/1/1",
        "image/gaussian_noise/1/1",
        "image/blur/1/-",
        "image/motion_blur/1/1",
        "imagenet-c/motion_blur/1/1",
        "both/gaussian_noise+char/1/1",
        "both/gaussian_noise+embed/1/1",
        "both/blur+char/1/1",
        "learned/tokens/1/1",
        "adversarial/pgd/1/1",
    ]
    cells = [Cell.from_key(key) for key in reversed(keys)]
    assert [cell.key for cell in in_order(cells)] == keys


def test_groups_name_what_they_perturb():
    assert {group.of for group in GROUPS.values()} == {"text", "image", "both", "tokens", "attack"}
    assert all(kind.has_places for kind in GROUPS["text-name"].kinds.values())
    assert "embed" not in GROUPS["text-name"].kinds and "char" in GROUPS["text-name"].kinds
