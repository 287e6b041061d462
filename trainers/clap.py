"""CLAP: the zero-shot initialised linear probe, held to zero-shot CLIP class by class.

The loss is cross-entropy + mean over classes of lambda_c |w_c - t_c|^2: w_c the prototype, t_c the
text feature it starts as. Lambda_c is zero-shot CLIP's mean probability of class c for the training
images of that class, in all their views. The paper sums over classes; this is the authors' code
[A]. Everything else is LinearProbe's. No validation images are used.

References:
    [0] Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language
        Models, 2024, https://arxiv.org/abs/2312.12730
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dassl.engine import TRAINER_REGISTRY

from .base import Loss, TrainingBatch
from .linearprobe import LinearProbe, PrototypeCLIP


class ConstrainedCLIP(PrototypeCLIP):
    """Prototypes with a charge for leaving the text features."""

    multipliers: Tensor  # lambda (C,); ones until the training images are known

    def __init__(self, *args: Any):
        super().__init__(*args)
        ones = torch.ones(len(self.base_text_features), device=self.base_text_features.device)
        self.register_buffer("multipliers", ones, persistent=False)

    @torch.no_grad()
    def look_at(self, features: Tensor, labels: Tensor) -> None:
        """Set lambda from training images' features (V, N, E) and labels (N,)."""
        text = F.normalize(self.base_text_features, dim=-1)
        true = torch.zeros_like(self.multipliers)
        for view in features:
            probabilities = (self.scale * F.normalize(view, dim=-1) @ text.t()).softmax(dim=-1)
            true.index_add_(0, labels, probabilities.gather(1, labels[:, None])[:, 0])
        counts = labels.bincount(minlength=len(true)) * len(features)
        self.multipliers = true / counts.clamp_min(1)

    def loss(self, batch: TrainingBatch) -> Loss:
        logits = self(batch.image)
        moved = self.prompt_learner.prototypes - self.base_text_features
        constraint = (self.multipliers * moved.square().sum(dim=-1)).mean()
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label), constraint=constraint)


@TRAINER_REGISTRY.register()
class CLAP(LinearProbe):
    model_class = ConstrainedCLIP

    def prepare_training(self) -> None:
        super().prepare_training()
        if self.settings.PASSES:
            self.model.look_at(self.train_loader_x.features, self.train_loader_x.labels)
        else:
            self.model.look_at(*self.views(1))
