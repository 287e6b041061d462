"""PromptSRC: IVLP's prompts, held close to frozen CLIP, averaged over the epochs.

Three constraints keep the prompted features and predictions near those of a frozen teacher, whose
text features are means over 60 templates. The learned tensors that are saved and tested in the end
are a Gaussian-weighted mean over all epochs' (GPA).

Where upstream is mended here: a resumed run goes on with its running mean (upstream starts anew and
never deploys it), fp32 and amp work, and only learned tensors are averaged and saved.

References:
    [0] Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting,
        2023, https://arxiv.org/abs/2307.06948
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from common.errors import UsageError
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY
from datasets.templates import PROMPTSRC_TEMPLATES
from noise.text import fill

from .base import (
    ClassPrompts,
    Loss,
    PromptTrainer,
    TrainingBatch,
    encode_prompts,
    load_clip,
    setting_for,
)
from .coop import rest_of_phrase
from .ivlp import IndependentCLIP, IndependentPromptLearner, tower_settings
from .settings import by_dataset, declare_method
from .vpt import prompted_image_features

logger = logging.getLogger(__name__)

TEXTS_AT_ONCE = 256


def ensemble_features(
    clip_model: clip.model.CLIP, classnames: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Return the normalised mean over templates of text features that are not normalised.

    Returns:
        (C, E), fp32.
    """
    at_once = max(1, TEXTS_AT_ONCE // len(classnames))  # templates
    sums = []
    for start in range(0, len(templates), at_once):
        some = templates[start : start + at_once]
        names = [name for _ in some for name in classnames]
        texts = [fill(template, name) for template in some for name in classnames]
        features = encode_prompts(clip_model, ClassPrompts("{}", names, texts))
        sums.append(features.unflatten(0, (len(some), -1)).sum(dim=0))
    return F.normalize(reduce(torch.add, sums), dim=-1)


def promptsrc_loss(
    *,
    z: Tensor,
    z_teacher: Tensor,
    label: Tensor,
    f: Tensor,
    f_teacher: Tensor,
    s: Tensor,
    s_teacher: Tensor,
    image_weight: float,
    text_weight: float,
) -> dict[str, Tensor]:
    """Return cross-entropy, L1 ties of both features and a KL tie of the prediction to the
    teacher's.

    Args:
        z, z_teacher: logits (B, C).
        label: (B,).
        f, f_teacher: normalised image features (B, E).
        s, s_teacher: normalised text features (C, E).

    Returns:
        Scalars whose sum is the loss. The KL divergence is summed, then divided by B x C.
    """
    prediction_tie = F.kl_div(
        z.log_softmax(dim=-1), z_teacher.log_softmax(dim=-1), reduction="sum", log_target=True
    )
    return {
        "ce": F.cross_entropy(z, label),
        "kl": prediction_tie / z.numel(),
        "text": text_weight * F.l1_loss(s, s_teacher),
        "image": image_weight * F.l1_loss(f, f_teacher),
    }


def gaussian_epoch_weights(epochs: int, mean: float, std: float) -> np.ndarray:
    """Return weights of epochs 1 .. ``epochs``, N(epoch; mean, std^2) scaled to sum 1."""
    exponents = -0.5 * ((np.arange(1, epochs + 1) - mean) / std) ** 2
    weights = np.exp(exponents - exponents.max())  # no underflow in runs much shorter than the mean
    return weights / weights.sum()


class SelfRegulatedCLIP(IndependentCLIP):
    """IVLP's model and its teachers.

    Args:
        load_exact: gives the same frozen CLIP in full precision, for the teacher's text features.
            The image teacher is the frozen CLIP that is prompted, run without the prompts.
        image_weight, text_weight: of the L1 ties.
    """

    teacher_text: Tensor  # (C, E), once training is prepared

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: IndependentPromptLearner,
        prompts: ClassPrompts,
        *,
        load_exact: Callable[[], clip.model.CLIP],
        image_weight: float,
        text_weight: float,
    ):
        super().__init__(clip_model, learner, prompts)
        self.load_exact = load_exact
        self.image_weight = image_weight
        self.text_weight = text_weight
        self.register_buffer("teacher_text", None, persistent=False)

    def prepare_training(self) -> None:
        exact = self.clip
        if exact.dtype != torch.float32:
            # Building draws random numbers, which are the training's after a resume.
            with torch.random.fork_rng():
                exact = self.load_exact()
        names = self.prompts.classnames
        self.teacher_text = ensemble_features(exact, names, PROMPTSRC_TEMPLATES)

    def both_image_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompted and frozen features, each normalised (B, E)."""
        prompts = list(self.prompt_learner.vision_prompts)
        if not prompts:
            frozen = self.image_features(image)
            return frozen, frozen
        visual = self.clip.visual
        with torch.no_grad():
            embedded = visual.embed(image.type(self.clip.dtype))
            frozen = visual.transformer.run(visual.ln_pre(embedded), keep=slice(0, 1))[:, 0]
            frozen = F.normalize(visual.project(frozen).float(), dim=-1)
        return prompted_image_features(self.clip, embedded, prompts), frozen

    def loss(self, batch: TrainingBatch) -> Loss:
        s, t = self.text_features(), self.teacher_text
        f, f_teacher = self.both_image_features(batch.image)
        z, z_teacher = self.scale * f @ s.t(), self.scale * f_teacher @ t.t()
        terms = promptsrc_loss(
            z=z,
            z_teacher=z_teacher,
            label=batch.label,
            f=f,
            f_teacher=f_teacher,
            s=s,
            s_teacher=t,
            image_weight=self.image_weight,
            text_weight=self.text_weight,
        )
        return Loss.of(z, **terms)


@TRAINER_REGISTRY.register()
class PromptSRC(PromptTrainer):
    """With TEST.FINAL_MODEL best_val the best single epoch is tested, as upstream: GPA applies to
    the last step only.
    """

    method = "PROMPTSRC"
    model_name = "VLPromptLearner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        weight: dict[str, Any] = {"ge": 0, "le": 10000, "scope": "training"}
        epochs: dict[str, Any] = {"kind": float, "le": 10**6, "scope": "training"}
        settings = {
            **tower_settings(4),
            "TEXT_LOSS_WEIGHT": Setting(25.0, "L1 tie of text features", **weight),
            "IMAGE_LOSS_WEIGHT": Setting(10.0, "L1 tie of image features", **weight),
            **by_dataset("GPA_MEAN", "GPA: mean epoch", {"default": 15}, **epochs, ge=0),
            **by_dataset("GPA_STD", "GPA: epochs of spread", {"default": 1}, **epochs, ge=0.01),
        }
        declare_method(cfg, "PROMPTSRC", settings)

    @classmethod
    def training_noise(cls, cfg: Any) -> tuple[list[str], list[int]]:
        return ["template"], []  # the text teacher is the mean over sixty phrasings

    @classmethod
    def gaussian_of(cls, cfg: Any) -> tuple[float, float]:
        """Return mean and standard deviation of the epoch weights."""
        settings, dataset = cls.settings_of(cfg), cfg.DATASET.NAME
        return (
            setting_for(dataset, settings.GPA_MEAN, settings.GPA_MEAN_BY_DATASET),
            setting_for(dataset, settings.GPA_STD, settings.GPA_STD_BY_DATASET),
        )

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        settings = cls.settings_of(cfg)
        return rest_of_phrase(settings.CTX_INIT, settings.N_CTX_TEXT)

    @classmethod
    def build(
        cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts
    ) -> SelfRegulatedCLIP:
        settings = cls.settings_of(cfg)
        device = clip_model.positional_embedding.device
        return SelfRegulatedCLIP(
            clip_model,
            IndependentPromptLearner(settings, cls.method, clip_model, prompts),
            prompts,
            load_exact=lambda: load_clip(cfg, "fp32", device),
            image_weight=settings.IMAGE_LOSS_WEIGHT,
            text_weight=settings.TEXT_LOSS_WEIGHT,
        )

    def build_model(self) -> None:
        super().build_model()
        mean, std = self.gaussian_of(self.cfg)
        self.epoch_weights = gaussian_epoch_weights(self.cfg.OPTIM.MAX_EPOCH, mean, std)
        self.weighted_sum = {
            name: torch.zeros_like(parameter)
            for name, parameter in self.model.prompt_learner.state_dict().items()
        }
        self.epochs_summed = 0

    def before_epoch(self) -> None:
        """Refuse a continuation whose checkpoint has no mean over the earlier epochs.

        Raises:
            UsageError: so where Dassl.pytorch, which does not keep it, has resumed the run.
        """
        super().before_epoch()
        if self.epochs_summed != self.epoch:
            raise UsageError(
                f"{self.output_dir}: PromptSRC cannot go on from epoch {self.epoch}: the mean over "
                f"epochs has {self.epochs_summed} of them. Remove the folder to train anew."
            )

    def forward_backward(self, batch: dict) -> dict[str, Tensor]:
        summary = super().forward_backward(batch)
        if (self.batch_idx + 1) == self.num_batches:
            self.aggregate(self.epoch)
        return summary

    def aggregate(self, epoch: int) -> None:
        """Do GPA at the end of an epoch (counted from 0); the last one's deploys the mean."""
        learner = self.model.prompt_learner
        for name, tensor in learner.state_dict().items():
            self.weighted_sum[name].add_(tensor, alpha=float(self.epoch_weights[epoch]))
        self.epochs_summed += 1
        if (epoch + 1) == self.max_epoch:
            logger.info("Learned tensors are replaced by their weighted mean over the epochs")
            learner.load_state_dict(self.weighted_sum)

    def extra_state(self) -> dict[str, Any]:
        return {"weighted_sum": self.weighted_sum, "epochs_summed": self.epochs_summed}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        for name, tensor in state["weighted_sum"].items():
            self.weighted_sum[name].copy_(tensor)
        self.epochs_summed = state["epochs_summed"]
