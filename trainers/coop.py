"""CoOp: the words around the class name become learned vectors.

References:
    [0] Zhou et al., Learning to Prompt for Vision-Language Models, 2022,
        https://arxiv.org/abs/2109.01134
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

import clip
from clip.simple_tokenizer import SimpleTokenizer
from clip.text import SharedText, share_text
from common.errors import UsageError
from common.settings import Setting
from dassl.engine import TRAINER_REGISTRY
from noise.text import PLACEHOLDER

from .base import (
    ClassPrompts,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    TokenizedPrompts,
)
from .settings import context_words, count, declare_method, precision

logger = logging.getLogger(__name__)

POSITIONS = ("end", "middle", "front")
MAX_PHRASE = 4  # vectors that take the place of a given phrase's words


def plain_words(words: str) -> str:
    """Return words with one blank between them, as a setting may have underscores there."""
    return " ".join(words.replace("_", " ").split())


def initial_context(
    clip_model: clip.model.CLIP, words: str, n_ctx: int, per_class: int | None = None
) -> tuple[Tensor, str]:
    """Return initial context vectors and the words that hold their place in the prompt.

    Args:
        words: take these words' embeddings; n_ctx is then their number.
        n_ctx: without words, how many vectors are drawn from N(0, 0.02^2).
        per_class: number of classes, for a context of each class's own.

    Returns:
        (n, D) or (per_class, n, D) in fp32; placeholder words.
    """
    width = clip_model.transformer.width
    device = clip_model.positional_embedding.device
    words = plain_words(words)
    if words:
        n_ctx = len(words.split(" "))
        try:
            tokens = clip.tokenize(words).to(device)
        except RuntimeError:
            raise UsageError(f"CTX_INIT has {n_ctx} words, more than CLIP reads") from None
        with torch.no_grad():
            return clip_model.token_embedding(tokens)[0, 1 : 1 + n_ctx].float().clone(), words
    shape = (n_ctx, width) if per_class is None else (per_class, n_ctx, width)
    return torch.empty(shape, device=device).normal_(std=0.02), " ".join(["X"] * n_ctx)


def phrase_context(
    clip_model: clip.model.CLIP, phrase: str, n_ctx: int, setting: str
) -> tuple[Tensor, str]:
    """Return initial context that replaces only the first words of a phrase, as MaPLe has it.

    The prompt keeps the others, so that "a photo of a" with n_ctx 2 reads: two learned vectors,
    "of a", class name. A phrase is used for up to four vectors; more are drawn at random.

    Args:
        setting: the configuration key of the phrase, for the error message.

    Returns:
        (n_ctx, D) in fp32; the words in whose place they stand.

    Raises:
        UsageError: the phrase has fewer words than vectors.
    """
    words = phrase if n_ctx <= MAX_PHRASE else ""
    context, words = initial_context(clip_model, words, n_ctx)
    if len(context) < n_ctx:
        raise UsageError(f"{setting} {phrase!r} has fewer words than the {n_ctx} learned vectors")
    return context[:n_ctx].clone(), " ".join(words.split(" ")[:n_ctx])


def rest_of_phrase(phrase: str, n_ctx: int) -> str:
    """Return the words of a phrase that ``phrase_context`` leaves as they are, then ``{}``."""
    words = plain_words(phrase).split(" ") if n_ctx <= MAX_PHRASE else []
    return " ".join([*words[n_ctx:], PLACEHOLDER])


def class_name_order(name_lengths: list[int], n_ctx: int, length: int, position: str) -> Tensor:
    """Return where each position of the arranged prompt is found in "start, context, name, rest".

    Args:
        name_lengths: tokens of each class name.
        position: where the name stands: after the context ("end"), between its halves ("middle") or
            before it ("front").

    Returns:
        (C, length) indices.
    """
    first = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    orders = []
    for name_length in name_lengths:
        context = list(range(1, 1 + n_ctx))
        name = list(range(1 + n_ctx, 1 + n_ctx + name_length))
        rest = list(range(1 + n_ctx + name_length, length))
        orders.append([0, *context[:first], *name, *context[first:], *rest])
    return torch.tensor(orders)


class CoOpPromptLearner(PromptLearner):
    """Learned: ``ctx`` (n_ctx, D), or (C, n_ctx, D) with class-specific contexts."""

    order: Tensor

    def __init__(self, settings: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts):
        super().__init__()
        position = settings.CLASS_TOKEN_POSITION
        class_specific = settings.CSC and not plain_words(settings.CTX_INIT)
        if settings.CSC and not class_specific:
            logger.info("CSC has no effect beside CTX_INIT: all classes share the given words")
        ctx, words = self.initial(
            clip_model, settings, len(prompts.texts) if class_specific else None
        )
        self.ctx = nn.Parameter(ctx)
        if class_specific:
            self.per_class = {"ctx": "TRAINER.COOP.CSC False"}
        n_ctx = ctx.shape[-2]
        logger.info(f'Initial context: "{words}" ({n_ctx} tokens)')

        self.prompts = TokenizedPrompts(clip_model, prompts.between(words))
        tokenizer = SimpleTokenizer()
        name_lengths = [len(tokenizer.encode(text)) for text in prompts.texts]
        order = class_name_order(name_lengths, n_ctx, self.prompts.tokens.shape[1], position).to(
            ctx.device
        )
        self.register_buffer("order", order, persistent=False)
        # Positions with the same content for every class: those before the name that are not a
        # class's own context.
        self.shared = 1
        if not class_specific:
            self.shared = {
                "end": self.prompts.shared,
                "middle": 1 + n_ctx // 2,
                "front": 1,
            }[position]

    def initial(
        self, clip_model: clip.model.CLIP, settings: Any, per_class: int | None
    ) -> tuple[Tensor, str]:
        """Return the initial context and the words that hold its place, see `initial_context`."""
        return initial_context(clip_model, settings.CTX_INIT, settings.N_CTX, per_class)

    def forward(self, clip_model: clip.model.CLIP) -> SharedText:
        embeddings = self.prompts.embeddings  # (C, L, D): start, placeholders, name, ".", end
        n_ctx = self.ctx.shape[-2]
        ctx = self.ctx.to(embeddings.dtype).expand(len(embeddings), -1, -1)
        text = torch.cat([embeddings[:, :1], ctx, embeddings[:, 1 + n_ctx :]], dim=1)
        text = text.gather(1, self.order.unsqueeze(-1).expand_as(text))
        prefix, own = text[0, : self.shared], text[:, self.shared :]
        return share_text(clip_model, prefix, own, self.prompts.eot - self.shared)


class CoOpCLIP(PromptedCLIP):
    """Frozen image features against features of the learned prompts."""

    def raw_text_features(self) -> Tensor:
        text = self.prompt_learner(self.clip)
        return text.run(self.clip.transformer).features(self.clip).float()

    def upstream_key(self, name: str) -> str:
        return name  # upstream saves the learner alone


SETTINGS = {
    "N_CTX": count(16, "context vectors, where CTX_INIT is empty", at_most=72),
    "CSC": Setting(False, "a context of each class's own"),
    "CTX_INIT": context_words(),
    "PREC": precision("fp16"),
    "CLASS_TOKEN_POSITION": Setting("end", "where the class name stands", choices=POSITIONS),
}


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    method = "COOP"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_method(cfg, "COOP", SETTINGS)

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return "{}"  # the other words are learned

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        learner = CoOpPromptLearner(cls.settings_of(cfg), clip_model, prompts)
        return CoOpCLIP(clip_model, learner, prompts)
