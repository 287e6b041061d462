"""Perturbed prompts: small errors in characters and words, other phrasings, class descriptions.

A kind of noise is a pure function of a prompt, a rate and a random generator. Random numbers are
drawn for every place that could be perturbed, not only for those that are, so with one seed a
higher rate makes the same errors and more of them (save where a swap takes in the next word).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UsageError
from noise import edits
from noise.descriptions import find_descriptions, leading_sentences
from noise.edits import mistype, pick
from noise.kinds import check_rate, check_severity, get_kind
from noise.seeding import rng_for

# Words that can stand before nearly any word of a caption and say nothing about its content.
FILLERS = ("really", "just", "quite", "simply", "perhaps", "actually", "indeed", "basically")

PLACEHOLDER = "{}"


@dataclass(frozen=True)
class Prompt:
    """What a text perturbation may use: the clean prompt's parts and the caller's pools."""

    template: str
    classname: str
    templates: Sequence[str] | None = None
    descriptions: Mapping[str, Sequence[str]] | None = None

    @property
    def text(self) -> str:
        return fill(self.template, self.classname)


def fill(template: str, classname: str) -> str:
    """Return ``template`` with the class name in place of ``{}``; UsageError without a ``{}``."""
    if PLACEHOLDER not in template:
        raise UsageError(f"Template {template!r} has no {PLACEHOLDER} for the class name.")
    return template.replace(PLACEHOLDER, classname)  # str.format would trip over other braces


def char_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Each word, the class name's too, gets one typing error with probability ``rate``.

    The error is a neighbouring key, two letters swapped, one dropped or one doubled. Words keep
    their number and at least one character; words without letters or digits stay as they are.
    """
    pieces = re.split(r"(\s+)", prompt.text)  # words at even places, the spaces between at odd ones
    for i in range(0, len(pieces), 2):
        gate, *draws = rng.random(4)
        if gate < rate:
            pieces[i] = mistype(pieces[i], *draws)
    return "".join(pieces)


def word_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Each word of the template is hit with probability ``rate``; the class name stays intact.

    A word that is hit is dropped, swapped with the next one or given a filler before it; the class
    name can only be given a filler.
    """
    fill(prompt.template, "")  # refuses a template without a place for the class name
    words = prompt.template.split()
    result = []
    swapped = changed = False
    for i, word in enumerate(words):
        gate, pick_edit, pick_filler = rng.random(3)
        if swapped:  # already placed, together with the word before it
            swapped = False
            continue
        following = words[i + 1] if i + 1 < len(words) else PLACEHOLDER
        edits = ["filler"]
        if PLACEHOLDER not in word:
            edits.append("drop")
            if PLACEHOLDER not in following and following != word:
                edits.append("swap")
        edit = pick(edits, pick_edit) if gate < rate else "keep"
        changed |= edit != "keep"
        if edit == "filler":
            result += [pick(FILLERS, pick_filler), word]
        elif edit == "swap":
            result += [following, word]
            swapped = True
        elif edit == "keep":
            result.append(word)
    # Unchanged templates keep their own spacing.
    return fill(" ".join(result) if changed else prompt.template, prompt.classname)


def template_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """With probability ``rate``, another phrasing from ``prompt.templates``.

    Raises:
        UsageError: no pool was given, or it has nothing but the prompt's own template.
    """
    others = [template for template in prompt.templates or () if template != prompt.template]
    if not others:
        raise UsageError(
            "Noise kinds template and phrasing: no other phrasing to draw from. Pass templates=, "
            "e.g. datasets.templates.IMAGENET_TEMPLATES."
        )
    gate, pick_template = rng.random(2)
    text = fill(pick(others, pick_template), prompt.classname)
    return text if gate < rate else prompt.text


def description_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """With probability ``rate``, a description of the class (its leading sentences) as the prompt.

    Raises:
        UsageError: no descriptions were given, or none for this class.
    """
    if not prompt.descriptions:
        raise UsageError(
            "Noise kind description: no descriptions. Pass descriptions=, "
            "read by noise.descriptions.load_descriptions from {class name: [sentences]}."
        )
    sentences = find_descriptions(prompt.descriptions, prompt.classname)
    gate, pick_sentence = rng.random(2)
    return leading_sentences(pick(sentences, pick_sentence)) if gate < rate else prompt.text


def insert_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Put a drawn character after each character but spaces, with probability ``rate``."""
    return edits.insert(prompt.text, rate, rng)


