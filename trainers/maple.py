"""MaPLe: deep text prompts, and visual prompts that are linear functions of them.

References:
    [0] Khattak et al., MaPLe: Multi-modal Prompt Learning, 2023, https://arxiv.org/abs/2210.03117
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from torch import Tensor, nn

import clip
from clip.edits import ReplaceTokens, append_tokens
from common.errors import UsageError
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
from .vpt import random_prompts

logger = logging.getLogger(__name__)


def equal_maps(number: int, inputs: int, outputs: int, device: Any) -> nn.ModuleList:
    """Return linear maps that all start equal, as upstream's copies of one layer do."""
    layer = nn.Linear(inputs, outputs, device=device)
    return nn.ModuleList(copy.deepcopy(layer) for _ in range(number))


def mapped(prompts: nn.ParameterList, maps: nn.ModuleList) -> dict[int, Tensor]:
    """Return {0-based block: prompt through its map}, from the second block on."""
    pairs = zip(maps, prompts, strict=True)
    return dict(enumerate((project(prompt) for project, prompt in pairs), start=1))


class MultiModalPromptLearner(PromptLearner):
    """Learned: ``ctx`` (n, Dt) and its map ``proj`` Dt -> Dv for the first layer; for layers
    2 .. depth ``compound_prompts_text`` (n, Dt) and ``compound_prompt_projections`` Dt -> Dv.

    Args:
        settings: the method's node; N_CTX, CTX_INIT, PROMPT_DEPTH.
        node: its name, for error messages.
    """

    def __init__(
        self,
        settings: Any,
        clip_model: clip.model.CLIP,
        prompts: ClassPrompts,
        node: str = "MAPLE",
    ):
        super().__init__()
        n_ctx, depth = settings.N_CTX, settings.PROMPT_DEPTH
        text_width, vision_width = clip_model.transformer.width, clip_model.visual.transformer.width
        device = clip_model.positional_embedding.device
        ctx, words = phrase_context(
            clip_model, settings.CTX_INIT, n_ctx, f"TRAINER.{node}.CTX_INIT"
        )
        self.ctx = nn.Parameter(ctx)
        self.proj = nn.Linear(text_width, vision_width, device=device)
        self.compound_prompts_text = random_prompts(depth - 1, n_ctx, text_width, device)
        self.compound_prompt_projections = equal_maps(depth - 1, text_width, vision_width, device)
        logger.info(f'Initial context: "{words}", {n_ctx} tokens learned, depth {depth}')
        self.prompts = TokenizedPrompts(clip_model, prompts.between(words))

    def first_vision_prompt(self) -> Tensor:
        """Return what block 0 of the image tower gets, (n, Dv)."""
        return self.proj(self.ctx)

    def text_prompts(self) -> dict[int, Tensor]:
        """Return {0-based block: (n, Dt)}, from the second block on."""
        return dict(enumerate(self.compound_prompts_text, start=1))

    def vision_prompts(self) -> dict[int, Tensor]:
        """Return {0-based block: (n, Dv)}, from the second block on."""
        return mapped(self.compound_prompts_text, self.compound_prompt_projections)


class MaPLeCLIP(PromptedCLIP):
    """Prompts in both towers, the image tower's computed from the text tower's."""

    def raw_text_features(self) -> Tensor:
        learner = self.prompt_learner
        text = learner.prompts.shared_text(self.clip, context=learner.ctx)
        edit = ReplaceTokens(learner.text_prompts(), position=1)
        return text.run(self.clip.transformer, edit=edit).features(self.clip).float()

    def raw_image_features(self, image: Tensor) -> Tensor:
        learner, visual = self.prompt_learner, self.clip.visual
        # The first prompts join after the positions were added and go through ln_pre.
        first = learner.first_vision_prompt()
        tokens = append_tokens(visual.embed(image.type(self.clip.dtype)), first)
        edit = ReplaceTokens(learner.vision_prompts(), position=-len(learner.ctx))
        tokens = visual.transformer.run(visual.ln_pre(tokens), edit=edit, keep=slice(0, 1))
        return visual.project(tokens[:, 0]).float()

    def upstream_key(self, name: str) -> str:
        return f"prompt_learner.{name}"


SETTINGS = {
    "N_CTX": count(2, "prompt tokens per layer"),
    "CTX_INIT": context_words("a photo of a"),
    "PREC": precision("fp16"),
    "PROMPT_DEPTH": count(9, "layers with prompts, the first included"),
}


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    method = "MAPLE"
    model_name = "MultiModalPromptLearner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_method(cfg, "MAPLE", SETTINGS)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        settings = cls.settings_of(cfg)
        return rest_of_phrase(settings.CTX_INIT, settings.N_CTX)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        cls.check_backbone(cfg, clip_model)
        learner = MultiModalPromptLearner(cls.settings_of(cfg), clip_model, prompts)
        return MaPLeCLIP(clip_model, learner, prompts)

    @classmethod
    def check_backbone(cls, cfg: Any, clip_model: clip.model.CLIP) -> None:
        """Raise UsageError unless the backbone's towers take as many layers of prompts."""
        require_vit(clip_model, cls.__name__)
        depth = cls.settings_of(cfg).PROMPT_DEPTH
        visual: Any = clip_model.visual
        layers = min(clip_model.transformer.layers, visual.transformer.layers)
        if depth > layers:
            raise UsageError(
                f"TRAINER.{cls.method}.PROMPT_DEPTH {depth}: the backbone has {layers} layers"
            )
