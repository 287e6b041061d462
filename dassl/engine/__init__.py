"""Trainers. Their registry needs no PyTorch; the classes are imported when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .build import TRAINER_REGISTRY, build_trainer

if TYPE_CHECKING:
    from .base import TrainerBase
    from .trainer import SimpleTrainer, TrainerX

__all__ = ["TRAINER_REGISTRY", "SimpleTrainer", "TrainerBase", "TrainerX", "build_trainer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.trainer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
