"""Paired comparison and calibration against values worked out by hand or another way."""

import numpy as np
import pytest

from anprompt.results.statistics import (
    calibration,
    compare_paired,
    mcnemar,
    standard_error,
)


def test_standard_error():
    assert standard_error(74.07, 27) == pytest.approx(8.434, abs=1e-3)
    assert standard_error(100.0, 10) == 0.0


def test_mcnemar():
    # 2 * sum of binomial(10, k) / 2^10 for k = 0, 1
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0


def test_paired_difference_is_the_difference_of_accuracies():
    generator = np.random.default_rng(1)
    first = [generator.random(200) < 0.9 for _ in range(3)]
    second = [generator.random(200) < 0.6 for _ in range(3)]
    found = compare_paired(first, second)
    assert found.difference == pytest.approx(100 * (np.mean(first) - np.mean(second)))
    assert found.low < found.difference < found.high
    assert found.is_separated and found.p_value < 1e-6
    assert compare_paired(first, second) == found  # seeded
    back = compare_paired(second, first)
    assert back.difference == -found.difference
    assert (back.only_first, back.only_second) == (found.only_second, found.only_first)


def test_equal_answers_are_no_difference():
    same = [np.arange(50) % 3 == 0]
    found = compare_paired(same, same)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert not found.is_separated


def test_interval_of_one_seed_is_that_of_the_mean():
    answers = np.arange(400) < 240  # 60% against 0%
    found = compare_paired([answers], [np.zeros(400, dtype=bool)], samples=4000)
    half = 1.96 * standard_error(60, 400)
    assert found.low == pytest.approx(60 - half, abs=0.5)
    assert found.high == pytest.approx(60 + half, abs=0.5)


def test_calibration_by_hand():
    confidence = np.array([0.95, 0.95, 0.65, 0.65])
    right = np.array([True, True, True, False])
    found = calibration(confidence, right, true_probability=np.array([0.95, 0.95, 0.65, 0.2]))
    assert found.ece == pytest.approx((0.05 + 0.15) / 2)
    assert found.mce == pytest.approx(0.15)
    assert found.nll == pytest.approx(-np.log([0.95, 0.95, 0.65, 0.2]).mean())
    assert found.brier is None
    assert sum(row[2] for row in found.bins) == 4
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7]])
    brier = calibration(
        np.array([0.8, 0.7]), np.array([True, False]), np.array([0.8, 0.3]),
        probabilities, np.array([0, 0]),
    ).brier  # fmt: skip
    assert brier == pytest.approx((0.04 + 0.04 + 0.49 + 0.49) / 2)
