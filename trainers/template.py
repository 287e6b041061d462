"""Template: the smallest complete method, to be copied; docs/ADDING_A_METHOD.md goes through it.

As it stands it learns a few vectors in front of the data set's hand-written prompt. A method of
your own needs other contents in the three functions marked 1, 2 and 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY
from trainers.base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TokenizedPrompts,
    TrainingBatch,
)
from trainers.settings import declare_method, precision


class TemplateLearner(PromptLearner):
    """All parameters in here are learned, in fp32, and saved. Nothing else is."""

    def __init__(self, settings: Any, clip_model: CLIP, prompts: ClassPrompts):  # 1: is learned
        super().__init__()
        width = clip_model.transformer.width
        self.ctx = nn.Parameter(torch.empty(settings.N_CTX, width).normal_(std=0.02))  # (n, Dt)
        placeholders = " ".join(["X"] * settings.N_CTX)
        self.prompts = TokenizedPrompts(clip_model, prompts.between(placeholders, after=""))


class TemplateCLIP(PromptedCLIP):
    """Frozen CLIP (``self.clip``) steered by the learner (``self.prompt_learner``)."""

    def text_features(self) -> Tensor:  # 2: what the learned does to CLIP
        learner = self.prompt_learner
        return self.run_text(learner.prompts.shared_text(self.clip, context=learner.ctx))  # (C, E)

    def loss(self, batch: TrainingBatch) -> Loss:  # 3: what it learns for
        logits = self(batch.image)  # (B, C)
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label))


@TRAINER_REGISTRY.register()
class Template(PromptTrainer):
    method = "TEMPLATE"  # name of the settings' node, cfg.TRAINER.TEMPLATE

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "PREC": precision("fp32"),
            "N_CTX": Setting(4, "learned vectors", ge=1, le=72),
        }
        declare_method(cfg, "TEMPLATE", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        learner = TemplateLearner(cls.settings_of(cfg), clip_model, prompts)
        return TemplateCLIP(clip_model, learner, prompts)
