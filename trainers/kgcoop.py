"""KgCoOp: CoOp whose text features are tied to those of hand-written prompts.

Runs on CoOp's settings (``cfg.TRAINER.COOP``), to which it adds the weight W, as upstream's
commands expect. Upstream differs in three points without effect on its published runs: it learns
the context only but saves two more modules, it always puts the class name last, and its amp mode
fails.

References:
    [0] Yao et al., Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, 2023,
        https://arxiv.org/abs/2303.13283
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

import clip
from dassl.engine import TRAINER_REGISTRY

from .base import PromptedCLIP, prompt_template
from .coop import CoOp, CoOpPromptLearner, CustomCLIP
from .zsclip import zeroshot_features

# Where the hand-written prompt is another than the zero-shot trainer's.
OWN_TEMPLATES = {"DescribableTextures": "a photo of a {}, a type of texture."}


class KnowledgeGuidedCLIP(CustomCLIP):
    """CoOp's model with the features of the hand-written prompts beside it.

    Args:
        prompts: one hand-written prompt per class.
        weight: W, of the tie.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: CoOpPromptLearner,
        prompts: list[str],
        weight: float,
    ):
        super().__init__(clip_model, learner)
        self.weight = weight
        frozen = zeroshot_features(clip_model, prompts)  # (C, E)
        self.register_buffer("frozen_text_features", frozen, persistent=False)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        text_features = self.text_features()
        logits = self.scale * self.image_features(image) @ text_features.t()
        distance = 1 - (text_features * self.frozen_text_features).sum(dim=-1).mean()
        return F.cross_entropy(logits, label) + self.weight * distance, logits


@TRAINER_REGISTRY.register()
class KgCoOp(CoOp):
    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        if "COOP" not in cfg.TRAINER:
            CoOp.extend_cfg(cfg)
        cfg.TRAINER.COOP.W = 8.0  # KgCoOp: weight of the tie to hand-written prompts

    def build_prompted_clip(
        self, clip_model: clip.model.CLIP, classnames: list[str]
    ) -> PromptedCLIP:
        template = prompt_template(self.cfg)
        if not self.cfg.DATASET.get("TEMPLATE"):
            template = OWN_TEMPLATES.get(self.cfg.DATASET.NAME, template)
        return KnowledgeGuidedCLIP(
            clip_model,
            CoOpPromptLearner(self.cfg, classnames, clip_model),
            [template.format(name) for name in classnames],
            self.cfg.TRAINER.COOP.W,
        )
