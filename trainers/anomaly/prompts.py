"""Texts behind learned context vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

import clip

from ..prompts import ClassPrompts, TokenizedPrompts
from .model import AnomalyModel


class ContextPrompts(nn.Module):
    """Texts that begin with ``n_ctx`` learned vectors, "[V]...[V] text."; it learns nothing itself.

    Raises:
        UsageError: a text is longer than CLIP reads.
    """

    def __init__(self, clip_model: clip.model.CLIP, texts: Sequence[str], n_ctx: int):
        super().__init__()
        placeholders = " ".join(["X"] * n_ctx)
        prompts = ClassPrompts("{}", texts, texts).between(placeholders)
        self.prompts = TokenizedPrompts(clip_model, prompts)

    def forward(self, model: AnomalyModel, context: Tensor) -> Tensor:
        """Return features (G * texts, E) with contexts (G, n_ctx, D), fp32, not normalised."""
        text = self.prompts.shared_text(model.clip, context).run(model.clip.transformer)
        found = text.features(model.clip).float()
        return found.reshape(len(context) * len(self.prompts.tokens), -1)
