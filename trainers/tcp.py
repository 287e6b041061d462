"""TCP: context whose deeper text layer is told of each class by tokens made for it.

A small network makes n tokens of each class out of frozen CLIP's feature of its hand-written
prompt. They take the place of the learned context before one block of the text tower. The features
are tied to frozen CLIP's. New classes get their tokens from the same network.

The weight W of upstream's commands has no effect in its code, which always replaces outright; the
settings here are those of its code. Upstream's frozen features are always of fp16 weights; here
they have the run's precision.

References:
    [0] Yao et al., TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model, 2024,
        https://arxiv.org/abs/2311.18231
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.blocks import QuickGELU
from common.errors import UsageError
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY
from noise.text import fill

from .base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TokenizedPrompts,
    TrainingBatch,
    encode_prompts,
    prompt_template,
)
from .coop import initial_context
from .settings import context_words, count, declare_method, precision

# The hand-written prompt where it is another than the zero-shot trainer's.
HAND_WRITTEN = {
    "FGVCAircraft": "a photo of an aircraft {}.",
    "DescribableTextures": "a photo of a {}, a type of texture.",
    "Food101": "a photo of a {}, a type of food.",
}
# What follows the context; "{}." where nothing is said.
AFTER_CONTEXT = {
    "OxfordPets": "{}, a type of pet.",
    "OxfordFlowers": "{}, a type of flower.",
    "FGVCAircraft": "{}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "StanfordCars": "{}, a type of car",
    "Food101": "{}, a type of food.",
    "UCF101": "person doing {}.",
}


def described_by(texts: ClassPrompts, template: str) -> ClassPrompts:
    """Return hand-written prompts of classes as their texts, noisy ones too, name them.

    The name is what stands in a text's template; where noise changed the words around it, the
    whole text counts as the name of "a photo of a".
    """
    before, after = texts.template.split("{}", 1)
    written = []
    for text in texts.texts:
        inside = text[len(before) : len(text) - len(after)]
        if fill(texts.template, inside) == text:
            written.append(fill(template, inside))
        else:
            written.append(f"a photo of a {text}")
    return texts.with_texts(written)


class ClassAwarePromptLearner(PromptLearner):
    """Learned: ``ctx`` (n, D) and ``meta_net`` E -> E / 4 -> n D."""

    frozen: Tensor  # (C, E), normalised

    def __init__(
        self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts, template: str
    ):
        super().__init__()
        ctx, words = initial_context(clip_model, settings.CTX_INIT, settings.N_CTX)
        self.ctx = nn.Parameter(ctx)
        self.prompts = TokenizedPrompts(clip_model, prompts.between(words, after=""))
        width = clip_model.text_projection.shape[1]
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(width, width // 4, device=ctx.device),
                relu=QuickGELU(),
                linear2=nn.Linear(width // 4, ctx.numel(), device=ctx.device),
            )
        )
        frozen = encode_prompts(clip_model, described_by(prompts, template))
        self.register_buffer("frozen", F.normalize(frozen, dim=-1), persistent=False)

    def class_tokens(self) -> Tensor:
        """Return each class's own tokens (C, n, D)."""
        return self.meta_net(self.frozen).unflatten(1, self.ctx.shape)


class ClassAwareCLIP(PromptedCLIP):
    """Frozen image features against features of context and class-aware tokens.

    Args:
        layer: the 0-based text block whose context the class-aware tokens replace.
        weight: of the tie to frozen CLIP's text features.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: ClassAwarePromptLearner,
        prompts: ClassPrompts,
        *,
        layer: int,
        weight: float,
    ):
        super().__init__(clip_model, learner, prompts)
        self.layer = layer
        self.weight = weight

    def text_features(self) -> Tensor:
        learner = self.prompt_learner
        text = learner.prompts.shared_text(self.clip, context=learner.ctx)
        text = text.run(self.clip.transformer, stop=self.layer)
        return self.run_text(text.with_class_tokens(learner.class_tokens()), start=self.layer)

    def loss(self, batch: TrainingBatch) -> Loss:
        text_features = self.text_features()
        logits = self.scale * self.image_features(batch.image) @ text_features.t()
        distance = 1 - F.cosine_similarity(text_features, self.prompt_learner.frozen).mean()
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label), text=self.weight * distance)

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the learner alone


@TRAINER_REGISTRY.register()
class TCP(PromptTrainer):
    method = "TCP"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "N_CTX": count(4, "context vectors, where CTX_INIT is empty, and tokens of a class"),
            "CTX_INIT": context_words(),
            "PREC": precision("fp16"),
            "LAYER": Setting(
                8, "text block, from 0, whose context a class's tokens replace", ge=0, le=63
            ),
            "W": Setting(
                8.0, "weight of the tie to frozen text features", ge=0, le=1000, scope="training"
            ),
            "EPS": Setting(
                1e-3,
                "Adam's epsilon, in place of its usual 1e-8; upstream's for fp16",
                gt=0,
                le=1,
                scope="training",
            ),
        }
        declare_method(cfg, "TCP", settings)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return AFTER_CONTEXT.get(cfg.DATASET.NAME, "{}.")

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        settings = cls.settings_of(cfg)
        if clip_model.transformer.layers <= settings.LAYER:
            raise UsageError(
                f"TRAINER.TCP.LAYER {settings.LAYER}: the text tower's last block is "
                f"{clip_model.transformer.layers - 1}"
            )
        template = prompt_template(cfg, HAND_WRITTEN.get(cfg.DATASET.NAME, ""))
        learner = ClassAwarePromptLearner(settings, clip_model, prompts, template)
        return ClassAwareCLIP(clip_model, learner, prompts, layer=settings.LAYER, weight=settings.W)

    def build_optimizers(self) -> None:
        super().build_optimizers()
        for group in self.optim.param_groups:
            if "eps" in group:
                group["eps"] = self.settings.EPS
