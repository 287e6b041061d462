"""Attacks on a classifier's images; AutoAttack's where pyautoattack is installed.

References:
    [0] Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks, 2020, https://arxiv.org/abs/2003.01690
"""

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.robustness.classifier import Classifier
from anprompt.robustness.plan import ATTACKS, pgd_step
from common.errors import UsageError
from noise.adversarial import Logits, Loss, dlr, pgd, unscaled_cross_entropy
from noise.torch_seeding import torch_generator_for

logger = logging.getLogger(__name__)

RANKED_CLASSES = 4  # its targeted loss ranks four of them
MOST_TARGETS = 9  # other classes that its targeted attacks aim at
SQUARE_QUERIES = 5000


def has_autoattack() -> bool:
    """Return whether pyautoattack is installed."""
    try:
        import pyautoattack  # noqa: F401
    except ImportError:
        return False
    return True


def check_attack(kind: str, num_classes: int) -> None:
    """Refuse an attack that cannot be run.

    Raises:
        UsageError: AutoAttack is not installed, or there is a single class.
    """
    if num_classes < 2:
        raise UsageError(f"--noise {kind}: an attack needs two classes or more")
    if ATTACKS[kind].package and not has_autoattack():
        raise UsageError(
            f"--noise {kind} needs the package pyautoattack: "
            "pip install -r requirements-autoattack.txt -c constraints/cpu.txt"
        )


def attacked(
    classifier: Classifier,
    kind: str,
    bound: int,
    pictures: Tensor,
    labels: Tensor,
    *,
    seed: int,
    keys: Sequence[str],
    on_pass: Callable[[], object] = lambda: None,
) -> Tensor:
    """Return pictures changed, within the bound, to mislead this very model.

    The gradient goes through the whole model and its own inference rule; the classes' side is made
    once. Starts are uniform in the ball, seeded by image.

    Args:
        classifier: with the rule that is attacked.
        kind: a key of `ATTACKS`.
        bound: largest change of a value, in 255ths.
        pictures: (B, 3, H, W), values 0 to 1.
        labels: (B,) true classes.
        seed: of the starts.
        keys: name the images.
        on_pass: called whenever the attack asks the model, some thousand times.

    Returns:
        (B, 3, H, W) on the classifier's device.
    """
    attack = ATTACKS[kind]
    pictures, labels = pictures.to(classifier.device), labels.to(classifier.device)
    with torch.no_grad():
        state = classifier.class_state()
    model = classifier.logits(state)

    def logits(asked: Tensor) -> Tensor:
        on_pass()
        return model(asked)

    if attack.package:
        number = len(classifier.classnames)
        return autoattack(logits, kind, pictures, labels, bound / 255, seed, number)
    losses: dict[str, Loss] = {
        "ce": F.cross_entropy,
        "unscaled": unscaled_cross_entropy(classifier.scale),
        "dlr": dlr,
    }
    return pgd(
        logits,
        pictures,
        labels,
        eps=bound / 255,
        step=pgd_step(kind, bound),
        steps=attack.steps,
        start=[torch_generator_for(seed, "pgd", key) for key in keys],
        loss=losses[attack.loss],
    )


class _Function(nn.Module):
    def __init__(self, function: Logits):
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def parts_of_autoattack(kind: str, num_classes: int) -> list[str]:
    """Return the attacks, by AutoAttack's names, that a kind is made of for that many classes.

    The targeted DLR loss ranks four classes. With fewer, untargeted attacks stand in for targeted
    ones, and DLR, which ranks three, is left out with two.
    """
    if kind == "square":
        return ["square"]
    if num_classes >= RANKED_CLASSES:
        return ["apgd-ce", "apgd-t"] + (["fab-t", "square"] if kind == "autoattack" else [])
    plain = ["apgd-ce", *(["apgd-dlr"] if num_classes > 2 else [])]
    return plain + (["fab", "square"] if kind == "autoattack" else [])


def autoattack(
    logits: Logits,
    kind: str,
    images: Tensor,
    labels: Tensor,
    eps: float,
    seed: int,
    num_classes: int,
) -> Tensor:
    """Return images within ``eps`` (L-infinity) that mislead the model, by AutoAttack's attacks.

    With fewer than ten classes its targeted attacks aim at all the others there are. Random numbers
    come from torch's global generator, seeded for the batch; its state is restored.

    Args:
        logits: images (B, 3, H, W) with values 0 to 1 -> logits (B, C).
        kind: "autoattack" (with four classes or more its standard version), "apgd" or "square".
        images, labels: (B, 3, H, W) and (B,).
        eps: largest change of a value.

    Returns:
        (B, 3, H, W); images that withstood stay as they are.
    """
    from pyautoattack import AutoAttack

    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        attack = AutoAttack(
            _Function(logits),
            eps=eps,
            seed=seed,
            device=images.device,
            version="custom",
            attacks=parts_of_autoattack(kind, num_classes),
        )
        attack.verbose = False
        # As its standard version sets them.
        attack.apgd.n_restarts = attack.fab.n_restarts = attack.apgd_targeted.n_restarts = 1
        attack.square.n_queries = SQUARE_QUERIES
        targets = min(MOST_TARGETS, num_classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        changed, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return changed.detach()
