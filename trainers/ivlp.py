"""IVLP: independent learned tokens in the layers of both towers.

References:
    [0] Khattak et al., MaPLe: Multi-modal Prompt Learning, 2023, https://arxiv.org/abs/2210.03117
        (independent vision-language prompting, the paper's baseline)
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

import clip
from clip.edits import ReplaceTokens
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .base import (
    ClassPrompts,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TokenizedPrompts,
    require_vit,
)
from .coop import phrase_context, rest_of_phrase
from .settings import context_words, count, declare_method, precision
from .vpt import (
    check_depth,
    own_prompt_name,
    prompted_image_features,
    random_prompts,
    upstream_prompt_name,
)

logger = logging.getLogger(__name__)


class IndependentPromptLearner(PromptLearner):
    """Learned: ``ctx`` (n, Dt), what takes its place before the later text layers,
    ``text_prompts`` (n, Dt), and ``vision_prompts`` (m, Dv). With m or the depth 0, no vision
    prompts.

    Args:
        settings: the method's node; N_CTX_TEXT, N_CTX_VISION, PROMPT_DEPTH_TEXT,
            PROMPT_DEPTH_VISION, CTX_INIT.
        node: its name, for error messages.
    """

    def __init__(
        self, settings: Any, node: str, clip_model: clip.model.CLIP, prompts: ClassPrompts
    ):
        super().__init__()
        device = clip_model.positional_embedding.device
        depth, vision_depth = settings.PROMPT_DEPTH_TEXT, settings.PROMPT_DEPTH_VISION
        check_depth(depth, clip_model.transformer.layers, f"TRAINER.{node}.PROMPT_DEPTH_TEXT")
        ctx, words = phrase_context(
            clip_model, settings.CTX_INIT, settings.N_CTX_TEXT, f"TRAINER.{node}.CTX_INIT"
        )
        self.ctx = nn.Parameter(ctx)
        width = clip_model.transformer.width
        self.text_prompts = random_prompts(depth - 1, len(ctx), width, device)
        logger.info(f'Initial context: "{words}", {len(ctx)} tokens learned, depth {depth}')

        if settings.N_CTX_VISION < 1 or vision_depth < 1:
            vision_depth = 0
        if vision_depth:
            require_vit(clip_model, node)
            layers = clip_model.visual.transformer.layers
            check_depth(vision_depth, layers, f"TRAINER.{node}.PROMPT_DEPTH_VISION")
            width = clip_model.visual.transformer.width
        self.vision_prompts = random_prompts(vision_depth, settings.N_CTX_VISION, width, device)
        logger.info(f"Vision prompts: {settings.N_CTX_VISION} tokens, depth {vision_depth}")
        self.prompts = TokenizedPrompts(clip_model, prompts.between(words))


class IndependentCLIP(PromptedCLIP):
    """CLIP with an ``IndependentPromptLearner``."""

    def text_features(self) -> Tensor:
        learner = self.prompt_learner
        text = learner.prompts.shared_text(self.clip, context=learner.ctx)
        edit = ReplaceTokens(dict(enumerate(learner.text_prompts, start=1)), position=1)
        return self.run_text(text, edit=edit)

    def image_features(self, image: Tensor) -> Tensor:
        prompts = list(self.prompt_learner.vision_prompts)
        if not prompts:
            return super().image_features(image)
        embedded = self.clip.visual.embed(image.type(self.clip.dtype))
        return prompted_image_features(self.clip, embedded, prompts)

    def rename_key(self, name: str) -> str:
        return own_prompt_name(name)

    def upstream_key(self, name: str) -> str:
        return upstream_prompt_name(name)


def tower_settings(n_ctx: int) -> dict[str, Setting]:
    """Describe what IVLP and PromptSRC have in common, with ``n_ctx`` tokens per layer."""
    return {
        "N_CTX_VISION": count(n_ctx, "tokens per layer of the image tower; 0: none", at_least=0),
        "N_CTX_TEXT": count(n_ctx, "tokens per layer of the text tower"),
        "CTX_INIT": context_words("a photo of a"),
        "PREC": precision("fp16"),
        "PROMPT_DEPTH_VISION": count(
            9, "layers of the image tower with tokens, the first included; 0: none", at_least=0
        ),
        "PROMPT_DEPTH_TEXT": count(9, "layers of the text tower with tokens, the first included"),
    }


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    method = "IVLP"
    model_name = "VLPromptLearner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_method(cfg, "IVLP", tower_settings(2))

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        settings = cls.settings_of(cfg)
        return rest_of_phrase(settings.CTX_INIT, settings.N_CTX_TEXT)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        settings = cls.settings_of(cfg)
        learner = IndependentPromptLearner(settings, cls.method, clip_model, prompts)
        return IndependentCLIP(clip_model, learner, prompts)
