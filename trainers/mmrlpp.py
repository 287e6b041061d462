"""MMRL++: MMRL with far fewer learned tensors, and tokens that carry over from layer to layer.

The maps from the shared space into a tower's layers are one shared matrix plus a low-rank matrix
per layer; the projection of the representation feature is CLIP's own plus a low-rank matrix.

References:
    [0] Guo and Gu, MMRL++: Parameter-Efficient and Interaction-Aware Representation Learning for
        Vision-Language Models, 2025, https://arxiv.org/abs/2505.10088
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.edits import InsertThenReplace
from common.settings import Setting, declare_added
from dassl.engine import TRAINER_REGISTRY

from .base import ClassPrompts, PromptLearner, require_vit, setting_for
from .mmrl import (
    INFERENCE,
    MMRLCLIP,
    REP_DIM,
    WEIGHT,
    InferenceRule,
    RepresentationTrainer,
    layers_setting,
    zero_based_layers,
)
from .settings import by_dataset, count, declare_method, precision

logger = logging.getLogger(__name__)

BETA_SOURCES = ("source", "target")

# Upstream's values for base-to-new and few-shot, which its code puts in the place of its file's.
BETAS = {
    "ImageNet": 0.9,
    "FGVCAircraft": 0.9,
    "UCF101": 0.9,
    "DescribableTextures": 0.9,
    "OxfordPets": 0.7,
    "StanfordCars": 0.7,
    "Caltech101": 0.6,
    "SUN397": 0.5,
    "OxfordFlowers": 0.4,
    "EuroSAT": 0.2,
    "Food101": 0.1,
    "default": 0.9,
}
REG_WEIGHTS = {
    "ImageNet": 0.2,
    "FGVCAircraft": 2.0,
    "UCF101": 3.0,
    "DescribableTextures": 7.0,
    "OxfordPets": 0.01,
    "StanfordCars": 6.0,
    "Caltech101": 3.0,
    "SUN397": 3.0,
    "OxfordFlowers": 7.0,
    "EuroSAT": 0.01,
    "Food101": 1.0,
    "default": 1.0,
}


# The same for cross-dataset runs.
CROSS_BETAS = {
    "ImageNet": 0.9,
    "ImageNetV2": 0.9,
    "ImageNetR": 0.9,
    "ImageNetA": 0.8,
    "ImageNetSketch": 0.7,
    "FGVCAircraft": 0.9,
    "UCF101": 0.9,
    "SUN397": 0.7,
    "OxfordPets": 0.6,
    "Caltech101": 0.6,
    "DescribableTextures": 0.5,
    "OxfordFlowers": 0.4,
    "StanfordCars": 0.3,
    "EuroSAT": 0.3,
    "Food101": 0.3,
    "default": 0.9,
}
CROSS_REG_WEIGHTS = {"ImageNet": 0.1, "default": 0.2}


def table_of_task(
    task: str, given: dict[str, float], usual: dict[str, float], cross: dict[str, float]
) -> dict[str, float]:
    """Return the table that applies: the given one, unless it is the usual one in another task.

    Args:
        given: the setting's value.
        usual: its default, upstream's for base-to-new and few-shot.
        cross: upstream's for cross-dataset runs. A default that was given goes before its own.
    """
    only_default = {**given, "default": usual["default"]} == usual
    if task != "CD" or not only_default:
        return given
    default = given.get("default", usual["default"])
    return {**cross, "default": cross["default"] if default == usual["default"] else default}


def low_rank_pair(rows: int, rank: int, columns: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return A (rows, rank) drawn uniformly and B (rank, columns) zero, whose product is zero."""
    a = torch.empty(rows, rank, device=device)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    return a, torch.zeros(rank, columns, device=device)


