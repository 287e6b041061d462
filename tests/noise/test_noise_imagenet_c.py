"""ImageNet-C made here against what its released code made of the same pictures and draws."""

import importlib.util
import io
import os

import numpy as np
import pytest
from PIL import Image
from released_imagenet_c import FILES, GOLDEN, NEEDS, frost_pictures, picture, places, released

from common.errors import UsageError
from noise.imagenet_c import (
    ALL_KINDS,
    CATEGORIES,
    SIZES,
    TEST_KINDS,
    VALIDATION_KINDS,
    corrupt,
    nearest_size,
)
from noise.metrics import ALEXNET_ERRORS
from noise.seeding import rng_for

every_kind = pytest.mark.parametrize("kind", ALL_KINDS)
every_size = pytest.mark.parametrize("size", SIZES)


def made(kind, severity, size, rng, **options):
    options = {"as_jpeg": False, "frost": frost_pictures(), **options}
    return corrupt(picture(size), kind, severity, rng, size=size, **options)


@every_size
@every_kind
def test_equals_the_released_code_to_one_level(kind, size):
    """Cut to whole numbers, the last digit of a sum decides a level here and there."""
    if np.random.default_rng(1).integers(10**9) != 511_821_624:
        pytest.skip(f"NumPy {np.__version__} draws other random numbers than were recorded")
    recorded = np.load(GOLDEN)[f"{kind}_{size}"].astype(int)
    for severity, expected in enumerate(recorded, start=1):
        image = made(kind, severity, size, np.random.default_rng(severity))
        difference = np.abs(np.asarray(image).reshape(-1)[places(size)] - expected)
        assert difference.max() <= 1, severity
        assert (difference > 0).mean() <= 0.1, severity


@pytest.mark.slow
@every_size
def test_equals_the_released_code_run_beside_it(size):
    checkout = os.environ.get("ROBUSTNESS_REPO")
    if not checkout:
        pytest.skip("ROBUSTNESS_REPO names no checkout of github.com/hendrycks/robustness")
    for name in NEEDS:
        if importlib.util.find_spec(name.split(".")[0]) is None:
            pytest.skip(f"{name} is not installed, which the released code needs")
    run = released(checkout, size)
    for kind in ALL_KINDS:
        for severity in (1, 3, 5):
            theirs = run(kind, picture(size, 4), severity, np.random.default_rng(severity))
            ours = corrupt(
                picture(size, 4), kind, severity, np.random.default_rng(severity),
                size=size, as_jpeg=False, frost=frost_pictures(),
            )  # fmt: skip
            difference = np.abs(np.asarray(ours).astype(int) - theirs)
            assert difference.max() <= 1, (kind, severity)
            assert difference.mean() <= 0.1, (kind, severity)


def test_there_are_fifteen_and_four():
    assert (len(TEST_KINDS), len(VALIDATION_KINDS)) == (15, 4)
    assert set(TEST_KINDS) == set(ALEXNET_ERRORS)
    counts = [sum(k.category == c for k in TEST_KINDS.values()) for c in CATEGORIES]
    assert counts == [3, 4, 4, 4]
    assert set(FILES) == set(SIZES)
    assert all(len(values) == 5 for k in ALL_KINDS.values() for values in k.values.values())


@every_kind
def test_repeats_leaves_the_image_alone_and_says_whether_it_draws(kind):
    image = picture(32)
    before = image.tobytes()
    results = [
        corrupt(image, kind, 3, rng_for(seed, kind), size=32, frost=frost_pictures())
        for seed in (1, 1, 2, 3, 4)
    ]
    assert {(result.mode, result.size) for result in results} == {("RGB", (32, 32))}
    assert results[0].tobytes() == results[1].tobytes()
    assert (len({result.tobytes() for result in results}) > 1) == ALL_KINDS[kind].draws
    assert image.tobytes() == before
    clean = corrupt(image, kind, 0, rng_for(1), size=32)
    assert clean.tobytes() == before and clean is not image


def test_values_are_cut_not_rounded():
    # Mean of each channel is 100; distances times 0.4 leave 100 + 0.4 * 4 = 101.6.
    pixels = np.full((4, 4, 3), 100, dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 104, 96
    corrupted = corrupt(Image.fromarray(pixels), "contrast", 1, rng_for(1), size=224, as_jpeg=False)
    assert np.asarray(corrupted)[0, 0].tolist() == [101] * 3
    assert np.asarray(corrupted)[0, 1].tolist() == [98] * 3


@pytest.mark.parametrize(("size", "saved"), [(224, True), (64, True), (32, False)])
def test_pictures_are_saved_as_the_released_ones_were(size, saved):
    plain = made("contrast", 1, size, rng_for(1))
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=85)
    through_jpeg = Image.open(buffer).convert("RGB")
    default = made("contrast", 1, size, rng_for(1), as_jpeg=None)
    assert default.tobytes() == (through_jpeg if saved else plain).tobytes()
    assert made("contrast", 1, size, rng_for(1), as_jpeg=True).tobytes() == through_jpeg.tobytes()


@pytest.mark.parametrize(
    ("side", "size"), [(224, 224), (336, 224), (128, 224), (119, 64), (48, 64), (45, 32), (8, 32)]
)
def test_nearest_size(side, size):
    assert nearest_size(side) == size


@every_kind
@pytest.mark.parametrize(("side", "size"), [(48, 64), (336, 224), (20, 32)])
def test_other_sizes_take_the_nearest_table(kind, side, size):
    image = corrupt(picture(side), kind, 5, rng_for(1), size=size, frost=frost_pictures())
    assert image.size == (side, side)


def test_bad_input():
    with pytest.raises(UsageError, match="Did you mean jpeg_compression"):
        corrupt(picture(32), "jpeg_compresion", 1, rng_for(1), size=32)
    with pytest.raises(UsageError, match="give 1 to 5"):
        corrupt(picture(32), "fog", 6, rng_for(1), size=32)
    with pytest.raises(ValueError, match="needs its pictures"):
        corrupt(picture(32), "frost", 1, rng_for(1), size=32)
    with pytest.raises(ValueError, match="square RGB"):
        corrupt(picture(32).crop((0, 0, 32, 20)), "fog", 1, rng_for(1), size=32)
