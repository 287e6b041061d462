"""Text at the cost of what is particular to a class.

Class prompts begin alike (start token, learned context, template words) and differ in a few tokens.
Attention is causal, so two savings are exact:

- *cut*: nothing after the end token can influence the feature read there, so what stands there is
  not run, class by class (``clip.packing``);
- *shared prefix*: positions before the first difference have the same hidden states for every
  class, in every layer. They run once, and each class's own tokens attend to their keys and
  values.

``SharedText`` holds hidden states in that form. Tests compare it, values and gradients, with a twin
that runs every sequence in full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.ranks import Share

from .blocks import BlockChange, Changes, Edit, LayerNorm, ResidualAttentionBlock, Transformer
from .packing import packing, rows_of_texts


class TextTower(Protocol):
    """What encoding texts needs of a CLIP."""

    transformer: Transformer
    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter
    ln_final: LayerNorm
    text_projection: nn.Parameter

    @property
    def dtype(self) -> torch.dtype: ...


def end_positions(tokens: Tensor) -> Tensor:
    """Token ids (C, L) -> positions of the end token (C,), the highest id of each row."""
    return tokens.argmax(dim=-1)


def common_prefix_length(tokens: Tensor) -> int:
    """How many leading positions of the token ids (C, L) are equal in all rows.

    At least the start token, and at most up to the first end token, so that every text keeps at
    least one token of its own.
    """
    differs = (tokens != tokens[:1]).any(dim=0)
    first = int(differs.int().argmax()) if bool(differs.any()) else tokens.shape[1]
    return max(1, min(first, int(end_positions(tokens).min())))


@dataclass(frozen=True)
class SharedText:
    """Hidden states of texts that share their beginning.

    prefix: (G, P, D), G groups that each have a prefix of their own (1, or one per image in
    CoCoOp).
    own: (G, C, S, D), what follows, per class, cut at the longest text's end token.
    eot: (C,) position of the end token within ``own``; best on the CPU, as lengths decide shapes.
    per_image: whether the groups are images, which the processes of a run may have others of.
    share: of the C classes, ``own`` holds those of this share; None for all.
    """

    prefix: Tensor
    own: Tensor
    eot: Tensor
    per_image: bool = False
    share: Share | None = None

    def split(self, images: Share | None) -> SharedText:
        """Return what this process runs of it, given its share of a step's images."""
        if images is None or self.share is not None or (self.per_image and images.is_split):
            return self
        share = images.of(len(self.eot))
        return replace(self, own=self.own[:, share.own], share=share)

    def run(
        self,
        transformer: Transformer,
        start: int = 0,
        stop: int | None = None,
        edit: Edit | None = None,
        changes: Changes | None = None,
    ) -> SharedText:
        """Run blocks ``start .. stop - 1``; ``edit(layer, prefix)`` may change the prefix before
        each, ``changes`` what happens inside them.

        After the transformer's last block only the end token's state is left, ``own`` (G, C, 1,
        D), and an empty prefix: nothing else is read.

        Where processes share a step, each runs its own classes; ``features`` are those of all.
        """
        stop = transformer.layers if stop is None else stop
        blocks = transformer.blocks()[start:stop]
        if not blocks:
            return self
        if transformer.images is not None and self.share is None:
            divided = self.split(transformer.images)
            if divided.share is not None:
                return divided.run(transformer, start, stop, edit, changes)
        to_end = stop == transformer.layers
        inside = [(changes or {}).get(layer) for layer in range(start, stop)]
        # The beginnings do not depend on what follows, so they go through all blocks first.
        prefix, shared = self.prefix, []
        for layer, block in enumerate(blocks, start=start):
            if edit is not None:
                prefix = edit(layer, prefix)
            prefix, keys_and_values = block.run_prefix(prefix, inside[layer - start])
            shared.append(keys_and_values)

        eot, share = self.eot.tolist(), self.share or Share(total=len(self.eot))
        at_once = transformer.classes_at_once or len(eot)
        pieces = []
        for first in range(0, len(eot), at_once):
            ends = tuple(eot[first : first + at_once])
            # Of a piece's classes, which a process alone would run, this process has some or none.
            start_at = (share.rank - first) % share.size
            own = slice(start_at, None, share.size) if share.is_split else slice(None)
            mine = slice(share.before(first), share.before(first + len(ends)))
            changes_here = inside
            if share.is_split and any(inside):
                rows = rows_of_texts(ends, start_at, share.size, self.own.device)
                changes_here = [change and change.of_rows(rows) for change in inside]
            elif mine.start == mine.stop:
                continue
            piece = self.own[:, mine], ends[own], shared, to_end, changes_here
            if at_once < len(eot) and torch.is_grad_enabled():
                run = checkpoint(_run_own, blocks, *piece, use_reentrant=False)
            else:
                run = _run_own(blocks, *piece)
            pieces.append(run)
        run = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        if to_end:
            return replace(self, prefix=prefix[:, :0], own=run, eot=torch.zeros_like(self.eot))
        return replace(self, prefix=prefix, own=run)

    def with_class_tokens(self, tokens: Tensor, position: int = 1) -> SharedText:
        """Replace positions ``position .. position + n - 1`` by tokens of each class's own.

        Only what stands before them is shared from here on; the rest of the beginning joins each
        class's own tokens. That is exact, in any layer.

        Args:
            tokens: (C, n, D); their place must lie within the shared beginning.
            position: of the first, from 1 on.
        """
        groups, classes = self.own.shape[:2]
        end = position + tokens.shape[1]
        tokens = tokens if self.share is None else tokens[self.share.own]
        rest = self.prefix[:, None, end:].expand(-1, classes, -1, -1)
        written = tokens.to(self.own.dtype).expand(groups, -1, -1, -1)
        own = torch.cat([written, rest, self.own], dim=2)
        eot = self.eot + self.prefix.shape[1] - position
        return replace(self, prefix=self.prefix[:, :position], own=own, eot=eot)

    def features(self, clip: TextTower) -> Tensor:
        """Text features (G, C, embed_dim), or (C, embed_dim) for one group; not normalised."""
        if self.own.shape[2] == 1:
            at_end = self.own[:, :, 0]
        else:
            eot = self.eot if self.share is None else self.eot[self.share.own]
            at_end = self.own[:, torch.arange(len(eot), device=eot.device), eot]
        features = clip.ln_final(at_end) @ clip.text_projection
        if self.share is not None:
            features = self.share.together(features.transpose(0, 1)).transpose(0, 1)
        return features[0] if len(features) == 1 else features


