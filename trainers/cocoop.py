"""CoCoOp: CoOp's context, shifted for each image by a small network that looks at it.

Every image has prompts of its own, so the text tower runs once per image. Of that, everything up
to the class name is the same for all classes and runs once per image, not once per image and class.

References:
    [0] Zhou et al., Conditional Prompt Learning for Vision-Language Models, 2022,
        https://arxiv.org/abs/2203.05557
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

import clip
from dassl.engine import TRAINER_REGISTRY

from .base import ClassPrompts, PromptedCLIP, PromptLearner, PromptTrainer, TokenizedPrompts
from .coop import initial_context
from .settings import context_words, count, declare_method, precision

logger = logging.getLogger(__name__)

PROMPTS_AT_ONCE = 2048  # images x classes that an evaluation holds in memory


class ConditionalPromptLearner(PromptLearner):
    """Learned: ``ctx`` (n, Dt) and ``meta_net``, E -> E / 16 -> Dt."""

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__()
        ctx, words = initial_context(clip_model, settings.CTX_INIT, settings.N_CTX)
        self.ctx = nn.Parameter(ctx)
        logger.info(f'Initial context: "{words}" ({len(ctx)} tokens)')
        features, width = clip_model.visual.output_dim, clip_model.transformer.width
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(features, features // 16),
                relu=nn.ReLU(),
                linear2=nn.Linear(features // 16, width),
            )
        )
        self.prompts = TokenizedPrompts(clip_model, prompts.between(words))

    def context(self, image_features: Tensor) -> Tensor:
        """Return each image's context (B, n, Dt) from normalised image features (B, E)."""
        return self.ctx + self.meta_net(image_features).unsqueeze(1)


class CoCoOpCLIP(PromptedCLIP):
    """Frozen image features against text features that depend on the image."""

    def text_features_for(self, image_features: Tensor, prompts: TokenizedPrompts) -> Tensor:
        """Return normalised class features (B, C, E), one set per image (features (B, E))."""
        # B prefixes (start token, shifted context), each shared by all C class names.
        context = self.prompt_learner.context(image_features)
        text = prompts.shared_text(self.clip, context=context)
        features = self.run_text(text)
        return features.view(len(image_features), -1, features.shape[-1])

    def class_state(self) -> TokenizedPrompts:
        return self.prompt_learner.prompts

    def classify(self, encoded: Tensor, class_state: TokenizedPrompts) -> dict[str, Tensor]:
        together = len(encoded)  # (B, E)
        if not self.prompt_learner.training:
            together = max(1, PROMPTS_AT_ONCE // len(class_state.tokens))
        logits = [
            torch.einsum("be,bce->bc", some, self.text_features_for(some, class_state))
            for some in encoded.split(together)
        ]
        return {self.rule: self.scale * torch.cat(logits)}

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the learner alone


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    method = "COCOOP"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "N_CTX": count(16, "context vectors, where CTX_INIT is empty", at_most=72),
            "CTX_INIT": context_words(),
            "PREC": precision("fp16"),
        }
        declare_method(cfg, "COCOOP", settings)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return "{}"  # the other words are learned

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        learner = ConditionalPromptLearner(cls.settings_of(cfg), clip_model, prompts)
        return CoCoOpCLIP(clip_model, learner, prompts)
