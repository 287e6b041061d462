"""MMA: small adapters in the upper blocks of both towers, with a middle that they share.

Beside the block's output stands s Up(ReLU(Shared(ReLU(Down(ln_1(x)))))). Down and Up are a tower's
own, Shared is common to the image's and the text's block of one number. The adapters learn as if s
were 1: their gradient is divided by s, and what goes on to lower blocks is not.

References:
    [0] Yang et al., MMA: Multi-Modal Adapter for Vision-Language Models, 2024 (CVPR)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.blocks import BlockChange
from clip.text import HeldText
from common.errors import UsageError
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
from .settings import context_words, count, declare_method, precision


class _ScaledGradient(torch.autograd.Function):
    """The same values, whose gradient is multiplied on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class Adapter(BlockChange):
    """One block's adapter; see the top of the file."""

    def __init__(self, own: Any, shared: nn.Module, scale: float):
        self.own, self.shared, self.scale = own, shared, scale

    def beside(self, x: Tensor) -> Tensor:
        y = _ScaledGradient.apply(x.to(self.own["up"].weight.dtype), self.scale)
        y = self.own["up"](self.shared(self.own["down"](y))) * self.scale
        return _ScaledGradient.apply(y, 1 / self.scale).to(x.dtype)


def text_below(clip_model: clip.model.CLIP, prompts: ClassPrompts, block: int) -> HeldText:
    """Return class prompts run up to a text block: what lies below is frozen, and run once."""
    with torch.no_grad():
        text = TokenizedPrompts(clip_model, prompts).shared_text(clip_model)
        return HeldText(text.run(clip_model.transformer, stop=block))


def changed_image_features(
    clip_model: clip.model.CLIP, image: Tensor, changes: Mapping[int, BlockChange]
) -> Tensor:
    """Return normalised image features (B, E), fp32, of a tower with changed blocks."""
    visual: Any = clip_model.visual
    tokens = visual.ln_pre(visual.embed(image.type(clip_model.dtype)))
    tokens = visual.transformer.run(tokens, changes=changes, keep=slice(0, 1))
    return F.normalize(visual.project(tokens[:, 0]).float(), dim=-1)


class MultiModalAdapterLearner(PromptLearner):
    """Learned: ``text_adapter`` and ``visual_adapter``, by number of their block from 1 on, with
    ``down`` and ``up``; ``shared_adapter``.
    """

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__()
        self.numbers = range(settings.ADAPTER_START, settings.ADAPTER_END + 1)
        self.scale = settings.ADAPTER_SCALE
        dim, device = settings.ADAPTER_DIM, clip_model.positional_embedding.device

        def linear(inputs: int, outputs: int) -> nn.Linear:
            layer = nn.Linear(inputs, outputs, device=device)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            return layer

        def adapters(width: int) -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    str(number): nn.ModuleDict(
                        {
                            "down": nn.Sequential(linear(width, dim), nn.ReLU()),
                            "up": linear(dim, width),
                        }
                    )
                    for number in self.numbers
                }
            )

        visual: Any = clip_model.visual
        self.text_adapter = adapters(clip_model.transformer.width)
        self.visual_adapter = adapters(visual.transformer.width)
        self.shared_adapter = nn.ModuleDict(
            {str(number): nn.Sequential(linear(dim, dim), nn.ReLU()) for number in self.numbers}
        )
        self.text = text_below(clip_model, prompts, self.numbers[0] - 1)

    def changes(self, adapters: nn.ModuleDict) -> dict[int, BlockChange]:
        """Return a tower's changes by block, from 0."""
        return {
            number - 1: Adapter(adapters[str(number)], self.shared_adapter[str(number)], self.scale)
            for number in self.numbers
        }


class AdaptedCLIP(PromptedCLIP):
    """CLIP whose blocks have adapters in both towers."""

    def text_features(self) -> Tensor:
        learner = self.prompt_learner
        changes = learner.changes(learner.text_adapter)
        return self.run_text(learner.text(), start=learner.numbers[0] - 1, changes=changes)

    def image_features(self, image: Tensor) -> Tensor:
        learner = self.prompt_learner
        return changed_image_features(self.clip, image, learner.changes(learner.visual_adapter))

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the learner alone


@TRAINER_REGISTRY.register()
class MMA(PromptTrainer):
    method = "MMADAPTER"
    model_name = "adapter_learner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "TEXT_CTX_INIT": context_words("a photo of a", "words before the class name"),
            "PREC": precision("amp"),
            "ADAPTER_START": count(5, "first block with an adapter, from 1"),
            "ADAPTER_END": count(12, "last block with an adapter"),
            "ADAPTER_DIM": count(32, "width between down and up", at_most=4096),
            "ADAPTER_SCALE": Setting(0.001, "s, the adapters' share", gt=0, le=1000),
        }
        declare_method(cfg, "MMADAPTER", settings)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return f"{cls.settings_of(cfg).TEXT_CTX_INIT} {{}}.".strip()

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        require_vit(clip_model, "MMA")
        settings = cls.settings_of(cfg)
        visual: Any = clip_model.visual
        layers = min(clip_model.transformer.layers, visual.transformer.layers)
        if not settings.ADAPTER_START <= settings.ADAPTER_END <= layers:
            raise UsageError(
                f"TRAINER.MMADAPTER.ADAPTER_START {settings.ADAPTER_START}, ADAPTER_END "
                f"{settings.ADAPTER_END}: takes first and last of the backbone's {layers} blocks"
            )
        learner = MultiModalAdapterLearner(settings, clip_model, prompts)
        return AdaptedCLIP(clip_model, learner, prompts)
