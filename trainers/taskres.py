"""TaskRes: each class's text feature is moved by a learned residual of its own.

The class weights are t + alpha x: t frozen CLIP's text features, x learned from zero. Alpha is by
data set trained on, as in the authors' commands (0.5; Flowers102 1) [A]. Enhanced bases, text
projections that the authors pretrained, are not read. Upstream draws new random views of the images
in every epoch; here training goes on PASSES views [O], and PASSES 0 does as upstream.

Residuals belong to the classes trained on. Others, the new ones of base-to-new, are answered by t
alone: zero-shot CLIP [O]; upstream tests on the classes it trained on.

References:
    [0] Yu et al., Task Residual for Tuning Vision-Language Models, 2023,
        https://arxiv.org/abs/2211.10277
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import clip
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .base import ClassPrompts, PromptedCLIP, setting_for
from .feature_methods import FeatureLearner, FeatureTrainer, FrozenTextCLIP, passes
from .settings import by_dataset, declare_method, precision

RESIDUAL_SCALES = {"OxfordFlowers": 1.0, "default": 0.5}


class TaskResLearner(FeatureLearner):
    """Learned: ``text_feature_residuals`` x (C, E)."""

    def __init__(self, base_text_features: Tensor):
        super().__init__()
        self.text_feature_residuals = nn.Parameter(torch.zeros_like(base_text_features))
        self.per_class = {"text_feature_residuals": ""}


class TaskResCLIP(FrozenTextCLIP):
    """Frozen image features against text features with residuals.

    Args:
        dataset: the data set of this run.
        alpha_of: the residuals' strength, by the data set that they were trained on.
    """

    def __init__(self, *args: Any, dataset: str, alpha_of: Callable[[str], float]):
        super().__init__(*args)
        self._dataset, self._alpha_of = dataset, alpha_of
        self.alpha = alpha_of(dataset)

    def on_checkpoint_loaded(self, meta: dict[str, Any]) -> None:
        super().on_checkpoint_loaded(meta)
        self.alpha = self._alpha_of(meta.get("dataset", self._dataset))

    def raw_text_features(self) -> Tensor:
        residuals = self.prompt_learner.text_feature_residuals
        return self.base_text_features + self.alpha * residuals  # t + alpha x

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the learner alone


@TRAINER_REGISTRY.register()
class TaskRes(FeatureTrainer):
    method = "TaskRes"
    has_fp16 = False

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "PREC": precision("fp16"),
            "PASSES": passes(20),
            **by_dataset(
                "RESIDUAL_SCALE",
                "strength of the residuals",
                RESIDUAL_SCALES,
                below=True,
                kind=float,
                ge=0,
                le=100,
            ),
            "ENHANCED_BASE": Setting(
                "none", "upstream's pretrained bases, not read here", choices=("none",)
            ),
        }
        declare_method(cfg, "TaskRes", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        settings = cls.settings_of(cfg)
        base = cls.text_features_of(cfg, clip_model, prompts)
        scale, by_name = settings.RESIDUAL_SCALE, settings.RESIDUAL_SCALE_BY_DATASET
        return TaskResCLIP(
            clip_model, TaskResLearner(base), prompts, base,
            dataset=cfg.DATASET.NAME, alpha_of=lambda name: setting_for(name, scale, by_name),
        )  # fmt: skip
