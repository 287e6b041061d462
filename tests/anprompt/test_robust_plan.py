"""Kinds, severities and seeds as the command line names them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.robustness import plan as plans
from anprompt.robustness.images import select
from noise.image import IMAGE_KINDS
from noise.text import TEXT_KINDS


def make(noise="all", severities=(1, 3), seeds=(1, 2), has_descriptions=True, **changes):
    fields = plans.parse_noise(noise, has_descriptions)
    return plans.Plan(severities=severities, seeds=seeds, bounds=(1, 4), **{**fields, **changes})


def test_all_is_everything_but_attacks():
    plan = make()
    assert plan.text_kinds == tuple(TEXT_KINDS)
    assert plan.image_kinds == tuple(IMAGE_KINDS)
    assert plan.both and plan.learned and not plan.attacks
    assert "description" not in make(has_descriptions=False).text_kinds


def test_every_cell_once_and_none_twice_for_kinds_that_draw_nothing():
    cells = list(make("all,pgd").cells())
    assert len({cell.key for cell in cells}) == len(cells)
    drawing = sum(kind.draws for kind in IMAGE_KINDS.values())
    still = len(IMAGE_KINDS) - drawing
    by_group = {group: [c for c in cells if c.group == group] for group in plans.GROUPS}
    assert len(by_group["text"]) == len(TEXT_KINDS) * 2 * 2
    assert len(by_group["image"]) == (drawing * 2 + still) * 2
    assert len(by_group["both"]) == len(TEXT_KINDS) * len(IMAGE_KINDS) * 2 * 2
    assert len(by_group["learned"]) == 4
    assert [c.key for c in by_group["adversarial"]] == [
        "adversarial/pgd/1/1",
        "adversarial/pgd/4/1",
    ]


def test_a_pair_is_made_of_cells_that_exist():
    cells = set(make().cells())
    pairs = [cell for cell in cells if cell.group == "both"]
    assert pairs
    assert all(pair.image_cell in cells and pair.text_cell in cells for pair in pairs)


def test_keys_go_there_and_back():
    cells = list(make("all,pgd").cells())
    assert [plans.Cell.from_key(cell.key) for cell in cells] == cells
    assert set(plans.in_order(cells)) == set(cells)


@pytest.mark.parametrize(
    ("noise", "text", "image"),
    [
        ("char,blur", ("char",), ("blur",)),
        ("both,char", ("char",), tuple(IMAGE_KINDS)),
        ("text,jpeg", tuple(TEXT_KINDS), ("jpeg",)),
        ("pgd", (), ()),
    ],
)
def test_kinds_by_name(noise, text, image):
    plan = make(noise)
    assert (plan.text_kinds, plan.image_kinds) == (text, image)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("blurr", "blur"),
        ("gausian_noise", "gaussian_noise"),
        ("", "name a kind"),
        ("description", "--descriptions"),
    ],
)
def test_unknown_noise_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        plans.parse_noise(noise, has_descriptions=False)


def test_severities_and_seeds():
    assert plans.parse_severities("1-5") == (1, 2, 3, 4, 5)
    assert plans.parse_severities("5,1") == (5, 1)
    assert plans.parse_seeds("3") == (1, 2, 3)
    assert plans.parse_seeds("3,3") == (3,)
    assert plans.parse_seeds("4-6,9") == (4, 5, 6, 9)
    for bad in ("0", "6", "5-1", "2.5", "", "-1", "one"):
        with pytest.raises(ValueError, match="everity|severities"):
            plans.parse_severities(bad)
    for bad in ("0", "", "1.5"):
        with pytest.raises(ValueError, match="seed"):
            plans.parse_seeds(bad)
    with pytest.raises(ValueError, match="255"):
        plans.parse_bounds("0")


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40), number=st.integers(1, 45))
def test_images_are_chosen_evenly_and_by_path(labels, number):
    keys = [f"class{label}/{i}.jpg" for i, label in enumerate(labels)]
    chosen = select(keys, labels, number)
    assert len(chosen) == len(set(chosen)) == min(number, len(keys))
    taken = [sum(labels[i] == label for i in chosen) for label in range(5)]
    for label in range(5):  # no class has two more than one that still has images left
        if taken[label] < labels.count(label):
            assert max(taken) - taken[label] <= 1
    order = list(range(len(keys)))[::-1]
    again = select([keys[i] for i in order], [labels[i] for i in order], number)
    assert {keys[order[i]] for i in again} == {keys[i] for i in chosen}
