"""NAPTuning: MaPLe with small networks that refine the towers' tokens, trained adversarially.

A reconstruction from the paper's abstract and the author's development code; its tables are not
to be had. Marks: [P] the paper's abstract, [A] that code, [O] our choice.

Before a block with prompts, but the first, the tokens that are not prompts go through a residual
network of the block's own, h <- h + R(h); then the block's prompts join them. The attack is on the
model being trained. With zero-initialised refiners [O] training starts exactly at AdvMaPLe.

References:
    [0] Zhang et al., NAP-Tuning: Neural Augmented Prompt Tuning for Adversarially Robust
        Vision-Language Models, 2025, https://arxiv.org/abs/2506.12706
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.edits import ReplaceTokens, append_tokens
from clip.text import SharedText
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY

from .adversarial import AttackedTraining, attack_settings
from .base import ClassPrompts, Loss, TrainingBatch, encode_prompts, prompt_template
from .maple import SETTINGS, MaPLe, MaPLeCLIP, MultiModalPromptLearner
from .settings import count, declare_method, precision
from .vpt import random_prompts

TEXT_TOKENS = ("suffix", "sos", "all", "none")
# By name: weights of the clean, the adversarial and the feature term; None: they follow the epoch.
LOSSES: dict[str, tuple[float, float, float] | None] = {
    "ramp": None,
    "half": (0.5, 0.5, 0.0),
    "half+0.1C": (0.5, 0.5, 0.1),
}


class TokenRefiner(nn.Module):
    """R(u) = W2 ReLU(W1 u + b1) + b2, d -> k d -> d.  [A]

    Args:
        zero: start with W2 and b2 at zero [O], so that nothing is changed.
    """

    def __init__(self, width: int, factor: int, zero: bool, device: Any):
        super().__init__()
        self.up = nn.Linear(width, factor * width, device=device)
        self.down = nn.Linear(factor * width, width, device=device)
        if zero:
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.down.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., d) -> (..., d), ``tokens`` refined: with what R makes of them added."""
        refined = self.down(F.relu(self.up(tokens.to(self.up.weight.dtype))))
        return tokens + refined.to(tokens.dtype)


class RefiningPromptLearner(MultiModalPromptLearner):
    """Learned beside MaPLe's: ``vision_refiners`` and ``text_refiners`` by 0-based block, 1 ..
    depth - 1. With PROMPTS independent [O] the image tower's prompts are ``vision_ctx``, a list of
    (n, Dv), and there are no maps.
    """

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__(settings, clip_model, prompts)
        visual: Any = clip_model.visual
        depth, device = settings.PROMPT_DEPTH, self.ctx.device
        self.is_coupled = settings.PROMPTS == "coupled"
        if not self.is_coupled:
            del self.proj, self.compound_prompt_projections
            width = visual.transformer.width
            self.vision_ctx = random_prompts(depth, settings.N_CTX, width, device)

        def refiners(width: int) -> nn.ModuleDict:
            zero = settings.REFINER_INIT == "zero"
            own = {
                str(block): TokenRefiner(width, settings.HIDDEN_FACTOR, zero, device)
                for block in range(1, depth)
            }
            return nn.ModuleDict(own)

        self.vision_refiners = refiners(visual.transformer.width)
        # Only refiners that are called: weight decay would move the others. [O]
        is_used = settings.TEXT_TOKENS != "none"
        self.text_refiners = refiners(clip_model.transformer.width) if is_used else nn.ModuleDict()

    def first_vision_prompt(self) -> Tensor:
        return super().first_vision_prompt() if self.is_coupled else self.vision_ctx[0]

    def vision_prompts(self) -> dict[int, Tensor]:
        if self.is_coupled:
            return super().vision_prompts()
        return dict(enumerate(self.vision_ctx[1:], start=1))


