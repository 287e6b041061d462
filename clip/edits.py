"""Token edits: small objects that change a token sequence before a transformer block.

Each is called as ``edit(layer, x)`` with the 0-based block number and ``x`` (B, L, D), and
returns the sequence that the block sees. They act on texts and images alike; on texts run by
``clip.text`` they see the shared prefix, so the positions they touch must lie within it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _as_batch(tokens: Tensor, x: Tensor) -> Tensor:
    """Learned tokens (n, D) -> (B, n, D) in x's precision."""
    return tokens.to(x.dtype).expand(x.shape[0], -1, -1)


def insert_tokens(x: Tensor, tokens: Tensor, position: int = 1) -> Tensor:
    """x (B, L, D) with ``tokens`` (n, D) put in at ``position``: (B, L + n, D)."""
    return torch.cat([x[:, :position], _as_batch(tokens, x), x[:, position:]], dim=1)


def replace_tokens(x: Tensor, tokens: Tensor, position: int = 1) -> Tensor:
    """x (B, L, D) with positions ``position .. position + n - 1`` replaced by ``tokens`` (n, D).

    A negative position counts from the end: ``-n`` replaces the last n.
    """
    if position < 0:
        position += x.shape[1]
    end = position + len(tokens)
    return torch.cat([x[:, :position], _as_batch(tokens, x), x[:, end:]], dim=1)


def append_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """x (B, L, D) with ``tokens`` (n, D) after its end: (B, L + n, D)."""
    return torch.cat([x, _as_batch(tokens, x)], dim=1)


class ReplaceTokens:
    """Before each block listed in ``tokens`` {layer: (n, D)}, replace n positions (MaPLe, IVLP,
    VPT).
    """

    def __init__(self, tokens: dict[int, Tensor], position: int = 1):
        self.tokens = tokens
        self.position = position

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        if layer not in self.tokens:
            return x
        return replace_tokens(x, self.tokens[layer], self.position)


class InsertThenReplace:
    """Insert n tokens before the first listed block, replace those n before the later ones (MMRL).

    Args:
        tokens: {layer: (n, D)}, 0-based layers.
        position: where the tokens stand; 1 is right after the start or class token.
        beta: share of the new tokens in a replacement; the rest is the previous block's output at
            those positions (MMRL++). 1 replaces outright.
    """

    def __init__(self, tokens: dict[int, Tensor], position: int = 1, beta: float = 1.0):
        self.tokens = tokens
        self.first = min(tokens)
        self.position = position
        self.beta = beta

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        if layer not in self.tokens:
            return x
        tokens = self.tokens[layer]
        if layer == self.first:
            return insert_tokens(x, tokens, self.position)
        if self.beta == 1.0:
            return replace_tokens(x, tokens, self.position)
        end = self.position + len(tokens)
        blended = self.beta * _as_batch(tokens, x) + (1 - self.beta) * x[:, self.position : end]
        return torch.cat([x[:, : self.position], blended, x[:, end:]], dim=1)
