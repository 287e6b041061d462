"""CLIP-LoRA: low-rank changes of the queries, keys and values of both towers.

A frozen map W becomes W + alpha / sqrt(r) B A, with A (r, D) random and B (D, r) zero at first. In
training what A gets is dropped out, for each map by itself. What class prompts have in common is
run once, so its dropout is common to the classes, and the tie of the classes to each other closer
than with a draw for each. Its authors count steps, 500 for each shot; here an epoch has
STEPS_PER_SHOT of them for each shot, whatever the number of images, and the rate changes from epoch
to epoch. The scale of the logits is CLIP's own, where theirs is always 100.

References:
    [0] Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, 2024,
        https://arxiv.org/abs/2405.18541
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.blocks import BlockChange
from clip.packing import Rows
from common.errors import UsageError
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .base import (
    ClassPrompts,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    prompt_template,
    require_vit,
)
from .mma import changed_image_features, text_below
from .settings import count, declare_method, precision

POSITIONS = ("all", "bottom", "mid", "up", "half-bottom", "half-up", "top3")
MAPS = ("q", "k", "v")


def changed_blocks(position: str, layers: int) -> range:
    """Return the blocks, from 0, that a name stands for.

    >>> changed_blocks("mid", 12), changed_blocks("half-up", 12)
    (range(4, 8), range(6, 12))
    """
    third = layers // 3
    first, stop = {
        "all": (0, layers),
        "bottom": (0, third),
        "mid": (third, 2 * third),
        "up": (2 * third, layers),
        "half-bottom": (0, layers // 2),
        "half-up": (layers // 2, layers),
        "top3": (max(0, layers - 3), layers),
    }[position]
    return range(first, stop)


def dropped_out(x: Tensor, share: float, rows: Rows | None = None) -> Tensor:
    """Return x with a share of its values zero and the others scaled up.

    Where x is only some rows of what one process would have, random numbers are drawn for all.
    """
    shape = list(x.shape)
    if rows is not None:
        shape[rows.dim] = rows.total
    is_kept = torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(1 - share)
    if rows is not None:
        is_kept = is_kept.index_select(rows.dim, rows.index)
    return x * is_kept * (1 / (1 - share))


class LowRank(nn.Module, BlockChange):
    """Learned for one block: ``a`` (M, r, D) and ``b`` (M, D, r), for M of the three maps."""

    def __init__(self, width: int, settings: Any, device: torch.device):
        super().__init__()
        self.maps = [MAPS.index(name) for name in settings.PARAMS]
        self.scale = settings.ALPHA / math.sqrt(settings.R)
        self.dropout = settings.DROPOUT_RATE
        bound = 1 / math.sqrt(width)  # nn.Linear's own, He's with a = sqrt(5)
        a = torch.empty(len(self.maps), settings.R, width, device=device).uniform_(-bound, bound)
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(torch.zeros(len(self.maps), width, settings.R, device=device))

    def of_rows(self, rows: Rows) -> BlockChange:
        change = BlockChange()
        change.qkv = partial(self.qkv, rows=rows)  # type: ignore[method-assign]
        return change

    def qkv(self, x: Tensor, qkv: Tensor, rows: Rows | None = None) -> Tensor:
        parts = list(qkv.chunk(3, dim=-1))
        for number, a, b in zip(self.maps, self.a, self.b, strict=True):
            kept = dropped_out(x, self.dropout, rows) if self.training and self.dropout else x
            low = F.linear(F.linear(kept, a.to(x.dtype)), b.to(x.dtype))
            parts[number] = parts[number] + self.scale * low
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def merge_into(self, weight: Tensor) -> None:
        """Add the change to the weights of queries, keys and values (3 D, D), in place."""
        for number, a, b in zip(self.maps, self.a, self.b, strict=True):
            weight.chunk(3)[number].add_((self.scale * b @ a).to(weight.dtype))


class LowRankLearner(PromptLearner):
    """Learned: ``text`` and ``vision``, a `LowRank` for each changed block of a tower."""

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__()
        visual: Any = clip_model.visual
        device = clip_model.positional_embedding.device

        def of(tower: Any, name: str) -> nn.ModuleDict:
            used = settings.ENCODER in (name, "both")
            blocks = changed_blocks(settings.POSITION, tower.layers) if used else range(0)
            return nn.ModuleDict({str(n): LowRank(tower.width, settings, device) for n in blocks})

        self.text = of(clip_model.transformer, "text")
        self.vision = of(visual.transformer, "vision")
        self.start = min(map(int, self.text), default=clip_model.transformer.layers - 1)
        self.below = text_below(clip_model, prompts, self.start)


def changes_of(changed: nn.ModuleDict) -> dict[int, Any]:
    """Return changes by block, from 0."""
    return {int(number): change for number, change in changed.items()}


class LowRankCLIP(PromptedCLIP):
    """CLIP with low-rank changes of its attention."""

    def text_features(self) -> Tensor:
        learner = self.prompt_learner
        return self.run_text(learner.below(), learner.start, changes=changes_of(learner.text))

    def image_features(self, image: Tensor) -> Tensor:
        return changed_image_features(self.clip, image, changes_of(self.prompt_learner.vision))

    def merged(self) -> LowRankCLIP:
        """Return a model whose changes are added to its CLIP's weights."""
        merged = copy.deepcopy(self)
        learner, visual = merged.prompt_learner, merged.clip.visual
        for tower, changed in (
            (merged.clip.transformer, learner.text),
            (visual.transformer, learner.vision),
        ):
            for number, change in changes_of(changed).items():
                change.merge_into(tower.blocks()[number].attn.in_proj_weight)
        learner.text, learner.vision = nn.ModuleDict(), nn.ModuleDict()
        return merged.eval()


