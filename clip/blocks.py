"""Transformer blocks that a stack of them can run in ranges, with a token edit before each block.

Tensors inside are batch first, (B, L, D). ``Transformer.forward`` and
``ResidualAttentionBlock.forward`` keep OpenAI's sequence-first convention, (L, B, D), which stock
CoOp-family code relies on.

References:
    [0] Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
        https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.ranks import Share

from .packing import Packing, Rows

Edit = Callable[[int, Tensor], Tensor]


class BlockChange:
    """What a method changes inside one block; this one changes nothing.

    Both functions get the block's input after ``ln_1``, (..., D), and act on each token alone, so
    they serve texts and images in every form that they are run in.
    """

    def qkv(self, x: Tensor, qkv: Tensor) -> Tensor:
        """Return queries, keys and values (..., 3 D), given what the frozen weights make of x."""
        return qkv

    def beside(self, x: Tensor) -> Tensor | None:
        """Return what is added to the block's output, (..., D); None for nothing."""
        return None

    def of_rows(self, rows: Rows) -> BlockChange:
        """Return the change for an input that is only some rows of what one process would run.

        A change that draws random numbers draws them for all rows.
        """
        return self


Changes = Mapping[int, BlockChange]  # by 0-based block; the others are as they are

SEQUENCES_AT_ONCE = 8  # on a CPU, without gradients: their activations stay in its caches


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in the precision of its own weights (fp32), result cast back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU, x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        # The same through silu(y) = y * sigmoid(y): fewer passes, and one tensor kept for the
        # gradient instead of two. silu keeps its input, so its output may be scaled in place.
        return F.silu(1.702 * x).div_(1.702)


