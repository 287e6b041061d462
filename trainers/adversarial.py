"""Adversarial training of any method: its own loss, on images changed to mislead it.

Each step attacks the model as it stands, by its own inference rule: projected gradient descent on
pixels from 0 to 1, normalised on the way into the model, clamped to that range and to the ball in
every step. The model is in evaluation mode then, and no parameter has a gradient; the classes' side
is computed once a step, for the attack and for the loss. Marks: [A] the authors' code, [O] ours.

References:
    [0] Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018,
        https://arxiv.org/abs/1706.06083
    [1] Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, 2019,
        https://arxiv.org/abs/1901.08573 (TRADES)
    [2] https://github.com/xinwong/Multimodal-Adversarial-Prompt-Tuning (MIT): the losses by these
        names, for CoOp, VPT, IVLP and MaPLe
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UsageError
from common.ranks import Share
from common.settings import Setting, declare
from noise import adversarial

from .model import Loss, TrainingBatch
from .trainer import PromptTrainer

LOSSES = ("adv_half", "adv_full", "trades", "clean")
TRADES_START = 0.001  # standard deviation of the start; TRADES' objective has no gradient at 0 [A]
STARTS = ("uniform", "zero")


def attack_settings(
    *, eps: float = 1.0, step: float | None = 1.0, steps: int = 2, start: str = "uniform"
) -> dict[str, Setting]:
    """Describe the attack of training; the defaults are [A] of [2], and FAP's."""
    training: dict[str, Any] = {"scope": "training"}
    return {
        "EPS": Setting(
            eps, "attack: largest change of a pixel's value, in 255ths", ge=0, le=255, **training
        ),
        "STEP": Setting(
            step,
            "attack: size of a step, in 255ths; None: 1.5 EPS / STEPS",
            kind=float,
            ge=0,
            le=255,
            optional=True,
            **training,
        ),
        "STEPS": Setting(steps, "attack: number of steps", ge=0, le=1000, **training),
        "START": Setting(start, "attack: where it starts in the ball", choices=STARTS, **training),
    }


def divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """Return each sample's KL(softmax(clean) || softmax(logits)), (B,)."""
    found = F.kl_div(logits.log_softmax(dim=-1), clean.softmax(dim=-1), reduction="none")
    return found.sum(dim=-1)


