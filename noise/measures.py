"""What a robustness table reports, as plain functions of NumPy arrays; results are from 0 to 1."""

from collections.abc import Mapping

import numpy as np


def consistency(clean_predictions: np.ndarray, noisy_predictions: np.ndarray) -> float:
    """Share of images (N,) that get the same answer clean and noisy, right or wrong."""
    clean, noisy = np.asarray(clean_predictions), np.asarray(noisy_predictions)
    if clean.shape != noisy.shape or clean.ndim != 1 or not len(clean):
        raise ValueError(f"Consistency: predictions of shapes {clean.shape} and {noisy.shape}.")
    return float(np.mean(clean == noisy))


def mean_corruption_accuracy(accuracies: Mapping[str, Mapping[int, float]]) -> float:
    """Mean over kinds of the mean over severities of ``accuracies[kind][severity]``.

    Every kind counts alike, however many severities it was measured at. Unlike the mean corruption
    error of Hendrycks & Dietterich (2019), nothing is divided by a reference model's error.
    """
    if not accuracies or not all(accuracies.values()):
        raise ValueError("Mean corruption accuracy: a kind without any accuracy, or no kind.")
    return float(np.mean([np.mean(list(own.values())) for own in accuracies.values()]))


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
    """Mean distance between confidence and accuracy over equal-width confidence bins.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3,
    https://arxiv.org/abs/1706.04599.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) true class indices.
        bins: number of bins; bin m holds confidences in ((m - 1) / bins, m / bins].
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"Calibration error: probabilities {probabilities.shape}, labels {labels.shape}; "
            "wanted (N, C) and (N,)."
        )
    correct = probabilities.argmax(axis=1) == labels
    return calibration_error(probabilities.max(axis=1), correct, bins)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """`expected_calibration_error` from the answers' probabilities (N,) and whether each is right.

    Args:
        confidence: probability of the answer given, 0 to 1.
        correct: boolean.
        bins: number of bins.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(correct):
        raise ValueError(
            f"Calibration error: confidence {confidence.shape} and correct {correct.shape}; "
            "wanted (N,) both."
        )
    inner_edges = np.arange(1, bins) / bins
    bin_of = np.digitize(confidence, inner_edges, right=True)  # (N,)
    # |sum of (confidence - correct)| per bin is its size times |confidence - accuracy|.
    gaps = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(correct))