class Attention(nn.Module):
    """Multi-head self-attention with ``nn.MultiheadAttention``'s parameter names."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def _heads_first(self, x: Tensor) -> Tensor:
        """(..., L, D) -> (..., heads, L, D / heads)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def _split(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of the queries, of the keys and values; biases of the same."""
        width = self.in_proj_weight.shape[1]
        sizes = [width, 2 * width]
        return *self.in_proj_weight.split(sizes), *self.in_proj_bias.split(sizes)

    def _qkv(self, x: Tensor, change: BlockChange | None) -> Tensor:
        """Queries, keys and values (..., 3 D) of x (..., D)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        return qkv if change is None else change.qkv(x, qkv)

    def _q_kv(
        self, x: Tensor, asking: slice | Tensor, change: BlockChange | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (B, n, D) of the positions ``asking``, keys and values (B, L, 2 D) of all."""
        width = self.in_proj_weight.shape[1]
        if change is not None:
            qkv = self._qkv(x, change)
            return qkv[:, asking, :width], qkv[..., width:]
        q_weight, kv_weight, q_bias, kv_bias = self._split()
        return F.linear(x[:, asking], q_weight, q_bias), F.linear(x, kv_weight, kv_bias)

    def forward(
        self,
        x: Tensor,
        causal: bool = False,
        keep: slice | None = None,
        change: BlockChange | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend within ``x`` (B, L, D); with ``keep``, only those positions ask (all answer).

        mask: (L, L), True where the row's token attends to the column's; not with ``keep`` or
            ``causal``.
        """
        if keep is None:
            return self.forward_prefix(x, causal, change, mask)[0]
        if causal:
            raise ValueError("keep= is for bidirectional attention")
        q, kv = self._q_kv(x, keep, change)
        k, v = kv.chunk(2, dim=-1)
        q, k, v = map(self._heads_first, (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def forward_prefix(
        self,
        x: Tensor,
        causal: bool = True,
        change: BlockChange | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend within ``x`` (B, L, D); also keys and values, each (B, heads, L, D / heads)."""
        q, k, v = map(self._heads_first, self._qkv(x, change).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2)), (k, v)

    def forward_own(
        self,
        own: Tensor,
        shared: tuple[Tensor, Tensor],
        packing: Packing,
        ends: bool = False,
        change: BlockChange | None = None,
    ) -> Tensor:
        """Causal attention of the tokens that follow a shared beginning.

        Each attends to its group's beginning and, causally, to its own text.

        Args:
            own: (G, T, D), the tokens of C texts, packed.
            shared: keys and values of the G beginnings, each (G, heads, P, D / heads).
            ends: only the texts' last tokens ask.

        Returns:
            (G, T, D), or (G, C, D) with ``ends``.
        """
        if ends:
            q, kv = self._q_kv(own, packing.ends, change)
            q = q.unsqueeze(2)  # (G, C, 1, D)
            k, v = packing.unpack(kv).chunk(2, dim=-1)
            mask = packing.beyond
        else:
            q, k, v = packing.unpack(self._qkv(own, change)).chunk(3, dim=-1)  # (G, C, S, D)
            mask = packing.later
        q, k, v = map(self._heads_first, (q, k, v))  # (G, C, H, S, d)
        k_shared, v_shared = shared

        # Scores against the shared keys as one matrix product per head, against own keys per class,
        # one softmax over both. Nothing of size classes x prefix keys is ever copied.
        rows = q.shape[1], q.shape[3]  # C, and S or 1
        q_rows = q.transpose(1, 2).flatten(2, 3)  # (G, H, C * S, d)
        to_shared = (q_rows @ k_shared.transpose(-2, -1)).unflatten(2, rows)  # (G, H, C, S, P)
        to_own = (q @ k.transpose(-2, -1)).masked_fill(mask, float("-inf"))  # (G, C, H, S, S)
        scores = torch.cat([to_shared.transpose(1, 2), to_own], dim=-1) * q.shape[-1] ** -0.5
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        w_shared, w_own = weights.split([k_shared.shape[2], k.shape[3]], dim=-1)
        from_shared = w_shared.transpose(1, 2).flatten(2, 3) @ v_shared  # (G, H, C * S, d)
        out = from_shared.unflatten(2, rows).transpose(1, 2) + w_own @ v
        out = out.transpose(2, 3).flatten(3)  # (G, C, S, D)
        return self.out_proj(out.squeeze(2) if ends else packing.pack(out))


class ResidualAttentionBlock(nn.Module):
    """One pre-norm transformer block."""

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = False,
        quick_gelu: bool = True,
        mlp_width: int | None = None,
    ):
        super().__init__()
        mlp_width = mlp_width or 4 * width
        self.causal = causal
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width),
                gelu=QuickGELU() if quick_gelu else nn.GELU(),
                c_proj=nn.Linear(mlp_width, width),
            )
        )
        self.ln_2 = LayerNorm(width)

    def _finish(
        self, residual: Tensor, attended: Tensor, x: Tensor, change: BlockChange | None
    ) -> Tensor:
        """The block's output, from its input, what attention made of it, and ``ln_1`` of it."""
        added = None if change is None else change.beside(x)
        out = residual + attended
        out = out + self.mlp(self.ln_2(out))
        return out if added is None else out + added

    def run(
        self, x: Tensor, keep: slice | None = None, change: BlockChange | None = None
    ) -> Tensor:
        """(B, L, D) -> (B, L, D), or only the positions ``keep`` of it."""
        normed = self.ln_1(x)
        attended = self.attn(normed, causal=self.causal, keep=keep, change=change)
        if keep is not None:
            x, normed = x[:, keep], normed[:, keep]
        return self._finish(x, attended, normed, change)

    def run_prefix(
        self, prefix: Tensor, change: BlockChange | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causally over the beginnings of texts (G, P, D); with their keys and values, for
        ``run_own``.
        """
        normed = self.ln_1(prefix)
        attended, shared = self.attn.forward_prefix(normed, change=change)
        return self._finish(prefix, attended, normed, change), shared

    def run_own(
        self,
        own: Tensor,
        shared: tuple[Tensor, Tensor],
        packing: Packing,
        ends: bool = False,
        change: BlockChange | None = None,
    ) -> Tensor:
        """What follows these beginnings, packed: (G, T, D) -> (G, T, D), or with ``ends`` the
        outputs at the C last tokens only, (G, C, D).
        """
        normed = self.ln_1(own)
        attended = self.attn.forward_own(normed, shared, packing, ends, change)
        if ends:
            own, normed = own[:, packing.ends], normed[:, packing.ends]
        return self._finish(own, attended, normed, change)

    def forward(self, x: Tensor) -> Tensor:
        """Sequence first, (L, B, D) -> (L, B, D), as OpenAI's."""
        return self.run(x.transpose(0, 1)).transpose(0, 1)


class Transformer(nn.Module):
    """A stack of blocks that can be run in ranges, with a token edit before each block.

    Attributes:
        classes_at_once: how many class texts ``clip.text`` runs together; 0 for all. With fewer
            the others' activations are not held: training makes them a second time.
        images: in a step that processes share, the share of its images that this one has;
            ``clip.text`` shares classes in the same way. None elsewhere.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        causal: bool = False,
        quick_gelu: bool = True,
        mlp_width: int | None = None,
    ):
        super().__init__()
        self.width = width
        self.layers = layers
        self.classes_at_once = 0
        self.images: Share | None = None
        block = partial(ResidualAttentionBlock, width, heads, causal, quick_gelu, mlp_width)
        self.resblocks = nn.Sequential(*[block() for _ in range(layers)])

    def blocks(self) -> list[ResidualAttentionBlock]:
        """Return the blocks in order."""
        return cast("list[ResidualAttentionBlock]", list(self.resblocks))

    def run(
        self,
        x: Tensor,
        start: int = 0,
        stop: int | None = None,
        edit: Edit | None = None,
        keep: slice | None = None,
        changes: Changes | None = None,
    ) -> Tensor:
        """Blocks ``start .. stop - 1`` (0-based) over ``x`` (B, L, D).

        edit: called as ``edit(layer, x)`` before each block; may change L.
        keep: positions wanted of the last block's output; the rest of it is not computed.
        changes: what is changed inside blocks.
        """
        changes = changes or {}
        # Nor in pieces where a graph for any batch size is made.
        in_pieces = x.device.type == "cpu" and not torch.is_grad_enabled()
        if in_pieces and not torch.compiler.is_compiling() and len(x) > SEQUENCES_AT_ONCE:
            pieces = x.split(SEQUENCES_AT_ONCE)
            return torch.cat(
                [self.run(piece, start, stop, edit, keep, changes) for piece in pieces]
            )
        stop = self.layers if stop is None else stop
        blocks = self.blocks()
        if changes and self.images is not None and self.images.is_split and not blocks[0].causal:
            index = torch.arange(self.images.total, device=x.device)[self.images.own]
            rows = Rows(0, self.images.total, index)
            changes = {layer: change.of_rows(rows) for layer, change in changes.items()}
        for layer in range(start, stop):
            if edit is not None:
                x = edit(layer, x)
            kept = keep if layer == stop - 1 else None
            x = blocks[layer].run(x, kept, changes.get(layer))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Sequence first, (L, B, D) -> (L, B, D), as OpenAI's."""
        return self.run(x.transpose(0, 1)).transpose(0, 1)
