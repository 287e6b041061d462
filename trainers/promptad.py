"""PromptAD: prompts for normal and anomalous objects, learned from normal images alone.

Normal prompts are learned context and the object. Anomalous ones are that context with words for a
defect (manual), or with further learned vectors (learned). Image features are pulled to the mean
normal prompt and pushed from all anomalous ones. One set of prompts is learned for whole images and
one for patches, each with its loss; they share nothing, so it is as training them apart.

Of the original [A] are prompts, losses and their weights, and the numbers of prompts. It differs
where its own figures would not be fair or right: the model of the last epoch is tested instead of
the best on test images; the temperature is CLIP's, not its logarithm [O]. Only the eight general
words for defects are taken, none that need knowledge of a category [O].

References:
    [0] Li et al., PromptAD: Learning Prompts with only Normal Samples for Few-Shot Anomaly
        Detection, 2024, https://arxiv.org/abs/2404.05231
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common.settings import Setting, declare
from dassl.engine import TRAINER_REGISTRY

from .anomaly.model import HARMONIC, MEMORY, TEXT, AnomalyModel
from .anomaly.prompts import ContextPrompts
from .anomaly.trainer import AnomalyTrainer
from .anomaly.words import ANOMALOUS_STATES, described, mean_direction
from .base import ClassPrompts, Loss, PromptLearner, TrainingBatch
from .settings import count


class TwoSidedPrompts(nn.Module):
    """Learned: ``normal`` (N, n, D) contexts and ``anomalous`` (M, m, D) suffixes of them."""

    def __init__(
        self, settings: Any, clip_model: clip.model.CLIP, name: str, n_normal: int, device: Any
    ):
        super().__init__()
        width, n_ctx, n_ab = clip_model.transformer.width, settings.N_CTX, settings.N_CTX_AB

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, width, device=device).normal_(std=0.02))

        self.normal = drawn(n_normal, n_ctx)
        self.anomalous = drawn(settings.N_PRO_AB, n_ab)
        self.plain = ContextPrompts(clip_model, [name], n_ctx)
        self.manual = ContextPrompts(clip_model, described(name, ANOMALOUS_STATES), n_ctx)
        self.learned = ContextPrompts(clip_model, [name], n_ctx + n_ab)

    def features(self, model: AnomalyModel) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (., E), not normalised: normal, manual and learned anomalous."""
        n, m = len(self.normal), len(self.anomalous)
        both = torch.cat(
            [
                self.normal.repeat_interleave(m, dim=0),
                self.anomalous.repeat(n, 1, 1),
            ],
            dim=1,
        )  # (N M, n + m, D)
        return (
            self.plain(model, self.normal),
            self.manual(model, self.normal),
            self.learned(model, both),
        )


class PromptADLearner(PromptLearner):
    """Learned: prompts for whole images and for patches."""

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, name: str):
        super().__init__()
        device = clip_model.positional_embedding.device
        self.image = TwoSidedPrompts(settings, clip_model, name, settings.N_PRO, device)
        self.patch = TwoSidedPrompts(settings, clip_model, name, settings.N_PRO_SEG, device)


class PromptADModel(AnomalyModel):
    """PromptAD's prompts and losses.

    Args:
        weight: of the distance between manual and learned anomalous prompts.
    """

    def __init__(self, *args: Any, weight: float, **named: Any):
        super().__init__(*args, **named)
        self.weight = weight

    def text_features(self) -> Tensor:
        """(2, 2, E): for images and patches, the mean normal and the mean anomalous prompt."""
        found = []
        for part in (self.prompt_learner.image, self.prompt_learner.patch):
            normal, manual, learned = part.features(self)
            anomalous = torch.cat([manual, learned])
            found.append(torch.stack([mean_direction(normal), mean_direction(anomalous)]))
        return torch.stack(found)

    def part_loss(
        self, part: TwoSidedPrompts, features: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms for normal features (N, E), and the mean prompts (2, E)."""
        normal, manual, learned = part.features(self)
        anomalous = torch.cat([manual, learned])
        anchor, opposite = mean_direction(normal), mean_direction(anomalous)
        texts = torch.cat([anchor[None], F.normalize(anomalous, dim=-1)])
        logits = self.scale * features @ texts.t()
        manual, learned = (F.normalize(x, dim=-1).mean(dim=0) for x in (manual, learned))
        match = (manual - learned).square().sum()
        terms = {
            "ce": F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.long)),
            # A triplet loss of margin 0.
            "triplet": (
                F.pairwise_distance(features, anchor) - F.pairwise_distance(features, opposite)
            )
            .clamp_min(0)
            .mean(),
            "match": self.weight * match,
        }
        return terms, torch.stack([anchor, opposite])

    def loss(self, batch: TrainingBatch) -> Loss:
        image, patches = self.normal_features(batch)
        learner = self.prompt_learner
        for_images, texts = self.part_loss(learner.image, image)
        for_patches, _ = self.part_loss(learner.patch, patches.flatten(0, 1))
        terms = {f"image_{name}": term for name, term in for_images.items()}
        terms |= {f"patch_{name}": term for name, term in for_patches.items()}
        return Loss.of(self.scale * image @ texts.detach().t(), **terms)


@TRAINER_REGISTRY.register()
class PromptAD(AnomalyTrainer):
    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "N_CTX": count(4, "context vectors of a prompt", at_most=32),
            "N_CTX_AB": count(1, "further vectors of a learned anomalous prompt", at_most=16),
            "N_PRO": count(3, "normal prompts for whole images"),
            "N_PRO_SEG": count(1, "normal prompts for patches"),
            "N_PRO_AB": count(4, "learned anomalous endings of each normal prompt"),
            "WEIGHT": Setting(
                0.001, "distance of manual and learned anomalous prompts", ge=0, le=100,
                scope="training",
            ),
        }  # fmt: skip
        declare(cfg, "TRAINER.PROMPTAD", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> AnomalyModel:
        settings, own = cls.settings_of(cfg), cfg.TRAINER.PROMPTAD
        learner = PromptADLearner(own, clip_model, cls.object_name(cfg))
        rules = dict.fromkeys([settings.FUSE, HARMONIC, TEXT, MEMORY])
        return PromptADModel(
            clip_model, learner, prompts, settings, tuple(rules), weight=own.WEIGHT
        )
