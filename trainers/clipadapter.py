"""CLIP-Adapter: a small network behind the frozen image tower, mixed with what it is given.

The image feature f becomes r A(f) + (1 - r) f, where A is E -> E / 4 -> E with a ReLU behind each
map and no biases [A]. As A(c f) = c A(f) for c > 0, it is the same for normalised features. Nothing
in it belongs to a class, so it answers for new classes as for base ones. The authors' repository
has the code and no configuration; its readme says to train as CoOp does. It draws new random views
in every epoch; here training goes on PASSES views [O], and PASSES 0 does as upstream.

References:
    [0] Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, 2021,
        https://arxiv.org/abs/2110.04544
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .base import ClassPrompts, PromptedCLIP
from .feature_methods import FeatureLearner, FeatureTrainer, FrozenTextCLIP, passes
from .settings import declare_method, precision


class AdapterLearner(FeatureLearner):
    """Learned: ``fc``, A."""

    def __init__(self, width: int, device: Any):
        super().__init__()
        hidden = width // 4
        self.fc = nn.Sequential(
            nn.Linear(width, hidden, bias=False, device=device),
            nn.ReLU(),
            nn.Linear(hidden, width, bias=False, device=device),
            nn.ReLU(),
        )


class AdapterCLIP(FrozenTextCLIP):
    """Adapted image features against frozen text features.

    Args:
        ratio: r, the adapter's share.
    """

    def __init__(self, *args: Any, ratio: float):
        super().__init__(*args)
        self.ratio = ratio

    def classify(self, encoded: Tensor, class_state: Tensor) -> dict[str, Tensor]:
        adapted = self.prompt_learner.fc(encoded)  # A(f), (B, E)
        mixed = self.ratio * adapted + (1 - self.ratio) * encoded
        return {self.rule: self.scale * F.normalize(mixed, dim=-1) @ class_state.t()}

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the adapter alone


@TRAINER_REGISTRY.register()
class CLIPAdapter(FeatureTrainer):
    method = "CLIPADAPTER"
    model_name = "clip_adapter"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "PREC": precision("fp32"),
            "PASSES": passes(20),
            "RATIO": Setting(0.2, "share of the adapted feature", ge=0, le=1),
        }
        declare_method(cfg, "CLIPADAPTER", settings)

    @classmethod
    def has_several_wordings(cls, cfg: Any) -> bool:
        return False  # on ImageNet neither

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        base = cls.text_features_of(cfg, clip_model, prompts)
        learner = AdapterLearner(base.shape[1], base.device)
        return AdapterCLIP(clip_model, learner, prompts, base, ratio=cls.settings_of(cfg).RATIO)