class HeldText(nn.Module):
    """Hidden states of texts as part of a model: they move with it and are not saved."""

    prefix: Tensor
    own: Tensor

    def __init__(self, text: SharedText):
        super().__init__()
        self.register_buffer("prefix", text.prefix, persistent=False)
        self.register_buffer("own", text.own, persistent=False)
        self.eot = text.eot  # on the CPU wherever the rest is: lengths decide shapes

    def forward(self) -> SharedText:
        return SharedText(self.prefix, self.own, self.eot)


def _run_own(
    blocks: list[ResidualAttentionBlock],
    own: Tensor,
    eot: tuple[int, ...],
    shared: list[tuple[Tensor, Tensor]],
    to_end: bool,
    inside: list[BlockChange | None],
) -> Tensor:
    """Own tokens (G, C, S, D) through blocks, without what stands after each end token.

    Returns:
        (G, C, S, D), zeros after the end; (G, C, 1, D), the end tokens only, with ``to_end``.
    """
    packed = packing(eot, own.device)
    x = packed.pack(own[:, :, : packed.longest])  # (G, T, D)
    for block, keys_and_values, change in zip(blocks, shared, inside, strict=True):
        ends = to_end and block is blocks[-1]
        x = block.run_own(x, keys_and_values, packed, ends, change)
    if to_end:
        return x.unsqueeze(2)
    return F.pad(packed.unpack(x), (0, 0, 0, own.shape[2] - packed.longest))


def share_text(clip: TextTower, prefix: Tensor, own: Tensor, eot: Tensor) -> SharedText:
    """Token embeddings -> block 0's input (positions added).

    Args:
        prefix: (P, D) or (G, P, D) embeddings all classes begin with (start token included).
        own: (C, S, D) embeddings that follow.
        eot: (C,) position of the end token within ``own``.
    """
    per_image = prefix.dim() == 3
    if not per_image:
        prefix = prefix.unsqueeze(0)
    shared, length = prefix.shape[1], own.shape[1]
    positions = clip.positional_embedding.to(clip.dtype)
    prefix = prefix.to(clip.dtype) + positions[:shared]
    own = own.to(clip.dtype) + positions[shared : shared + length]
    return SharedText(prefix, own.expand(len(prefix), -1, -1, -1), eot, per_image)


def split_embeddings(
    embeddings: Tensor, eot: Tensor, prefix_length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (C, L, D), ends (C,) -> prefix (P, D), own (C, S, D), end within own (C,)."""
    last = int(eot.max()) + 1
    return embeddings[0, :prefix_length], embeddings[:, prefix_length:last], eot - prefix_length


def encode_tokens(clip: TextTower, tokens: Tensor) -> Tensor:
    """Token ids (C, L) -> text features (C, embed_dim), not normalised."""
    embeddings = clip.token_embedding(tokens)
    parts = split_embeddings(embeddings, end_positions(tokens), common_prefix_length(tokens))
    return share_text(clip, *parts).run(clip.transformer).features(clip)


def encode_embeddings(clip: TextTower, embeddings: Tensor, eot: Tensor) -> Tensor:
    """Token embeddings (C, L, D) that share the start token only, ends (C,) -> features (C,
    embed_dim).
    """
    parts = split_embeddings(embeddings, eot, prefix_length=1)
    return share_text(clip, *parts).run(clip.transformer).features(clip)