class LayerResidual(nn.Module):
    """What a layer adds to the shared map: learned ``A`` (out, rank), ``B`` (rank, in), ``bias``
    (out,).
    """

    def __init__(self, shared: nn.Linear, rank: int):
        super().__init__()
        a, b = low_rank_pair(shared.out_features, rank, shared.in_features, shared.weight.device)
        self.A, self.B = nn.Parameter(a), nn.Parameter(b)
        self.bias = nn.Parameter(shared.bias.detach().clone())


class SharedResidualMap(nn.Module):
    """Maps W + A_i B_i of layers i; learned: ``weight`` W (out, in) and ``layers``."""

    def __init__(self, in_features: int, out_features: int, layers: int, rank: int, device: Any):
        super().__init__()
        shared = nn.Linear(in_features, out_features, device=device)
        self.weight = nn.Parameter(shared.weight.detach().clone())
        self.layers = nn.ModuleList(LayerResidual(shared, rank) for _ in range(layers))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Map tokens (N, in) to one (N, out) per layer."""
        layers: Any = self.layers
        return [F.linear(tokens, self.weight + r.A @ r.B, r.bias) for r in layers]


class ResidualRepresentationLearner(PromptLearner):
    """Learned: ``tokens`` (N, D), their maps ``to_vision`` and ``to_text``, and the low-rank part
    ``A`` (Dv, r), ``B`` (r, E) of the representation feature's projection.

    Args:
        layers: 1-based layers that receive tokens; they are inserted before the first.
        width: D, the shared space's.
        beta: share of new tokens against carried ones, in both towers' later layers.
        map_rank, proj_rank: ranks of the layers' maps and of the projection.
    """

    frozen_projection: Tensor

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        n_tokens: int,
        layers: list[int],
        width: int,
        beta: float,
        map_rank: int,
        proj_rank: int,
    ):
        super().__init__()
        device = clip_model.positional_embedding.device
        self.layers = zero_based_layers(layers, clip_model)
        self.beta = beta
        self.tokens = nn.Parameter(torch.empty(n_tokens, width, device=device).normal_(std=0.02))
        vision_width, text_width = clip_model.visual.transformer.width, clip_model.transformer.width
        self.to_vision = SharedResidualMap(width, vision_width, len(layers), map_rank, device)
        self.to_text = SharedResidualMap(width, text_width, len(layers), map_rank, device)
        projection = clip_model.visual.proj.detach().float()  # (Dv, E)
        self.register_buffer("frozen_projection", projection, persistent=False)
        a, b = low_rank_pair(vision_width, proj_rank, projection.shape[1], device)
        self.A, self.B = nn.Parameter(a), nn.Parameter(b)

    def learned_tokens(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        return {"tokens": (self.tokens, self.tokens.detach())}

    @property
    def proj_rep(self) -> Tensor:
        """Projection of the averaged visual token outputs (Dv, E); starts as CLIP's own."""
        return self.frozen_projection + self.A @ self.B

    def _edit(self, to_tower: SharedResidualMap) -> InsertThenReplace:
        tokens = dict(zip(self.layers, to_tower(self.tokens), strict=True))
        return InsertThenReplace(tokens, beta=self.beta)

    def text_edit(self) -> InsertThenReplace:
        return self._edit(self.to_text)

    def vision_edit(self) -> InsertThenReplace:
        return self._edit(self.to_vision)


