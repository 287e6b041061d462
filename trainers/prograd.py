"""ProGrad: CoOp whose gradient never works against that of staying with zero-shot CLIP.

Each step looks at two gradients: a, of the cross-entropy, and b, of the distance to zero-shot
CLIP's predictions. Where they point against each other, the part of a along b is taken out. Runs on
CoOp's settings, ``TRAINER.COOP``, and on ``LOSS.LAMBDA`` and ``LOSS.T``, as upstream's commands do.
CTX_INIT "a photo of a" (upstream: True) stands for the words of the data set, as upstream has them;
with more vectors than words the first ones start at zero. Mixed precision, which fails upstream,
works.

References:
    [0] Zhu et al., Prompt-aligned Gradient for Prompt Tuning, 2023,
        https://arxiv.org/abs/2205.14865
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from common.errors import UsageError
from common.settings import Setting, declare
from dassl.engine import TRAINER_REGISTRY

from .base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    PromptTrainer,
    TrainingBatch,
    prompt_template,
)
from .coop import CoOp, CoOpPromptLearner, initial_context
from .kgcoop import GuidedCLIP

# Where the hand-written prompt is another than the zero-shot trainer's.
OWN_TEMPLATES = {
    "OxfordPets": "a type of pet, a photo of a {}.",
    "OxfordFlowers": "a type of flower, a photo of a {}.",
    "FGVCAircraft": "a type of aircraft, a photo of a {}.",
    "DescribableTextures": "a texture of {}.",
    "Food101": "a type of food, a photo of {}.",
}
SWITCH = "a photo of a"  # what CTX_INIT True means to CoOp's settings


def hand_written(cfg: Any) -> str:
    """Return the prompt of zero-shot CLIP in a run, ``{}`` for the class name."""
    return prompt_template(cfg, OWN_TEMPLATES.get(cfg.DATASET.NAME, ""))


def project(a: Tensor, b: Tensor, strength: float) -> Tensor:
    """Return gradient ``a`` without ``strength`` times its part along ``b``, where that opposes b.

    >>> project(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]), 1.0)
    tensor([1., 0.])
    """
    direction = b / torch.linalg.vector_norm(b).clamp_min(torch.finfo(b.dtype).tiny)
    along = (a * direction).sum()
    return a - strength * along.clamp_max(0) * direction


def guide_gradients(trainer: PromptTrainer, task: Tensor, guide: Tensor, strength: float) -> None:
    """Set the gradients of a task's loss, each without what opposes the guiding loss's.

    Args:
        strength: share of the opposing part that is taken out.
    """
    stay = trainer.gradients(guide, retain_graph=True)
    learn = trainer.gradients(task)
    for parameter, a, b in zip(trainer.learned(), learn, stay, strict=True):
        parameter.grad = project(a, b, strength)


class AlignedPromptLearner(CoOpPromptLearner):
    """CoOp's learner whose context ends in the words of the data set's hand-written prompt."""

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts, own: str):
        self.words = own.split("{}")[0].strip() if settings.CTX_INIT == SWITCH else ""
        super().__init__(settings, clip_model, prompts)

    def initial(
        self, clip_model: clip.model.CLIP, settings: Any, per_class: int | None
    ) -> tuple[Tensor, str]:
        words = self.words or settings.CTX_INIT
        ctx, words = initial_context(clip_model, words, settings.N_CTX, per_class)
        missing = settings.N_CTX - ctx.shape[-2]
        if missing < 0:
            raise UsageError(
                f"TRAINER.COOP.N_CTX {settings.N_CTX}: the initial words {words!r} are more"
            )
        zeros = ctx.new_zeros(*ctx.shape[:-2], missing, ctx.shape[-1])
        return (
            (torch.cat([zeros, ctx]), " ".join(["X"] * missing + [words]))
            if missing
            else (
                ctx,
                words,
            )
        )


class AlignedCLIP(GuidedCLIP):
    """CoOp's model, compared with zero-shot CLIP in training.

    Args:
        temperature: T, both predictions' in their comparison.
    """

    def __init__(self, *args: Any, temperature: float, **named: Any):
        super().__init__(*args, **named)
        self.temperature = temperature

    def loss(self, batch: TrainingBatch) -> Loss:
        image_features, t = self.image_features(batch.image), self.temperature
        logits = self.scale * image_features @ self.text_features().t()
        with torch.no_grad():
            zero_shot = self.scale * image_features @ self.frozen_text_features.t()
            target = F.softmax(zero_shot / t, dim=-1)
        distance = -(target * F.log_softmax(logits / t, dim=-1)).sum(dim=-1).mean() * t * t
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label), zero_shot=distance)


@TRAINER_REGISTRY.register()
class ProGrad(CoOp):
    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            "LAMBDA": Setting(
                1.0,
                "share of the opposing gradient that is taken out; ProGrad",
                ge=0,
                le=1,
                scope="training",
            ),
            "T": Setting(
                1.0, "temperature of the comparison; ProGrad", gt=0, le=1000, scope="training"
            ),
        }
        declare(cfg, "LOSS", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        template = hand_written(cfg)
        learner = AlignedPromptLearner(cls.settings_of(cfg), clip_model, prompts, template)
        return AlignedCLIP(clip_model, learner, prompts, template=template, temperature=cfg.LOSS.T)

    def backward(self, loss: Loss) -> None:
        """Compute the cross-entropy's gradients, each without what opposes zero-shot CLIP's."""
        terms = loss.terms
        guide_gradients(self, terms["ce"], terms["zero_shot"], self.cfg.LOSS.LAMBDA)
