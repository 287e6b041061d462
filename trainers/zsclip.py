"""ZeroshotCLIP and ZeroshotCLIP2: CLIP with a hand-written prompt per data set, or with a mean over
several; nothing is learned.

References:
    [0] Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
        https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from datasets.templates import IMAGENET_TEMPLATES_SELECT

from .base import PromptedCLIP, PromptLearner, load_clip, prompt_template, resolve_precision


@torch.no_grad()
def zeroshot_features(clip_model: clip.model.CLIP, prompts: list[str]) -> Tensor:
    """Normalised features (C, E) of one prompt per class."""
    tokens = clip.tokenize(prompts).to(clip_model.positional_embedding.device)
    return F.normalize(clip_model.encode_text(tokens).float(), dim=-1)


class FixedCLIP(PromptedCLIP):
    """Frozen CLIP with class features (C, E) that were made once; nothing is learned."""

    def __init__(self, clip_model: clip.model.CLIP, text_features: Tensor):
        super().__init__(clip_model, PromptLearner())
        self.register_buffer("fixed_text_features", text_features, persistent=False)

    def text_features(self) -> Tensor:
        return self.fixed_text_features


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(TrainerX):
    """Runs in the precision of ``TRAINER.COOP.PREC``, whose configuration files it shares."""

    method = "COOP"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        """No settings of its own."""

    def build_model(self) -> None:
        precision = resolve_precision(self.cfg.TRAINER.COOP.PREC, self.device)
        clip_model = load_clip(self.cfg, precision, self.device)
        classnames = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        self.model = self.build_prompted_clip(clip_model, classnames)

    def build_prompted_clip(self, clip_model: clip.model.CLIP, classnames: list[str]) -> FixedCLIP:
        features = self.class_features(clip_model, classnames, self.templates())
        return FixedCLIP(clip_model, features)

    @staticmethod
    def open_prompts(cfg: Any) -> str:
        template = prompt_template(cfg)
        cfg.DATASET.TEMPLATE = "{}"
        return template

    @staticmethod
    def training_noise(cfg: Any) -> tuple[list[str], list[int]]:
        return [], []  # there is no training

    def templates(self) -> list[str]:
        """Prompts with ``{}`` for the class name."""
        return [prompt_template(self.cfg)]

    @staticmethod
    def class_features(
        clip_model: clip.model.CLIP, classnames: list[str], templates: list[str]
    ) -> Tensor:
        """Normalised mean over templates of normalised text features (C, E)."""
        print(f"Templates ({len(templates)}): {templates}")
        features = [
            zeroshot_features(clip_model, [template.format(name) for name in classnames])
            for template in templates
        ]
        return F.normalize(torch.stack(features).mean(dim=0), dim=-1)

    def train(self) -> None:
        """Nothing to learn: evaluate."""
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Nothing to load."""

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        return self.model(image)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """A mean over seven general templates and, except on ImageNet, the data set's own."""

    @staticmethod
    def open_prompts(cfg: Any) -> str:
        return "{}"  # it has many wordings as it is: what can be perturbed is the name

    def templates(self) -> list[str]:
        own = [] if self.cfg.DATASET.NAME == "ImageNet" else super().templates()
        return IMAGENET_TEMPLATES_SELECT + own
