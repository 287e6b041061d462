"""MMRL: learned tokens in a shared space, projected into the deeper layers of both towers.

The same tokens reach text and image through one linear map per layer and tower. In the image tower
their outputs, averaged, become a second feature with logits of its own. ANPrompt builds on this
file.

References:
    [0] Guo and Gu, MMRL: Multi-Modal Representation Learning for Vision-Language Models, 2025,
        https://arxiv.org/abs/2503.08497
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.edits import InsertThenReplace
from clip.text import HeldText
from common.errors import UsageError
from common.settings import Setting, declare_added
from dassl.engine import TRAINER_REGISTRY

from .base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TokenizedPrompts,
    TrainingBatch,
    grad_if_image_asks,
    require_vit,
    setting_for,
    trained_classnames,
)
from .settings import by_dataset, count, declare_method, precision

logger = logging.getLogger(__name__)

RULES = ("auto", "class", "mix")
INFERENCE = Setting(
    "auto",
    "which logits answer: auto is mix where the test classes were trained on, class elsewhere",
    choices=RULES,
    scope="inference",
)
WEIGHT: dict[str, Any] = {"kind": float, "ge": 0, "le": 1000, "scope": "training"}
REP_DIM: dict[str, Any] = {"kind": int, "ge": 1, "le": 8192}

# Upstream's values, which its code puts in the place of its file's.
REP_DIMS = {"EuroSAT": 2048, "default": 512}
REG_WEIGHTS = {
    "StanfordCars": 7.0,
    "FGVCAircraft": 6.0,
    "SUN397": 6.0,
    "DescribableTextures": 6.0,
    "Food101": 5.0,
    "OxfordFlowers": 4.0,
    "UCF101": 3.0,
    "ImageNet": 0.5,
    "Caltech101": 0.5,
    "OxfordPets": 0.2,
    "EuroSAT": 0.01,
    "default": 1.0,
}


def layers_setting() -> Setting:
    """Describe the layers of both towers that get tokens."""
    layers = [6, 7, 8, 9, 10, 11, 12]
    return Setting(
        layers, "layers with tokens, first is 1", ge=1, le=64, length=(1, 64), order="consecutive"
    )


def zero_based_layers(layers: list[int], clip_model: clip.model.CLIP) -> list[int]:
    """Return layers counted from 1, as settings have them, counted from 0.

    Raises:
        UsageError: they are not consecutive, or the backbone has fewer.
    """
    depth = min(clip_model.transformer.layers, clip_model.visual.transformer.layers)
    if not layers or list(layers) != list(range(layers[0], layers[-1] + 1)):
        raise UsageError(f"LAYERS {list(layers)}: list consecutive layers, e.g. [6, 7, 8, 9]")
    if layers[0] < 1 or layers[-1] > depth:
        raise UsageError(f"LAYERS {list(layers)}: the backbone has layers 1 to {depth}")
    return [layer - 1 for layer in layers]


class RepresentationLearner(PromptLearner):
    """Learned: tokens R (N, D) in the shared space, per layer the maps D -> Dt and D -> Dv, and the
    projection (Dv, E) of the averaged visual token outputs.

    Args:
        clip_model: gives the widths.
        n_tokens: N, tokens per layer.
        layers: 1-based layers that receive tokens; they are inserted before the first.
        width: D, the shared space's.
        proj_init: "random", or "clip" for a copy of CLIP's own image projection.
        beta: share of new tokens against carried ones in the image tower's later layers.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        n_tokens: int,
        layers: list[int],
        width: int,
        proj_init: str = "random",
        beta: float = 1.0,
    ):
        super().__init__()
        visual = clip_model.visual
        device = clip_model.positional_embedding.device
        if proj_init not in ("random", "clip"):
            raise UsageError(f"PROJ_INIT {proj_init!r}: choose clip or random")
        self.layers = zero_based_layers(layers, clip_model)
        self.beta = beta
        self.tokens = nn.Parameter(torch.empty(n_tokens, width, device=device).normal_(std=0.02))
        # Within a tower all maps start equal, as upstream's copies of one layer do.
        to_vision = nn.Linear(width, visual.transformer.width, device=device)
        to_text = nn.Linear(width, clip_model.transformer.width, device=device)
        self.to_vision = nn.ModuleList(copy.deepcopy(to_vision) for _ in layers)
        self.to_text = nn.ModuleList(copy.deepcopy(to_text) for _ in layers)
        projection = visual.proj.detach().float().clone()  # (Dv, E)
        if proj_init == "random":
            projection.normal_(std=visual.transformer.width**-0.5)
        self.proj_rep = nn.Parameter(projection)

    def shared_tokens(self) -> Tensor:
        """Return what is projected into both towers, (N, D)."""
        return self.tokens

    def learned_tokens(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        return {"tokens": (self.tokens, self.shared_tokens().detach())}

    def text_edit(self) -> InsertThenReplace:
        tokens = self.shared_tokens()
        return InsertThenReplace(
            {i: m(tokens) for i, m in zip(self.layers, self.to_text, strict=True)}
        )

    def vision_edit(self) -> InsertThenReplace:
        tokens = self.shared_tokens()
        projected = {i: m(tokens) for i, m in zip(self.layers, self.to_vision, strict=True)}
        return InsertThenReplace(projected, beta=self.beta)


@dataclass(frozen=True)
class InferenceRule:
    """Which logits a method of this family answers with, "class" or "mix".

    ``auto`` mixes where the classes under test were trained on: base classes (TASK B2N), few-shot
    on all classes (FS), the source data set (CD); elsewhere the class logits answer alone. A
    checkpoint that names its classes has the last word: of others, the class logits answer.

    Attributes:
        setting: auto, class or mix.
        task: B2N, FS or CD.
        subset: base, new or all classes of the data set under test.
        dataset: its name.
    """

    setting: str
    task: str
    subset: str
    dataset: str

    def choose(
        self,
        *,
        source: str | None = None,
        trained: Sequence[str] | None = None,
        tested: Sequence[str] = (),
    ) -> str:
        """Return the rule.

        Args:
            source: the data set trained on; None: the one under test.
            trained, tested: names of classes; None or empty where they are not known.
        """
        if self.setting != "auto":
            return self.setting
        if trained and not set(tested) <= set(trained):
            return "class"
        is_seen = {
            "B2N": self.subset == "base",
            "FS": True,
            "CD": source in (None, self.dataset),
        }
        return "mix" if is_seen[self.task] else "class"

    def source_of(self, meta: dict[str, Any]) -> str:
        """Return the data set that a checkpoint was trained on.

        Upstream's files do not say; its cross-dataset protocol trains on ImageNet, every other on
        the data set that is tested.
        """
        return meta.get("dataset", "ImageNet" if self.task == "CD" else self.dataset)


class RepresentationCLIP(PromptedCLIP):
    """CLIP with tokens injected from layer J on, and class and representation logits.

    Layers below J see no token, so for a given input they compute what frozen CLIP computes: their
    text states are made once per class set, their image states once per batch for both branches.

    Args:
        prompts: hand-written.
        alpha: weight of the class logits against the representation logits.
        inference: decides which logits ``forward`` gives.
    """

    rules = ("class", "mix")
    frozen_text_features: Tensor

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: Any,
        prompts: ClassPrompts,
        *,
        alpha: float,
        inference: InferenceRule,
    ):
        super().__init__(clip_model, learner, prompts)
        self.alpha = alpha
        self.inference = inference
        self.rule = inference.choose()
        self.first = self.frozen_blocks = learner.layers[0]
        with torch.no_grad():
            text = TokenizedPrompts(clip_model, prompts).shared_text(clip_model)
            below = text.run(clip_model.transformer, stop=self.first)
            frozen = self.run_text(below, start=self.first)
        self.text_below = HeldText(below)
        self.register_buffer("frozen_text_features", frozen, persistent=False)  # t (C, E)

    def text_features(self) -> Tensor:
        """Return s (C, E), read at the end token."""
        return self.run_text(
            self.text_below(), start=self.first, edit=self.prompt_learner.text_edit()
        )

    def image_features(self, image: Tensor) -> Tensor:
        return self.encode_image(image)[0]

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        f, r, _ = self.encode_image(image)
        return f, r

    def encode_image(
        self, image: Tensor, with_frozen: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return class feature f, representation feature r and frozen CLIP's f0, each (B, E).

        Args:
            with_frozen: without, f0 is not computed, and is (0, E).
        """
        visual, frozen = self.clip.visual, image.new_zeros(0, self.clip.visual.output_dim)
        with grad_if_image_asks(image):
            below = visual.ln_pre(visual.embed(image.type(self.clip.dtype)))
            below = visual.transformer.run(below, stop=self.first)
            if with_frozen:
                frozen = visual.transformer.run(below, start=self.first, keep=slice(0, 1))[:, 0]
                frozen = F.normalize(visual.project(frozen).float(), dim=-1)
        return *self.encode_above(below), frozen

    def encode_above(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        visual, learner = self.clip.visual, self.prompt_learner
        kept = slice(0, 1 + len(learner.tokens))  # class token and the N tokens after it
        above = visual.transformer.run(
            tokens, start=self.first, edit=learner.vision_edit(), keep=kept
        )
        f = F.normalize(visual.project(above[:, 0]).float(), dim=-1)
        mean_token = visual.ln_post(above[:, 1:]).float().mean(dim=1)  # (B, Dv)
        r = F.normalize((mean_token @ learner.proj_rep).float(), dim=-1)
        return f, r

    def mix(self, z: Tensor, z_rep: Tensor) -> Tensor:
        """Return the mixture of class and representation logits."""
        return self.alpha * z + (1 - self.alpha) * z_rep

    def classify(self, encoded: tuple[Tensor, Tensor], class_state: Tensor) -> dict[str, Tensor]:
        (f, r), s = encoded, class_state
        z, z_rep = self.scale * f @ s.t(), self.scale * r @ s.t()
        return {"class": z, "mix": self.mix(z, z_rep)}

    def on_checkpoint_loaded(self, meta: dict[str, Any]) -> None:
        self.rule = self.inference.choose(
            source=self.inference.source_of(meta),
            trained=trained_classnames(meta),
            tested=self.prompts.classnames,
        )


def mmrl_loss(
    *,
    z: Tensor,
    z_rep: Tensor,
    label: Tensor,
    f: Tensor,
    f_frozen: Tensor,
    s: Tensor,
    s_frozen: Tensor,
    alpha: float,
    reg_weight: float,
) -> dict[str, Tensor]:
    """Return cross-entropy of both logits, and cosine ties of both features to frozen CLIP's.

    Args:
        z, z_rep: class and representation logits (B, C).
        label: (B,).
        f, f_frozen: normalised image features (B, E).
        s, s_frozen: normalised text features (C, E).

    Returns:
        Scalars whose sum is the loss.
    """
    classify = alpha * F.cross_entropy(z, label) + (1 - alpha) * F.cross_entropy(z_rep, label)
    image_tie = 1 - (f * f_frozen).sum(dim=-1).mean()
    text_tie = 1 - (s * s_frozen).sum(dim=-1).mean()
    return {"ce": classify, "sim": reg_weight * (image_tie + text_tie)}


class MMRLCLIP(RepresentationCLIP):
    """RepresentationCLIP with MMRL's loss and its constant scale.

    Args:
        reg_weight: of the ties to frozen CLIP.
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: Any,
        prompts: ClassPrompts,
        *,
        alpha: float,
        inference: InferenceRule,
        reg_weight: float,
    ):
        super().__init__(clip_model, learner, prompts, alpha=alpha, inference=inference)
        self.reg_weight = reg_weight

    @property
    def scale(self) -> float:
        return 100.0  # a constant upstream, not CLIP's learned scale

    def loss(self, batch: TrainingBatch) -> Loss:
        s = self.text_features()
        f, r, f_frozen = self.encode_image(batch.image, with_frozen=True)
        z, z_rep = self.scale * f @ s.t(), self.scale * r @ s.t()
        terms = mmrl_loss(
            z=z,
            z_rep=z_rep,
            label=batch.label,
            f=f,
            f_frozen=f_frozen,
            s=s,
            s_frozen=self.frozen_text_features,
            alpha=self.alpha,
            reg_weight=self.reg_weight,
        )
        return Loss.of(self.mix(z, z_rep), **terms)

    def rename_key(self, name: str) -> str:
        name = name.removeprefix("representation_learner.").removeprefix("image_encoder.")
        name = name.replace("compound_rep_tokens_r2vproj", "to_vision")
        name = name.replace("compound_rep_tokens_r2tproj", "to_text")
        return "tokens" if name == "compound_rep_tokens" else name

    def upstream_key(self, name: str) -> str:
        if name == "proj_rep":
            return "image_encoder.proj_rep"
        name = name.replace("to_vision", "compound_rep_tokens_r2vproj")
        name = name.replace("to_text", "compound_rep_tokens_r2tproj")
        name = "compound_rep_tokens" if name == "tokens" else name
        return f"representation_learner.{name}"

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None:
        """Refuse tokens of another width, which may be set by data set; it is the training's."""
        super().check_checkpoint(checkpoint, where)
        width = self.prompt_learner.tokens.shape[-1]
        for name, trained in checkpoint["state_dict"].items():
            if self.rename_key(name) == "tokens" and trained.shape[-1:] != (width,):
                raise UsageError(
                    f"{where}: trained with tokens {trained.shape[-1]} wide, this run's are "
                    f"{width}; set TRAINER.MMRL.REP_DIM {trained.shape[-1]}"
                )


