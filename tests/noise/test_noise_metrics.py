import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noise.metrics import (
    ALEXNET_ERRORS,
    adaptive_calibration_error,
    calibration_error,
    consistency,
    corruption_errors,
    effective_robustness,
    maximum_calibration_error,
    relative_robustness,
)


def test_consistency_counts_equal_answers():
    assert consistency([0, 1, 2, 2], [0, 2, 2, 1]) == 0.5


def slow_calibration_errors(confidence, correct, bins):
    """Equation 3 of Guo et al. (2017), answer by answer, and the largest gap."""
    error, gaps = 0.0, []
    for m in range(1, bins + 1):
        inside = [
            (c, float(ok))
            for c, ok in zip(confidence, correct, strict=True)
            if (m - 1) / bins < c <= m / bins
        ]
        if inside:
            mean_confidence, accuracy = np.mean(inside, axis=0)
            gaps.append(abs(accuracy - mean_confidence))
            error += len(inside) / len(correct) * gaps[-1]
    return error, max(gaps)


@given(seed=st.integers(0, 10_000), images=st.integers(1, 40), bins=st.integers(1, 20))
def test_calibration_errors_equal_the_definition(seed, images, bins):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.uniform(0.01, 1, images), rng.random(images) < 0.6
    expected, largest = slow_calibration_errors(confidence, correct, bins)
    assert calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)
    assert maximum_calibration_error(confidence, correct, bins) == pytest.approx(largest, abs=1e-12)


def test_calibration_error_examples():
    assert calibration_error([1, 1, 1], [True] * 3) == 0
    assert calibration_error([1, 1, 1], [False] * 3) == 1
    # Four answers at 0.75, three of them right: calibrated.
    assert calibration_error([0.75] * 4, [True, True, True, False]) == 0
    assert calibration_error([0.75] * 4, [True, True, False, False]) == 0.25
    # A confidence on an edge belongs to the bin below it: 0.75 wrong and 0.9 right do not mix.
    assert calibration_error([0.75, 0.9], [False, True], bins=4) == pytest.approx((0.75 + 0.1) / 2)
    assert maximum_calibration_error([0.75, 0.9], [False, True], bins=4) == pytest.approx(0.75)


def test_adaptive_bins_hold_equally_many_answers():
    # Two bins of two: {0.5, 0.6} with one right, {0.8, 0.9} with two right.
    confidence, correct = [0.9, 0.5, 0.8, 0.6], [True, False, True, True]
    expected = (2 * abs(0.55 - 0.5) + 2 * abs(0.85 - 1)) / 4
    assert adaptive_calibration_error(confidence, correct, bins=2) == pytest.approx(expected)
    # One answer a bin at most: the mean distance of each from 0 or 1.
    assert adaptive_calibration_error(confidence, correct, bins=9) == pytest.approx(
        np.mean([0.1, 0.5, 0.2, 0.4])
    )


def test_relative_robustness_is_the_share_that_is_kept():
    assert relative_robustness(80.0, 60.0) == 0.75
    assert relative_robustness(0.8, 0.6) == pytest.approx(1 - (0.8 - 0.6) / 0.8)
    assert math.isnan(relative_robustness(0.0, 0.0))


@pytest.mark.parametrize(
    ("shift", "imagenet", "accuracy", "expected"),
    [
        # Zero-shot CLIP B/16, 66.73 on ImageNet, as computed from the same fits elsewhere.
        ("ImageNetV2", 66.73, 60.83, 7.2),
        ("ImageNetSketch", 66.73, 46.15, 29.7),
    ],
)
def test_effective_robustness_of_zero_shot_clip(shift, imagenet, accuracy, expected):
    assert effective_robustness(shift, imagenet, accuracy) == pytest.approx(expected, abs=0.06)
    assert math.isnan(effective_robustness(shift, 100.0, accuracy))


def test_corruption_errors_are_in_percent_of_alexnets():
    assert np.mean(ALEXNET_ERRORS["gaussian_noise"]) == pytest.approx(88.6428)  # often copied
    same = corruption_errors(ALEXNET_ERRORS)
    assert len(same) == 15 and all(error == pytest.approx(100) for error in same.values())
    half = {"fog": [error / 2 for error in ALEXNET_ERRORS["fog"]]}
    assert corruption_errors(half)["fog"] == pytest.approx(50)
    # Relative: a model without any error above its clean one has 0, AlexNet itself 100.
    assert corruption_errors({"fog": [30.0] * 5}, clean_error=30.0)["fog"] == 0
    assert corruption_errors(ALEXNET_ERRORS, clean_error=43.48)["snow"] == pytest.approx(100)
    with pytest.raises(ValueError, match="fog has 1 severities"):
        corruption_errors({"fog": [30.0]})


def test_bad_input():
    with pytest.raises(ValueError, match="Consistency"):
        consistency([0, 1], [0])
    with pytest.raises(ValueError, match=r"wanted \(N,\) both"):
        calibration_error(np.eye(3), [True, False, True])
    with pytest.raises(ValueError, match=r"wanted \(N,\) both"):
        calibration_error([], [])
