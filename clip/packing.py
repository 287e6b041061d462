"""Texts of different lengths without their padding: real tokens one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """How C texts of up to S tokens are stored as T rows, T the number of real tokens.

    texts, longest: C and S.
    real: (T,) where the rows stand in the padded form, flattened to C * S; None if nothing is
    padding.
    ends: (C,) rows of the last tokens.
    later: (S, S), whether a position (column) comes after another (row).
    beyond: (C, 1, 1, S), whether a position comes after the text's last token.
    """

    texts: int
    longest: int
    real: Tensor | None
    ends: Tensor
    later: Tensor
    beyond: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(G, C, S, n) -> (G, T, n)"""
        x = x.flatten(1, 2)
        return x if self.real is None else x.index_select(1, self.real)

    def unpack(self, x: Tensor) -> Tensor:
        """(G, T, n) -> (G, C, S, n), zeros for padding."""
        if self.real is not None:
            padded = x.new_zeros(len(x), self.texts * self.longest, x.shape[-1])
            x = padded.index_copy(1, self.real, x)
        return x.unflatten(1, (self.texts, self.longest))


@lru_cache(maxsize=64)
def packing(last: tuple[int, ...], device: torch.device) -> Packing:
    """The packing of texts whose last real token is at these positions (from 0)."""
    lengths = torch.tensor(last, dtype=torch.int64) + 1
    longest = max((position + 1 for position in last), default=0)
    position = torch.arange(longest)
    is_real = position < lengths[:, None]  # (C, S)
    return Packing(
        texts=len(last),
        longest=longest,
        real=None if bool(is_real.all()) else is_real.flatten().nonzero().flatten().to(device),
        ends=(lengths.cumsum(0) - 1).to(device),
        later=(position > position[:, None]).to(device),
        beyond=~is_real[:, None, None, :].to(device),
    )


@dataclass(frozen=True)
class Rows:
    """Which rows a tensor has of a larger one that the processes of a run share.

    dim: along which.
    total: how many rows the larger one has.
    index: which of them these are.
    """

    dim: int
    total: int
    index: Tensor


@lru_cache(maxsize=64)
def rows_of_texts(last: tuple[int, ...], first: int, step: int, device: torch.device) -> Rows:
    """The rows that texts first, first + step, ... have when all are packed, along dimension 1."""
    lengths = torch.tensor(last, dtype=torch.int64) + 1
    owner = torch.arange(len(last)).repeat_interleave(lengths)
    mine = torch.zeros(len(last), dtype=torch.bool)
    mine[first::step] = True
    return Rows(1, len(owner), mine[owner].nonzero().flatten().to(device))
