"""VPT: learned tokens in the layers of the image tower; the text stays as written.

References:
    [0] Jia et al., Visual Prompt Tuning, 2022, https://arxiv.org/abs/2203.12119
    [1] Khattak et al., MaPLe: Multi-modal Prompt Learning, 2023, https://arxiv.org/abs/2210.03117
        (VPT as a prompt learner of CLIP)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
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
    encode_prompts,
    require_vit,
)
from .coop import plain_words
from .settings import context_words, count, declare_method, precision

logger = logging.getLogger(__name__)


def random_prompts(layers: int, n_tokens: int, width: int, device: Any) -> nn.ParameterList:
    """Return learned (n_tokens, width) for a number of layers, drawn from N(0, 0.02^2)."""
    return nn.ParameterList(
        nn.Parameter(torch.empty(n_tokens, width, device=device).normal_(std=0.02))
        for _ in range(layers)
    )


def raw_prompted_image_features(
    clip_model: clip.model.CLIP, embedded: Tensor, prompts: Sequence[Tensor]
) -> Tensor:
    """Return image features with learned tokens at the end of the sequence.

    Args:
        embedded: (B, 1 + patches, Dv), what ``clip_model.visual.embed`` makes of the images.
        prompts: (n, Dv) for blocks 0, 1, ...; the first has no position and goes through ln_pre,
            each later one takes the place of the one before it.

    Returns:
        (B, E), fp32, not normalised.
    """
    visual = clip_model.visual
    tokens = append_tokens(embedded, prompts[0])
    edit = ReplaceTokens(dict(enumerate(prompts[1:], start=1)), position=-len(prompts[0]))
    tokens = visual.transformer.run(visual.ln_pre(tokens), edit=edit, keep=slice(0, 1))
    return visual.project(tokens[:, 0]).float()


def prompted_image_features(
    clip_model: clip.model.CLIP, embedded: Tensor, prompts: Sequence[Tensor]
) -> Tensor:
    """Return `raw_prompted_image_features`, normalised."""
    return F.normalize(raw_prompted_image_features(clip_model, embedded, prompts), dim=-1)


def own_prompt_name(name: str) -> str:
    """Return our name of a layer prompt in an upstream checkpoint; other names as they are."""
    name = name.removeprefix("prompt_learner.")
    if name == "image_encoder.VPT":
        return "vision_prompts.0"
    layer = re.fullmatch(r"(image|text)_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow", name)
    if layer is None:
        return name
    tower, number = layer[1], int(layer[2])
    # Block 0's text prompt is the context, so the list of text prompts starts with block 1's.
    return f"vision_prompts.{number}" if tower == "image" else f"text_prompts.{number - 1}"


def upstream_prompt_name(name: str) -> str:
    """Return upstream's name of one of our learned tensors, the inverse of `own_prompt_name`."""
    if name == "vision_prompts.0":
        return "image_encoder.VPT"
    tokens, _, number = name.partition(".")
    if tokens == "vision_prompts":
        return f"image_encoder.transformer.resblocks.{number}.VPT_shallow"
    if tokens == "text_prompts":
        return f"text_encoder.transformer.resblocks.{int(number) + 1}.VPT_shallow"
    return f"prompt_learner.{name}"


class VisionPromptLearner(PromptLearner):
    """Learned: ``vision_prompts`` (n, Dv) for the first layers of the image tower."""

    def __init__(self, clip_model: clip.model.CLIP, n_tokens: int, depth: int):
        super().__init__()
        device = clip_model.positional_embedding.device
        width = clip_model.visual.transformer.width
        self.vision_prompts = random_prompts(depth, n_tokens, width, device)
        logger.info(f"Vision prompts: {n_tokens} tokens, depth {depth}")


class VPTCLIP(PromptedCLIP):
    """Prompted image features against those of fixed prompts."""

    frozen_text_features: Tensor

    def __init__(
        self, clip_model: clip.model.CLIP, learner: VisionPromptLearner, prompts: ClassPrompts
    ):
        super().__init__(clip_model, learner, prompts)
        features = F.normalize(encode_prompts(clip_model, prompts.between("")), dim=-1)  # (C, E)
        self.register_buffer("frozen_text_features", features, persistent=False)

    def text_features(self) -> Tensor:
        return self.frozen_text_features

    def image_features(self, image: Tensor) -> Tensor:
        embedded = self.clip.visual.embed(image.type(self.clip.dtype))
        return prompted_image_features(
            self.clip, embedded, list(self.prompt_learner.vision_prompts)
        )

    def rename_key(self, name: str) -> str:
        return own_prompt_name(name)

    def upstream_key(self, name: str) -> str:
        return upstream_prompt_name(name)


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    method = "VPT"
    has_fp16 = False

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "N_CTX_VISION": count(2, "tokens per layer"),
            "CTX_INIT": context_words("a photo of a", "words before the class name; not learned"),
            "PREC": precision("fp16"),
            "PROMPT_DEPTH_VISION": count(1, "layers with tokens, the first included"),
        }
        declare_method(cfg, "VPT", settings)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return f"{plain_words(cls.settings_of(cfg).CTX_INIT)} {{}}".strip()

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        require_vit(clip_model, "VPT")
        settings = cls.settings_of(cfg)
        check_depth(
            settings.PROMPT_DEPTH_VISION,
            clip_model.visual.transformer.layers,
            "TRAINER.VPT.PROMPT_DEPTH_VISION",
        )
        if settings.N_CTX_VISION < 1:
            raise UsageError("TRAINER.VPT.N_CTX_VISION must be at least 1")
        learner = VisionPromptLearner(
            clip_model, settings.N_CTX_VISION, settings.PROMPT_DEPTH_VISION
        )
        return VPTCLIP(clip_model, learner, prompts)


def check_depth(depth: int, layers: int, setting: str, least: int = 1) -> None:
    """Raise UsageError unless a number of prompted layers fits the tower."""
    if not least <= depth <= layers:
        raise UsageError(f"{setting} {depth}: choose {least} to {layers}, the backbone's layers")
