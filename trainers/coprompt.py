"""CoPrompt: MaPLe with an adapter behind each tower, consistent with frozen CLIP.

What the towers give is mixed with what a small network makes of it. In training, image features are
tied to frozen CLIP's of a second view of the image, class features to those of a description of
the class, one drawn at random each step.

DATALOADER.K_TRANSFORMS 2 gives the second view; with 1 the first serves as both. Without a file of
descriptions each class has one, the hand-written prompt. Where classes have different numbers of
descriptions, those that have fewer start again.

References:
    [0] Roy and Etemad, Consistency-guided Prompt Learning for Vision-Language Models, 2024,
        https://arxiv.org/abs/2306.01195
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY
from noise.descriptions import find_descriptions, load_descriptions

from .base import ClassPrompts, Loss, PromptedCLIP, TrainingBatch, encode_prompts, prompt_template
from .maple import SETTINGS, MaPLe, MaPLeCLIP, MultiModalPromptLearner
from .settings import declare_method


class ConsistentPromptLearner(MultiModalPromptLearner):
    """Learned beside MaPLe's: ``adapter_image`` and ``adapter_text``, E -> E / 4 -> E."""

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__(settings, clip_model, prompts, "COPROMPT")
        width, device = clip_model.text_projection.shape[1], self.ctx.device

        def adapter() -> nn.ModuleDict:
            down = nn.Linear(width, width // 4, bias=False, device=device)
            up = nn.Linear(width // 4, width, bias=False, device=device)
            return nn.ModuleDict({"fc": nn.Sequential(down, nn.ReLU(), up, nn.ReLU())})

        self.adapter_image = adapter()
        self.adapter_text = adapter()


class ConsistentCLIP(MaPLeCLIP):
    """MaPLe's model with adapters, and frozen CLIP as its teacher.

    Args:
        settings: of the method.
        template: the hand-written prompt, ``{}`` for the class name.
    """

    descriptions: Tensor  # (N, C, E), normalised, once training is prepared

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: ConsistentPromptLearner,
        prompts: ClassPrompts,
        *,
        settings: Any,
        template: str,
    ):
        super().__init__(clip_model, learner, prompts)
        self.settings = settings
        self.template = template
        self.register_buffer("descriptions", None, persistent=False)

    def raw_text_features(self) -> Tensor:
        features, share = super().raw_text_features(), self.settings.TEXT_ADAPTER
        adapted = self.prompt_learner.adapter_text["fc"](features)
        return share * adapted + (1 - share) * features

    def raw_image_features(self, image: Tensor) -> Tensor:
        features, share = super().raw_image_features(image), self.settings.IMAGE_ADAPTER
        adapted = self.prompt_learner.adapter_image["fc"](features)
        return share * adapted + (1 - share) * features

    def prepare_training(self) -> None:
        plain = ClassPrompts(self.template, self.prompts.classnames)
        sentences = [[text] for text in plain.texts]
        if self.settings.DESCRIPTIONS:
            known = load_descriptions(self.settings.DESCRIPTIONS, "TRAINER.COPROMPT.DESCRIPTIONS")
            sentences = [find_descriptions(known, name) for name in plain.classnames]
        features = [
            F.normalize(
                encode_prompts(
                    self.clip, plain.with_texts([own[number % len(own)] for own in sentences])
                ),
                dim=-1,
            )
            for number in range(max(map(len, sentences)))
        ]
        self.descriptions = torch.stack(features)

    def loss(self, batch: TrainingBatch) -> Loss:
        image_features, text_features = self.image_features(batch.image), self.text_features()
        logits = self.scale * image_features @ text_features.t()
        number = int(torch.randint(len(self.descriptions), ()))
        with torch.no_grad():
            view = batch.views[0] if batch.views else batch.image
            teacher = F.normalize(self.clip.encode_image(view).float(), dim=-1)
        pairs = {
            "text": (text_features, self.descriptions[number]),
            "image": (image_features, teacher),
        }
        if self.settings.DISTILL == "cosine":
            tied = {name: 1 - F.cosine_similarity(*pair).mean() for name, pair in pairs.items()}
        else:
            tied = {name: F.mse_loss(*pair) for name, pair in pairs.items()}
        weighted = {name: self.settings.W * distance for name, distance in tied.items()}
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label), **weighted)

    def upstream_key(self, name: str) -> str:
        return name if name.startswith("adapter_") else super().upstream_key(name)


@TRAINER_REGISTRY.register()
class CoPrompt(MaPLe):
    method = "COPROMPT"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        settings = {
            **SETTINGS,
            "W": Setting(8.0, "weight of the ties to frozen CLIP", ge=0, le=1000, scope="training"),
            "DISTILL": Setting(
                "cosine", "distance of the ties", choices=("cosine", "mse"), scope="training"
            ),
            "IMAGE_ADAPTER": Setting(0.1, "share of the adapted image features", ge=0, le=1),
            "TEXT_ADAPTER": Setting(0.2, "share of the adapted text features", ge=0, le=1),
            "DESCRIPTIONS": Setting(
                "",
                "JSON file {class name: [sentences]}; empty: the hand-written prompt",
                scope="training",
                is_file=True,
            ),
        }
        declare_method(cfg, "COPROMPT", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        cls.check_backbone(cfg, clip_model)
        settings = cls.settings_of(cfg)
        learner = ConsistentPromptLearner(settings, clip_model, prompts)
        return ConsistentCLIP(
            clip_model, learner, prompts, settings=settings, template=prompt_template(cfg)
        )
