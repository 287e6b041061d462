"""Prompts under noise, and what a model makes of them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import torch

from clip.simple_tokenizer import SimpleTokenizer
from datasets.templates import IMAGENET_TEMPLATES
from noise.embeddings import perturb_embeddings
from noise.seeding import rng_for
from noise.text import PLACEHOLDER, TEXT_KINDS, fill, perturb_prompt, text_rate
from noise.torch_seeding import torch_generator_for

# CLIP reads 77 tokens: start, end, a closing full stop, up to 16 learned ones, and these.
MAX_TOKENS = 55
END_TOKENS = 2  # the last two of the vocabulary are start and end

Descriptions = Mapping[str, Sequence[str]]


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def shorten(text: str, max_tokens: int = MAX_TOKENS) -> str:
    """``text`` without its last words, so that it has at most ``max_tokens`` tokens."""
    words = text.split(" ")
    while len(words) > 1 and len(_tokenizer().encode(" ".join(words))) > max_tokens:
        words.pop()
    return " ".join(words)


@cache
def _other_phrasings(template: str) -> list[str]:
    """The pool of phrasings, as long for every method: the next one in place of a method's own."""
    following = [*IMAGENET_TEMPLATES[1:], IMAGENET_TEMPLATES[0]]
    pairs = zip(IMAGENET_TEMPLATES, following, strict=True)
    return [after if own == template else own for own, after in pairs]


def _typing_errors(template: str, classname: str, rate: float, seed: int) -> str:
    """Kind ``char``, the same errors in the same words whatever stands before them.

    A word's errors depend on the class, the seed and how many words it is away from the class name,
    so methods that fix fewer words of a prompt meet the same errors in those that they share.
    """
    words = template.split(" ")
    place = next(i for i, word in enumerate(words) if PLACEHOLDER in word)

    def mistyped(text: str, *keys: str | int) -> str:
        rng = rng_for(seed, "text", "char", classname, *keys)
        return perturb_prompt(PLACEHOLDER, text, "char", rate, rng)

    name = mistyped(classname)
    return " ".join(
        fill(word, name) if PLACEHOLDER in word else mistyped(word, i - place)
        for i, word in enumerate(words)
    )


def noisy_prompts(
    template: str,
    classnames: Sequence[str],
    kind: str,
    severity: int,
    seed: int,
    descriptions: Descriptions | None = None,
) -> list[str]:
    """One prompt per class under text noise; clean ones for severity 0 or kind ``embed``.

    Args:
        template: the words that the method does not learn, ``{}`` for the class name. Where it
            ends in no full stop, the method adds its own.
        classnames: in words.
        descriptions: for kind ``description``.
    """
    texts = []
    for name in classnames:
        text = fill(template, name)
        if severity and kind == "char":
            text = _typing_errors(template, name, text_rate(kind, severity), seed)
        elif severity and TEXT_KINDS[kind].function is not None:
            text = perturb_prompt(
                template,
                name,
                kind,
                text_rate(kind, severity),
                rng_for(seed, "text", kind, name),
                descriptions=descriptions,
                templates=_other_phrasings(template),
            )
        text = shorten(text)
        texts.append(text if template.endswith(".") else text.rstrip("."))
    return texts


@lru_cache(maxsize=1)  # for all models on one backbone, cell by cell
def _noisy_vocabulary(clip_model: Any, rate: float, seed: int) -> torch.Tensor:
    """Every word's embedding with noise, (49408, width)."""
    clean = clip_model.token_embedding.weight.detach()
    generator = torch_generator_for(seed, "vocabulary")
    return perturb_embeddings(clean.unsqueeze(0), rate, generator)[0]


@contextlib.contextmanager
def noisy_words(clip_model: Any, rate: float, seed: int) -> Iterator[None]:
    """Inside the block, every word of CLIP's vocabulary has a noisy embedding.

    Standard deviation: ``rate`` times that of the word's embedding. A word's noise depends on the
    word and the seed, so it is the same in every class and for every method. Start and end token
    and the padding stay as they are.
    """
    noisy = _noisy_vocabulary(clip_model, rate, seed)
    weight = clip_model.token_embedding.weight
    clean = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[1:-END_TOKENS] = noisy[1:-END_TOKENS]
        yield
    finally:
        with torch.no_grad():
            weight.copy_(clean)


@contextlib.contextmanager
def noisy_tokens(learner: Any, rate: float, seed: int) -> Iterator[None]:
    """Inside the block, a learner's tokens carry Gaussian noise, relative to their own spread."""
    tokens = learner.learned_tokens()
    clean = {name: parameter.detach().clone() for name, (parameter, _) in tokens.items()}
    try:
        with torch.no_grad():
            for name, (parameter, effective) in tokens.items():
                rows = effective.reshape(1, -1, effective.shape[-1])
                noisy = perturb_embeddings(rows, rate, torch_generator_for(seed, "token", name))
                parameter.add_((noisy - rows).view_as(parameter))
        learner.train(learner.training)  # forgets what it had derived from the clean ones
        yield
    finally:
        with torch.no_grad():
            for name, (parameter, _) in tokens.items():
                parameter.copy_(clean[name])
        learner.train(learner.training)
