"""Edits of plain strings that text noise is made of; random numbers come from outside."""

import re
import string
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")

# Keys that touch on a QWERTY keyboard: letters with letters, digits with digits.
KEYBOARD_NEIGHBOURS = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg", "y": "tugh", "u": "yihj",
    "i": "uojk", "o": "ipkl", "p": "ol", "a": "qwsz", "s": "weadzx", "d": "ersfxc", "f": "rtdgcv",
    "g": "tyfhvb", "h": "yugjbn", "j": "uihknm", "k": "iojlm", "l": "opk", "z": "asx", "x": "zsdc",
    "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk", "1": "2", "2": "13", "3": "24",
    "4": "35", "5": "46", "6": "57", "7": "68", "8": "79", "9": "80", "0": "9",
}  # fmt: skip
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "
MARKS = ".,;:!?"


def pick(options: Sequence[Option], draw: float) -> Option:
    """Return an option, from a uniform draw in [0, 1)."""
    return options[int(draw * len(options))]


# One word ---------------------------------------------------------------------------------------


def mistype(word: str, pick_edit: float, pick_place: float, pick_key: float) -> str:
    """Return ``word`` with one typing error; the draws are uniform in [0, 1).

    The error is a neighbouring key, two letters swapped, one dropped or one doubled.
    """
    places = [i for i, character in enumerate(word) if character.isalnum()]
    possible = {
        "neighbour": [i for i in places if word[i].lower() in KEYBOARD_NEIGHBOURS],
        "swap": [i for i in places if i + 1 in places and word[i] != word[i + 1]],
        "drop": places if len(places) > 1 else [],
        "double": places,
    }
    able = [edit for edit, where in possible.items() if where]
    if not able:
        return word
    edit = pick(able, pick_edit)
    i = pick(possible[edit], pick_place)
    character = word[i]
    if edit == "neighbour":
        key = pick(KEYBOARD_NEIGHBOURS[character.lower()], pick_key)
        return word[:i] + (key.upper() if character.isupper() else key) + word[i + 1 :]
    if edit == "swap":
        return word[:i] + word[i + 1] + character + word[i + 2 :]
    if edit == "drop":
        return word[:i] + word[i + 1 :]
    return word[:i] + 2 * character + word[i + 1 :]


def other_case(word: str) -> str:
    """Return a word in capitals, or in small letters if it is in capitals."""
    return word.lower() if word.isupper() else word.upper()


def punctuate(word: str, draw: float) -> str:
    """Return a word with a drawn mark at its end, different from the one it has."""
    bare = word.rstrip(MARKS)
    return bare + pick([mark for mark in MARKS if mark != word[len(bare) :]], draw)


# Words and characters of a text ------------------------------------------------------------------


def each_word(
    text: str, rate: float, rng: np.random.Generator, change: Callable[[str, float], str]
) -> str:
    """Change each word with probability ``rate``; ``change`` gets the word and a uniform draw."""
    pieces = re.split(r"(\s+)", text)  # words at even places, the spaces between at odd ones
    for i in range(0, len(pieces), 2):
        gate, draw = rng.random(2)
        if pieces[i] and gate < rate:
            pieces[i] = change(pieces[i], draw)
    return "".join(pieces)


def insert(text: str, rate: float, rng: np.random.Generator) -> str:
    """Put one of `CHARACTERS` after each character but spaces, with probability ``rate``."""
    draws = rng.random((len(text), 2))
    return "".join(
        character + (pick(CHARACTERS, draw) if gate < rate and character != " " else "")
        for character, (gate, draw) in zip(text, draws, strict=True)
    )


def replace(text: str, rate: float, rng: np.random.Generator) -> str:
    """Replace each character by one of `CHARACTERS`, with probability ``rate``."""
    draws = rng.random((len(text), 2))
    return "".join(
        pick(CHARACTERS, draw) if gate < rate else character
        for character, (gate, draw) in zip(text, draws, strict=True)
    )


def delete(text: str, rate: float, rng: np.random.Generator) -> str:
    """Delete each character with probability ``rate``."""
    gates = rng.random(len(text))
    return "".join(c for c, gate in zip(text, gates, strict=True) if gate >= rate)


def swap(text: str, rate: float, rng: np.random.Generator) -> str:
    """Swap each character in turn with any of the text, with probability ``rate``."""
    characters = list(text)
    for i, (gate, draw) in enumerate(rng.random((len(text), 2))):
        if gate < rate:
            j = pick(range(len(text)), draw)
            characters[i], characters[j] = characters[j], characters[i]
    return "".join(characters)


# All of them -------------------------------------------------------------------------------------


def at_distance_one(name: str, alphabet: str = string.ascii_lowercase) -> list[str]:
    """Return all strings at Levenshtein distance 1: one character added, removed or replaced."""
    found: dict[str, None] = {}
    for i in range(len(name) + 1):
        found |= dict.fromkeys(name[:i] + letter + name[i:] for letter in alphabet)
        if i < len(name):
            found[name[:i] + name[i + 1 :]] = None
            found |= dict.fromkeys(name[:i] + letter + name[i + 1 :] for letter in alphabet)
    found.pop(name, None)
    return [text for text in found if text.strip()]


def misspellings(
    name: str, count: int, rng: np.random.Generator, words: Collection[str], names: Collection[str]
) -> list[str]:
    """Draw at most ``count`` strings at Levenshtein distance 1 that say nothing else.

    Args:
        name: a class name.
        words: a dictionary, in lower case; strings that add one of its words are left out.
        names: of all classes; they are left out.
    """
    own = set(name.lower().split())
    taken = {other.lower() for other in names}

    def is_allowed(text: str) -> bool:
        new = {word.strip(string.punctuation) for word in text.lower().split()} - own
        return text.lower() not in taken and not any(word in words for word in new)

    candidates = at_distance_one(name)
    chosen: list[str] = []
    for i in rng.permutation(len(candidates)):
        if len(chosen) == count:
            break
        if is_allowed(candidates[i]):
            chosen.append(candidates[i])
    return chosen
