"""Collect predictions over batches and compute metrics from them."""

from typing import Any

import numpy as np
import torch

from common.errors import UsageError
from common.late_import import import_late


class Predictions:
    """Predictions and labels of a test, and the metrics they give.

    These are accuracy, error, macro-F1, accuracy per class, and the confusion matrix.

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
        self._has_nan: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch. Nothing is moved off its device yet, so this does not wait for a GPU.

        Args:
            logits: shape (B, C).
            labels: shape (B,).
        """
        self._predictions.append(logits.max(1).indices)
        self._labels.append(labels)
        self._has_nan.append(logits.isnan().any())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and predictions of all batches, each of shape (N,).

        Raises:
            UsageError: no images were evaluated, or logits were NaN.
        """
        if not self._labels:
            raise UsageError("nothing to evaluate: the data set has no images in this split")
        if any(self._has_nan):
            raise UsageError(
                "the model's logits are NaN, so no accuracy is reported; its backbone's or its "
                "learned tensors are of no use, or the precision is too low (PREC fp32)"
            )
        return torch.cat(self._labels).cpu().numpy(), torch.cat(self._predictions).cpu().numpy()

    def figures(self) -> dict[str, Any]:
        """Return all metrics; rates in percent.

        Returns:
            ``accuracy``, ``error``, ``macro_f1`` (over the classes that occur among the labels),
            ``num_test``, ``num_correct``, and ``per_class``: for each label that occurs, in order,
            its ``label``, ``name``, ``total``, ``correct`` and ``accuracy``.
        """
        f1_score = import_late("sklearn.metrics").f1_score
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
        """Return the share of each class's images (row) that got each prediction (column).

        Shape (C, C). The row of a class without images is zero.
        """
        confusion_matrix = import_late("sklearn.metrics").confusion_matrix
        labels, predictions = self.arrays()
        classes = np.union1d(np.union1d(labels, predictions), list(self._lab2cname)).astype(int)
        return confusion_matrix(labels, predictions, labels=classes, normalize="true")
