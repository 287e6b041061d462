"""Prompts under noise, and what a model makes of them."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

from clip.simple_tokenizer import SimpleTokenizer
from common.errors import UsageError
from common.reading import read_json, read_text
from datasets.templates import IMAGENET_TEMPLATES
from noise.cells import Cell
from noise.embeddings import perturb_embeddings
from noise.phrasings import HELD_OUT_TEMPLATES
from noise.seeding import rng_for
from noise.text import ALL_TEXT_KINDS, PLACEHOLDER, fill, perturb_prompt, text_rate
from noise.torch_seeding import torch_generator_for

# CLIP reads 77 tokens: start, end, a closing full stop, up to 16 learned ones, and these.
MAX_TOKENS = 55
END_TOKENS = 2  # the last two of the vocabulary are start and end
EVERYWHERE, NAME, AROUND = "everywhere", "name", "around"
PLACES = {"text-name": NAME, "text-template": AROUND}  # by group of noise


@dataclass(frozen=True)
class Pools:
    """What text noise draws from.

    Attributes:
        descriptions: class names to sentences, for kind ``description``.
        phrasings: templates, for kind ``phrasing``.
    """

    descriptions: Mapping[str, Sequence[str]] | None = None
    phrasings: Sequence[str] = tuple(HELD_OUT_TEMPLATES)


def read_phrasings(path: Path) -> list[str]:
    """Read templates: a JSON list, a JSON mapping of such lists, or a text file with one a line.

    Raises:
        UsageError: the file holds something else, or a template without a place for the name.
    """
    if path.suffix == ".json":
        content = read_json(path)
        lists = content.values() if isinstance(content, dict) else [content]
        if not all(isinstance(own, list) for own in lists):
            raise UsageError(f'{path}: wanted ["a view of a {{}}.", ...] or {{"name": [...]}}')
        found = [template for own in lists for template in own]
    else:
        found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    for template in found:
        if not isinstance(template, str) or PLACEHOLDER not in template:
            raise UsageError(f"{path}: {template!r} has no {PLACEHOLDER} for the class name")
    if not found:
        raise UsageError(f"{path}: no templates")
    return list(dict.fromkeys(found))


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


@cache
def dictionary() -> frozenset[str]:
    """Return words that CLIP's vocabulary has whole, in small letters: what people write often."""
    ending = "</w>"
    return frozenset(
        symbol.removesuffix(ending)
        for symbol in _tokenizer().encoder
        if symbol.endswith(ending) and symbol.removesuffix(ending).isalpha()
    )


def shorten(text: str, max_tokens: int = MAX_TOKENS) -> str:
    """Return ``text`` without its last words, so that it has at most ``max_tokens`` tokens."""
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


def takes_text(template: str, words: Sequence[str], cell: Cell) -> bool:
    """Return whether there is something in prompts that a text cell's noise can hit."""
    if PLACES.get(cell.group) == AROUND:
        return any(map(str.isalnum, template.replace(PLACEHOLDER, "")))
    return True


def noisy_prompts(
    template: str, classnames: Sequence[str], cell: Cell, pools: Pools | None = None
) -> list[str]:
    """Return one prompt per class under a text cell's noise; clean for severity 0 or ``embed``.

    Args:
        template: the words that the method does not learn, ``{}`` for the class name. Where it
            ends in no full stop, the method adds its own.
        classnames: in words.
        cell: of a group of text noise.
    """
    kind, rate = ALL_TEXT_KINDS[cell.kind], text_rate(cell.kind, cell.severity)
    pools, place = pools or Pools(), PLACES.get(cell.group, EVERYWHERE)
    texts = []
    for name in classnames:
        text = fill(template, name)
        if rate and kind.function is not None:
            if kind.by_word:
                text = _word_by_word(template, name, cell, rate, place)
            elif place != EVERYWHERE:
                text = _piece_by_piece(template, name, cell, rate, place)
            else:
                pool = pools.phrasings if cell.kind == "phrasing" else _other_phrasings(template)
                text = perturb_prompt(
                    template,
                    name,
                    cell.kind,
                    rate,
                    rng_for(cell.seed or 0, "text", cell.kind, name),
                    descriptions=pools.descriptions,
                    templates=pool,
                )
        text = shorten(text)
        texts.append(text if template.endswith(".") else text.rstrip("."))
    return texts


def _change(cell: Cell, name: str, rate: float) -> Callable[..., str]:
    """Return a function that perturbs a piece of a prompt, with its own random numbers."""

    def changed(text: str, *keys: str | int) -> str:
        rng = rng_for(cell.seed or 0, "text", cell.kind, name, *keys)
        return perturb_prompt(PLACEHOLDER, text, cell.kind, rate, rng)

    return changed


def _word_by_word(template: str, name: str, cell: Cell, rate: float, place: str) -> str:
    """Perturb words, the same in the same words whatever stands before them.

    A word's errors depend on the class, the seed and how many words it is away from the class name,
    so methods that fix fewer words of a prompt meet the same errors in those that they share.
    """
    change = _change(cell, name, rate)
    words = re.findall(r"[^ ]* ?", template)[:-1]  # each with the space after it, which is hit too
    middle = next(i for i, word in enumerate(words) if PLACEHOLDER in word)
    noisy_name = name if place == AROUND else change(name)
    return "".join(
        fill(word, noisy_name)
        if PLACEHOLDER in word
        else (word if place == NAME else change(word, i - middle))
        for i, word in enumerate(words)
    )


def _piece_by_piece(template: str, name: str, cell: Cell, rate: float, place: str) -> str:
    """Perturb the class name alone, or what stands before and after it."""
    change = _change(cell, name, rate)
    if place == NAME:
        return fill(template, change(name))
    before, _, after = template.partition(PLACEHOLDER)
    return change(before, "before") + name + change(after.replace(PLACEHOLDER, name), "after")


@lru_cache(maxsize=1)  # for all models on one backbone, cell by cell
def _noisy_vocabulary(clip_model: Any, rate: float, seed: int) -> torch.Tensor:
    """Every word's embedding with noise, (49408, width); start and end token are clean."""
    clean = clip_model.token_embedding.weight.detach()
    generator = torch_generator_for(seed, "vocabulary")
    noisy = perturb_embeddings(clean.unsqueeze(0), rate, generator)[0]
    noisy[0], noisy[-END_TOKENS:] = clean[0], clean[-END_TOKENS:]
    return noisy


@contextlib.contextmanager
def noisy_words(clip_model: Any, rate: float, seed: int) -> Iterator[None]:
    """Give every word of CLIP's vocabulary a noisy embedding, inside the block.

    Standard deviation: ``rate`` times that of the word's embedding. A word's noise depends on the
    word and the seed, so it is the same in every class and for every method. Start and end token
    and the padding stay as they are.
    """
    weight = clip_model.token_embedding.weight
    clean = weight.data
    weight.data = _noisy_vocabulary(clip_model, rate, seed)
    try:
        yield
    finally:
        weight.data = clean


@contextlib.contextmanager
def noisy_tokens(learner: Any, rate: float, seed: int) -> Iterator[None]:
    """Put Gaussian noise on a learner's tokens, relative to their own spread, inside the block."""
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
