"""The answers of a test whose batches several processes share, in the order of one process."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from common.ranks import gather, here

_TEXT = ("utf-8", "surrogateescape")  # names of files may hold bytes that are no text


@dataclass(frozen=True)
class Answer:
    """What a model makes of one batch.

    Attributes:
        logits: (B, C) by inference rule; by None for a model that has one.
        label: (B,).
        paths: of the images.
    """

    logits: dict[Any, torch.Tensor]
    label: torch.Tensor
    paths: list[str]


def in_order(own: Iterator[Answer], batches: int, device: torch.device) -> Iterator[Answer]:
    """Yield the answers of all processes on the first one; the others yield none.

    Args:
        own: this process's, to batches ``rank``, ``rank + size``, ...
        batches: how many there are together.
        device: where the logits are.
    """
    size = here().size
    for first in range(0, batches, size):
        answer = next(own, None)  # behind the last batch some have none
        stacked, label, letters = torch.zeros(0, 0, 0), torch.zeros(0), torch.zeros(0)
        if answer is not None:
            stacked = torch.stack(list(answer.logits.values()))  # (R, B, C)
            label = answer.label
            letters = torch.tensor(list("\0".join(answer.paths).encode(*_TEXT)))
        sizes = gather(torch.tensor([*stacked.shape, len(letters)]), size)
        most = torch.stack(sizes).amax(0).tolist()
        all_logits = gather(_padded(stacked.float(), most[:3], device), size)
        all_labels = gather(_padded(label.long().cpu(), most[1:2], "cpu"), size)
        all_letters = gather(_padded(letters.long(), most[3:], "cpu"), size)
        if not here().is_first or answer is None:
            continue
        for number in range(min(size, batches - first)):
            _, images, _, length = sizes[number].tolist()
            logits = all_logits[number][:, :images].to(stacked.dtype)
            yield Answer(
                dict(zip(answer.logits, logits, strict=True)),
                all_labels[number][:images].to(answer.label.device),
                bytes(all_letters[number][:length].tolist()).decode(*_TEXT).split("\0"),
            )


def _padded(x: torch.Tensor, sizes: list[int], device: Any) -> torch.Tensor:
    """Return x on a device with zeros behind it, so that it has these sizes."""
    missing = [n for size, have in zip(sizes, x.shape, strict=True) for n in (size - have, 0)]
    return F.pad(x.to(device), missing[::-1]).contiguous()
