import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noise.measures import consistency, expected_calibration_error, mean_corruption_accuracy


def test_consistency_counts_equal_answers():
    assert consistency([0, 1, 2, 2], [0, 2, 2, 1]) == 0.5


def test_mean_corruption_accuracy_counts_kinds_alike():
    assert mean_corruption_accuracy({"blur": {1: 0.8, 5: 0.4}, "jpeg": {3: 0.2}}) == 0.4


def slow_calibration_error(probabilities, labels, bins):
    """Equation 3 of Guo et al. (2017), image by image."""
    error = 0.0
    for m in range(1, bins + 1):
        inside = []
        for row, label in zip(probabilities, labels, strict=True):
            confidence = max(row)
            if (m - 1) / bins < confidence <= m / bins:
                inside.append((confidence, float(list(row).index(confidence) == label)))
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 40),
    classes=st.integers(2, 6),
    bins=st.integers(1, 20),
)
def test_calibration_error_equals_the_definition(seed, images, classes, bins):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.3), images)
    labels = rng.integers(0, classes, images)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(
        slow_calibration_error(probabilities, labels, bins), abs=1e-12
    )


def test_calibration_error_examples():
    certain = np.eye(3)
    assert expected_calibration_error(certain, [0, 1, 2]) == 0
    assert expected_calibration_error(certain, [1, 2, 0]) == 1
    # Four answers at 0.75, three of them right: calibrated.
    quarters = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(quarters, [0, 0, 0, 1]) == 0
    assert expected_calibration_error(quarters, [0, 0, 1, 1]) == 0.25
    # A confidence on an edge belongs to the bin below it: 0.75 wrong and 0.9 right do not mix.
    pair = [[0.75, 0.25], [0.9, 0.1]]
    assert expected_calibration_error(pair, [1, 0], bins=4) == pytest.approx((0.75 + 0.1) / 2)


def test_bad_input():
    with pytest.raises(ValueError, match="Consistency"):
        consistency([0, 1], [0])
    with pytest.raises(ValueError, match="no kind"):
        mean_corruption_accuracy({})
    with pytest.raises(ValueError, match="without any accuracy"):
        mean_corruption_accuracy({"blur": {}})
    with pytest.raises(ValueError, match=r"wanted \(N, C\) and \(N,\)"):
        expected_calibration_error(np.eye(3), [0, 1])
