"""Corruptions: every registered kind keeps its promises; exact examples of each."""

import io
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noise.image import IMAGE_KINDS, OCCLUDER, _path_weights, corrupt
from noise.seeding import rng_for

every_kind = pytest.mark.parametrize("kind", IMAGE_KINDS)


def picture(seed, width=48, height=48):
    """Discs of random colours before a gradient: smooth parts and edges, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    pixels = np.stack([x, y, (x + y) / 2], axis=2) * rng.uniform(80, 200, 3) + 30
    for _ in range(6):
        center_x, center_y, radius = rng.uniform(0.1, 0.9, 2).tolist() + [rng.uniform(0.05, 0.2)]
        pixels[np.hypot(x - center_x, y - center_y) < radius] = rng.uniform(0, 255, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def flat(value, width=48, height=48):
    return Image.new("RGB", (width, height), (value, value, value))


def array(image):
    return np.asarray(image, dtype=np.float64)


def difference(kind, severity, image, seed=0):
    return np.abs(array(corrupt(image, kind, severity, rng_for(seed, kind))) - array(image)).mean()


@every_kind
def test_what_draws_nothing_says_so(kind):
    image = picture(3)
    results = {corrupt(image, kind, 3, rng_for(seed, kind)).tobytes() for seed in range(5)}
    assert (len(results) > 1) == IMAGE_KINDS[kind].draws


@every_kind
@settings(max_examples=15, deadline=None)
@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    severity=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_any_image_gives_an_rgb_image_of_its_size_and_repeats(kind, width, height, severity, seed):
    image = picture(seed, width, height)
    before = image.tobytes()
    first, second = (corrupt(image, kind, severity, rng_for(seed, "image")) for _ in range(2))
    assert (first.mode, first.size) == ("RGB", image.size)
    assert first.tobytes() == second.tobytes()
    assert image.tobytes() == before
    assert first is not image


@every_kind
def test_severity_0_is_the_image(kind):
    assert corrupt(picture(1), kind, 0, rng_for(1)).tobytes() == picture(1).tobytes()


@every_kind
@pytest.mark.parametrize("size", [48, 224])
def test_severity_grows(kind, size):
    images = [picture(seed, size, size) for seed in range(4)]
    means = [
        np.mean([difference(kind, severity, image, i) for i, image in enumerate(images)])
        for severity in range(6)
    ]
    assert means[0] == 0
    assert all(low < high for low, high in zip(means, means[1:], strict=False)), means


@pytest.mark.parametrize("kind", ["gaussian_noise", "motion_blur", "occlusion", "brightness"])
def test_noise_depends_on_the_generator(kind):
    results = {corrupt(picture(1), kind, 3, rng_for(seed)).tobytes() for seed in range(8)}
    assert len(results) > 1


@pytest.mark.parametrize("kind", ["blur", "motion_blur", "jpeg", "low_resolution"])
def test_what_smooths_leaves_flat_images_alone(kind):
    for severity in range(1, 6):
        corrupted = corrupt(flat(128), kind, severity, rng_for(severity))
        assert np.abs(array(corrupted) - 128).max() <= 1


@pytest.mark.parametrize("kind", ["blur", "motion_blur", "occlusion", "contrast", "brightness"])
def test_small_and_large_pictures_suffer_alike(kind):
    small, large = (
        np.mean([difference(kind, 5, picture(seed, size, size), seed) for seed in range(4)])
        for size in (48, 224)
    )
    assert small == pytest.approx(large, rel=0.2)


# Exact examples; 3 is the middle of every table


@pytest.mark.parametrize(("size", "scale"), [(224, 1), (56, 1 / 2)])
def test_gaussian_noise_has_the_stated_deviation(size, scale):
    noise = array(corrupt(flat(128, size, size), "gaussian_noise", 3, rng_for(1))) - 128
    assert noise.std() / 255 == pytest.approx(0.16 * scale, rel=0.03)
    assert abs(noise.mean()) < 1


@pytest.mark.parametrize(("size", "photons"), [(224, 30), (56, 120)])
def test_shot_noise_has_the_deviation_of_photon_counts(size, photons):
    noise = array(corrupt(flat(102, size, size), "shot_noise", 3, rng_for(1))) - 102
    assert noise.std() / 255 == pytest.approx(math.sqrt(0.4 / photons), rel=0.03)
    assert abs(noise.mean()) < 1


def test_shot_noise_leaves_black_black():
    assert not array(corrupt(flat(0), "shot_noise", 5, rng_for(1))).any()


def test_blur_has_the_stated_deviation():
    image = flat(0, 201, 201)
    image.paste((255, 255, 255), (100, 0, 101, 201))  # a line: its profile is the kernel
    profile = array(corrupt(image, "blur", 5, rng_for(1)))[100, :, 0]
    x = np.arange(201) - 100
    deviation = math.sqrt((profile * x**2).sum() / profile.sum())
    assert deviation == pytest.approx(0.029 * 201, rel=0.1)


def test_motion_blur_is_the_mean_along_the_path():
    # Slow reference: bilinear samples along the same path, with edges held.
    image = picture(3, 21, 17)
    pixels = np.pad(array(image), ((9, 9), (9, 9), (0, 0)), mode="edge")
    angle = rng_for(5).uniform(0, math.pi)
    length = 0.15 * 17
    steps = np.linspace(-0.5, 0.5, 2 * math.ceil(length) + 1)
    expected = np.zeros((17, 21, 3))
    for row in range(17):
        for column in range(21):
            for t in steps:
                x = column + 9 + t * length * math.cos(angle)
                y = row + 9 + t * length * math.sin(angle)
                left, top = math.floor(x), math.floor(y)
                for i in (0, 1):
                    for j in (0, 1):
                        weight = (1 - abs(x - left - i)) * (1 - abs(y - top - j))
                        expected[row, column] += weight * pixels[top + j, left + i] / len(steps)
    corrupted = array(corrupt(image, "motion_blur", 5, rng_for(5)))
    assert np.abs(corrupted - expected).max() <= 0.51


@given(st.floats(-30, 30), st.floats(0, 30))
def test_path_weights_sum_to_one_around_the_origin(dx, dy):
    weights = _path_weights(dx, dy)
    assert sum(weights.values()) == pytest.approx(1)
    for axis in (0, 1):
        assert sum(offset[axis] * w for offset, w in weights.items()) == pytest.approx(0, abs=1e-9)
        farthest = max(abs(offset[axis]) for offset in weights)
        assert farthest <= math.ceil(abs((dx, dy)[axis]) / 2)


@pytest.mark.parametrize(
    ("size", "severity", "quality"), [(224, 1, 25), (224, 3, 12), (112, 1, 50), (56, 1, 75)]
)
def test_jpeg_is_pillows_at_the_quality_of_the_step(size, severity, quality):
    image = picture(1, size, size)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    expected = Image.open(buffer).convert("RGB")
    assert corrupt(image, "jpeg", severity, rng_for(1)).tobytes() == expected.tobytes()


def test_brightness_multiplies_or_divides_as_often():
    values = [
        array(corrupt(flat(60), "brightness", 3, rng_for(seed)))[0, 0, 0] for seed in range(200)
    ]
    assert set(values) == {90, 40}  # times and over 1.5
    assert 70 < values.count(90) < 130


def test_contrast_shrinks_distances_from_the_mean():
    image = flat(200)
    image.paste((100, 100, 100), (0, 0, 24, 48))
    values = array(corrupt(image, "contrast", 3, rng_for(1)))
    assert values[0, 47, 0] == pytest.approx(150 + 0.4 * 50, abs=1)
    assert values[0, 0, 0] == pytest.approx(150 - 0.4 * 50, abs=1)


@pytest.mark.parametrize(("width", "height"), [(100, 100), (120, 60)])
def test_occlusion_covers_the_stated_area_inside_the_image(width, height):
    for seed in range(20):
        corrupted = array(corrupt(flat(0, width, height), "occlusion", 5, rng_for(seed)))
        covered = (corrupted == OCCLUDER).all(axis=2)
        assert covered.mean() == pytest.approx(0.4, abs=0.02)
        rows, columns = np.nonzero(covered)
        assert covered[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_low_resolution_makes_blocks():
    image = picture(2, 224, 224)
    corrupted = array(corrupt(image, "low_resolution", 5, rng_for(1)))
    columns_with_change = (np.diff(corrupted, axis=1) != 0).any(axis=(0, 2)).sum()
    assert columns_with_change < 2 * round(0.22 * 224)
    assert np.abs(corrupted.mean() - array(image).mean()) < 1


# Bad input, and the table of the documentation


@pytest.mark.parametrize("severity", [-1, 6, 2.5, "1", None])
def test_severity_that_does_not_exist(severity):
    with pytest.raises(ValueError, match="does not exist: give 1 to 5"):
        corrupt(picture(1), "blur", severity, rng_for(1))


def test_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match="Unknown image noise kind 'JPG'. Did you mean jpeg?"):
        corrupt(picture(1), "JPG", 1, rng_for(1))
    with pytest.raises(ValueError, match="Known: gaussian_noise, .*low_resolution"):
        corrupt(picture(1), "???", 1, rng_for(1))


@pytest.mark.parametrize("image", [Image.new("L", (8, 8)), Image.new("RGBA", (8, 8)), None])
def test_other_than_rgb_is_refused(image):
    with pytest.raises(ValueError, match="wanted an RGB image, got (L|RGBA|NoneType)"):
        corrupt(image, "blur", 1, rng_for(1))


@every_kind
def test_documentation_states_the_parameters(kind):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "NOISE.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{kind}` |")]
    *_, values = row.strip("| ").split("|")
    assert [float(value) for value in values.split(",")] == list(IMAGE_KINDS[kind].values)
