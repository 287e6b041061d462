"""The frozen CLIP of a run: precision, loading, settings that trade digits for speed."""

from __future__ import annotations

import logging
from typing import Any

import torch

import clip
from clip.compile import compile_blocks
from common.errors import UsageError

from .settings import PRECISIONS

logger = logging.getLogger(__name__)

DTYPES = {
    "fp32": torch.float32,
    "amp": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


NEED_GPU = ("fp16", "amp")  # precisions that a CPU has too, many times slower than fp32; tests do


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision a run really has: on a CPU, ``fp16`` and ``amp`` mean ``fp32``.

    Raises:
        UsageError: not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"PREC {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if device.type == "cpu" and precision in NEED_GPU:
        logger.info(f"Precision: {precision} needs a GPU; running in fp32 on the CPU")
        return "fp32"
    return precision


def backbone_of(cfg: Any) -> str:
    """Return what tells a run's backbone: its file's digest, or its registered name."""
    return str(cfg.get("RUN", {}).get("WEIGHTS") or cfg.MODEL.BACKBONE.NAME)


def load_clip(
    cfg: Any, precision: str, device: torch.device, any_size: bool = False
) -> clip.model.CLIP:
    """Load the frozen backbone that ``cfg.MODEL.BACKBONE.NAME`` names, in the given precision.

    Args:
        any_size: images may have any size that patches divide, where the image tower is a ViT.

    Raises:
        UsageError: the data transforms make images of another size than the backbone takes.
    """
    name = cfg.MODEL.BACKBONE.NAME
    model = clip.load_model(name, device=device, dtype=DTYPES[precision])
    resolution = model.visual.input_resolution
    if any_size and isinstance(model.visual, clip.model.VisionTransformer):
        patch = model.visual.conv1.stride[0]
        if any(side % patch for side in cfg.INPUT.SIZE):
            raise UsageError(
                f"INPUT.SIZE {tuple(cfg.INPUT.SIZE)}: backbone {name or 'small'!r} has patches of "
                f"{patch} pixels; both sides are multiples of that"
            )
    elif tuple(cfg.INPUT.SIZE) != (resolution, resolution):
        raise UsageError(
            f"INPUT.SIZE {tuple(cfg.INPUT.SIZE)} does not fit backbone {name or 'small'!r}: "
            f"set INPUT.SIZE ({resolution},{resolution})"
        )
    apply_speed_settings(cfg, model)
    return model.requires_grad_(False).eval()


def apply_speed_settings(cfg: Any, model: clip.model.CLIP) -> None:
    """Apply ``MODEL.CLASSES_AT_ONCE`` and ``INEXACT``, where the configuration has them."""
    model.transformer.classes_at_once = cfg.MODEL.get("CLASSES_AT_ONCE", 0)
    inexact = cfg.get("INEXACT", {})
    # PyTorch has it on for convolutions unless told otherwise.
    torch.backends.cudnn.allow_tf32 = bool(inexact.get("TF32"))
    torch.set_float32_matmul_precision("high" if inexact.get("TF32") else "highest")
    if inexact.get("COMPILE"):
        compile_blocks(model, mode=inexact.COMPILE)


class NeedsViT(UsageError):
    """The method puts prompts between the blocks of a ViT, and the backbone has none."""


def require_vit(model: clip.model.CLIP, method: str) -> None:
    """Refuse a backbone whose image tower is no ViT of OpenAI's form.

    Raises:
        NeedsViT: it is a ResNet, or one of open_clip's other towers.
    """
    if not isinstance(model.visual, clip.model.VisionTransformer):
        kind = type(getattr(model.visual, "trunk", model.visual)).__name__
        raise NeedsViT(
            f"{method} changes the image tower and needs a ViT of OpenAI's form there, "
            f"this backbone has a {kind}: set MODEL.BACKBONE.NAME to another, e.g. ViT-B/16 "
            "(python -m anprompt backbones lists which run with which methods)"
        )
