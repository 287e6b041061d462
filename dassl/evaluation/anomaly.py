"""Metrics of anomaly detection, of images and of pixels.

Pixels are many: they are counted by score, not kept. A score in [0, 1] is cut to 13 bits of
mantissa, which is finer than 1e-4 everywhere and far finer near 0, so that thresholds between
scores that differ by more are all looked at.

References:
    [0] Bergmann et al., The MVTec Anomaly Detection Dataset, 2021 (per-region overlap, AUPRO)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UsageError
from common.late_import import import_late

MAX_FPR = 0.3  # of the AUPRO
_CUT = 10  # bits of a float32's mantissa that are dropped
LEVELS = (0x3F800000 >> _CUT) + 1  # of scores from 0 to 1
_EIGHT = np.ones((3, 3), dtype=int)  # pixels that touch at a corner are one region


def levels_of(scores: np.ndarray) -> np.ndarray:
    """Return the level of scores in [0, 1], a whole number below LEVELS, in their order."""
    clean = np.clip(np.ascontiguousarray(scores, dtype=np.float32), 0.0, 1.0) + np.float32(0.0)
    return (clean.view(np.uint32) >> _CUT).astype(np.int64)


def score_of(levels: np.ndarray) -> np.ndarray:
    """Return the lowest score of levels."""
    return (levels.astype(np.uint32) << _CUT).view(np.float32)


@dataclass(frozen=True)
class Curves:
    """Rates over falling thresholds, each (T,), from none above it to all.

    Attributes:
        fpr, tpr: shares of normal and of anomalous pixels above the threshold.
        precision: share of anomalous ones among the pixels above it; 1 where none is.
        pro: mean over anomalous regions of the share above it.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    precision: np.ndarray
    pro: np.ndarray


class PixelCounts:
    """Counts pixels by score, batch by batch.

    Attributes:
        regions: anomalous regions so far, 8-connected.
    """

    def __init__(self) -> None:
        self.normal = np.zeros(LEVELS, dtype=np.int64)
        self.anomalous = np.zeros(LEVELS, dtype=np.int64)
        self.covered = np.zeros(LEVELS)  # each region's pixels, as shares of it
        self.regions = 0

    def add(self, maps: np.ndarray, masks: np.ndarray) -> None:
        """Add images.

        Args:
            maps: (B, H, W) scores in [0, 1].
            masks: (B, H, W) booleans, True where a pixel is anomalous.

        Raises:
            UsageError: a score is not finite.
        """
        if not np.isfinite(maps).all():
            raise UsageError("a map has values that are not finite, so no metric is reported")
        levels = levels_of(maps)
        self.normal += np.bincount(levels[~masks], minlength=LEVELS)
        if not masks.any():
            return
        self.anomalous += np.bincount(levels[masks], minlength=LEVELS)
        label = import_late("scipy.ndimage").label
        for level, mask in zip(levels, masks, strict=True):
            if not mask.any():
                continue
            regions, count = label(mask, structure=_EIGHT)
            sizes = np.bincount(regions.ravel())
            own = regions[mask]
            np.add.at(self.covered, level[mask], 1.0 / sizes[own])
            self.regions += count

    def curves(self) -> Curves:
        """Return rates at every threshold that tells pixels apart.

        Raises:
            ValueError: there are no normal or no anomalous pixels.
        """
        used = np.flatnonzero(self.normal + self.anomalous)[::-1]
        false, true = (np.cumsum(counts[used]) for counts in (self.normal, self.anomalous))
        if not len(used) or not false[-1] or not true[-1]:
            raise ValueError("no normal or no anomalous pixels: rates are not defined")
        pro = np.cumsum(self.covered[used]) / self.regions

        def from_zero(rates: np.ndarray, first: float = 0.0) -> np.ndarray:
            return np.concatenate([[first], rates])

        return Curves(
            fpr=from_zero(false / false[-1]),
            tpr=from_zero(true / true[-1]),
            precision=from_zero(true / (true + false), 1.0),
            pro=from_zero(np.minimum(pro, 1.0)),
        )

    def sampled(self, steps: int) -> Curves:
        """Return rates at ``steps`` thresholds from the lowest to the highest score, evenly spaced.

        As PromptAD and AnomalyCLIP look at 200; a score counts where it is above the threshold.
        """
        used = np.flatnonzero(self.normal + self.anomalous)
        low, high = (float(score) for score in score_of(used[[0, -1]]))
        every = self.curves()
        scores = score_of(used[::-1])  # falling, as curves() has them behind its first point
        thresholds = np.linspace(high, low, steps)
        at = np.searchsorted(-scores, -thresholds.astype(np.float32), side="left")
        return Curves(*(getattr(every, name)[at] for name in Curves.__dataclass_fields__))


def area(x: np.ndarray, y: np.ndarray) -> float:
    """Return the area below a polygon, by trapezoids."""
    return float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1])) / 2)


def aupro(curves: Curves, max_fpr: float = MAX_FPR) -> float:
    """Return the area below the per-region overlap up to a false-positive rate, divided by it.

    The end point is interpolated.
    """
    inside = curves.fpr <= max_fpr
    end = np.interp(max_fpr, curves.fpr, curves.pro)
    # Of several points at one rate np.interp may take any: the last inside is the highest.
    if curves.fpr[inside][-1] == max_fpr:
        end = curves.pro[inside][-1]
    fpr = np.append(curves.fpr[inside], max_fpr)
    pro = np.append(curves.pro[inside], end)
    return area(fpr, pro) / max_fpr


def pixel_metrics(counts: PixelCounts, pro_steps: int = 0) -> dict[str, float]:
    """Return pixel AUROC, AP, F1-max and AUPRO, in percent; {} where they are not defined.

    F1-max chooses its threshold on the same pixels, as published figures do.

    Args:
        pro_steps: thresholds of the AUPRO; 0: every one that tells pixels apart.
    """
    if not counts.normal.any() or not counts.anomalous.any():
        return {}
    curves = counts.curves()
    gained = np.diff(curves.tpr)
    precision, recall = curves.precision[1:], curves.tpr[1:]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    figures = {
        "pixel_auroc": area(curves.fpr, curves.tpr),
        "pixel_ap": float(np.sum(gained * precision)),
        "pixel_f1_max": float(f1.max()),
        "aupro": aupro(counts.sampled(pro_steps) if pro_steps else curves),
    }
    return {name: 100.0 * value for name, value in figures.items()}


def image_metrics(scores: Sequence[float], labels: Sequence[int]) -> dict[str, float]:
    """Return image AUROC and AP, in percent.

    Args:
        labels: 1 for an anomalous image, 0 for a normal one.

    Raises:
        UsageError: labels are all alike, or a score is not finite.
    """
    metrics: Any = import_late("sklearn.metrics")
    if len(set(labels)) != 2:
        raise UsageError(
            "all test images are of one class: the AUROC is not defined; it takes normal and "
            "anomalous ones"
        )
    if not np.isfinite(scores).all():
        raise UsageError("image scores are not finite, so no metric is reported")
    return {
        "image_auroc": 100.0 * float(metrics.roc_auc_score(labels, scores)),
        "image_ap": 100.0 * float(metrics.average_precision_score(labels, scores)),
    }
