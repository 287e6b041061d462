"""Transforms: which, in which order, and what they do to an image."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from dassl_toy import few
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dassl.config import get_cfg_default
from dassl.config.defaults import TRANSFORMS
from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from dassl.utils import UsageError, seeded

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def input_cfg(*choices, size=(64, 64), **options):
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = size
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.PIXEL_MEAN = CLIP_MEAN
    cfg.INPUT.PIXEL_STD = CLIP_STD
    cfg.INPUT.TRANSFORMS = choices
    for name, value in options.items():
        cfg.INPUT[name] = value
    return cfg


def picture(width=80, height=72):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def names(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_what_upstream_recorded():
    """Reprs of the transforms under which the golden numbers were recorded."""
    cfg = input_cfg("normalize")
    assert str(build_transform(cfg, is_train=True)) == (
        "Compose(\n"
        "    Resize(size=(64, 64), interpolation=bicubic, max_size=None, antialias=True)\n"
        "    ToTensor()\n"
        f"    Normalize(mean={CLIP_MEAN}, std={CLIP_STD})\n"
        ")"
    )
    assert str(build_transform(cfg, is_train=False)) == (
        "Compose(\n"
        "    Resize(size=64, interpolation=bicubic, max_size=None, antialias=True)\n"
        "    CenterCrop(size=(64, 64))\n"
        "    ToTensor()\n"
        f"    Normalize(mean={CLIP_MEAN}, std={CLIP_STD})\n"
        ")"
    )


def test_order_does_not_depend_on_the_list():
    expected = [
        "RandomCrop",
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "ColorJitter",
        "RandomGrayscale",
        "RandomApply",
        "ToTensor",
        "Normalize",
    ]
    for choices in (TRANSFORMS, TRANSFORMS[::-1]):
        assert names(build_transform(input_cfg(*choices))) == expected


def test_a_random_crop_replaces_the_resize():
    assert names(build_transform(input_cfg()))[0] == "Resize"
    assert names(build_transform(input_cfg("random_crop")))[0] == "RandomCrop"
    crop = build_transform(input_cfg("random_resized_crop", RRCROP_SCALE=(0.5, 1.0))).transforms[0]
    assert tuple(crop.scale) == (0.5, 1.0)
    assert crop.interpolation == INTERPOLATION_MODES["bicubic"]


def test_nothing_random_happens_in_testing():
    transform = build_transform(input_cfg(*TRANSFORMS), is_train=False)
    assert names(transform) == ["Resize", "CenterCrop", "ToTensor", "Normalize"]


def test_training_squashes_and_testing_crops():
    image = picture()
    to_tensor = T.ToTensor()
    squashed = to_tensor(image.resize((64, 64), Image.Resampling.BICUBIC))
    assert torch.equal(build_transform(input_cfg())(image), squashed)
    # 80 x 72: the shorter side becomes 64, the longer 71; 3 columns go left and 4 right.
    resized = image.resize((71, 64), Image.Resampling.BICUBIC)
    cropped = to_tensor(resized.crop((4, 0, 68, 64)))
    assert torch.equal(build_transform(input_cfg(), is_train=False)(image), cropped)


def test_choices_can_be_given_instead():
    cfg = input_cfg("random_flip", "normalize")
    assert names(build_transform(cfg, choices=[])) == ["Resize", "ToTensor"]


def test_printed_steps(capsys):
    build_transform(input_cfg("random_resized_crop", "random_flip", "normalize"))
    assert capsys.readouterr().out.splitlines() == [
        "Building transform_train",
        "+ random resized crop (size=(64, 64), scale=(0.08, 1.0))",
        "+ random flip",
        "+ to torch tensor of range [0, 1]",
        f"+ normalization (mean={CLIP_MEAN}, std={CLIP_STD})",
    ]


def test_no_transform():
    assert build_transform(input_cfg(NO_TRANSFORM=True)) is None


@pytest.mark.parametrize(
    ("cfg", "named"),
    [
        (input_cfg("random_flipp"), "random_flip"),
        (input_cfg(INTERPOLATION="cubic"), "bicubic"),
        (input_cfg(size=(64,)), r"INPUT.SIZE.*\(64,\)"),
        (input_cfg(size=(64, 0)), "INPUT.SIZE"),
    ],
)
def test_wrong_settings(cfg, named):
    with pytest.raises(UsageError, match=named):
        build_transform(cfg)


@pytest.mark.parametrize("choice", [c for c in TRANSFORMS if c not in ("normalize", "center_crop")])
def test_every_choice_runs_repeats_and_can_change_the_image(choice):
    transform = build_transform(input_cfg(choice, size=(32, 32), GB_K=5))
    plain = build_transform(input_cfg(size=(32, 32)))(picture())
    outcomes = []
    for seed in range(12):
        with seeded(seed):
            first = transform(picture())
        with seeded(seed):
            assert torch.equal(transform(picture()), first)
        assert first.shape == (3, 32, 32)
        assert torch.isfinite(first).all()
        outcomes.append(not torch.equal(first, plain))
    assert any(outcomes)


@few
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["random_resized_crop", "colorjitter", "center_crop"]),
)
def test_any_image_becomes_the_configured_size(width, height, size, choice):
    cfg = input_cfg(choice, "random_flip", "normalize", size=size)
    for is_train in (True, False):
        tensor = build_transform(cfg, is_train=is_train)(picture(width, height))
        assert tensor.shape == (3, *size)
        assert tensor.dtype == torch.float32


def test_transforms_of_one_sample_do_not_touch_the_next():
    transform = build_transform(input_cfg("random_flip", "colorjitter", "gaussian_blur"))
    torch.manual_seed(0)
    random.seed(0)
    states = random.getstate(), torch.get_rng_state()
    with seeded(1):
        transform(picture())
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
