"""Class descriptions: JSON files ``{class name: [sentences]}``, as CuPL and others give them."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

# CLIP reads 77 tokens, and English needs about 1.3 per word: this many words leave some room.
MAX_WORDS = 50

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def load_descriptions(path: str | Path) -> dict[str, list[str]]:
    """Read and check a description file.

    Returns:
        Class names, as written in the file, to their non-empty sentences.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, not of the form ``{class name: [sentences]}``, or empty.
    """
    path = Path(path)
    wanted = 'wanted {"class name": ["sentence", ...], ...}'
    if not path.is_file():
        raise FileNotFoundError(f"Descriptions: no file {path}; {wanted} as JSON.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"Descriptions: {path} is not JSON text ({error}).") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"Descriptions: {path} holds no classes; {wanted}.")
    for name, sentences in content.items():
        if not isinstance(sentences, list) or not sentences:
            raise ValueError(f"Descriptions: {path}, class {name!r} has no list; {wanted}.")
        for sentence in sentences:
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(
                    f"Descriptions: {path}, class {name!r} holds {sentence!r}; {wanted}."
                )
    return content


def find_descriptions(descriptions: Mapping[str, Sequence[str]], classname: str) -> list[str]:
    """Sentences for a class, found by its exact name or else regardless of case, ``_`` and ``-``.

    Entries that differ in no more than that describe one class, and are joined.

    Raises:
        ValueError: no entry fits; names the nearest ones.
    """
    if classname in descriptions:
        return list(descriptions[classname])
    wanted = _normalised(classname)
    found = [
        sentence
        for name, sentences in descriptions.items()
        if _normalised(name) == wanted
        for sentence in sentences
    ]
    if found:
        return found
    by_normalised = {_normalised(name): name for name in descriptions}
    nearest = difflib.get_close_matches(wanted, by_normalised, n=3)
    hint = f" Nearest: {', '.join(by_normalised[name] for name in nearest)}." if nearest else ""
    raise ValueError(
        f"Descriptions: no entry for class {classname!r} among {len(descriptions)} classes.{hint}"
        " Add one, or leave the kind description out."
    )


def leading_sentences(text: str, max_words: int = MAX_WORDS) -> str:
    """``text`` on one line, cut after the last whole sentence that ends within ``max_words`` words.

    The first sentence always stays whole: cutting inside it is left to the tokeniser.
    """
    first, *others = _SENTENCE_END.split(" ".join(text.split()))
    kept = first
    for sentence in others:
        if len(f"{kept} {sentence}".split()) > max_words:
            break
        kept = f"{kept} {sentence}"
    return kept


def _normalised(name: str) -> str:
    return " ".join(re.sub(r"[_\-]", " ", name).casefold().split())
