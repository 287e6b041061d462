"""Predictions gathered over batches, and the figures they give."""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, f1_score

from dassl.utils import UsageError


class Tally:
    """Collects predictions and labels; computes accuracy, error, macro-F1, per class, and
    confusions.

    Args:
        lab2cname: class names by label. Without it classes go by their number.
    """

    def __init__(self, lab2cname: dict[int, str] | None = None):
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._predictions: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in a batch. Nothing is moved off its device yet, so this does not wait for a GPU.

        Args:
            logits: shape (B, C).
            labels: shape (B,).
        """
        self._predictions.append(logits.max(1).indices)
        self._labels.append(labels)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions of all batches, each of shape (N,).

        Raises:
            UsageError: no images were evaluated.
        """
        if not self._labels:
            raise UsageError("nothing to evaluate: the data set has no images in this split")
        return torch.cat(self._labels).cpu().numpy(), torch.cat(self._predictions).cpu().numpy()

    def figures(self) -> dict[str, Any]:
        """All figures; rates in percent.

        Returns:
            ``accuracy``, ``error``, ``macro_f1`` (over the classes that occur among the labels),
            ``num_test``, ``num_correct``, and ``per_class``: for each label that occurs, in order,
            its ``label``, ``name``, ``total``, ``correct`` and ``accuracy``.
        """
        labels, predictions = self.arrays()
        hits = labels == predictions
        occurring = np.unique(labels)
        accuracy = 100.0 * int(hits.sum()) / labels.size
        macro_f1 = 100.0 * f1_score(
            labels, predictions, average="macro", labels=occurring, zero_division=0
        )
        per_class = []
        for label in occurring.tolist():
            own = hits[labels == label]
            per_class.append(
                {
                    "label": label,
                    "name": self._lab2cname.get(label, str(label)),
                    "total": int(own.size),
                    "correct": int(own.sum()),
                    "accuracy": 100.0 * int(own.sum()) / own.size,
                }
            )
        return {
            "accuracy": accuracy,
            "error": 100.0 - accuracy,
            "macro_f1": float(macro_f1),
            "num_test": int(labels.size),
            "num_correct": int(hits.sum()),
            "per_class": per_class,
        }

    def confusion_matrix(self) -> np.ndarray:
        """Share of each class's images (row) that got each prediction (column); shape (C, C).

        The row of a class without images is zero.
        """
        labels, predictions = self.arrays()
        classes = np.union1d(np.union1d(labels, predictions), list(self._lab2cname)).astype(int)
        return confusion_matrix(labels, predictions, labels=classes, normalize="true")
