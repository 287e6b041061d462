"""DePT: a linear head of its own beside a prompt learner, for what only base classes have.

Over a host (CoOp, KgCoOp, MaPLe) it learns a classifier of features behind a scale and shift of
each channel. The head trains on image features and, with the same labels, on the text features of
their classes; the prompts train on the host's similarities as before. The loss is (1 - w) times the
host's cross-entropy + w times the head's, and what else the host's loss has, w 0.7. Classes that
were trained on are answered by (1 - w) similarity + w head; others, the new ones of base-to-new, by
the host's similarity alone. **So it knows base classes from new ones.** All of this is the paper's
[P]; that text and image features have a scale and shift each, that neither is normalised, and that
the new layers learn 6.5 times as fast (``OPTIM.LR_EXP``) is the authors' [A]. Upstream registers
these as ExtrasLinearProbeCoOp and so on; its fourth host, CoCoOp, has text features of each image's
own and is not here. Where all classes are trained on, upstream uses the head on ImageNet only; here
wherever the classes are those of training [O].

A host of one's own needs ``raw_text_features``: ``class MyDePT(DecoupledTrainer, MyMethod)``.

References:
    [0] Zhang et al., DePT: Decoupled Prompt Tuning, 2024, https://arxiv.org/abs/2309.07439
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common.errors import UsageError
from common.settings import Setting, declare
from dassl.engine import TRAINER_REGISTRY

from .base import (
    ClassPrompts,
    Images,
    KnownFeatures,
    Loss,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TrainingBatch,
)
from .coop import CoOp
from .feature_methods import KnownClassesCLIP
from .kgcoop import KgCoOp
from .maple import MaPLe

HEAD = "linear_probe_proj"


class FiLM(nn.Module):
    """A scale and a shift of each channel."""

    def __init__(self, width: int, device: Any):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, device=device))
        self.bias = nn.Parameter(torch.zeros(width, device=device))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * features + self.bias


class DecoupledLearner(PromptLearner):
    """Learned: the host's ``prompt_learner``, ``film_lp_text`` and ``film_lp_img``, and the head,
    ``linear_probe_proj`` E -> C.
    """

    def __init__(self, host: PromptLearner, width: int, classes: int, device: Any):
        super().__init__()
        self.prompt_learner = host
        self.film_lp_text = FiLM(width, device)
        self.film_lp_img = FiLM(width, device)
        self.linear_probe_proj = nn.Linear(width, classes, device=device)
        self.per_class = {f"{HEAD}.weight": "", f"{HEAD}.bias": ""}

    def learned_tokens(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        return self.prompt_learner.learned_tokens()

    def word_context(self) -> Tensor | None:
        return self.prompt_learner.word_context()

    def new_layers(self) -> list[nn.Parameter]:
        """Return what is learned beside the host."""
        layers = (self.film_lp_text, self.film_lp_img, self.linear_probe_proj)
        return [parameter for layer in layers for parameter in layer.parameters()]


class DecoupledCLIP(KnownClassesCLIP):
    """A host's model with a head.

    Args:
        host: its learner is part of ``learner``.
        weight: w, the head's share.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: DecoupledLearner,
        prompts: ClassPrompts,
        *,
        host: PromptedCLIP,
        weight: float,
    ):
        super().__init__(clip_model, learner, prompts)
        self.host = host
        self.weight = weight

    @property
    def is_image_tower_frozen(self) -> bool:
        return self.host.is_image_tower_frozen

    def raw_text_features(self) -> Tensor:
        return self.host.raw_text_features()

    def raw_image_features(self, image: Tensor) -> Tensor:
        return self.host.raw_image_features(image)

    def encode(self, image: Images) -> Tensor:
        return self.encode_raw(image)

    def head(self, features: Tensor, film: FiLM) -> Tensor:
        """Return the head's logits (N, C) of features (N, E), not normalised."""
        logits: Tensor = self.prompt_learner.linear_probe_proj(film(features))
        return logits

    def classify(self, encoded: Tensor, class_state: Tensor) -> dict[str, Tensor]:
        logits = self.scale * F.normalize(encoded, dim=-1) @ class_state.t()
        if self.knows_classes:
            own = self.head(encoded, self.prompt_learner.film_lp_img)
            logits = (1 - self.weight) * logits + self.weight * own
        return {self.rule: logits}

    @contextlib.contextmanager
    def _text_given(self, features: Tensor) -> Iterator[None]:
        """Have the host take these text features as its own: they are computed once a step."""
        host: Any = self.host
        host.raw_text_features = lambda: features
        try:
            yield
        finally:
            del host.raw_text_features

    def loss(self, batch: TrainingBatch) -> Loss:
        learner, w = self.prompt_learner, self.weight
        text, image = self.raw_text_features(), self.raw_features_of(batch.image)
        with self._text_given(text):
            host = self.host.loss(replace(batch, image=KnownFeatures(image)))
        of_text = self.head(text[batch.label], learner.film_lp_text)
        of_image = self.head(image, learner.film_lp_img)
        labels = torch.cat([batch.label, batch.label])
        head = F.cross_entropy(torch.cat([of_text, of_image]), labels)
        terms = {**host.terms, "ce": (1 - w) * host.terms["ce"]}
        return Loss.of(host.logits, **terms, head=w * head)

    def prepare_training(self) -> None:
        self.host.prepare_training()

    def rename_key(self, name: str) -> str:
        return name

    def upstream_key(self, name: str) -> str:
        return name


