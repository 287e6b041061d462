"""The plain path: what upstream repositories compute, on this project's trainers.

Whole sequences of 77 text positions for every class (and image, in CoCoOp), through sequence-first
blocks with a mask tensor; every layer in the frozen and in the tuned branch; the last block for all
positions; text encoded anew for every batch that is tested. Parameters, losses and rules are the
trainer's own, so that both paths can be timed and compared in one process.
"""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.blocks import Attention, Changes, Edit, QuickGELU, ResidualAttentionBlock, Transformer
from clip.model import CLIP
from clip.text import SharedText
from trainers.base import PromptLearner, TokenizedPrompts
from trainers.mmrl import RepresentationCLIP

CONTEXT = 77  # text positions that upstream runs, whatever stands in them


@lru_cache(maxsize=4)
def _mask(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), float("-inf"), device=device, dtype=dtype).triu(1)


def _attention(self: Attention, x: Tensor, causal: bool) -> Tensor:
    """(L, B, D) -> (L, B, D) as ``nn.MultiheadAttention`` has it."""
    return F.multi_head_attention_forward(
        x, x, x, x.shape[-1], self.heads, self.in_proj_weight, self.in_proj_bias, None, None, False,
        0.0, self.out_proj.weight, self.out_proj.bias, need_weights=False,
        attn_mask=_mask(len(x), x.device, x.dtype) if causal else None,
    )[0]  # fmt: skip


def _block(self: ResidualAttentionBlock, x: Tensor) -> Tensor:
    x = x + _attention(self.attn, self.ln_1(x), self.causal)
    return x + self.mlp(self.ln_2(x))


def _transformer(
    self: Transformer,
    x: Tensor,
    start: int = 0,
    stop: int | None = None,
    edit: Edit | None = None,
    keep: slice | None = None,
    changes: Changes | None = None,
) -> Tensor:
    """(B, L, D) -> (B, L, D), sequence first inside; ``keep`` is taken of what was computed.

    Blocks with a change run batch first, as here they are written.
    """
    x = x.transpose(0, 1).contiguous()
    for layer in range(start, self.layers if stop is None else stop):
        if edit is not None:
            x = edit(layer, x.transpose(0, 1)).transpose(0, 1).contiguous()
        change = (changes or {}).get(layer)
        if change is None:
            x = _block(self.resblocks[layer], x)
        else:
            x = self.resblocks[layer].run(x.transpose(0, 1), change=change).transpose(0, 1)
    x = x.transpose(0, 1)
    return x if keep is None else x[:, keep]


def _gelu(self: QuickGELU, x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _run_text(
    self: SharedText,
    transformer: Transformer,
    start: int = 0,
    stop: int | None = None,
    edit: Edit | None = None,
    changes: Changes | None = None,
) -> SharedText:
    classes, shared = self.own.shape[1], self.prefix.shape[1]
    padding = max(0, CONTEXT - shared - self.own.shape[2])
    groups = []
    for prefix, own in zip(self.prefix, self.own, strict=True):  # one after the other, as CoCoOp
        whole = torch.cat([prefix.expand(classes, -1, -1), own], dim=1)  # (C, P + S, D)
        whole = F.pad(whole, (0, 0, 0, padding))
        length = whole.shape[1]
        groups.append(transformer.run(whole, start, stop, edit=edit, changes=changes))
    x = torch.stack(groups)  # (G, C, 77 and inserted tokens, D)
    shared += x.shape[2] - length
    if stop not in (None, transformer.layers):  # the beginning is the same for all classes
        return SharedText(x[:, 0, :shared], x[:, :, shared:], self.eot)
    return SharedText(self.prefix[:, :0], x, self.eot + shared)


def _text_features(self: SharedText, clip: CLIP) -> Tensor:
    classes = torch.arange(self.own.shape[1], device=self.own.device)
    features = clip.ln_final(self.own)[:, classes, self.eot] @ clip.text_projection
    return features[0] if len(features) == 1 else features


def _encode_image(
    self: RepresentationCLIP, image: Tensor, with_frozen: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    visual, learner, frozen = self.clip.visual, self.prompt_learner, None
    if with_frozen:
        with torch.no_grad():
            frozen = F.normalize(self.clip.encode_image(image).float(), dim=-1)
    tokens = visual.ln_pre(visual.embed(image.type(self.clip.dtype)))
    tokens = visual.transformer.run(tokens, edit=learner.vision_edit())
    f = F.normalize(visual.project(tokens[:, 0]).float(), dim=-1)
    of_learned = visual.ln_post(tokens[:, 1 : 1 + len(learner.tokens)]).float().mean(dim=1)
    r = F.normalize((of_learned @ learner.proj_rep).float(), dim=-1)
    return f, r, frozen


@contextlib.contextmanager
def plain(trainer: Any) -> Iterator[None]:
    """Inside, the trainer's forward passes take the plain path.

    The trainer is built outside: what is computed once per run is no part of the comparison.
    """
    patches = [
        mock.patch.object(Transformer, "run", _transformer),
        mock.patch.object(QuickGELU, "forward", _gelu),
        mock.patch.object(SharedText, "run", _run_text),
        mock.patch.object(SharedText, "features", _text_features),
    ]
    if isinstance(trainer.model, RepresentationCLIP):
        prompts = TokenizedPrompts(trainer.model.clip, trainer.model.prompts)

        def text_features(self: RepresentationCLIP) -> Tensor:
            text = prompts.shared_text(self.clip)
            text = text.run(self.clip.transformer, edit=self.prompt_learner.text_edit())
            return F.normalize(text.features(self.clip).float(), dim=-1)

        patches.append(mock.patch.object(RepresentationCLIP, "text_features", text_features))
        patches.append(mock.patch.object(RepresentationCLIP, "encode_image", _encode_image))
    else:  # upstream's MMRL does keep its text features during an evaluation
        patches.append(
            mock.patch.object(PromptLearner, "cached", lambda self, _, compute: compute())
        )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield
