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
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    TrainingBatch,
    encode_prompts,
    prompt_template,
)
from .coop import SETTINGS, CoOp, CoOpCLIP, CoOpPromptLearner
from .settings import declare_method

# Where the hand-written prompt is another than the zero-shot trainer's.
OWN_TEMPLATES = {"DescribableTextures": "a photo of a {}, a type of texture."}


class GuidedCLIP(CoOpCLIP):
    """CoOp's model, with features of hand-written prompts to compare with in training.

    Args:
        template: the hand-written prompt, ``{}`` for the class name.
    """

    frozen_text_features: Tensor  # (C, E), once training is prepared

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: CoOpPromptLearner,
        prompts: ClassPrompts,
        *,
        template: str,
    ):
        super().__init__(clip_model, learner, prompts)
        self.template = template
        self.register_buffer("frozen_text_features", None, persistent=False)

    def prepare_training(self) -> None:
        hand_written = ClassPrompts(self.template, self.prompts.classnames)
        self.frozen_text_features = F.normalize(encode_prompts(self.clip, hand_written), dim=-1)


class KnowledgeGuidedCLIP(GuidedCLIP):
    """CoOp's model, tied to the features of hand-written prompts in training.

    Args:
        weight: W, of the tie.
    """

    def __init__(self, *args: Any, weight: float, **named: Any):
        super().__init__(*args, **named)
        self.weight = weight

    def loss(self, batch: TrainingBatch) -> Loss:
        text_features = self.text_features()
        logits = self.scale * self.image_features(batch.image) @ text_features.t()
        distance = 1 - (text_features * self.frozen_text_features).sum(dim=-1).mean()
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label), text=self.weight * distance)


@TRAINER_REGISTRY.register()
class KgCoOp(CoOp):
    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        weight = Setting(
            8.0, "weight of the tie to hand-written prompts", ge=0, le=1000, scope="training"
        )
        unused = Setting(1.0, "declared and not read by upstream's KgCoOp", scope="unused")
        declare_method(cfg, "COOP", {**SETTINGS, "W": weight, "ALPHA": unused})

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        settings = cls.settings_of(cfg)
        template = prompt_template(cfg, OWN_TEMPLATES.get(cfg.DATASET.NAME, ""))
        learner = CoOpPromptLearner(settings, clip_model, prompts)
        return KnowledgeGuidedCLIP(
            clip_model, learner, prompts, template=template, weight=settings.W
        )
