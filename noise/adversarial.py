"""Adversarial image noise: projected gradient descent (PGD), and losses that it maximises.

An attack sees a model as a function from images with values 0 to 1 to logits, so it may serve a
training step as well as an evaluation.

References:
    [0] Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018,
        https://arxiv.org/abs/1706.06083; `pgd` equals torchattacks' bit for bit
    [1] Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks, 2020, https://arxiv.org/abs/2003.01690 (the DLR loss, eq. 6)
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def pgd(
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: torch.Generator | Sequence[torch.Generator] | Tensor | None = None,
    loss: Loss = F.cross_entropy,
) -> Tensor:
    """Return images within ``eps`` (L-infinity) of the given ones for which the loss is high.

    Repeats x <- clip(x + step * sign(gradient of the loss)), the clip into both the eps-ball and
    the valid range. Leaves parameters and their gradients alone. A model certain in float32 (a
    probability of exactly 1) has no gradient of the cross-entropy to follow and looks more robust
    than it is: CLIP's logits are a hundred times a cosine. `unscaled_cross_entropy` and `dlr` do
    not saturate.

    Args:
        logits: images (B, 3, H, W) with values 0 to 1 -> logits (B, C); normalises inside.
        images: (B, 3, H, W), values 0 to 1.
        labels: (B,) true class indices.
        eps: largest change of a value, e.g. 1 / 255.
        step: size of a step, e.g. eps / 4.
        steps: number of steps; 0 gives the start.
        start: a generator that draws the start uniformly in the eps-ball: one for the batch, or B
            of them so that an image's start does not depend on those beside it. None: start at the
            images; a tensor: at the images plus it.
        loss: (logits, labels) -> scalar, the mean over the batch of what is maximised.

    Returns:
        (B, 3, H, W) of the images' dtype and device, without gradient.

    Raises:
        ValueError: values outside 0 to 1, negative eps, step or steps, or lengths that disagree.
    """
    if min(eps, step, steps) < 0:
        raise ValueError(f"PGD: eps {eps}, step {step} and steps {steps} must not be negative.")
    if len(labels) != len(images):
        raise ValueError(f"PGD: {len(labels)} labels for {len(images)} images.")
    images = images.detach()
    if images.numel() and (images.min() < 0 or images.max() > 1):
        raise ValueError("PGD: image values must lie in 0 to 1; normalise inside the model.")

    adversarial = images.clone()
    if start is not None:
        drawn = start if isinstance(start, Tensor) else _uniform(images, eps, start)
        change = drawn.to(images.device, images.dtype)
        adversarial = torch.clamp(images + change, min=0, max=1)
    for _ in range(steps):
        with torch.enable_grad():
            adversarial.requires_grad_(True)
            # The mean over the batch scales all gradients alike and leaves their signs.
            (gradient,) = torch.autograd.grad(loss(logits(adversarial), labels), adversarial)
        adversarial = adversarial.detach() + step * gradient.sign()
        change = torch.clamp(adversarial - images, min=-eps, max=eps)
        adversarial = torch.clamp(images + change, min=0, max=1)
    return adversarial


def unscaled_cross_entropy(scale: float) -> Loss:
    """Return the cross-entropy of logits divided by the model's scale tau."""
    return lambda logits, labels: F.cross_entropy(logits / scale, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean difference-of-logits ratio [1]: it does not change with the logits' scale.

    -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)), with z_(k) the k-th largest; of two classes, which
    have no third, the difference alone.
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    margin = own[:, 0] - others.max(dim=1).values  # (B,)
    if logits.shape[1] < 3:
        return -margin.mean()
    largest = logits.topk(3, dim=1).values
    return -(margin / (largest[:, 0] - largest[:, 2] + 1e-12)).mean()


def _uniform(
    images: Tensor, eps: float, generator: torch.Generator | Sequence[torch.Generator]
) -> Tensor:
    """Return uniform draws from -eps to eps in the images' shape, on the generator's device."""
    if isinstance(generator, torch.Generator):
        draws = torch.empty(images.shape, dtype=images.dtype, device=generator.device)
        return draws.uniform_(-eps, eps, generator=generator)
    if len(generator) != len(images):
        raise ValueError(f"PGD: {len(generator)} generators for {len(images)} images.")
    return torch.stack(
        [_uniform(image, eps, own) for image, own in zip(images, generator, strict=True)]
    )
