"""AnomalyAPT: adaptive prompt tuning for anomaly detection, a reconstruction.

Prompts for "normal" and "anomalous" are learned from a few normal images and from anomalies made of
them by noise; a meta prompt, which starts at general words for anomalies and follows what is
learned, keeps gradients from fitting the made anomalies alone. That much is the papers' abstracts
[P]. Everything else, from the local attention to each number, is our choice [O], with PromptAD's
optimiser and AnomalyCLIP's pixel loss [A] and ProGrad's rule for the gradients; docs/ANOMALY.md
goes through it.

References:
    [0] Beyond Human-prompting: Adaptive Prompt Tuning with Semantic Alignment for Anomaly
        Detection, 2025, https://arxiv.org/abs/2508.16157
    [1] Human-Free Automated Prompting for Vision-Language Anomaly Detection, 2024,
        https://arxiv.org/abs/2406.18197
    [2] Zhu et al., Prompt-aligned Gradient for Prompt Tuning, 2023,
        https://arxiv.org/abs/2205.14865
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common.settings import Setting, declare
from dassl.engine import TRAINER_REGISTRY

from .anomaly import synthesis
from .anomaly.losses import meta_loss, pixel_loss, within_cone
from .anomaly.model import HARMONIC, MEMORY, TEXT, AnomalyModel, Encoded
from .anomaly.prompts import ContextPrompts
from .anomaly.trainer import AnomalyTrainer
from .anomaly.words import (
    BACKGROUND,
    TEMPLATES,
    described,
    encode_texts,
    mean_direction,
    state_features,
)
from .base import ClassPrompts, Loss, PromptLearner, TrainingBatch
from .prograd import guide_gradients
from .settings import count

MODES = ("project", "sum", "none")
METAS = ("dynamic", "fixed")
REGIONS = ("object", "whole image")
OBJECT_SCALE = 100.0  # of the softmax between object and background


class APTLearner(PromptLearner):
    """Learned: ``normal`` (Mn, n, D) and ``anomalous`` (Ma, n, D) contexts.

    Kept with them: ``meta`` (2, E), the meta prompt, which only training needs.
    """

    meta: Tensor

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, name: str, anchor: Tensor):
        super().__init__()
        width = clip_model.transformer.width

        def drawn(number: int) -> nn.Parameter:
            empty = torch.empty(number, settings.N_CTX, width, device=anchor.device)
            return nn.Parameter(empty.normal_(std=0.02))

        self.normal, self.anomalous = drawn(settings.N_NORMAL), drawn(settings.N_ANOMALOUS)
        self.prompts = ContextPrompts(clip_model, [name], settings.N_CTX)
        self.register_buffer("meta", anchor.clone())


class APTModel(AnomalyModel):
    """Learned prompts, synthetic anomalies and the guidance of the meta prompt.

    Args:
        own: ``TRAINER.ANOMALYAPT``.
        anchor: (2, E), general words for normal and anomalous.
        pixels: mean and standard deviation that images are normalised with.
        seed: the run's.
    """

    anchor: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *args: Any,
        own: Any,
        name: str,
        anchor: Tensor,
        pixels: tuple[Sequence[float], Sequence[float]],
        seed: int,
        **named: Any,
    ):
        super().__init__(*args, **named)
        self.own, self.seed, self.name = own, max(seed, 0), name
        self.register_buffer("anchor", anchor, persistent=False)
        mean, std = (torch.tensor(list(x), device=anchor.device).view(3, 1, 1) for x in pixels)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self._keys: list[str] = []
        self._objects: list[np.ndarray] = []

    def text_features(self) -> Tensor:
        """(2, E)."""
        learner = self.prompt_learner
        sides = (learner.prompts(self, x) for x in (learner.normal, learner.anomalous))
        return torch.stack([mean_direction(F.normalize(side, dim=-1)) for side in sides])

    # Synthetic anomalies

    @torch.no_grad()
    def prepare_support(self, images: Tensor, keys: Sequence[str]) -> list[Encoded]:
        """Keep the normal images' features, and find the object on each."""
        self._keys = list(keys)
        encoded = super().prepare_support(images, keys)
        self._objects = [self.object_mask(e, images.shape[2:]) for e in encoded]
        return encoded

    def object_mask(self, encoded: Encoded, size: Sequence[int]) -> np.ndarray:
        """Return where the object is (H, W) on one image."""
        if self.own.REGIONS == "whole image":
            return np.ones(tuple(size), bool)
        words = [*described(self.name, ["{}"], TEMPLATES[:1]), BACKGROUND]
        texts = encode_texts(self.clip, words)
        shares = (OBJECT_SCALE * encoded.patches @ texts.t()).softmax(dim=-1)[..., 0]
        scores = F.interpolate(
            shares.unflatten(1, encoded.grid)[:, None], tuple(size), mode="bilinear"
        )
        return synthesis.object_mask(scores[0, 0].cpu().numpy())

    def changed(self, images: Tensor, index: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        """Return images (2 B, 3, H, W), augmented and anomalous copies, and truth (2 B, H, W)."""
        own = self.own
        pixels = (images * self.pixel_std + self.pixel_mean).float().cpu().numpy()
        normal, anomalous, regions = [], [], []
        for image, number in zip(pixels, index, strict=True):
            key = self._keys[number] if self._keys else str(number)
            mask = self._objects[number] if self._objects else np.ones(image.shape[1:], bool)
            image = np.clip(image, 0, 1)
            rng = synthesis.generator(key, step, self.seed, "augment")
            normal.append(synthesis.augment(image, rng))
            rng = synthesis.generator(key, step, self.seed, "anomaly")
            made, where = synthesis.synthesise(
                image, mask, rng, own.KINDS, tuple(own.STRENGTH), own.REGIONS != "object"
            )
            anomalous.append(made)
            regions.append(where)
        stacked = torch.from_numpy(np.stack([*normal, *anomalous])).to(images)
        truth = np.stack([*(np.zeros_like(where) for where in regions), *regions])
        return (stacked - self.pixel_mean) / self.pixel_std, torch.from_numpy(truth).to(images)

    # Training

    def loss(self, batch: TrainingBatch) -> Loss:
        n, size = len(batch.image), tuple(batch.image.shape[2:])
        index = range(n) if batch.index is None else batch.index.tolist()
        images, truth = self.changed(batch.image, list(index), batch.epoch)
        with torch.no_grad():
            made = self.encode(images)
        first = self.normal_features(batch)
        image = torch.cat([first[0], made.image])  # (3 B, E): as they are, augmented, anomalous
        patches = torch.cat([first[1], made.patches])
        truth = torch.cat([torch.zeros_like(truth[:n]), truth])
        labels = torch.arange(3 * n, device=image.device).ge(2 * n).long()

        texts = self.text_features()
        logits = self.scale * image @ texts.t()
        maps = self.text_scores(patches, texts).unflatten(1, made.grid)[:, None]
        maps = F.interpolate(maps, size, mode="bilinear")[:, 0]
        terms = {
            "image": F.cross_entropy(logits, labels),
            "pixel": self.own.PIXEL_WEIGHT * pixel_loss(maps, truth),
        }
        if self.own.MODE != "none":
            weight = self.own.META_WEIGHT if self.own.MODE == "sum" else 1.0
            terms["meta"] = weight * meta_loss(texts, self.prompt_learner.meta)
        return Loss.of(logits[:n], **terms)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the meta prompt towards what is learned, not far from where it began."""
        if self.own.META == "fixed" or self.own.MODE == "none":
            return
        meta, mu = self.prompt_learner.meta, self.own.MOMENTUM
        moved = F.normalize(mu * meta + (1 - mu) * self.text_features(), dim=-1)
        meta.copy_(within_cone(moved, self.anchor, self.own.CONE))


@TRAINER_REGISTRY.register()
class AnomalyAPT(AnomalyTrainer):
    model: APTModel

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        train: dict[str, Any] = {"scope": "training"}
        settings = {
            "N_CTX": count(4, "context vectors of a prompt", at_most=64),
            "N_NORMAL": count(3, "normal prompts"),
            "N_ANOMALOUS": count(4, "anomalous prompts"),
            "KINDS": Setting(
                ["noise"], "how anomalies are made", choices=synthesis.KINDS, length=(1, 2), **train
            ),
            "STRENGTH": Setting(
                [0.1, 0.6], "noise: least and largest strength; pixels are 0 to 1", ge=0, le=10,
                length=2, order="increasing", **train,
            ),
            "REGIONS": Setting(
                "object", "where anomalies are: regions on the object, or everywhere",
                choices=REGIONS, **train,
            ),
            "PIXEL_WEIGHT": Setting(4.0, "weight of the loss on maps", ge=0, le=1000, **train),
            "MODE": Setting(
                "project", "how the meta prompt guides: its gradient takes from the task's what "
                "opposes it, or is added, or not at all", choices=MODES, **train,
            ),
            "LAMBDA": Setting(1.0, "project: share that is taken", ge=0, le=1, **train),
            "META_WEIGHT": Setting(0.1, "sum: weight of the meta prompt's loss", ge=0, le=1000,
                                   **train),
            "META": Setting("dynamic", "whether the meta prompt follows", choices=METAS, **train),
            "MOMENTUM": Setting(0.9, "dynamic: share of the old meta prompt", ge=0, le=1, **train),
            "CONE": Setting(
                0.8, "dynamic: its least cosine to general words", ge=0, lt=1, **train
            ),
        }  # fmt: skip
        declare(cfg, "TRAINER.ANOMALYAPT", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> AnomalyModel:
        settings, own, name = cls.settings_of(cfg), cfg.TRAINER.ANOMALYAPT, cls.object_name(cfg)
        anchor = state_features(clip_model, name)
        return APTModel(
            clip_model,
            APTLearner(own, clip_model, name, anchor),
            prompts,
            settings,
            tuple(dict.fromkeys([settings.FUSE, HARMONIC, TEXT, MEMORY])),
            own=own,
            name=name,
            anchor=anchor,
            pixels=(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
            if "normalize" in cfg.INPUT.TRANSFORMS
            else ((0.0,) * 3, (1.0,) * 3),
            seed=cfg.SEED,
        )

    def backward(self, loss: Loss) -> None:
        if self.cfg.TRAINER.ANOMALYAPT.MODE != "project":
            super().backward(loss)
            return
        guide_gradients(
            self,
            loss.terms["image"] + loss.terms["pixel"],
            loss.terms["meta"],
            self.cfg.TRAINER.ANOMALYAPT.LAMBDA,
        )

    def after_epoch(self) -> None:
        self.model.follow()
        super().after_epoch()