def replace_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Replace each character by a drawn one, with probability ``rate``."""
    return edits.replace(prompt.text, rate, rng)


def delete_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Delete each character with probability ``rate``."""
    return edits.delete(prompt.text, rate, rng)


def swap_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Swap each character with any other of the text, with probability ``rate``."""
    return edits.swap(prompt.text, rate, rng)


def case_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Write words in capitals, or small letters if they are, each with probability ``rate``."""
    return edits.each_word(prompt.text, rate, rng, lambda word, draw: edits.other_case(word))


def punctuation_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Put a mark after each word with probability ``rate``, in place of those that it has."""
    return edits.each_word(prompt.text, rate, rng, edits.punctuate)


def word_order_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Shuffle all words, the class name's too, with probability ``rate``."""
    words = prompt.text.split(" ")
    gate, order = rng.random(), rng.permutation(len(words))
    return " ".join(words[i] for i in order) if gate < rate else prompt.text


def one_edit_noise(prompt: Prompt, rate: float, rng: np.random.Generator) -> str:
    """Make one typing error in one word, with probability ``rate``."""
    words = prompt.text.split(" ")
    gate, pick_word, *draws = rng.random(5)
    able = [i for i, word in enumerate(words) if any(map(str.isalnum, word))]
    if gate < rate and able:
        i = pick(able, pick_word)
        words[i] = mistype(words[i], *draws)
    return " ".join(words)


@dataclass(frozen=True)
class TextKind:
    """A kind of text noise and its rates at severities 1 to 5.

    Attributes:
        function: None for noise on token embeddings, which has no text to return: see
            `noise.embeddings.perturb_embeddings`, whose rate is a relative standard deviation. The
            other rates are probabilities: of an error per word or character with ``per_word``, else
            of replacing the sentence.
        by_word: words are hit one by one, so that each may have random numbers of its own.
        has_places: it may hit the class name alone, or the other words alone.
    """

    function: Callable[[Prompt, float, np.random.Generator], str] | None
    rates: tuple[float, float, float, float, float]
    per_word: bool = False
    by_word: bool = False
    has_places: bool = False


_SENTENCE = (0.2, 0.4, 0.6, 0.8, 1.0)
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5)

# What methods may train with.
TEXT_KINDS: dict[str, TextKind] = {
    "char": TextKind(
        char_noise, (0.1, 0.2, 0.3, 0.5, 0.7), per_word=True, by_word=True, has_places=True
    ),
    "word": TextKind(word_noise, (0.1, 0.2, 0.3, 0.5, 0.7), per_word=True),
    "template": TextKind(template_noise, _SENTENCE),
    "description": TextKind(description_noise, _SENTENCE),
    "embed": TextKind(None, (0.1, 0.2, 0.4, 0.7, 1.0)),
}
# Chen et al., Benchmarking Robustness of Adaptation Methods on Pre-trained Vision-Language Models,
# 2023, https://arxiv.org/abs/2306.02080: its noise on single characters, with its rates and
# characters [A: github.com/adarobustness/corruption].
CHEN_KINDS: dict[str, TextKind] = {
    "char_insert": TextKind(insert_noise, _TENTHS, True, by_word=True, has_places=True),
    "char_replace": TextKind(replace_noise, _TENTHS, True, by_word=True, has_places=True),
    "char_delete": TextKind(delete_noise, _TENTHS, True, by_word=True, has_places=True),
    "char_swap": TextKind(swap_noise, _TENTHS, True, has_places=True),
}
# Changes of form that leave the words readable, and phrasings that no method here trains with. [O]
FORM_KINDS: dict[str, TextKind] = {
    "case": TextKind(case_noise, _SENTENCE, per_word=True, by_word=True, has_places=True),
    "punctuation": TextKind(punctuation_noise, _TENTHS, True, by_word=True, has_places=True),
    "word_order": TextKind(word_order_noise, _SENTENCE),
    "one_edit": TextKind(one_edit_noise, _SENTENCE, has_places=True),
    "phrasing": TextKind(template_noise, _SENTENCE),
}
ALL_TEXT_KINDS = {**TEXT_KINDS, **CHEN_KINDS, **FORM_KINDS}


