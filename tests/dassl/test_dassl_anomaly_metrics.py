"""Metrics of anomaly detection against scikit-learn and an AUPRO written from its definition."""

import numpy as np
import pytest
from sklearn import metrics

from common.errors import UsageError
from dassl.evaluation.anomaly import (
    PixelCounts,
    aupro,
    image_metrics,
    levels_of,
    pixel_metrics,
    score_of,
)


@pytest.fixture
def scenes():
    """Maps that half find what masks mark; one image has no anomalous pixel."""
    rng = np.random.default_rng(4)
    masks = np.zeros((5, 24, 24), bool)
    masks[0, 2:7, 3:9] = masks[0, 12:20, 10:13] = masks[1, 0, 0] = masks[1, 1, 1] = True
    masks[2, 15:, 15:] = masks[3, 4, 2:20] = True
    maps = np.round(np.clip(rng.normal(0.3, 0.15, masks.shape) + 0.2 * masks, 0, 1), 2)
    return maps.astype(np.float32), masks


def counted(maps, masks):
    counts = PixelCounts()
    counts.add(maps[:2], masks[:2])
    counts.add(maps[2:], masks[2:])
    return counts


def regions_of(mask):
    """8-connected regions, by flood fill."""
    left = {tuple(place) for place in np.argwhere(mask)}
    while left:
        region, waiting = set(), [left.pop()]
        while waiting:
            y, x = waiting.pop()
            region.add((y, x))
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            waiting += around
        yield region


def slow_aupro(maps, masks, limit=0.3):
    normal = maps[~masks]
    regions = [
        [image[place] for place in region]
        for image, mask in zip(maps, masks, strict=True)
        for region in regions_of(mask)
    ]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        fpr = float((normal >= threshold).mean())
        pro = float(np.mean([np.mean([s >= threshold for s in region]) for region in regions]))
        if fpr > limit:
            (x0, y0), x1, y1 = points[-1], fpr, pro
            points.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
            break
        points.append((fpr, pro))
    return (
        sum(
            (x1 - x0) * (y0 + y1) / 2
            for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False)
        )
        / limit
    )


def test_pixels_as_scikit_learn(scenes):
    maps, masks = scenes
    figures = pixel_metrics(counted(maps, masks))
    scores, labels = maps.ravel(), masks.ravel()
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert figures["pixel_auroc"] == pytest.approx(100 * metrics.roc_auc_score(labels, scores))
    assert figures["pixel_ap"] == pytest.approx(
        100 * metrics.average_precision_score(labels, scores)
    )
    assert figures["pixel_f1_max"] == pytest.approx(100 * f1.max())


def test_aupro_as_defined(scenes):
    maps, masks = scenes
    counts = counted(maps, masks)
    assert counts.regions == 5  # two pixels that touch at a corner are one
    assert pixel_metrics(counts)["aupro"] == pytest.approx(100 * slow_aupro(maps, masks))


def test_few_thresholds_come_close_to_all(scenes):
    counts = counted(*scenes)
    exact = pixel_metrics(counts)["aupro"]
    assert pixel_metrics(counts, pro_steps=2000)["aupro"] == pytest.approx(exact, abs=0.5)
    coarse = counts.sampled(5)
    assert len(coarse.fpr) == 5 and coarse.fpr[0] == 0 and (np.diff(coarse.fpr) >= 0).all()


def test_constant_score():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :3] = True
    figures = pixel_metrics(counted(np.full(masks.shape, 0.4), masks))
    assert figures["pixel_auroc"] == pytest.approx(50)
    assert figures["aupro"] == pytest.approx(15)  # overlap = false positives: 0.3 / 2
    assert figures["pixel_ap"] == pytest.approx(100 * masks.mean())
    assert image_metrics([0.7] * 4, [0, 1, 1, 0])["image_auroc"] == 50


def test_perfect_score():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :3] = True
    figures = pixel_metrics(counted(masks.astype(float), masks))
    assert figures == pytest.approx(dict.fromkeys(figures, 100.0))


def test_images_as_scikit_learn():
    scores, labels = [0.1, 0.8, 0.35, 0.35], [0, 1, 1, 0]
    assert image_metrics(scores, labels) == {
        "image_auroc": 100 * metrics.roc_auc_score(labels, scores),
        "image_ap": 100 * metrics.average_precision_score(labels, scores),
    }


def test_undefined_is_refused_or_left_out():
    with pytest.raises(UsageError, match="AUROC is not defined"):
        image_metrics([0.1, 0.2], [1, 1])
    with pytest.raises(UsageError, match="not finite"):
        image_metrics([0.1, float("nan")], [0, 1])
    counts = PixelCounts()
    counts.add(np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool))
    assert pixel_metrics(counts) == {}
    with pytest.raises(UsageError, match="not finite"):
        counts.add(np.full((1, 4, 4), np.nan), np.zeros((1, 4, 4), bool))


def test_levels_are_fine_and_in_order():
    scores = np.linspace(0, 1, 30_001, dtype=np.float32)
    levels = levels_of(scores)
    assert (np.diff(levels) >= 0).all()
    assert np.abs(score_of(levels) - scores).max() < 1e-4
    assert (np.diff(levels_of(np.arange(10_001) / 1e4)) > 0).all()  # 1e-4 apart: never one level
    assert levels_of(np.array([-1.0, 2.0])).tolist() == levels_of(np.array([0.0, 1.0])).tolist()


def test_end_point_is_interpolated():
    class Line:
        fpr, pro = np.array([0.0, 0.2, 0.6]), np.array([0.0, 0.5, 0.9])

    assert aupro(Line) == pytest.approx((0.2 * 0.25 + 0.1 * (0.5 + 0.6) / 2) / 0.3)