class RefineThenAppend:
    """Edit of the image tower: refine the tokens, and put the block's prompts in the last places.

    Args:
        prompts: {block: (n, Dv)}.
        refiners: by block.
        seen: gets the output (B, L, Dv) of every block but the last, where given.
    """

    def __init__(
        self,
        prompts: Mapping[int, Tensor],
        refiners: Mapping[str, nn.Module],
        seen: list[Tensor] | None = None,
    ):
        self.prompts = prompts
        self.refiners = refiners
        self.seen = seen

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        if layer and self.seen is not None:
            self.seen.append(x)
        if layer not in self.prompts:
            return x
        own = x[:, : -len(self.prompts[layer])]
        if str(layer) in self.refiners:
            own = self.refiners[str(layer)](own)
        return append_tokens(own, self.prompts[layer])


class RefiningCLIP(MaPLeCLIP):
    """MaPLe's model with refiners in its towers.

    Args:
        text_tokens: which tokens of the text tower are refined [O]: those after the prompts
            (class name and end, "suffix"), the start token ("sos"), both ("all"), or "none" [A].
    """

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: RefiningPromptLearner,
        prompts: ClassPrompts,
        text_tokens: str,
    ):
        super().__init__(clip_model, learner, prompts)
        self.text_tokens = text_tokens

    def raw_text_features(self) -> Tensor:
        learner, tower = self.prompt_learner, self.clip.transformer
        text = learner.prompts.shared_text(self.clip, context=learner.ctx)
        edit = ReplaceTokens(learner.text_prompts(), position=1)
        done = 0
        for name, refiner in learner.text_refiners.items():
            text = text.run(tower, start=done, stop=int(name), edit=edit)
            text, done = self._refined(text, refiner), int(name)
        return text.run(tower, start=done, edit=edit).features(self.clip).float()

    def _refined(self, text: SharedText, refiner: nn.Module) -> SharedText:
        start, own = text.prefix, text.own
        first, end = 1, 1 + len(self.prompt_learner.ctx)  # of the prompts, which are replaced
        parts = [start[:, :first], start[:, first:end], start[:, end:]]
        if self.text_tokens in ("sos", "all"):
            parts[0] = refiner(parts[0])
        if self.text_tokens in ("suffix", "all"):
            parts[2], own = refiner(parts[2]), refiner(own)
        return replace(text, prefix=torch.cat(parts, dim=1), own=own)

    def raw_image_features(self, image: Tensor) -> Tensor:
        return self._run_image(image, None)

    def image_blocks(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return normalised image features (B, E), and every block's output, each (B, L, Dv)."""
        seen: list[Tensor] = []
        return F.normalize(self._run_image(image, seen), dim=-1), seen

    def _run_image(self, image: Tensor, seen: list[Tensor] | None) -> Tensor:
        learner, visual = self.prompt_learner, self.clip.visual
        first = learner.first_vision_prompt()
        tokens = append_tokens(visual.embed(image.type(self.clip.dtype)), first)
        edit = RefineThenAppend(learner.vision_prompts(), learner.vision_refiners, seen)
        keep = slice(0, 1) if seen is None else None
        tokens = visual.transformer.run(visual.ln_pre(tokens), edit=edit, keep=keep)
        if seen is not None:
            seen.append(tokens)
        return visual.project(tokens[:, 0]).float()


def feature_distance(clean: Sequence[Tensor], attacked: Sequence[Tensor]) -> Tensor:
    """Return C = sum over blocks of (1 - mean_b cos(F(x_b), F(x_adv_b))).  [A]

    Args:
        clean, attacked: by block (B, L, D); flattened to a vector a sample.
    """
    total = clean[0].new_zeros((), dtype=torch.float32)
    for own, other in zip(clean, attacked, strict=True):
        a, b = (x.flatten(1).float() for x in (own, other))
        cosine = (a * b).sum(dim=1) / ((a.norm(dim=1) + 1e-8) * (b.norm(dim=1) + 1e-8))
        total = total + (1 - cosine.mean())
    return total


@TRAINER_REGISTRY.register()
class NAPTuning(AttackedTraining, MaPLe):
    method = "NAPTUNING"
    attack_node = "NAPTUNING"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        training: dict[str, Any] = {"scope": "training"}
        settings = {
            **SETTINGS,
            "N_CTX": count(16, "prompt tokens per layer [A]"),
            "PREC": precision("fp32"),
            "PROMPT_DEPTH": count(12, "layers with prompts, the first included [A]"),
            "PROMPTS": Setting(
                "coupled",
                "image prompts are functions of the text's [A], or their own [O]",
                choices=("coupled", "independent"),
            ),
            "HIDDEN_FACTOR": count(2, "hidden width of a refiner, in widths of its tower [A]"),
            "REFINER_INIT": Setting(
                "zero",
                "start of the refiners: zero [O], or default, PyTorch's [A]",
                choices=("zero", "default"),
                **training,
            ),
            "TEXT_TOKENS": Setting(
                "suffix",
                "text tokens that are refined [O]: after the prompts, the start, both; none [A]",
                choices=TEXT_TOKENS,
            ),
            "LOSS": Setting(
                "ramp",
                "weights of clean, adversarial and feature terms: follow the epoch [A], half and "
                "half [A], or that and 0.1 of the feature term [A]",
                choices=tuple(LOSSES),
                **training,
            ),
            "FEATURE": Setting(True, "have the feature term [A]", **training),
            "SURROGATE": Setting(
                "self",
                "model that training attacks: this one, or frozen CLIP [A]",
                choices=("self", "clip"),
                **training,
            ),
            **attack_settings(eps=4.0, step=None, steps=5, start="zero"),
        }
        declare_method(cfg, "NAPTUNING", settings)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> RefiningCLIP:
        cls.check_backbone(cfg, clip_model)
        settings = cls.settings_of(cfg)
        learner = RefiningPromptLearner(settings, clip_model, prompts)
        return RefiningCLIP(clip_model, learner, prompts, settings.TEXT_TOKENS)

    def prepare_training(self) -> None:
        super().prepare_training()
        if self.settings.SURROGATE == "clip":
            prompts = ClassPrompts(prompt_template(self.cfg), self.dm.dataset.classnames)
            self.frozen_text = F.normalize(encode_prompts(self.model.clip, prompts), dim=-1)

    def attacked_logits(self, image: Tensor, state: Any) -> Tensor:
        if self.settings.SURROGATE == "self":
            return super().attacked_logits(image, state)
        features = self.model.clip.encode_image(image).float()
        return F.normalize(features, dim=-1) @ self.frozen_text.t()  # without the scale [A]

    def weights(self, epoch: int) -> tuple[float, float, float]:
        """Return the weights of the clean, the adversarial and the feature term in an epoch."""
        share = epoch / self.max_epoch
        clean, attacked, feature = LOSSES[self.settings.LOSS] or (1 - share, share, share)
        return clean, attacked, feature if self.settings.FEATURE else 0.0

    def loss(self, batch: TrainingBatch) -> Loss:
        model, label = self.model, batch.label
        state = model.class_state()
        clean, attacked, feature = self.weights(batch.epoch)
        if not (attacked or feature):  # the first epoch of a ramp
            z = self.logits_of(batch.image, state)
            return Loss.of(z, ce=clean * F.cross_entropy(z, label))
        changed = self.attack(batch.image, label, state)
        (f, seen), (f_adv, seen_adv) = map(model.image_blocks, (batch.image, changed))
        z, z_adv = (model.classify(own, state)[model.rule] for own in (f, f_adv))
        terms = {
            "ce": clean * F.cross_entropy(z, label),
            "ce_adv": attacked * F.cross_entropy(z_adv, label),
        }
        if self.settings.FEATURE and self.settings.LOSS != "half":
            terms["feature"] = feature * feature_distance(seen, seen_adv)
        return Loss.of(z, **terms)
