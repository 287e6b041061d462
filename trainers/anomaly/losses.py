"""Losses on maps of scores, and the distance of learned prompts to the meta prompt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def focal(scores: Tensor, truth: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean focal loss of scores in [0, 1] against a truth of 0 and 1 of the same shape.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017
    """
    right = torch.where(truth > 0.5, scores, 1 - scores).clamp_min(1e-6)
    return (-((1 - right) ** gamma) * right.log()).mean()


def dice(scores: Tensor, truth: Tensor, smooth: float = 1.0) -> Tensor:
    """Mean over images (B, ...) of 1 - Dice's coefficient, smoothed: an empty truth is finite."""
    scores, truth = scores.flatten(1), truth.flatten(1)
    overlap = 2 * (scores * truth).sum(dim=1) + smooth
    return (1 - overlap / (scores.sum(dim=1) + truth.sum(dim=1) + smooth)).mean()


def pixel_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Focal loss, and Dice's of anomalous and of normal pixels; scores and truth (B, H, W)."""
    return focal(scores, truth) + dice(scores, truth) + dice(1 - scores, 1 - truth)


def meta_loss(texts: Tensor, meta: Tensor) -> Tensor:
    """Distance of text features (2, E) to a meta prompt (2, E), both normal and anomalous.

    (1 - cos) of each pair, and half of how much closer the two texts are than the meta prompt's.
    """
    aligned = F.cosine_similarity(texts, meta, dim=-1)  # (2,)
    apart = F.cosine_similarity(texts[0], texts[1], dim=-1)
    wanted = F.cosine_similarity(meta[0], meta[1], dim=-1)
    return (1 - aligned).sum() + 0.5 * (apart - wanted).clamp_min(0)


def within_cone(vectors: Tensor, axis: Tensor, least: float) -> Tensor:
    """Return unit vectors (..., E), those with a cosine to ``axis`` below ``least`` moved to the
    nearest point where it is that.
    """
    cosine = (vectors * axis).sum(dim=-1, keepdim=True)
    aside = F.normalize(vectors - cosine * axis, dim=-1)
    edge = least * axis + (1 - least**2) ** 0.5 * aside
    return torch.where(cosine < least, edge, vectors)
