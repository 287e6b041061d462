"""ZeroshotCLIP: CLIP with a hand-written prompt per data set; nothing is learned.

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
        template = dataset_template(cfg.DATASET.NAME)
        classnames = [name.replace("_", " ") for name in self.dm.dataset.classnames]
        prompts = [template.format(name) for name in classnames]
        print(f"Prompts: {prompts[:3]} ...")
        self.text_features = zeroshot_features(self.clip_model, prompts)

    def train(self) -> None:
        """Nothing to learn: evaluate."""
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Nothing to load."""

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        image_features = F.normalize(self.clip_model.encode_image(image).float(), dim=-1)
        return self.clip_model.logit_scale.exp().float() * image_features @ self.text_features.t()
