"""Kinds, severities and seeds as the command line names them."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.robustness.images import select
from anprompt.robustness.plan import (
    ATTACKS,
    parse_bounds,
    parse_plan,
    parse_seeds,
    parse_severities,
    pgd_step,
)
from common.errors import UsageError
from noise.cells import GROUPS
from noise.image import IMAGE_KINDS
from noise.imagenet_c import TEST_KINDS, VALIDATION_KINDS
from noise.masking import WHITE_BOX
from noise.text import CHEN_KINDS, FORM_KINDS, TEXT_KINDS

ROOT = Path(__file__).resolve().parents[2]


def make(noise="all", severities="1,3", seeds="2", has_descriptions=True):
    return parse_plan(noise, severities, seeds, "1,4", has_descriptions)


def test_needs_no_torch():
    code = "import sys, anprompt.robustness.plan; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_all_is_everything_but_attacks_and_other_suites():
    plan = make()
    assert plan.kinds == {"text": tuple(TEXT_KINDS), "image": tuple(IMAGE_KINDS)}
    assert plan.both and plan.learned and not plan.attacks and not plan.worst_text
    assert "description" not in make(has_descriptions=False).kinds["text"]


def test_every_cell_once_and_none_twice_for_kinds_that_draw_nothing():
    cells = list(make("all,pgd").cells())
    assert len({cell.key for cell in cells}) == len(cells)
    drawing = sum(kind.draws for kind in IMAGE_KINDS.values())
    still = len(IMAGE_KINDS) - drawing
    by_group = {group: [c for c in cells if c.group == group] for group in GROUPS}
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


@pytest.mark.parametrize(
    ("noise", "kinds"),
    [
        ("char,blur", {"text": ("char",), "image": ("blur",)}),
        ("both,char", {"text": ("char",), "image": tuple(IMAGE_KINDS)}),
        ("text,jpeg", {"text": tuple(TEXT_KINDS), "image": ("jpeg",)}),
        ("pgd", {}),
        ("imagenet-c", {"imagenet-c": tuple(TEST_KINDS)}),
        ("imagenet-c-val", {"imagenet-c-val": tuple(VALIDATION_KINDS)}),
        ("imagenet-c-disk:fog", {"imagenet-c-disk": ("fog",)}),
        # The same name means this project's kind, and ImageNet-C's with its group.
        ("contrast,imagenet-c:contrast", {"image": ("contrast",), "imagenet-c": ("contrast",)}),
        ("text-chen", {"text-chen": tuple(CHEN_KINDS)}),
        ("text-form", {"text-form": tuple(FORM_KINDS)}),
        ("case,char_swap", {"text-chen": ("char_swap",), "text-form": ("case",)}),
        # In one place alone: the kinds that are asked for, where they can be; else typing errors.
        ("text-name,embed,char_swap,one_edit",
         {"text": ("embed",), "text-chen": ("char_swap",), "text-form": ("one_edit",),
          "text-name": ("char_swap", "one_edit")}),
        ("text-name,text-template", {"text-name": ("char",), "text-template": ("char",)}),
        ("text-template:case", {"text-template": ("case",)}),
    ],
)  # fmt: skip
def test_kinds_by_name(noise, kinds):
    assert make(noise).kinds == kinds


def test_attacks_and_presets():
    assert make("pgd100,apgd").attacks == (
        ("pgd100", 1), ("pgd100", 4), ("apgd", 1), ("apgd", 4)
    )  # fmt: skip
    assert make("adversarial").attacks == (("pgd", 1), ("pgd", 4))
    assert make("eps4,eps1").attacks == (("pgd100", 4), ("pgd100", 1))
    masking = parse_plan("masking,eps1", eps="1").attacks
    assert set(masking) == {
        *((kind, 1) for kind in ("pgd2", "pgd10", "pgd100", "transfer", "square")),
        ("pgd100", 255),
    }
    assert len(masking) == len(set(masking))
    assert make("worst-text").worst_text
    assert all(attack.about for attack in ATTACKS.values())


def test_steps_of_the_protocols():
    """1/255 at both bounds: eps1 takes the bound, eps4 a quarter of it."""
    assert pgd_step("pgd100", 1) == pgd_step("pgd100", 4) == pgd_step("pgd2", 1) == 1 / 255
    assert pgd_step("pgd100", 8) == 2 / 255
    assert pgd_step("pgd", 1) == 0.25 / 255 and pgd_step("pgd", 4) == 1 / 255


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("blurr", "blur"),
        ("gausian_noise", "gaussian_noise"),
        ("", "name a kind"),
        ("description", "--descriptions"),
        ("imagenet-c:blur", "imagenet-c noise"),
        ("imagenet:fog", "Did you mean imagenet-c"),
        ("fog", "Unknown noise"),
        ("text-name:word", "text-name noise"),
        ("adversarial:pgd2", "group adversarial has no kinds of its own; attacks go by their name"),
        ("learned:tokens", "group learned has no kinds"),
    ],
)
def test_unknown_noise_is_refused(noise, message):
    with pytest.raises(UsageError, match=message):
        parse_plan(noise)


def test_severities_and_seeds():
    assert parse_severities("1-5") == (1, 2, 3, 4, 5)
    assert parse_severities("5,1") == (5, 1)
    assert parse_seeds("3") == (1, 2, 3)
    assert parse_seeds("3,3") == (3,)
    assert parse_seeds("4-6,9") == (4, 5, 6, 9)
    for bad in ("0", "6", "5-1", "2.5", "", "-1", "one", "³"):
        with pytest.raises(UsageError, match="everity|severities"):
            parse_severities(bad)
    for bad in ("0", "", "1.5", "1-99999999", "99999999"):
        with pytest.raises(UsageError, match="seed"):
            parse_seeds(bad)
    for bad in ("0", "256", "-4"):
        with pytest.raises(UsageError, match="eps"):
            parse_bounds(bad)


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


def test_every_attack_is_white_box_or_known_not_to_be():
    assert {*ATTACKS} == {*WHITE_BOX, "transfer", "square", "autoattack"}
