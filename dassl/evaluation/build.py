"""Evaluators by name."""

from typing import TYPE_CHECKING, Any

from dassl.utils import Registry, check_availability

if TYPE_CHECKING:
    from dassl.config import Config

    from .evaluator import EvaluatorBase

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: "Config", **kwargs: Any) -> "EvaluatorBase":
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
