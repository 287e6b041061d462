"""Optimisers and learning-rate schedules, chosen by the configuration's OPTIM node."""

from .lr_scheduler import build_lr_scheduler
from .optimizer import build_optimizer

__all__ = ["build_lr_scheduler", "build_optimizer"]