class MMRLppCLIP(MMRLCLIP):
    """MMRL's model, whose beta is that of the data set trained on.

    Args:
        beta_of_source: data set trained on -> beta; None keeps the learner's.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: ResidualRepresentationLearner,
        prompts: ClassPrompts,
        *,
        alpha: float,
        inference: InferenceRule,
        reg_weight: float,
        beta_of_source: Callable[[str], float] | None,
    ):
        super().__init__(
            clip_model,
            learner,
            prompts,
            alpha=alpha,
            inference=inference,
            reg_weight=reg_weight,
        )
        self.beta_of_source = beta_of_source

    def on_checkpoint_loaded(self, meta: dict[str, Any]) -> None:
        super().on_checkpoint_loaded(meta)
        if self.beta_of_source is not None:
            self.prompt_learner.beta = self.beta_of_source(self.inference.source_of(meta))

    def rename_key(self, name: str) -> str:
        name = name.removeprefix("representation_learner.").removeprefix("image_encoder.")
        for theirs, ours in (("srra_r2vproj", "to_vision"), ("srra_r2tproj", "to_text")):
            name = name.replace(f"{theirs}.srra.", f"{ours}.layers.").replace(theirs, ours)
        return "tokens" if name == "compound_rep_tokens" else name

    def upstream_key(self, name: str) -> str:
        if name in ("A", "B"):
            return f"image_encoder.{name}"
        for theirs, ours in (("srra_r2vproj", "to_vision"), ("srra_r2tproj", "to_text")):
            name = name.replace(f"{ours}.layers.", f"{theirs}.srra.").replace(ours, theirs)
        name = "compound_rep_tokens" if name == "tokens" else name
        return f"representation_learner.{name}"


@TRAINER_REGISTRY.register()
class MMRLpp(RepresentationTrainer):
    """Beta shapes the forward pass. Upstream takes it, in cross-dataset tests, from a table keyed
    by the data set *under test*, so that its choice has seen that data set. Here it is the training
    data set's; BETA_FROM "target" gives upstream's rule, on which its published numbers rest.
    """

    method = "MMRLpp"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_added(cfg)
        settings = {
            "PREC": precision("amp"),
            "N_REP_TOKENS": count(5, "tokens per layer"),
            "REP_LAYERS": layers_setting(),
            "REP_DIM": Setting(512, "width of the shared space", **REP_DIM),
            "RES_LORA_DIM": Setting(4, "rank of each layer's map", ge=1, le=8192),
            "PROJ_LORA_DIM": Setting(
                64, "rank of the representation feature's projection", ge=1, le=8192
            ),
            "ALPHA": Setting(0.7, "weight of the class logits", ge=0, le=1),
            **by_dataset(
                "BETA",
                "share of new tokens against carried ones",
                BETAS,
                below=True,
                kind=float,
                ge=0,
                le=1,
            ),
            "BETA_FROM": Setting(
                "source",
                "the table's key: data set trained on (source) or tested (target)",
                choices=BETA_SOURCES,
                scope="inference",
            ),
            **by_dataset(
                "REG_WEIGHT", "weight of the ties to frozen CLIP", REG_WEIGHTS, below=True, **WEIGHT
            ),
            "INFERENCE": INFERENCE,
        }
        declare_method(cfg, "MMRLpp", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> MMRLppCLIP:
        require_vit(clip_model, "MMRL++")
        settings, dataset = cls.settings_of(cfg), cfg.DATASET.NAME

        betas = table_of_task(cfg.TASK, settings.BETA_BY_DATASET, BETAS, CROSS_BETAS)
        reg_weights = table_of_task(
            cfg.TASK, settings.REG_WEIGHT_BY_DATASET, REG_WEIGHTS, CROSS_REG_WEIGHTS
        )

        def beta_of(dataset: str) -> float:
            return setting_for(dataset, settings.BETA, betas)

        beta, reg_weight = beta_of(dataset), setting_for(dataset, settings.REG_WEIGHT, reg_weights)
        logger.info(f"For {dataset}: BETA {beta:g}, REG_WEIGHT {reg_weight:g}")
        learner = ResidualRepresentationLearner(
            clip_model,
            settings.N_REP_TOKENS,
            list(settings.REP_LAYERS),
            settings.REP_DIM,
            beta,
            settings.RES_LORA_DIM,
            settings.PROJ_LORA_DIM,
        )
        return MMRLppCLIP(
            clip_model,
            learner,
            prompts,
            alpha=settings.ALPHA,
            inference=cls.inference_of(cfg),
            reg_weight=reg_weight,
            beta_of_source=beta_of if settings.BETA_FROM == "source" else None,
        )
