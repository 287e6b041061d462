"""Trainers by name."""

from typing import TYPE_CHECKING

from dassl.utils import Registry, check_availability

if TYPE_CHECKING:
    from dassl.config import Config

    from .base import TrainerBase

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: "Config") -> "TrainerBase":
    """Make the trainer that ``cfg.TRAINER.NAME`` names: data, model, optimiser, evaluator.

    Raises:
        UsageError: unknown name, or anything in the configuration that cannot be.
    """
    name = cfg.TRAINER.NAME
    check_availability(name, TRAINER_REGISTRY.registered_names(), kind="trainer (TRAINER.NAME)")
    if cfg.VERBOSE:
        print(f"Loading trainer: {name}")
    return TRAINER_REGISTRY.get(name)(cfg)
