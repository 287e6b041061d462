"""Trainers by name."""

from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Make the trainer that ``cfg.TRAINER.NAME`` names: data, model, optimiser, evaluator.

    Raises:
        UsageError: unknown name, or anything in the configuration that cannot be.
    """
    name = cfg.TRAINER.NAME
    check_availability(name, TRAINER_REGISTRY.registered_names(), kind="trainer (TRAINER.NAME)")
    if cfg.VERBOSE:
        print(f"Loading trainer: {name}")
    return TRAINER_REGISTRY.get(name)(cfg)