def text_rate(kind: str, severity: int) -> float:
    """Return the rate that stands for a severity (0 to 5) of a kind."""
    rates = get_kind(ALL_TEXT_KINDS, kind, "text noise").rates
    severity = check_severity(severity)
    return rates[severity - 1] if severity else 0.0


def perturb_prompt(
    template: str,
    classname: str,
    kind: str,
    rate: float,
    rng: np.random.Generator,
    *,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
) -> str:
    """Return a prompt with one kind of noise; rate 0 gives ``template`` filled in, unchanged.

    Args:
        template: with ``{}`` for the class name, put in as it is (replace underscores first).
        kind: a key of `ALL_TEXT_KINDS` that works on text, i.e. any but ``embed``.
        rate: probability of an error, per word (``char``, ``word``) or for the sentence as a whole.
        rng: e.g. ``rng_for(seed, classname, k)``.
        descriptions: for ``description``: class names to sentences.
        templates: for ``template`` and ``phrasing``: the phrasings to draw from, each with ``{}``.

    Returns:
        Text that may need truncation when it is tokenised: noise adds tokens.

    Raises:
        UsageError: unknown kind, rate not from 0 to 1, template without ``{}``, no pool or class.

    >>> perturb_prompt("a photo of a {}.", "cat", "char", 1.0, rng_for(1, "cat"))
    'aa phhoto off aa ca.'
    """
    function = get_kind(ALL_TEXT_KINDS, kind, "text noise").function
    if function is None:
        raise UsageError(
            f"Noise kind {kind} has no text: use noise.embeddings.perturb_embeddings on the tokens."
        )
    prompt = Prompt(template, classname, templates, descriptions)
    return function(prompt, check_rate(rate), rng)


def sample_kinds(kinds: Sequence[str], samples: int) -> list[str]:
    """Return the kind of each of ``samples`` perturbed texts: in turn, as evenly as possible."""
    for kind in kinds:
        get_kind(TEXT_KINDS, kind, "text noise")
    if not kinds or samples < 1:
        raise UsageError(f"Text noise needs a kind and a sample: got {list(kinds)}, {samples}.")
    return [kinds[k % len(kinds)] for k in range(samples)]


def perturbed_texts(
    classnames: Sequence[str],
    template: str,
    kinds: Sequence[str],
    rate: float,
    samples: int,
    seed: int,
    *,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
) -> list[list[str]]:
    """Return K perturbed prompts for every class: T~_k(c), k = 1..K, of docs/METHOD.md.

    Prompt k is of kind ``sample_kinds(kinds, samples)[k]``; its random numbers depend on the seed,
    its class name, kind and k alone. Kinds that replace the sentence always do so here unless
    ``rate`` is 0: a sample that is most likely clean would waste its place, and how much the
    samples count is the method's own weight. Prompts of kind ``embed`` come back clean, for
    `noise.embeddings.perturb_embeddings` once they are embedded.

    Returns:
        One list of ``samples`` texts per class, in the order of ``classnames``.

    Raises:
        UsageError: as `perturb_prompt` and `sample_kinds`.
    """
    rate = check_rate(rate)
    sequence = sample_kinds(kinds, samples)
    if "description" in kinds and descriptions:
        # Found once per class, and missing classes are known before any work is done.
        descriptions = {name: find_descriptions(descriptions, name) for name in classnames}

    def perturbed(classname: str, kind: str, k: int) -> str:
        if TEXT_KINDS[kind].function is None:
            return fill(template, classname)
        return perturb_prompt(
            template,
            classname,
            kind,
            rate if TEXT_KINDS[kind].per_word else float(rate > 0),
            rng_for(seed, "text", kind, classname, k),
            descriptions=descriptions,
            templates=templates,
        )

    return [
        [perturbed(classname, kind, k) for k, kind in enumerate(sequence)]
        for classname in classnames
    ]
