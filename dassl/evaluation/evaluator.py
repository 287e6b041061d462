"""Evaluators by name: fed batch by batch, then asked for a summary."""

import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from dassl.utils import Registry, check_availability
from dassl.utils.torchtools import write_tensors

from .predictions import Predictions

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> "EvaluatorBase":
    """Make the evaluator that ``cfg.TEST.EVALUATOR`` names.

    Raises:
        UsageError: unknown name.
    """
    name = cfg.TEST.EVALUATOR
    check_availability(
        name, EVALUATOR_REGISTRY.registered_names(), kind="evaluator (TEST.EVALUATOR)"
    )
    if cfg.VERBOSE:
        print(f"Loading evaluator: {name}")
    return EVALUATOR_REGISTRY.get(name)(cfg, **kwargs)


class EvaluatorBase:
    """What a trainer expects of an evaluator."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add model outputs and labels of one batch."""
        raise NotImplementedError

    def evaluate(self) -> "OrderedDict[str, float]":
        """Print and return the metrics; the first one is the result of a test."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error and macro-F1 in percent; on request per class and as confusion matrix.

    The printed lines have Dassl's wording, which log parsers look for.

    Attributes:
        predictions: what was taken in so far.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **_: Any):
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs class names (lab2cname)")
        self.predictions = Predictions(lab2cname)

    def reset(self) -> None:
        """Forget all batches."""
        self.predictions.reset()

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add logits (B, C) and labels (B,) of one batch."""
        self.predictions.add(mo, gt)

    def evaluate(self) -> "OrderedDict[str, float]":
        """Print the metrics and return them as ``accuracy``, ``error_rate``, ``macro_f1`` and, with
        TEST.PER_CLASS_RESULT, ``perclass_accuracy``."""
        figures = self.predictions.figures()
        print(
            "=> result\n"
            f"* total: {figures['num_test']:,}\n"
            f"* correct: {figures['num_correct']:,}\n"
            f"* accuracy: {figures['accuracy']:.1f}%\n"
            f"* error: {figures['error']:.1f}%\n"
            f"* macro_f1: {figures['macro_f1']:.1f}%"
        )
        results = OrderedDict(
            accuracy=figures["accuracy"],
            error_rate=figures["error"],
            macro_f1=figures["macro_f1"],
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_classes(figures["per_class"])
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusions()
        return results

    def _print_classes(self, classes: list[dict[str, Any]]) -> float:
        print("=> per-class result")
        for row in classes:
            print(
                f"* class: {row['label']} ({row['name']})\t"
                f"total: {row['total']:,}\t"
                f"correct: {row['correct']:,}\t"
                f"acc: {row['accuracy']:.1f}%"
            )
        average = float(np.mean([row["accuracy"] for row in classes]))
        print(f"* average: {average:.1f}%")
        return average

    def _save_confusions(self) -> None:
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        write_tensors(torch.from_numpy(self.predictions.confusion_matrix()), path)
        print(f"Confusion matrix is saved to {path}")
