"""Template: the smallest complete method, to be copied; docs/ADDING_A_METHOD.md goes through it.

As it stands it learns a few vectors in front of the data set's hand-written prompt. A method of
your own needs other contents in the three functions marked 1, 2 and 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from trainers.base import (
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TokenizedPrompts,
    prompt_template,
)


class TemplateLearner(PromptLearner):
    """All parameters in here are learned, in fp32, and saved. Nothing else is."""

    def __init__(self, settings: Any, prompts: list[str], clip_model: CLIP):  # 1: what is learned
        super().__init__()
        width = clip_model.transformer.width
        self.ctx = nn.Parameter(torch.empty(settings.N_CTX, width).normal_(std=0.02))  # (n, Dt)
        placeholders = " ".join(["X"] * settings.N_CTX)
        self.prompts = TokenizedPrompts(clip_model, [f"{placeholders} {text}" for text in prompts])


class TemplateCLIP(PromptedCLIP):
    """Frozen CLIP (``self.clip``) steered by the learner (``self.prompt_learner``)."""

    def text_features(self) -> Tensor:  # 2: what the learned does to CLIP
        learner = self.prompt_learner
        text = learner.prompts.shared_text(self.clip, context=learner.ctx)
        features = text.run(self.clip.transformer).features(self.clip)  # (C, E)
        return F.normalize(features.float(), dim=-1)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # 3: what it learns for
        logits = self(image)  # (B, C)
        return F.cross_entropy(logits, label), logits


@TRAINER_REGISTRY.register()
class Template(PromptTrainer):
    method = "TEMPLATE"  # name of the settings' node, cfg.TRAINER.TEMPLATE

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        cfg.TRAINER.TEMPLATE = CN()
        cfg.TRAINER.TEMPLATE.PREC = "fp32"  # fp32, fp16, amp, bf16
        cfg.TRAINER.TEMPLATE.N_CTX = 4  # learned vectors

    def build_prompted_clip(self, clip_model: CLIP, classnames: list[str]) -> PromptedCLIP:
        prompts = [prompt_template(self.cfg).format(name) for name in classnames]
        learner = TemplateLearner(self.cfg.TRAINER.TEMPLATE, prompts, clip_model)
        return TemplateCLIP(clip_model, learner)
