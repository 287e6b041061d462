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

from .base import dataset_template, load_clip, resolve_precision


@torch.no_grad()
def zeroshot_features(clip_model: clip.model.CLIP, prompts: list[str]) -> Tensor:
    """Normalised features (C, E) of one prompt per class."""
    tokens = clip.tokenize(prompts).to(clip_model.positional_embedding.device)
    return F.normalize(clip_model.encode_text(tokens).float(), dim=-1)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(TrainerX):
    """Runs in the precision of ``TRAINER.COOP.PREC``, whose configuration files it shares."""

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        """No settings of its own."""

    def build_model(self) -> None:
        cfg = self.cfg
        precision = resolve_precision(cfg.TRAINER.COOP.PREC, self.device)
        self.clip_model = load_clip(cfg, precision, self.device)
        classnames = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        self.text_features = self.class_features(classnames, self.templates())

    def templates(self) -> list[str]:
        """Prompts with ``{}`` for the class name."""
        return [dataset_template(self.cfg.DATASET.NAME)]

    def class_features(self, classnames: list[str], templates: list[str]) -> Tensor:
        """Normalised mean over templates of normalised text features (C, E)."""
        print(f"Templates ({len(templates)}): {templates}")
        features = [
            zeroshot_features(self.clip_model, [template.format(name) for name in classnames])
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
        image_features = F.normalize(self.clip_model.encode_image(image).float(), dim=-1)
        return self.clip_model.logit_scale.exp().float() * image_features @ self.text_features.t()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """A mean over seven general templates and, except on ImageNet, the data set's own."""

    def templates(self) -> list[str]:
        own = [] if self.cfg.DATASET.NAME == "ImageNet" else super().templates()
        return IMAGENET_TEMPLATES_SELECT + own
