"""Gaussian noise on token embeddings (and on learned tokens), relative to their own spread."""

from collections.abc import Sequence

import torch

from noise.kinds import check_rate


def content_mask(tokens: torch.Tensor) -> torch.Tensor:
    """Return which tokens are words: all between the start token and the end token.

    Args:
        tokens: (B, L) token ids of CLIP's tokeniser: start token first, end token the largest id,
            then zeros as padding. Start, end and padding are False.

    Returns:
        (B, L) boolean.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    end = tokens.argmax(dim=1, keepdim=True)  # (B, 1)
    return (positions > 0) & (positions < end)


def perturb_embeddings(
    embeddings: torch.Tensor,
    rate: float,
    generator: torch.Generator | Sequence[torch.Generator],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add Gaussian noise whose standard deviation is ``rate`` times that of each token's embedding.

    Noise is drawn on the generator's device in float32 and only for the tokens in ``mask``, so it
    is the same for any device, precision and length of padding.

    Args:
        embeddings: (B, L, D); gradients pass through unchanged.
        rate: relative standard deviation, 0 or more.
        generator: one for the whole batch, or B of them so that a text's noise does not depend on
            the texts beside it: ``[torch_generator_for(seed, name) for name in classnames]``.
        mask: (B, L) boolean, which tokens get noise, e.g. `content_mask`. None: all of them.

    Returns:
        (B, L, D), a new tensor of the same dtype and device.

    Raises:
        UsageError: rate out of range.
        ValueError: shapes or the number of generators do not fit.
    """
    rate = check_rate(rate, at_most=None)
    if embeddings.dim() != 3 or (mask is not None and mask.shape != embeddings.shape[:2]):
        raise ValueError(
            f"Embedding noise: wanted embeddings (B, L, D) and a mask (B, L), got "
            f"{tuple(embeddings.shape)} and {None if mask is None else tuple(mask.shape)}."
        )
    if isinstance(generator, torch.Generator):
        generators = [generator] * len(embeddings)
    else:
        generators = list(generator)
    if len(generators) != len(embeddings):
        raise ValueError(
            f"Embedding noise: {len(generators)} generators for {len(embeddings)} texts."
        )
    spread = embeddings.detach().float().std(dim=-1, correction=0)  # (B, L)
    noise = torch.zeros_like(embeddings, dtype=torch.float32)
    for i, own_generator in enumerate(generators):
        chosen = slice(None) if mask is None else mask[i]
        sigma = rate * spread[i, chosen].unsqueeze(-1)  # (number chosen, 1)
        draws = torch.randn(
            len(sigma),
            embeddings.shape[-1],
            generator=own_generator,
            device=own_generator.device,
        )
        noise[i, chosen] = sigma * draws.to(embeddings.device)
    return embeddings + noise.to(embeddings.dtype)
