"""Tensors under OpenAI's names, from any of the layouts in which CLIPs are published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UsageError

VOCABULARY = 49408
LARGEST = 1e5  # no weight of a CLIP is near it; damage is
# Buffers and sizes that some files carry and that follow from everything else.
_REDUNDANT = ("input_resolution", "context_length", "vocab_size", "attn_mask", "visual.attn_mask")
_REQUIRED = ("token_embedding.weight", "positional_embedding", "text_projection", "logit_scale")

# Hugging Face transformers' names within a tower, and ours.
_TRANSFORMERS = (
    (r"text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # so spelled
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
_QUERY = re.compile(r"(.*)\.self_attn\.q_proj\.(weight|bias)")


def to_openai_layout(tensors: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return a CLIP's tensors under OpenAI's names; what is no tensor is left out.

    Args:
        tensors: as `files.read_tensors` gives them.
        path: what messages call them.

    Raises:
        UsageError: not a CLIP, or one in another layout, or with values that cannot be.
    """
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise UsageError(f"{path}: not a state dict, it holds no tensors by name")
    if all(key.startswith("module.") for key in tensors):  # saved from DistributedDataParallel
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    _refuse_other_texts(tensors, path)
    try:
        if any(key.startswith(("vision_model.", "text_model.")) for key in tensors):
            tensors = _from_transformers(tensors)
        if "text.token_embedding.weight" in tensors:  # open_clip's CustomTextCLIP
            tensors = {key.removeprefix("text."): value for key, value in tensors.items()}
        tensors = {key: value for key, value in tensors.items() if key not in _REDUNDANT}
        for key in _REQUIRED:
            if key not in tensors:
                raise UsageError(
                    f"{path}: no CLIP in a layout known here: {len(tensors)} tensors, none named "
                    f"{key!r}"
                )
        _check_values(tensors, path)
        if "token_embedding.ids" in tensors:
            tensors = _expand_vocabulary(tensors, path)
        tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    except (IndexError, KeyError, RuntimeError, TypeError) as error:  # of shapes that do not fit
        raise UsageError(
            f"{path}: its tensors do not fit together ({str(error).splitlines()[0][:160]})"
        ) from None
    rows = len(tensors["token_embedding.weight"])
    if rows != VOCABULARY:
        raise UsageError(
            f"{path}: its vocabulary has {rows:,} tokens, CLIP's has {VOCABULARY:,}: it needs "
            "another tokeniser, which this project does not have"
        )
    return tensors


def _refuse_other_texts(tensors: dict[str, Tensor], path: Path) -> None:
    """Name the true reason where a model's text tower is not CLIP's."""
    other = None
    if "logit_bias" in tensors:
        other = "a SigLIP (it has a logit_bias)"
    for key in tensors:
        if "word_embeddings" in key or key.startswith(("text.transformer.embeddings.", "bert.")):
            other = f"its text tower is a BERT ({key})"
        elif key.startswith(("text_decoder.", "text.cls_emb")):
            other = f"a CoCa ({key})"
    if other:
        raise UsageError(f"{path}: {other}; learned prompts need CLIP's own text tower")


def _from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face transformers' tensors; queries, keys and values become one matrix."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.endswith("position_ids") or ".self_attn.k_proj." in key:
            continue
        if ".self_attn.v_proj." in key:
            continue
        if joined := _QUERY.fullmatch(key):
            of_block = [f"{joined[1]}.self_attn.{part}_proj.{joined[2]}" for part in "qkv"]
            value = torch.cat([tensors[name] for name in of_block])
            key = f"{joined[1]}.attn.in_proj_{joined[2]}"
        if key in ("text_projection.weight", "visual_projection.weight"):
            key = "text_projection" if key.startswith("text") else "visual.proj"
            value = value.t()
        for theirs, ours in _TRANSFORMERS:
            key = re.sub(theirs, ours, key)
        found[key] = value
    return found


def _check_values(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise UsageError for tensors that no CLIP has: integers, NaN, infinities, absurd sizes."""
    for name, tensor in tensors.items():
        if name.endswith((".num_batches_tracked", ".ids")):
            continue
        if tensor.layout is not torch.strided or not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            if tensor.layout is not torch.strided:
                kind += f", {str(tensor.layout).removeprefix('torch.')}"
            raise UsageError(f"{path}: {name} holds {kind}, where weights have to stand")
        if not tensor.numel():
            continue
        least, most = (float(value) for value in torch.aminmax(tensor.detach()))
        if not (abs(least) <= LARGEST and abs(most) <= LARGEST):  # NaN is neither
            found = "NaN" if most != most else f"values up to {max(-least, most):.3g}"
            raise UsageError(f"{path}: damaged, {name} holds {found}")
        if name.endswith(".running_var") and least < 0:
            raise UsageError(f"{path}: damaged, {name} holds a variance of {least:.3g}")
        if name in _REQUIRED and name != "logit_scale" and least == most == 0:
            raise UsageError(f"{path}: damaged, {name} is zero everywhere")
    scale = tensors["logit_scale"]
    if scale.numel() != 1 or abs(float(scale)) > 10:
        raise UsageError(
            f"{path}: damaged, logit_scale is {scale.flatten()[:3].tolist()}; CLIP's is the "
            "logarithm of a factor of some 100"
        )


def _expand_vocabulary(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A compact file's token rows -> the whole vocabulary.

    The file holds the rows its training saw, ``token_embedding.weight`` (n, width), and which they
    are, ``token_embedding.ids`` (n,). The others get what untrained rows have: draws of standard
    deviation 0.02, from a stream that NumPy has frozen, so that they are the same everywhere.
    """
    ids, rows = tensors["token_embedding.ids"].long(), tensors["token_embedding.weight"]
    if rows.dim() != 2 or ids.shape != rows.shape[:1] or not len(ids):
        raise UsageError(f"{path}: token_embedding.ids and .weight do not go together")
    if len(ids.unique()) != len(ids) or ids.min() < 0 or ids.max() >= VOCABULARY:
        raise UsageError(f"{path}: token_embedding.ids are not {len(ids)} different token ids")
    stream = np.random.RandomState(0)  # noqa: NPY002 (its stream never changes; Generator's may)
    draws = stream.standard_normal((VOCABULARY, rows.shape[1])) * 0.02
    weight = torch.from_numpy(draws).to(rows.dtype)
    weight[ids] = rows
    expanded = {key: value for key, value in tensors.items() if key != "token_embedding.ids"}
    return expanded | {"token_embedding.weight": weight}
