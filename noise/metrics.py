"""What a robustness table reports, as functions of NumPy arrays; no torch.

Shares and errors are from 0 to 1, as are their inputs; only `effective_robustness`
and the mean corruption errors say otherwise.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

BINS = 15  # of calibration errors [P: Guo et al. 2017]

# Errors of AlexNet in percent on the released ImageNet-C, severities 1 to 5, and on clean ImageNet.
# [A: hendrycks/robustness, ImageNet-C/test.py and README]; clean [A: imagenet-testbed].
ALEXNET_CLEAN_ERROR = 43.48
ALEXNET_ERRORS: dict[str, tuple[float, float, float, float, float]] = {
    "gaussian_noise": (69.528, 82.542, 93.554, 98.138, 99.452),
    "shot_noise": (71.224, 85.108, 93.574, 98.182, 99.146),
    "impulse_noise": (78.374, 89.808, 94.870, 98.720, 99.548),
    "defocus_blur": (65.624, 73.202, 85.036, 91.364, 94.714),
    "glass_blur": (64.308, 75.054, 88.806, 91.622, 93.344),
    "motion_blur": (58.430, 70.048, 82.108, 89.750, 92.638),
    "zoom_blur": (70.008, 76.992, 80.784, 84.198, 87.198),
    "snow": (71.726, 88.392, 86.468, 91.870, 94.952),
    "frost": (61.390, 79.734, 88.790, 89.942, 93.430),
    "fog": (67.474, 76.050, 84.378, 87.260, 94.500),
    "brightness": (45.140, 48.502, 54.048, 62.166, 72.440),
    "contrast": (64.548, 76.150, 88.874, 97.760, 99.270),
    "elastic_transform": (52.596, 70.116, 55.686, 64.076, 80.554),
    "pixelate": (52.218, 54.620, 73.728, 87.092, 91.262),
    "jpeg_compression": (51.002, 54.718, 57.294, 65.458, 74.778),
}

# Slope and intercept of accuracy under shift against accuracy on ImageNet, both as logits: linear
# fits over standard ImageNet models. [O: fitted from imagenet-testbed's table, 85 standard models
# of at least 55%; the idea: Taori et al. 2020, https://arxiv.org/abs/2007.00644]
# "ImageNet" is all 1,000 classes, or the shift's own classes where it has fewer.
EFFECTIVE_FITS: dict[str, tuple[float, float]] = {
    "ImageNetV2": (0.9232, -0.4977),
    "ImageNetSketch": (1.0709, -2.3701),
    "ImageNetA": (1.9900, -7.6325),
    "ImageNetR": (0.6368, -2.1077),
    "ObjectNet": (0.9809, -1.9283),
    "imagenet-c": (1.2486, -1.8578),  # mean of the 15 kinds, on disk
}
OWN_CLASSES = ("ImageNetA", "ImageNetR", "ObjectNet")  # fitted on the shift's classes of ImageNet


def consistency(clean_predictions: np.ndarray, noisy_predictions: np.ndarray) -> float:
    """Return the share of images (N,) with the same answer clean and noisy, right or wrong."""
    clean, noisy = np.asarray(clean_predictions), np.asarray(noisy_predictions)
    if clean.shape != noisy.shape or clean.ndim != 1 or not len(clean):
        raise ValueError(f"Consistency: predictions of shapes {clean.shape} and {noisy.shape}.")
    return float(np.mean(clean == noisy))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: mean distance of confidence and accuracy over bins.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3,
    https://arxiv.org/abs/1706.04599.

    Args:
        confidence: (N,) probability of the answer given, 0 to 1.
        correct: (N,) boolean.
        bins: number of bins of equal width; bin m holds confidences in ((m - 1) / bins, m / bins].
    """
    confidence, correct = _checked(confidence, correct)
    return _gap(confidence, correct, _equal_width(confidence, bins))


def maximum_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> float:
    """Return the largest distance of confidence and accuracy over bins of equal width.

    Arguments as `calibration_error`; a bin counts as it is, however few answers it holds.
    """
    confidence, correct = _checked(confidence, correct)
    bin_of = _equal_width(confidence, bins)
    sizes = np.bincount(bin_of, minlength=bins)
    gaps = np.abs(np.bincount(bin_of, weights=confidence - correct, minlength=bins))
    return float((gaps[sizes > 0] / sizes[sizes > 0]).max())


def adaptive_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> float:
    """Return the calibration error over bins that hold equally many answers (to within one).

    Arguments as `calibration_error`.
    """
    confidence, correct = _checked(confidence, correct)
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs((confidence - correct)[part].sum()) for part in parts) / len(order))


def relative_robustness(clean_accuracy: float, noisy_accuracy: float) -> float:
    """Return the share of its clean accuracy that a model keeps, 1 - (clean - noisy) / clean."""
    return noisy_accuracy / clean_accuracy if clean_accuracy else math.nan


def effective_robustness(shift: str, imagenet_accuracy: float, accuracy: float) -> float:
    """Return how far an accuracy lies above what standard ImageNet models have, in points.

    Taori et al., 2020, https://arxiv.org/abs/2007.00644. It compares adapted CLIPs with each other
    and with zero-shot CLIP; against models trained on ImageNet alone it flatters CLIP, whose
    training data resemble the shifted sets (https://arxiv.org/abs/2302.01381).

    Args:
        shift: a key of `EFFECTIVE_FITS`.
        imagenet_accuracy: in percent, on the shift's own classes for those in `OWN_CLASSES`.
        accuracy: in percent, under shift.

    Returns:
        Percentage points; not a number where the accuracy on ImageNet is 0 or 100.
    """
    slope, intercept = EFFECTIVE_FITS[shift]
    if not 0 < imagenet_accuracy < 100:
        return math.nan
    logit = math.log(imagenet_accuracy / (100 - imagenet_accuracy))
    return accuracy - 100 / (1 + math.exp(-(slope * logit + intercept)))


def corruption_errors(
    errors: Mapping[str, Sequence[float]], clean_error: float | None = None
) -> dict[str, float]:
    """Return each kind's corruption error CE in percent of AlexNet's; their mean is the mCE.

    CE_c = sum_s E_sc / sum_s E^AlexNet_sc; relative: sum_s (E_sc - E_clean) over AlexNet's.
    Hendrycks & Dietterich, 2019, https://arxiv.org/abs/1903.12261. It has a meaning on the 1,000
    classes of ImageNet and the released ImageNet-C only.

    Args:
        errors: by kind, in percent, severities 1 to 5.
        clean_error: in percent; with it the *relative* corruption errors.
    """
    result = {}
    for kind, own in errors.items():
        reference = ALEXNET_ERRORS[kind]
        if len(own) != len(reference):
            raise ValueError(f"Corruption error: {kind} has {len(own)} severities, wanted 5.")
        above = 0.0 if clean_error is None else clean_error
        above_reference = 0.0 if clean_error is None else ALEXNET_CLEAN_ERROR
        result[kind] = (
            100 * sum(e - above for e in own) / sum(e - above_reference for e in reference)
        )
    return result


def _checked(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(correct):
        raise ValueError(
            f"Calibration error: confidence {confidence.shape} and correct {correct.shape}; "
            "wanted (N,) both."
        )
    return confidence, correct


def _equal_width(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.digitize(confidence, np.arange(1, bins) / bins, right=True)  # (N,)


def _gap(confidence: np.ndarray, correct: np.ndarray, bin_of: np.ndarray) -> float:
    # |sum of (confidence - correct)| per bin is its size times |confidence - accuracy|.
    gaps = np.bincount(bin_of, weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(correct))
