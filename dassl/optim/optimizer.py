"""Optimisers by name."""

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dassl.utils import check_availability

if TYPE_CHECKING:
    from dassl.config import Config

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]


def build_optimizer(
    model: nn.Module | Iterable,
    optim_cfg: "Config",
    param_groups: Iterable | None = None,
) -> torch.optim.Optimizer:
    """Make the optimiser that ``optim_cfg.NAME`` names.

    Args:
        model: module whose parameters are optimised, or the parameters (or groups) themselves.
        optim_cfg: the configuration's OPTIM node.
        param_groups: optimise these instead of ``model``; staged learning rates are then ignored.

    Raises:
        UsageError: unknown optimiser.
    """
    name = optim_cfg.NAME
    check_availability(name, AVAI_OPTIMS, kind="optimiser (OPTIM.NAME)")
    if param_groups is not None and optim_cfg.STAGED_LR:
        warnings.warn(
            "OPTIM.STAGED_LR has no effect on param_groups given by the trainer", stacklevel=2
        )
    if param_groups is None:
        param_groups = _param_groups(model, optim_cfg)

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


def _param_groups(model: nn.Module | Iterable, optim_cfg: "Config") -> Iterable:
    """All parameters, or with STAGED_LR two groups: old layers (slower), new layers."""
    if not optim_cfg.STAGED_LR:
        return model.parameters() if isinstance(model, nn.Module) else model
    if not isinstance(model, nn.Module):
        raise TypeError("OPTIM.STAGED_LR needs a module, to tell new layers from old ones")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = optim_cfg.NEW_LAYERS
    if isinstance(new_layers, str):
        new_layers = [new_layers]
    if not new_layers:
        warnings.warn("OPTIM.STAGED_LR without OPTIM.NEW_LAYERS slows every layer", stacklevel=3)
    children = list(model.named_children())
    old = [p for name, child in children if name not in new_layers for p in child.parameters()]
    new = [p for name, child in children if name in new_layers for p in child.parameters()]
    return [{"params": old, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
