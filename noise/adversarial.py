"""Adversarial image noise: projected gradient descent (PGD).

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
https://arxiv.org/abs/1706.06083. With the same start it equals torchattacks' PGD bit for bit.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F


def pgd(
    model_fn: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    alpha: float,
    steps: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> torch.Tensor:
    """Images within ``eps`` (L-infinity) of the given ones for which the model's loss is high.

    Repeats x <- clip(x + alpha * sign(gradient of the cross-entropy)), the clip into both the
    eps-ball and the valid range. Leaves parameters and their gradients alone. A model certain in
    float32 (a probability of exactly 1) has no gradient to follow and looks more robust than it is.

    Args:
        model_fn: images (B, 3, H, W) with values 0 to 1 -> logits (B, C); normalises inside.
        images: (B, 3, H, W), values 0 to 1.
        labels: (B,) true class indices.
        eps: largest change of a value, e.g. 1 / 255.
        alpha: size of a step, e.g. eps / 4.
        steps: number of steps; 0 gives the random start.
        generator: for the random start, uniform in the eps-ball: one for the batch, or B of them so
            that an image's start does not depend on those beside it. None: start at the images.

    Returns:
        (B, 3, H, W) of the images' dtype and device, without gradient.

    Raises:
        ValueError: values outside 0 to 1, negative eps, alpha or steps, or lengths that disagree.
    """
    if min(eps, alpha, steps) < 0:
        raise ValueError(f"PGD: eps {eps}, alpha {alpha} and steps {steps} must not be negative.")
    if len(labels) != len(images):
        raise ValueError(f"PGD: {len(labels)} labels for {len(images)} images.")
    images = images.detach()
    if images.numel() and (images.min() < 0 or images.max() > 1):
        raise ValueError("PGD: image values must lie in 0 to 1; normalise inside the model.")

    adversarial = images.clone()
    if generator is not None:
        start = _uniform(images, eps, generator).to(images.device)
        adversarial = torch.clamp(images + start, min=0, max=1)
    for _ in range(steps):
        with torch.enable_grad():
            adversarial.requires_grad_(True)
            # The mean over the batch scales all gradients alike and leaves their signs.
            loss = F.cross_entropy(model_fn(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + alpha * gradient.sign()
        change = torch.clamp(adversarial - images, min=-eps, max=eps)
        adversarial = torch.clamp(images + change, min=0, max=1)
    return adversarial


def _uniform(
    images: torch.Tensor, eps: float, generator: torch.Generator | Sequence[torch.Generator]
) -> torch.Tensor:
    """Uniform draws from -eps to eps in the images' shape, on the generator's device."""
    if isinstance(generator, torch.Generator):
        draws = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
        return draws.uniform_(-eps, eps, generator=generator)
    if len(generator) != len(images):
        raise ValueError(f"PGD: {len(generator)} generators for {len(images)} images.")
    return torch.stack(
        [_uniform(image, eps, own) for image, own in zip(images, generator, strict=True)]
    )