class RepresentationTrainer(PromptTrainer):
    """Base of the trainers of this family: the TASK setting and the choice of inference rule."""

    model_name = "MultiModalRepresentationLearner"

    @classmethod
    def inference_of(cls, cfg: Any) -> InferenceRule:
        """Return how this run decides which logits answer."""
        return InferenceRule(
            setting=cls.settings_of(cfg).INFERENCE,
            task=cfg.TASK,
            subset=cfg.DATASET.SUBSAMPLE_CLASSES,
            dataset=cfg.DATASET.NAME,
        )


@TRAINER_REGISTRY.register()
class MMRL(RepresentationTrainer):
    method = "MMRL"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_added(cfg)
        settings = {
            "PREC": precision("amp"),
            "N_REP_TOKENS": count(5, "tokens per layer"),
            "REP_LAYERS": layers_setting(),
            **by_dataset("REP_DIM", "width of the shared space", REP_DIMS, below=True, **REP_DIM),
            "ALPHA": Setting(0.7, "weight of the class logits", ge=0, le=1),
            **by_dataset(
                "REG_WEIGHT", "weight of the ties to frozen CLIP", REG_WEIGHTS, below=True, **WEIGHT
            ),
            "INFERENCE": INFERENCE,
        }
        declare_method(cfg, "MMRL", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> MMRLCLIP:
        require_vit(clip_model, "MMRL")
        settings, dataset = cls.settings_of(cfg), cfg.DATASET.NAME
        width = int(setting_for(dataset, settings.REP_DIM, settings.REP_DIM_BY_DATASET))
        weight = setting_for(dataset, settings.REG_WEIGHT, settings.REG_WEIGHT_BY_DATASET)
        logger.info(f"For {dataset}: REP_DIM {width}, REG_WEIGHT {weight:g}")
        learner = RepresentationLearner(
            clip_model, settings.N_REP_TOKENS, list(settings.REP_LAYERS), width
        )
        return MMRLCLIP(
            clip_model,
            learner,
            prompts,
            alpha=settings.ALPHA,
            inference=cls.inference_of(cfg),
            reg_weight=weight,
        )