class DecoupledTrainer(PromptTrainer):
    """Gives the trainer that stands behind it among the bases a head."""

    model_name = "PromptLearner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        weight = Setting(0.7, "DePT: w, the head's share", ge=0, le=1)
        declare(cfg, "TRAINER.LINEAR_PROBE", {"WEIGHT": weight})
        faster = Setting(
            6.5,
            "DePT: how many times as fast its new layers learn",
            gt=0,
            le=1000,
            scope="training",
        )
        declare(cfg, "OPTIM", {"LR_EXP": faster})

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        host = super().build(cfg, clip_model, prompts)
        if host.prompt_learner.per_class:
            raise UsageError(
                f"{cls.__name__} answers for classes that it was not trained on, for which there "
                f"is no context of each class's own: set TRAINER.{cls.method}.CSC False"
            )
        if type(host).raw_text_features is PromptedCLIP.raw_text_features:
            raise UsageError(
                f"{cls.__name__}: the head trains on text features that are not normalised, and "
                f"{type(host).__name__} has none; give it raw_text_features() in place of "
                "text_features()"
            )
        width, device = clip_model.text_projection.shape[1], clip_model.text_projection.device
        learner = DecoupledLearner(host.prompt_learner, width, len(prompts.classnames), device)
        weight = cfg.TRAINER.LINEAR_PROBE.WEIGHT
        return DecoupledCLIP(clip_model, learner, prompts, host=host, weight=weight)

    def parameter_groups(self) -> list[dict[str, Any]]:
        decoupled, optim = self.model, self.cfg.OPTIM
        self.model = decoupled.host  # whose groups the host's trainer makes
        try:
            groups = super().parameter_groups()
        finally:
            self.model = decoupled
        learner = decoupled.prompt_learner
        return [
            *(groups or [{"params": list(learner.prompt_learner.parameters())}]),
            {"params": learner.new_layers(), "lr": optim.LR * optim.LR_EXP},
        ]


@TRAINER_REGISTRY.register()
class DePTCoOp(DecoupledTrainer, CoOp):
    """DePT over CoOp."""


@TRAINER_REGISTRY.register()
class DePTKgCoOp(DecoupledTrainer, KgCoOp):
    """DePT over KgCoOp."""


@TRAINER_REGISTRY.register()
class DePTMaPLe(DecoupledTrainer, MaPLe):
    """DePT over MaPLe."""

    model_name = MaPLe.model_name