@contextlib.contextmanager
def attacked(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients of its parameters, for an attack."""
    was_training = module.training
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        module.train(was_training)


class AttackedTraining(PromptTrainer):
    """Base of trainers whose loss needs attacked images.

    Class attributes:
        attack_node: the node under ``cfg.TRAINER`` that has `attack_settings`.
    """

    attack_node = "ADVERSARIAL"

    @classmethod
    def attack_of(cls, cfg: Any) -> Any:
        """Return the settings of the attack."""
        return cfg.TRAINER[cls.attack_node]

    def pixel_scale(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation that the loader's images were normalised with."""
        given = self.cfg.INPUT
        if "normalize" not in given.TRANSFORMS:
            return image.new_zeros(1), image.new_ones(1)
        mean, std = (image.new_tensor(v).view(3, 1, 1) for v in (given.PIXEL_MEAN, given.PIXEL_STD))
        return mean, std

    def logits_of(self, image: Tensor, state: Any) -> Tensor:
        """Return the logits (B, C) that decide, and are attacked."""
        return self.model.classify(self.model.encode(image), state)[self.model.rule]

    def attack(
        self,
        image: Tensor,
        label: Tensor,
        state: Any,
        *,
        loss: adversarial.Loss = F.cross_entropy,
        start: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Return images within the ball around the given ones for which ``loss`` is high.

        A uniform start is drawn from torch's global generator, on the CPU, which checkpoints keep:
        a resumed run goes on with the same attacks.

        Args:
            image: (B, 3, H, W) as the loader gives them, normalised.
            label: (B,).
            state: the model's ``class_state``; no gradient reaches it.
            start: the change to start from, in pixel values; by default as the settings say.
            first: place in the batch from which on the images are.

        Returns:
            (B, 3, H, W), normalised as the given ones.
        """
        settings = self.attack_of(self.cfg)
        eps, steps = settings.EPS, settings.STEPS
        step = 1.5 * eps / max(steps, 1) if settings.STEP is None else settings.STEP
        if start is None and settings.START == "uniform":

            def uniform(shape: torch.Size) -> Tensor:
                return torch.empty(shape, dtype=image.dtype).uniform_(-eps / 255, eps / 255)

            start = self.drawn(uniform, image, first)
        if not len(image):  # others have what is attacked
            return image
        mean, std = self.pixel_scale(image)
        fixed = state.detach() if isinstance(state, Tensor) else state
        with (
            attacked(self.model.prompt_learner),
            torch.autocast(image.device.type, enabled=False),
        ):
            changed = adversarial.pgd(
                lambda pixels: self.attacked_logits((pixels - mean) / std, fixed),
                (image * std + mean).clamp(0, 1),
                label,
                eps=eps / 255,
                step=step / 255,
                steps=steps,
                start=start,
                loss=loss,
            )
        return (changed - mean) / std

    def drawn(self, draw: Callable[[torch.Size], Tensor], image: Tensor, first: int = 0) -> Tensor:
        """Return random numbers in the shape of images, as one process draws them for a batch.

        Args:
            draw: gives numbers for a shape.
            image: those of this process, from place ``first`` of the batch on.
        """
        share = self.model.clip.transformer.images
        if share is None or not share.is_split:
            return draw(image.shape)
        places = torch.arange(share.total)[share.own]
        shape = torch.Size([share.total - first, *image.shape[1:]])
        return draw(shape)[places[places >= first] - first]

    def attacked_logits(self, image: Tensor, state: Any) -> Tensor:
        """Return the logits that the attack sees; by default the model's own."""
        return self.logits_of(image, state)


class AdversarialTraining(AttackedTraining):
    """Mixin: trains a method adversarially. ``class AdvCoOp(AdversarialTraining, CoOp)``.

    - adv_half: the first half of the batch as it is, the second half attacked; one loss over both.
    - adv_full: the whole batch attacked.
    - trades: the method's loss on clean images, and BETA times the divergence of the attacked
      images' predictions from the clean ones', which the attack maximises.
    - clean: the method as it is.
    """

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        training: dict[str, Any] = {"scope": "training"}
        settings = {
            "LOSS": Setting(
                "adv_half",
                "which images the loss is taken on; the attack of trades starts near the image, "
                "whatever START is",
                choices=LOSSES,
                **training,
            ),
            "BETA": Setting(1.0, "trades: weight of the divergence", ge=0, le=1000, **training),
            **attack_settings(),
        }
        declare(cfg, "TRAINER.ADVERSARIAL", settings)

    def loss(self, batch: TrainingBatch) -> Loss:
        kind = self.attack_of(self.cfg).LOSS
        if kind == "clean":
            return self.model.loss(batch)
        batch = replace(batch, class_state=self.model.class_state())
        if kind == "trades":
            return self.trades(batch)
        share = batch.share or Share(total=len(batch.image))
        first = share.total // 2 if kind == "adv_half" else 0
        clean = share.before(first)
        changed = self.attack(
            batch.image[clean:], batch.label[clean:], batch.class_state, first=first
        )
        return self.model.loss(replace(batch, image=torch.cat([batch.image[:clean], changed])))

    def trades(self, batch: TrainingBatch) -> Loss:
        """Return TRADES' loss [1]."""
        image, state = batch.image, batch.class_state
        with torch.no_grad():
            clean = self.logits_of(image, state)
        changed = self.attack(
            image,
            batch.label,
            state,
            loss=lambda logits, label: divergence(logits, clean).mean(),
            start=TRADES_START * self.drawn(torch.randn, image),
        )
        natural = self.model.loss(batch)
        robust = divergence(self.logits_of(changed, state), natural.logits).mean()
        weighted = self.attack_of(self.cfg).BETA * robust
        return Loss.of(natural.logits, **natural.terms, robust=weighted)


def refuse_zero_start(node: str, settings: Any) -> None:
    """Refuse a start at the image for an objective that has no gradient there.

    Raises:
        UsageError: so.
    """
    if settings.START == "zero" and settings.STEPS:
        raise UsageError(
            f"TRAINER.{node}.START 'zero': the divergence from the clean prediction has no "
            "gradient at the clean image, so the attack would not move; choose uniform"
        )
