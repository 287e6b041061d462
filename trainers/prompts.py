"""Class prompts: the texts that name the classes, and how CLIP reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import clip
from clip.simple_tokenizer import SimpleTokenizer
from clip.text import SharedText, common_prefix_length, end_positions, share_text
from common.errors import UsageError
from datasets.templates import CUSTOM_TEMPLATES
from noise.text import PLACEHOLDER, fill

SHOWN = 40  # characters of a long class name in a message


def dataset_template(dataset: str) -> str:
    """Return the hand-written prompt of a data set, "a photo of a {}." for one that has none."""
    return CUSTOM_TEMPLATES.get(dataset, "a photo of a {}.")


def prompt_template(cfg: Any, of_method: str = "") -> str:
    """Return the hand-written prompt of a run: ``DATASET.TEMPLATE``, or the data set's own.

    Args:
        of_method: what a method has in place of the data set's own; "" for none.

    Raises:
        UsageError: the setting has no place for the class name.
    """
    template = cfg.DATASET.get("TEMPLATE") or of_method or dataset_template(cfg.DATASET.NAME)
    if PLACEHOLDER not in template:
        raise UsageError(
            f"DATASET.TEMPLATE {template!r}: it needs {PLACEHOLDER} for the class name"
        )
    return template


@dataclass(frozen=True)
class ClassPrompts:
    """Class names and the words around them that a method does not learn.

    Attributes:
        template: those words, ``{}`` for the class name. Other braces are text.
        classnames: one a class, blanks in place of underscores.
        texts: one a class; by default the filled template.

    >>> prompts = ClassPrompts("a photo of a {}.", ["river", "sea_lake"])
    >>> prompts.texts
    ('a photo of a river.', 'a photo of a sea lake.')
    >>> prompts.with_texts(["a photo of a rivr.", "the sea lake."]).classnames
    ('river', 'sea lake')
    """

    template: str
    classnames: Sequence[str]
    texts: Sequence[str] = ()

    def __post_init__(self):
        names = tuple(name.replace("_", " ") for name in self.classnames)
        texts = tuple(self.texts) or tuple(fill(self.template, name) for name in names)
        if len(texts) != len(names):
            raise ValueError(f"{len(texts)} texts for {len(names)} classes")
        object.__setattr__(self, "classnames", names)
        object.__setattr__(self, "texts", texts)

    def with_texts(self, texts: Sequence[str]) -> ClassPrompts:
        """Return the same classes described by other texts, as text noise makes them."""
        return replace(self, texts=tuple(texts))

    def worded(self, templates: Sequence[str]) -> list[ClassPrompts]:
        """Return the same classes in several wordings, each text as the name in a template."""
        return [self.with_texts([fill(words, text) for text in self.texts]) for words in templates]

    def between(self, before: str, after: str = ".") -> ClassPrompts:
        """Return prompts with words in front of each text and a sign after it."""
        return self.with_texts([f"{before} {text}{after}" for text in self.texts])


def tokenize(clip_model: clip.model.CLIP, prompts: ClassPrompts) -> Tensor:
    """Tokenise prompts for CLIP's text tower.

    Returns:
        (C, context length) token ids on the model's device.

    Raises:
        UsageError: a prompt has more tokens than CLIP reads; names its class.
    """
    positions = clip_model.positional_embedding
    try:
        tokens = clip.tokenize(list(prompts.texts), context_length=len(positions))
    except RuntimeError:
        encode = SimpleTokenizer().encode
        counts = [2 + len(encode(text)) for text in prompts.texts]  # with start and end
        longest = max(range(len(counts)), key=counts.__getitem__)
        name = prompts.classnames[longest]
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        raise UsageError(
            f"class {shown!r}: its prompt has {counts[longest]} tokens, with the context that is "
            f"learned and the start and end token, and CLIP reads {len(positions)}; shorten the "
            "class name or the template, or learn fewer context tokens"
        ) from None
    return tokens.to(positions.device)


@torch.no_grad()
def encode_prompts(clip_model: clip.model.CLIP, prompts: ClassPrompts) -> Tensor:
    """Return frozen CLIP's text features (C, E) of prompts, fp32, not normalised."""
    return clip_model.encode_text(tokenize(clip_model, prompts)).float()


class TokenizedPrompts(nn.Module):
    """Class prompts as CLIP reads them, cut at the last end token.

    Attributes:
        tokens: (C, L) token ids.
        embeddings: (C, L, D) token embeddings, no positions added.
        eot: (C,) position of the end token.
        shared: leading positions that all prompts have in common (at least the start token).
    """

    tokens: Tensor
    embeddings: Tensor

    def __init__(self, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__()
        tokens = tokenize(clip_model, prompts)
        eot = end_positions(tokens)
        tokens = tokens[:, : int(eot.max()) + 1]
        self.shared = common_prefix_length(tokens)
        self.register_buffer("tokens", tokens, persistent=False)
        self.eot = eot.cpu()  # lengths decide shapes: on a GPU, asking for them would wait
        with torch.no_grad():
            embeddings = clip_model.token_embedding(tokens)
        self.register_buffer("embeddings", embeddings, persistent=False)

    def shared_text(self, clip_model: clip.model.CLIP, context: Tensor | None = None) -> SharedText:
        """Return block 0's input; ``context`` (n, D) or (G, n, D) stands at positions 1 .. n.

        The context must lie within the shared beginning.
        """
        start, own = self.embeddings[0, : self.shared], self.embeddings[:, self.shared :]
        if context is not None:
            n_ctx = context.shape[-2]
            before, after = start[:1], start[1 + n_ctx :]
            if context.dim() == 3:
                before, after = (x.expand(len(context), -1, -1) for x in (before, after))
            start = torch.cat([before, context.to(start.dtype), after], dim=-2)
        return share_text(clip_model, start, own, self.eot - self.shared)
