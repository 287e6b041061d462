"""FAP: prompts of the image tower, mapped to the text tower, for few-shot adversarial robustness.

As MaPLe with the maps of the deeper layers turned round: there the image tower's prompts are
learned, and linear maps make the text tower's of them; in the first layer the text's are learned.
The loss ties the prediction on an attacked image to that on the clean one, the more the closer
their features are, and nothing in it is detached. Marks: [P] the paper, [A] the authors' code, [O]
ours.

With LOSS adv_full it is what the authors' code has as AdvMaPLe: the same prompts [A], cross-entropy
on attacked images. In the paper AdvMaPLe's maps run from text to image [P].

References:
    [0] Zhou et al., Few-Shot Adversarial Prompt Learning on Vision-Language Models, 2024,
        https://arxiv.org/abs/2403.14774; code https://github.com/lionel-w2/FAP (MIT)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .adversarial import AttackedTraining, attack_settings, divergence, refuse_zero_start
from .base import (
    ClassPrompts,
    Loss,
    PromptedCLIP,
    PromptLearner,
    TokenizedPrompts,
    TrainingBatch,
    prompt_template,
)
from .coop import MAX_PHRASE, phrase_context, plain_words, rest_of_phrase
from .maple import SETTINGS, MaPLe, MaPLeCLIP, equal_maps, mapped
from .settings import declare_method
from .vpt import random_prompts


class ImagePromptLearner(PromptLearner):
    """Learned: ``ctx`` (n, Dt) and its map ``proj`` Dt -> Dv for the first layer; for layers
    2 .. depth ``compound_prompts_image`` (n, Dv) and ``compound_prompt_projections`` Dv -> Dt.

    Args:
        phrase: its first words start the context; with WORDS "template" all its words stand before
            the class name.
    """

    def __init__(
        self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts, phrase: str
    ):
        super().__init__()
        n_ctx, deeper = settings.N_CTX, settings.PROMPT_DEPTH - 1
        text_width, vision_width = clip_model.transformer.width, clip_model.visual.transformer.width
        device = clip_model.positional_embedding.device
        ctx, words = phrase_context(clip_model, phrase, n_ctx, "TRAINER.FAP.CTX_INIT")
        if settings.WORDS == "template" and n_ctx <= MAX_PHRASE:
            words = plain_words(phrase)
        self.ctx = nn.Parameter(ctx)
        self.proj = nn.Linear(text_width, vision_width, device=device)
        self.compound_prompts_image = random_prompts(deeper, n_ctx, vision_width, device)
        self.compound_prompt_projections = equal_maps(deeper, vision_width, text_width, device)
        self.prompts = TokenizedPrompts(clip_model, prompts.between(words))

    def first_vision_prompt(self) -> Tensor:
        """Return what block 0 of the image tower gets, (n, Dv)."""
        return self.proj(self.ctx)

    def text_prompts(self) -> dict[int, Tensor]:
        """Return {0-based block: (n, Dt)}, from the second block on."""
        return mapped(self.compound_prompts_image, self.compound_prompt_projections)

    def vision_prompts(self) -> dict[int, Tensor]:
        """Return {0-based block: (n, Dv)}, from the second block on."""
        return dict(enumerate(self.compound_prompts_image, start=1))


def fap_loss(
    *, z: Tensor, z_adv: Tensor, f: Tensor, f_adv: Tensor, label: Tensor, weight: float
) -> dict[str, Tensor]:
    """Return cross-entropy of clean images, and the tie of attacked ones to them.

    weight * mean_i KL(softmax(z_i) || softmax(z_adv_i)) (cos(f_i, f_adv_i) + 1), paper eq. 8. [P]

    Args:
        z, z_adv: logits (B, C).
        f, f_adv: image features (B, E).
        label: (B,).

    Returns:
        Scalars whose sum is the loss.
    """
    alike = F.cosine_similarity(f, f_adv) + 1
    robust = (divergence(z_adv, z) * alike).mean()
    return {"ce": F.cross_entropy(z, label), "robust": weight * robust}


@TRAINER_REGISTRY.register()
class FAP(AttackedTraining, MaPLe):
    method = "FAP"
    attack_node = "FAP"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            **SETTINGS,
            "WORDS": Setting(
                "template",
                "words before the class name: the data set's template as it is written, braces "
                "too [A], or CTX_INIT [O]",
                choices=("template", "phrase"),
            ),
            "LOSS": Setting(
                "fap", "FAP's, or cross-entropy on attacked images", choices=("fap", "adv_full"),
                scope="training",
            ),
            "LAMBDA": Setting(
                1.5, "weight of the tie to clean images [A]", ge=0, le=1000, scope="training"
            ),
            **attack_settings(),
        }  # fmt: skip
        declare_method(cfg, "FAP", settings)

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        super().check_cfg(cfg)
        settings = cls.settings_of(cfg)
        if settings.LOSS == "fap":
            refuse_zero_start("FAP", settings)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        settings = cls.settings_of(cfg)
        if settings.WORDS == "template":
            return "{}"  # its words stand before the name, and its own braces stay
        return rest_of_phrase(settings.CTX_INIT, settings.N_CTX)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        cls.check_backbone(cfg, clip_model)
        settings = cls.settings_of(cfg)
        phrase = prompt_template(cfg) if settings.WORDS == "template" else settings.CTX_INIT
        learner = ImagePromptLearner(settings, clip_model, prompts, phrase)
        return MaPLeCLIP(clip_model, learner, prompts)

    def loss(self, batch: TrainingBatch) -> Loss:
        model, settings, label = self.model, self.settings, batch.label
        state = model.class_state()
        if settings.LOSS == "adv_full":
            z_adv = self.logits_of(self.attack(batch.image, label, state), state)
            return Loss.of(z_adv, ce=F.cross_entropy(z_adv, label))
        with torch.no_grad():
            clean = self.logits_of(batch.image, state)
        changed = self.attack(
            batch.image, label, state, loss=lambda z, _: divergence(z, clean).mean()
        )
        f, f_adv = model.encode(batch.image), model.encode(changed)
        z, z_adv = (model.classify(own, state)[model.rule] for own in (f, f_adv))
        return Loss.of(
            z, **fap_loss(z=z, z_adv=z_adv, f=f, f_adv=f_adv, label=label, weight=settings.LAMBDA)
        )
