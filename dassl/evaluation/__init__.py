"""What a test computes from logits and labels."""

from .evaluator import EVALUATOR_REGISTRY, Classification, EvaluatorBase, build_evaluator
from .predictions import Predictions

__all__ = [
    "EVALUATOR_REGISTRY",
    "Classification",
    "EvaluatorBase",
    "Predictions",
    "build_evaluator",
]
