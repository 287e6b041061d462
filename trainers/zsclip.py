"""ZeroshotCLIP and ZeroshotCLIP2: CLIP with a hand-written prompt per data set, or with a mean over
several; nothing is learned.

References:
    [0] Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
        https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from dassl.engine import TRAINER_REGISTRY
from datasets.templates import IMAGENET_TEMPLATES_SELECT

from .base import (
    ClassPrompts,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    encode_prompts,
    prompt_template,
)
from .coop import SETTINGS
from .settings import declare_method

logger = logging.getLogger(__name__)


class FixedCLIP(PromptedCLIP):
    """Frozen CLIP with class features that were made once; nothing is learned.

    Args:
        wordings: several descriptions of the classes; each class's feature is the normalised mean
            over them of normalised text features.
    """

    frozen_text_features: Tensor

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        prompts: ClassPrompts,
        wordings: Sequence[ClassPrompts],
    ):
        super().__init__(clip_model, PromptLearner(), prompts)
        features = [F.normalize(encode_prompts(clip_model, w), dim=-1) for w in wordings]
        mean = F.normalize(torch.stack(features).mean(dim=0), dim=-1)  # (C, E)
        self.register_buffer("frozen_text_features", mean, persistent=False)

    def text_features(self) -> Tensor:
        return self.frozen_text_features


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Runs in the precision of ``TRAINER.COOP.PREC``, whose configuration files it shares."""

    method = "COOP"
    learns = False

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_method(cfg, "COOP", SETTINGS)  # CoOp's, whose files it reads

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> FixedCLIP:
        logger.info(f"Templates (1): {[prompts.template]}")
        return FixedCLIP(clip_model, prompts, [prompts])


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """A mean over seven general templates and, except on ImageNet, the data set's own."""

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return "{}"  # it has many wordings as it is: what can be perturbed is the name

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> FixedCLIP:
        templates = list(IMAGENET_TEMPLATES_SELECT)
        if cfg.DATASET.NAME != "ImageNet":
            templates.append(prompt_template(cfg))
        logger.info(f"Templates ({len(templates)}): {templates}")
        return FixedCLIP(clip_model, prompts, prompts.worded(templates))
