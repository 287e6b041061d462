"""AnomalyZeroShot: frozen CLIP between words for normal and for anomalous objects.

No image is learned from. The words are WinCLIP's in kind; its windows are not here [O].

References:
    [0] Jeong et al., WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation, 2023,
        https://arxiv.org/abs/2303.14814
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import clip
from dassl.engine import TRAINER_REGISTRY

from .anomaly.model import TEXT, AnomalyModel
from .anomaly.trainer import AnomalyTrainer
from .anomaly.words import state_features
from .base import ClassPrompts, PromptLearner


class WordsModel(AnomalyModel):
    """Compares with the mean of texts for each state; nothing is learned."""

    frozen_text_features: Tensor

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        prompts: ClassPrompts,
        settings: Any,
        name: str,
        rules: Sequence[str],
    ):
        super().__init__(clip_model, PromptLearner(), prompts, settings, rules)
        features = state_features(clip_model, name)
        self.register_buffer("frozen_text_features", features, persistent=False)

    def text_features(self) -> Tensor:
        return self.frozen_text_features


@TRAINER_REGISTRY.register()
class AnomalyZeroShot(AnomalyTrainer):
    learns = False
    rules: tuple[str, ...] = (TEXT,)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> AnomalyModel:
        settings = cls.settings_of(cfg)
        return WordsModel(
            clip_model, prompts, settings, cls.object_name(cfg), cls.answers(settings)
        )

    @classmethod
    def answers(cls, settings: Any) -> tuple[str, ...]:
        """Return the method's fusion rules, the reported one first."""
        own = [rule for rule in cls.rules if rule == settings.FUSE]
        return tuple(dict.fromkeys([*own, *cls.rules]))
