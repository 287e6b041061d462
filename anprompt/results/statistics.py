"""Whether a difference is real, and whether confidences can be believed.

References:
    [0] McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    [1] Guo et al., On Calibration of Modern Neural Networks, 2017,
        https://arxiv.org/abs/1706.04599
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noise.metrics import (
    BINS,
    adaptive_calibration_error,
    calibration_error,
    maximum_calibration_error,
)


def standard_error(accuracy: float, num_images: int) -> float:
    """Return the standard error (percent) of an accuracy (percent) that N images give.

    >>> standard_error(50.0, 100)
    5.0
    """
    share = accuracy / 100
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / num_images)


@dataclass(frozen=True)
class Paired:
    """One method against another on the same images and seeds.

    Attributes:
        difference: of the accuracies, first less second, in percentage points.
        low, high: its 95% interval by bootstrap over images and seeds.
        only_first, only_second: answers that one method alone has right, over all seeds.
        p_value: of McNemar's exact test over all pairs of answers.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float

    @property
    def is_separated(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def compare_paired(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    samples: int = 2000,
    seed: int = 0,
) -> Paired:
    """Compare two methods on the same images.

    The bootstrap draws seeds and images with replacement, the same for both methods, so it covers
    both sources of chance. A method without training has one answer per image for all seeds: give
    that array once for each seed of the other.

    Args:
        first, second: one boolean array (N,) a seed: whether each image's answer is right.
        samples: drawn.
        seed: of the drawing.
    """
    one, two = np.stack(first).astype(float), np.stack(second).astype(float)  # (S, N)
    if one.shape != two.shape:
        raise ValueError(f"answers of shapes {one.shape} and {two.shape}")
    gain = one - two
    seeds, images = gain.shape
    generator = np.random.default_rng(seed)
    drawn = np.empty(samples)
    for i in range(samples):
        rows = generator.integers(seeds, size=seeds)
        weights = np.bincount(generator.integers(images, size=images), minlength=images)
        drawn[i] = gain[rows].mean(axis=0) @ weights / images
    low, high = np.quantile(drawn, [0.025, 0.975])
    only_first, only_second = int((gain > 0).sum()), int((gain < 0).sum())
    return Paired(
        difference=100 * float(gain.mean()),
        low=100 * float(low),
        high=100 * float(high),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        only_first, only_second: images that one method alone has right.
    """
    from scipy.stats import binomtest  # slow to import

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


@dataclass(frozen=True)
class Calibration:
    """How confidences and accuracy go together; rates as shares of 1.

    Attributes:
        ece: expected calibration error over 15 bins of equal width. [1]
        adaptive_ece: the same over bins with equally many images.
        mce: largest gap of a bin of equal width.
        brier: mean squared error of the probabilities, summed over classes; None without them.
        nll: mean negative log-probability of the label.
        bins: (edge below, edge above, images, mean confidence, accuracy) by bin of equal width.
    """

    ece: float
    adaptive_ece: float
    mce: float
    brier: float | None
    nll: float
    bins: tuple[tuple[float, float, int, float, float], ...]


def calibration(
    confidence: np.ndarray,
    is_correct: np.ndarray,
    true_probability: np.ndarray,
    probabilities: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    bins: int = BINS,
) -> Calibration:
    """Measure calibration.

    Args:
        confidence: (N,) probability of the answer.
        is_correct: (N,).
        true_probability: (N,) probability of the label.
        probabilities, labels: (N, C) and (N,), for the Brier score.
        bins: of equal width; a confidence on an edge belongs to the bin below it.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    hits = np.asarray(is_correct, dtype=np.float64)
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.digitize(confidence, edges[1:-1], right=True)
    rows = []
    for number in range(bins):
        own = bin_of == number
        count = int(own.sum())
        mean, accuracy = (confidence[own].mean(), hits[own].mean()) if count else (0.0, 0.0)
        below, above = float(edges[number]), float(edges[number + 1])
        rows.append((below, above, count, float(mean), float(accuracy)))
    brier = None
    if probabilities is not None and labels is not None:
        target = np.zeros(probabilities.shape)
        target[np.arange(len(labels)), labels] = 1
        brier = float(((probabilities - target) ** 2).sum(axis=1).mean())
    smallest = np.finfo(np.float16).smallest_subnormal  # kept probabilities are float16
    return Calibration(
        ece=calibration_error(confidence, is_correct, bins),
        adaptive_ece=adaptive_calibration_error(confidence, is_correct, bins),
        mce=maximum_calibration_error(confidence, is_correct, bins),
        brier=brier,
        nll=float(-np.log(np.maximum(true_probability.astype(np.float64), smallest)).mean()),
        bins=tuple(rows),
    )
