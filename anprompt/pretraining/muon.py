"""Muon, an optimiser for the matrices of hidden layers, for CPUs.

References:
    [0] Jordan et al., Muon: An optimizer for hidden layers, 2024,
        https://kellerjordan.github.io/posts/muon/
"""

import math

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for matrices [0].

    ``torch.optim.Muon`` computes in bfloat16, one matrix at a time, which takes ten times as long
    as the rest of a step on a CPU without bfloat16 units; this one computes in float32, all
    matrices of a shape at once. The update is scaled to the size AdamW's usually has, 0.2 a weight.
    """

    def __init__(self, params, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]  # no closures
        for group in self.param_groups:
            by_shape: dict[tuple, list] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shape = tuple(sorted(parameter.shape))
                    by_shape.setdefault(shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                    update = parameter.grad.lerp(average, group["momentum"])  # Nesterov
                    updates.append(update if update.shape == shape else update.t())
                orthogonal = orthogonalise(torch.stack(updates))
                scale = 0.2 * math.sqrt(shape[1])
                for parameter, update in zip(parameters, orthogonal, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update = update if update.shape == parameter.shape else update.t()
                    parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearly the nearest matrices (N, m, n), m <= n, with singular values 1 (Newton-Schulz [0])."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
