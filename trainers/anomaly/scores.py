"""``anomaly.npz``: what a model answered for every test image, compact.

Arrays, for N images and R fusion rules:

- ``paths``, ``defects`` (N,): below the data set's folder; "good" or the kind of defect;
- ``labels`` (N,); ``rules`` (R,), the reported one first; ``map_size`` and ``sigma`` (pixels), with
  which patch scores become maps (`trainers.anomaly.model.enlarge`);
- by rule r, from 0: ``scores_r`` (N,), ``grid_r`` (N, rows, columns) patch scores, float16;
  ``curve_r`` (3, T): false-positive rate, true-positive rate and per-region overlap of pixels;
- ``cases`` (C,): images shown as best and worst; ``picture_i``, ``truth_i``: their pictures, small,
  as JPEG and PNG files.

Without pickles: ``numpy.load(path, allow_pickle=False)``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from common.images import read_image, read_mask
from dassl.evaluation.anomaly import Curves, PixelCounts, image_metrics, pixel_metrics
from dassl.evaluation.kept import write_arrays

FILE_NAME = "anomaly.npz"
POINTS = 200  # of a curve that is kept
SHOWN = 3  # of each kind of case
SIDE = 112  # pixels of the pictures that are kept


class RuleScores:
    """Collects the answers of one fusion rule, batch by batch."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.grids: list[np.ndarray] = []
        self.pixels = PixelCounts()

    def add(self, image: np.ndarray, grid: np.ndarray) -> None:
        """Add scores (B,) and patch scores (B, rows, columns)."""
        self.images.append(image)
        self.grids.append(grid.astype(np.float16))

    def figures(self, labels: Sequence[int], pro_steps: int) -> dict[str, float]:
        """Return the metrics, in percent."""
        scores = np.concatenate(self.images)
        return image_metrics(scores.tolist(), labels) | pixel_metrics(self.pixels, pro_steps)

    def curve(self) -> np.ndarray:
        """Return the pixels' rates at some thresholds, (3, T); (3, 0) without masks."""
        if not self.pixels.normal.any() or not self.pixels.anomalous.any():
            return np.zeros((3, 0), np.float32)
        found: Curves = self.pixels.curves()
        at = np.searchsorted(found.fpr, np.linspace(0, 1, POINTS) ** 2)
        at = np.unique(np.clip(at, 0, len(found.fpr) - 1))
        return np.stack([found.fpr[at], found.tpr[at], found.pro[at]]).astype(np.float32)


def defect_figures(scores: np.ndarray, defects: Sequence[str]) -> dict[str, float]:
    """Return the image AUROC in percent of each kind of defect against all normal images."""
    kinds = np.array(defects)
    found = {}
    for kind in sorted({kind for kind in defects if kind}):
        chosen = (kinds == kind) | (kinds == "")
        labels = (kinds[chosen] != "").astype(int).tolist()
        found[kind] = image_metrics(scores[chosen].tolist(), labels)["image_auroc"]
    return found


def cases_of(scores: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return images to show: anomalous ones found best and worst, normal ones most mistaken."""
    order = np.argsort(scores, kind="stable")
    anomalous, normal = (order[labels[order] == label] for label in (1, 0))
    chosen = [*anomalous[::-1][:SHOWN], *anomalous[:SHOWN], *normal[::-1][:SHOWN]]
    return list(dict.fromkeys(int(i) for i in chosen))


def write_scores(
    folder: str,
    dataset: Any,
    rules: dict[str, RuleScores],
    map_size: int,
    sigma: float,
) -> dict[str, Any]:
    """Write the file, atomically.

    Args:
        dataset: the `datasets.anomaly.AnomalyDataset` that was tested.
        rules: by name, the reported one first.

    Returns:
        What ``results.json`` says of it: its name, size in bytes and SHA-256.
    """
    labels = np.array([item.label for item in dataset.test], np.int32)
    arrays: dict[str, np.ndarray] = {
        "paths": np.array([sample.path for sample in dataset.samples], np.str_),
        "defects": np.array([sample.defect or "good" for sample in dataset.samples], np.str_),
        "labels": labels,
        "rules": np.array(list(rules), np.str_),
        "map_size": np.array(map_size),
        "sigma": np.array(sigma),
    }
    for number, kept in enumerate(rules.values()):
        arrays[f"scores_{number}"] = np.concatenate(kept.images).astype(np.float32)
        arrays[f"grid_{number}"] = np.concatenate(kept.grids)
        arrays[f"curve_{number}"] = kept.curve()
    cases = cases_of(arrays["scores_0"], labels)
    arrays["cases"] = np.array(cases, np.int32)
    for i, case in enumerate(cases):
        item, sample = dataset.test[case], dataset.samples[case]
        picture = read_image(item.impath, item.reading).resize((SIDE, SIDE))
        arrays[f"picture_{i}"] = _encoded(picture, "JPEG", quality=85)
        if sample.mask:
            mask = read_mask(os.path.join(dataset.image_dir, sample.mask))
            truth = Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            arrays[f"truth_{i}"] = _encoded(truth, "PNG")
    return write_arrays(os.path.join(folder, FILE_NAME), arrays)


def _encoded(image: Image.Image, kind: str, **options: Any) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)
