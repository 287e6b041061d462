"""Top-k accuracy of a batch."""

from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, topk: Sequence[int] = (1,)
) -> list[torch.Tensor]:
    """Return how often the label is among the ``k`` highest logits.

    Args:
        output: logits, shape (B, C); of several outputs the first counts.
        target: labels, shape (B,).
        topk: values of k.

    Returns:
        One tensor of shape (1,) per k, in percent, on the logits' device.
    """
    logits = output if isinstance(output, torch.Tensor) else output[0]
    ranked = logits.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked.eq(target.view(-1, 1)).float()
    return [hits[:, :k].sum().view(1) * (100.0 / target.shape[0]) for k in topk]
