"""Learning rate as a function of the epoch.

One class holds every schedule. The rate depends on nothing but the number of steps taken, so the
state to save is that number, and a resumed run cannot drift from an undisturbed one.

Dassl's rates are kept to the last bit that float arithmetic allows, including two that surprise:

* the schedule after a warm-up of W epochs begins at its own epoch 0 but keeps its full length E, so
  with cosine and W = 1 the last epoch trains at index E - 2 and the rate never reaches zero;
* with WARMUP_RECOUNT off, counting starts at index W, but the first rate after warm-up is still the
  full one, and later rates are the schedule's *relative* changes from there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from dassl.utils import UsageError, check_availability

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
AVAI_WARMUPS = ["constant", "linear"]

# Relative change of the rate from epoch ``start`` to epoch ``index``, both counted by the decay.
Decay = Callable[[int, int], float]


class Schedule(LRScheduler):
    """Warm-up followed by a decay, both in epochs.

    Args:
        optimizer: its groups' current rates are the full rates.
        decay: how the full rate changes after the warm-up.
        warmup_epoch: length of the warm-up; 0 for none.
        warmup_type: "constant" (``warmup_lr`` throughout) or "linear" (``warmup_lr`` in the first
            epoch, then the full rate times epoch / ``warmup_epoch``).
        warmup_lr: see ``warmup_type``.
        offset: the decay's epoch index when the warm-up ends.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        decay: Decay,
        warmup_epoch: int = 0,
        warmup_type: str = "constant",
        warmup_lr: float = 1e-5,
        offset: int = 0,
    ):
        self.decay = decay
        self.warmup_epoch = warmup_epoch
        self.warmup_type = warmup_type
        self.warmup_lr = warmup_lr
        self.offset = offset
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Return one rate per parameter group, for the epoch that the schedule has reached."""
        epoch = self.last_epoch
        if epoch < self.warmup_epoch:
            if self.warmup_type == "constant" or epoch == 0:
                return [self.warmup_lr for _ in self.base_lrs]
            return [lr * epoch / self.warmup_epoch for lr in self.base_lrs]
        start, index = self.offset, self.offset + epoch - self.warmup_epoch
        factor = 1.0 if index == start else self.decay(start, index)
        return [lr * factor for lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of epochs done and the full rates: all that a continuation needs."""
        return {"last_epoch": self.last_epoch, "base_lrs": [float(lr) for lr in self.base_lrs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state and set the optimiser's rates to match.

        Raises:
            ValueError: the state has other full rates, or as many as another optimiser has groups.
        """
        base_lrs = list(state_dict["base_lrs"])
        if base_lrs != self.base_lrs:
            raise ValueError(f"its full learning rates are {base_lrs}, here {self.base_lrs}")
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = self.last_epoch + 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def cosine_decay(length: int) -> Decay:
    """Return half a cosine from 1 to 0 over ``length`` epochs."""

    def value(epoch: int) -> float:
        return (1 + math.cos(math.pi * epoch / length)) / 2

    return lambda start, index: value(index) / value(start)


def step_decay(stepsize: int, gamma: float) -> Decay:
    """Return a decay by ``gamma`` every ``stepsize`` epochs."""
    return lambda start, index: gamma ** (index // stepsize - start // stepsize)


def multi_step_decay(milestones: Sequence[int], gamma: float) -> Decay:
    """Return a decay by ``gamma`` at every milestone passed."""
    return lambda start, index: gamma ** sum(start < step <= index for step in milestones)


def build_lr_scheduler(optimizer: torch.optim.Optimizer, optim_cfg: CfgNode) -> Schedule:
    """Make the schedule that the OPTIM node describes. Call ``step()`` once at the end of every
    epoch.

    Raises:
        UsageError: unknown schedule or warm-up, or a STEPSIZE that does not fit the schedule.
    """
    decay = _build_decay(optim_cfg)
    warmup_epoch = max(optim_cfg.WARMUP_EPOCH, 0)
    if not warmup_epoch:
        return Schedule(optimizer, decay)
    check_availability(optim_cfg.WARMUP_TYPE, AVAI_WARMUPS, kind="warm-up (OPTIM.WARMUP_TYPE)")
    is_constant = optim_cfg.WARMUP_TYPE == "constant"
    return Schedule(
        optimizer,
        decay,
        warmup_epoch=warmup_epoch,
        warmup_type=optim_cfg.WARMUP_TYPE,
        warmup_lr=optim_cfg.WARMUP_CONS_LR if is_constant else optim_cfg.WARMUP_MIN_LR,
        offset=0 if optim_cfg.WARMUP_RECOUNT else warmup_epoch,
    )


def _build_decay(optim_cfg: CfgNode) -> Decay:
    name, stepsize, max_epoch = optim_cfg.LR_SCHEDULER, optim_cfg.STEPSIZE, optim_cfg.MAX_EPOCH
    check_availability(name, AVAI_SCHEDS, kind="schedule (OPTIM.LR_SCHEDULER)")
    if name == "cosine":
        return cosine_decay(max_epoch)
    if name == "multi_step":
        if not isinstance(stepsize, (list, tuple)):
            raise UsageError(
                f"multi_step takes a list of epochs as OPTIM.STEPSIZE, got {stepsize!r}"
            )
        return multi_step_decay(stepsize, optim_cfg.GAMMA)
    if isinstance(stepsize, (list, tuple)):
        stepsize = stepsize[-1]
    if not isinstance(stepsize, int):
        raise UsageError(f"single_step takes a whole number as OPTIM.STEPSIZE, got {stepsize!r}")
    return step_decay(stepsize if stepsize > 0 else max_epoch, optim_cfg.GAMMA)
