"""What a pass over the images leaves of a model's logits."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from noise.metrics import (
    adaptive_calibration_error,
    calibration_error,
    consistency,
    maximum_calibration_error,
)

Figures = dict[str, dict[str, float]]  # by inference rule, by measure; in percent but for Brier


class Answers:
    """Each image's answer, its probability and its Brier score, by inference rule.

    Args:
        labels: (N,) true classes.
    """

    def __init__(self, labels: np.ndarray):
        self.labels = labels
        self._rules: dict[str, np.ndarray] = {}  # (3, N): answer, probability, Brier score

    def add(self, batch: slice, logits: Mapping[str, Tensor]) -> None:
        """Take in logits (B, C) of the images ``batch``, by rule."""
        for rule, values in logits.items():
            probabilities = values.float().softmax(dim=-1)
            confidence, answer = (found.cpu().numpy() for found in probabilities.max(dim=-1))
            labels = self.labels[batch]
            p = probabilities.double().cpu().numpy()
            brier = (p**2).sum(axis=1) - 2 * p[np.arange(len(labels)), labels] + 1
            own = self._rules.setdefault(rule, np.zeros((3, len(self.labels))))
            own[:, batch] = answer, confidence, brier

    def restore(self, image: int, values: Mapping[str, list[float]]) -> None:
        """Take in what `of_image` gave in an earlier process."""
        for rule, found in values.items():
            self._rules.setdefault(rule, np.zeros((3, len(self.labels))))[:, image] = found

    def of_image(self, image: int) -> dict[str, list[float]]:
        """Return an image's answer, probability and Brier score, by rule."""
        return {rule: values[:, image].tolist() for rule, values in self._rules.items()}

    @property
    def rules(self) -> list[str]:
        """Return the rules that there are answers by."""
        return list(self._rules)

    def predictions(self, rule: str) -> np.ndarray:
        """Return the answers (N,)."""
        return self._rules[rule][0].astype(int)

    def confidence(self, rule: str) -> np.ndarray:
        """Return the answers' probabilities (N,)."""
        return self._rules[rule][1]

    def of(self, images: np.ndarray) -> "Answers":
        """Return the answers to some of the images."""
        found = Answers(self.labels[images])
        found._rules = {rule: values[:, images] for rule, values in self._rules.items()}
        return found

    def figures(self, clean: "Answers | None" = None) -> Figures:
        """Return accuracy and calibration, and the consistency with answers to clean images."""
        result: Figures = {}
        for rule, (_, confidence, brier) in self._rules.items():
            correct = self.predictions(rule) == self.labels
            result[rule] = {
                "accuracy": 100 * float(correct.mean()),
                "ece": 100 * calibration_error(confidence, correct),
                "adaptive_ece": 100 * adaptive_calibration_error(confidence, correct),
                "max_ce": 100 * maximum_calibration_error(confidence, correct),
                "brier": float(brier.mean()),
            }
            if clean is not None:
                same = consistency(clean.predictions(rule), self.predictions(rule))
                result[rule]["consistency"] = 100 * same
        return result
