"""The model of a method for anomaly detection: features of patches, maps, and their fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from clip.patches import patch_tokens
from common.errors import UsageError
from common.late_import import import_late

from ..backbone import require_vit
from ..model import PromptedCLIP, PromptLearner, TrainingBatch, grad_if_image_asks
from ..prompts import ClassPrompts

TEXT, MEMORY, HARMONIC = FUSIONS = ("text", "memory", "harmonic")
AT_ONCE = 8  # normal images that are encoded together
PAIRS_AT_ONCE = 1 << 24  # patches times remembered ones that are compared together
_TINY = 1e-12


@dataclass(frozen=True)
class Encoded:
    """Normalised features of images, fp32.

    Attributes:
        image: (B, E).
        patches: (B, P, E), local ones in the joint space.
        layers: (B, P, D) each, of the layers that the memory compares; none without a memory.
        grid: rows and columns of patches.
    """

    image: Tensor
    patches: Tensor
    layers: tuple[Tensor, ...]
    grid: tuple[int, int]


@dataclass(frozen=True)
class Scores:
    """What is answered, in [0, 1]: 1 is anomalous.

    Attributes:
        image: (B,).
        grid: (B, rows, columns), of patches.
    """

    image: Tensor
    grid: Tensor


def harmonic(*scores: Tensor) -> Tensor:
    """Return the harmonic mean of scores: it is high where all are."""
    inverse = torch.stack([score.clamp_min(_TINY).reciprocal() for score in scores])
    return len(scores) / inverse.sum(dim=0)


def enlarging(size: int, rows: int, sigma: float) -> np.ndarray:
    """Return the matrix (size, rows) that enlarges one side bilinearly, then smooths it.

    Args:
        sigma: of the Gaussian, in pixels of the enlarged side; 0: none.
    """
    wide = F.interpolate(torch.eye(rows)[None], size=size, mode="linear")[0].t().numpy()
    if not sigma:
        return wide
    smooth = import_late("scipy.ndimage").gaussian_filter1d
    return smooth(wide.astype(np.float64), sigma, axis=0).astype(np.float32)


def enlarge(grid: Tensor, size: int, sigma: float) -> Tensor:
    """Return maps (B, size, size) of patch scores (B, rows, columns).

    Bilinear, then a Gaussian: both act on each side alone, so each side takes one matrix.
    """
    down, across = (
        torch.from_numpy(enlarging(size, length, sigma)).to(grid) for length in grid.shape[1:]
    )
    return down @ grid @ across.t()


class AnomalyModel(PromptedCLIP):
    """Scores images and patches against two texts, against a memory of normal patches, or both.

    ``class_state`` is (2, 2, E): texts that images and texts that patches are compared with, each
    normal and anomalous. The logits are those of the image score as a probability.

    Args:
        settings: ``TRAINER.ANOMALY``.
        rules: of ``FUSIONS``, those that the method has; the first is its own.

    Attributes:
        bank: normal patches (N, D) of each compared layer, normalised; empty until ``remember``.

    Raises:
        UsageError: the backbone is no ViT, or has fewer blocks than settings speak of.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: PromptLearner,
        prompts: ClassPrompts,
        settings: Any,
        rules: Sequence[str] = (TEXT,),
    ):
        super().__init__(clip_model, learner, prompts)
        require_vit(clip_model, "anomaly detection")
        blocks = clip_model.visual.transformer.layers
        for name, layers in (("START", [settings.START]), ("LAYERS", settings.LAYERS)):
            if max(layers, default=0) >= blocks:
                raise UsageError(
                    f"TRAINER.ANOMALY.{name} {max(layers)}: this backbone's image tower has blocks "
                    f"0 to {blocks - 1}"
                )
        self.settings = settings
        self.rules, self.rule = tuple(rules), rules[0]
        self.bank: list[Tensor] = []
        self._support: tuple[Tensor, Tensor] | None = None

    @property
    def scale(self) -> Tensor | float:
        """1 / TEMPERATURE, or CLIP's own."""
        given = self.settings.TEMPERATURE
        return 1 / given if given else self.clip.logit_scale.exp().float()

    @property
    def needs_memory(self) -> bool:
        """Whether normal images must be remembered before anything is answered."""
        return self.rules != (TEXT,)

    # Features

    def encode(self, image: Tensor) -> Encoded:
        radius = self.settings.RADIUS
        with grad_if_image_asks(image):
            found = patch_tokens(
                self.clip.visual,
                image.type(self.clip.dtype),
                layers=self.settings.LAYERS if self.needs_memory else (),
                start=self.settings.START,
                radius=None if radius < 0 else radius,
                of_stock=self.settings.OF_STOCK,
            )
            layers = (F.normalize(x.float(), dim=-1) for x in found.layers.values())
            return Encoded(
                F.normalize(found.image.float(), dim=-1),
                F.normalize(found.local.float(), dim=-1),
                tuple(layers),
                found.grid,
            )

    @torch.no_grad()
    def remember(self, images: Tensor) -> None:
        """Take the patches of normal images (K, 3, H, W) for the memory.

        With ROTATIONS also those of the images turned by 90, 180 and 270 degrees.
        """
        if not self.needs_memory:
            return
        turns = range(4 if self.settings.ROTATIONS else 1)
        found = [
            self.encode(torch.rot90(piece, turn, (2, 3))).layers
            for turn in turns
            for piece in images.split(AT_ONCE)
        ]
        self.bank = [
            torch.cat([x.flatten(0, 1) for x in layer]) for layer in zip(*found, strict=True)
        ]

    # Answers

    def class_state(self) -> Tensor:
        def both() -> Tensor:
            features = self.text_features()
            return features if features.dim() == 3 else features.expand(2, -1, -1)

        return self.prompt_learner.cached("text_features", both)

    def text_scores(self, features: Tensor, texts: Tensor) -> Tensor:
        """Return how anomalous features (..., E) are, by texts (2, E)."""
        return (self.scale * features @ texts.t()).softmax(dim=-1)[..., 1]

    def memory_scores(self, encoded: Encoded) -> Tensor:
        """Return half the distance (1 - cosine) of patches (B, P) to the nearest normal one.

        The mean over compared layers.

        Raises:
            ValueError: nothing is remembered yet.
        """
        if not self.bank:
            raise ValueError("the memory is empty: call remember(images) first")
        per_layer = []
        for x, bank in zip(encoded.layers, self.bank, strict=True):
            rows = max(1, PAIRS_AT_ONCE // len(bank))
            nearest = [(piece @ bank.t()).amax(dim=-1) for piece in x.flatten(0, 1).split(rows)]
            per_layer.append((1 - torch.cat(nearest).view(x.shape[:2])) / 2)
        return torch.stack(per_layer).mean(dim=0).clamp(0, 1)

    def scores(self, encoded: Encoded, class_state: Tensor) -> dict[str, Scores]:
        """Return the answers under each of ``rules``."""
        for_images, for_patches = class_state.unbind()
        text = memory = image = None
        if self.rules != (MEMORY,):
            image = self.text_scores(encoded.image, for_images)  # (B,)
            text = self.text_scores(encoded.patches, for_patches)  # (B, P)
        if self.needs_memory:
            memory = self.memory_scores(encoded)
        answers = {}
        for rule in self.rules:
            maps = {TEXT: text, MEMORY: memory}.get(rule)
            if maps is None:
                assert text is not None and memory is not None
                maps = harmonic(text, memory)
            grid = maps.unflatten(1, encoded.grid)
            highest = self.enlarged(grid).flatten(1).amax(dim=1)
            own = highest if rule == MEMORY or image is None else harmonic(highest, image)
            answers[rule] = Scores(own, grid)
        return answers

    def enlarged(self, grid: Tensor) -> Tensor:
        """Return maps (B, MAP_SIZE, MAP_SIZE) of patch scores (B, rows, columns)."""
        return enlarge(grid, self.settings.MAP_SIZE, self.settings.SIGMA)

    def classify(self, encoded: Encoded, class_state: Tensor) -> dict[str, Tensor]:
        found = {}
        for rule, answer in self.scores(encoded, class_state).items():
            score = answer.image.clamp(_TINY, 1 - 1e-7)
            found[rule] = torch.stack([torch.log1p(-score), score.log()], dim=-1)
        return found

    # Training

    @torch.no_grad()
    def prepare_support(self, images: Tensor, keys: Sequence[str]) -> list[Encoded]:
        """Keep the features of all normal images (K, 3, H, W) for training; return them one by one.

        Args:
            keys: their names, which random numbers are seeded with.
        """
        encoded = [self.encode(image[None]) for image in images]
        self._support = (
            torch.cat([e.image for e in encoded]),
            torch.cat([e.patches for e in encoded]),
        )
        return encoded

    @torch.no_grad()
    def normal_features(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Return features (B, E) and patches (B, P, E) of a batch: those kept, or made now."""
        if self._support is None or batch.index is None:
            encoded = self.encode(batch.image)
            return encoded.image, encoded.patches
        image, patches = self._support
        return image[batch.index], patches[batch.index]