@TRAINER_REGISTRY.register()
class CLIPLoRA(PromptTrainer):
    method = "CLIPLORA"
    keeps_last = True

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "R": count(2, "rank", at_most=4096),
            "ALPHA": Setting(
                1.0, "strength; the change is scaled by alpha / sqrt(r)", gt=0, le=1e4
            ),
            "DROPOUT_RATE": Setting(
                0.25, "share of each change's input that is dropped", ge=0, lt=1, scope="training"
            ),
            "ENCODER": Setting("both", "towers", choices=("text", "vision", "both")),
            "PARAMS": Setting(list(MAPS), "maps that are changed", choices=MAPS, length=(1, 3)),
            "POSITION": Setting("all", "blocks that are changed", choices=POSITIONS),
            "CTX_INIT": Setting(
                "",
                "words before the class name where DATASET.TEMPLATE gives none; empty: the data "
                "set's own hand-written prompt",
            ),
            "STEPS_PER_SHOT": Setting(
                5,
                "steps of an epoch for each of DATASET.NUM_SHOTS; 0: an epoch is the images once, "
                "as it is where all images are taken",
                ge=0,
                le=10**6,
                scope="training",
            ),
            "PREC": precision("amp"),
        }
        declare_method(cfg, "CLIPLORA", settings)

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        super().check_cfg(cfg)
        maps = list(cls.settings_of(cfg).PARAMS)
        if len(set(maps)) != len(maps):
            raise UsageError(f"TRAINER.CLIPLORA.PARAMS {maps}: name each map once")

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        words = cls.settings_of(cfg).CTX_INIT
        return prompt_template(cfg, f"{words} {{}}." if words else "")

    def steps_per_epoch(self) -> int:
        return self.settings.STEPS_PER_SHOT * max(self.cfg.DATASET.NUM_SHOTS, 0)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        require_vit(clip_model, "CLIP-LoRA")
        learner = LowRankLearner(cls.settings_of(cfg), clip_model, prompts)
        return LowRankCLIP(clip_model, learner, prompts)
