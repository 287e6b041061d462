"""Optimisers by name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.utils import UsageError, check_availability

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]


def build_optimizer(
    model: nn.Module | Iterable,
    optim_cfg: CfgNode,
    param_groups: Iterable | None = None,
) -> torch.optim.Optimizer:
    """Make the optimiser that ``optim_cfg.NAME`` names.

    Args:
        model: module whose parameters are optimised, or the parameters (or groups) themselves.
        optim_cfg: the configuration's OPTIM node.
        param_groups: optimise these instead of ``model``.

    Raises:
        UsageError: unknown optimiser, or staged learning rates, which are Dassl's for trainers of
            other families.
    """
    name = optim_cfg.NAME
    check_availability(name, AVAI_OPTIMS, kind="optimiser (OPTIM.NAME)")
    if optim_cfg.get("STAGED_LR"):
        raise UsageError("OPTIM.STAGED_LR True: layers have no learning rates of their own here")
    if param_groups is None:
        param_groups = model.parameters() if isinstance(model, nn.Module) else model

    common: dict[str, Any] = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    betas = (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2)
    if name == "sgd":
        return torch.optim.SGD(
            param_groups,
            momentum=optim_cfg.MOMENTUM,
            dampening=optim_cfg.SGD_DAMPNING,
            nesterov=optim_cfg.SGD_NESTEROV,
            **common,
        )
    if name == "rmsprop":
        return torch.optim.RMSprop(
            param_groups, momentum=optim_cfg.MOMENTUM, alpha=optim_cfg.RMSPROP_ALPHA, **common
        )
    if name == "radam":
        # Weight decay acts on the weights, not on the gradient, as in RAdam's authors' code that
        # Dassl carries.
        return torch.optim.RAdam(param_groups, betas=betas, decoupled_weight_decay=True, **common)
    if name == "adamw":
        return torch.optim.AdamW(param_groups, betas=betas, **common)
    return torch.optim.Adam(param_groups, betas=betas, amsgrad=name == "amsgrad", **common)
