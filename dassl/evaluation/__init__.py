"""What a test computes from logits and labels."""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .evaluator import Classification, EvaluatorBase
from .tally import Tally

__all__ = ["EVALUATOR_REGISTRY", "Classification", "EvaluatorBase", "Tally", "build_evaluator"]
