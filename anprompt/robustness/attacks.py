"""AutoAttack, where pyautoattack is installed (requirements-autoattack.txt).

References:
    [0] Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks, 2020, https://arxiv.org/abs/2003.01690
"""

from collections.abc import Callable

import torch
from torch import nn

from common.errors import UsageError

FEWEST_CLASSES = 4  # its targeted loss ranks four of them
MOST_TARGETS = 9  # other classes that its targeted attacks aim at


def check_autoattack(num_classes: int) -> None:
    """Raise UsageError unless AutoAttack can run for that many classes."""
    if num_classes < FEWEST_CLASSES:
        raise UsageError(
            f"AutoAttack's standard set of attacks fails with {num_classes} classes; it takes "
            f"{FEWEST_CLASSES} or more. Use --noise pgd"
        )
    try:
        import pyautoattack  # noqa: F401
    except ImportError:
        raise UsageError(
            "--noise autoattack needs the package pyautoattack: "
            "pip install -r requirements-autoattack.txt -c constraints/cpu.txt"
        ) from None


class _Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images)


def autoattack(
    model_fn: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    seed: int,
    num_classes: int,
) -> torch.Tensor:
    """Images within ``eps`` (L-infinity) that mislead the model, by AutoAttack's standard version.

    With fewer than ten classes its targeted attacks aim at all the others there are. Random numbers
    come from torch's global generator, seeded for the batch; its state is restored.

    Args:
        model_fn: images (B, 3, H, W) with values 0 to 1 -> logits (B, C).
        images, labels: (B, 3, H, W) and (B,).
        eps: largest change of a value.

    Returns:
        (B, 3, H, W); images that withstood stay as they are.
    """
    from pyautoattack import AutoAttack

    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        attack = AutoAttack(_Function(model_fn), eps=eps, seed=seed, device=images.device)
        attack.verbose = False
        targets = min(MOST_TARGETS, num_classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        changed, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return changed.detach()
