"""LinearProbe: a linear classifier of frozen features that starts as zero-shot CLIP.

The zero-shot initialised linear probe of CLAP's authors (their ``TRAINER.ADAPTER`` with INIT ZS and
CONSTRAINT none) [A]: a prototype of each class, which starts as its text feature; logits are
cosines times CLIP's scale. It trains on twenty random views of each image, made beforehand; all of
them are shuffled in every epoch, of which as many batches are used as the images alone would make.

Prototypes belong to the classes trained on. Others, the new ones of base-to-new, are answered by
their text features: zero-shot CLIP [O]; upstream tests on the classes it trained on. Once trained,
texts have no part in the answer, and noise in them none either.

References:
    [0] Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language
        Models, 2024, https://arxiv.org/abs/2312.12730
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import clip
from dassl.engine import TRAINER_REGISTRY

from .base import ClassPrompts, PromptedCLIP
from .feature_methods import FeatureLearner, FeatureTrainer, FrozenTextCLIP, passes
from .settings import declare_method, precision

SETTINGS = {"PREC": precision("fp16"), "PASSES": passes(20)}


class PrototypeLearner(FeatureLearner):
    """Learned: ``prototypes`` w (C, E), not normalised."""

    def __init__(self, base_text_features: Tensor):
        super().__init__()
        self.prototypes = nn.Parameter(base_text_features.clone())
        self.per_class = {"prototypes": ""}


class PrototypeCLIP(FrozenTextCLIP):
    """Frozen image features against prototypes."""

    reads_texts = False

    def raw_text_features(self) -> Tensor:
        prototypes: Tensor = self.prompt_learner.prototypes
        return prototypes

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the adapter alone


@TRAINER_REGISTRY.register()
class LinearProbe(FeatureTrainer):
    method = "ADAPTER"
    model_name = "adapter"
    pooled = True
    has_fp16 = False
    model_class: type[PrototypeCLIP] = PrototypeCLIP

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_method(cfg, "ADAPTER", SETTINGS)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        base = cls.text_features_of(cfg, clip_model, prompts)
        return cls.model_class(clip_model, PrototypeLearner(base), prompts, base)
