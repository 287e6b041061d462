"""Read class descriptions: JSON files ``{class name: [sentences]}``, as CuPL and others give."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import UsageError
from common.names import nearest
from common.reading import read_json
from common.schema import Each, mismatch

# CLIP reads 77 tokens, and English needs about 1.3 per word: this many words leave some room.
MAX_WORDS = 50

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Descriptions(dict[str, list[str]]):
    """Non-empty sentences by class name, as written in the file; ``source`` says which that is."""

    source = "descriptions"


def load_descriptions(path: str | Path, setting: str = "descriptions") -> Descriptions:
    """Read and check a description file.

    Args:
        setting: what names the file, for error messages.

    Raises:
        UsageError: the file cannot be read, is not JSON of the form ``{class name: [sentences]}``,
            or holds nothing.
    """
    try:
        content = read_json(path)
    except UsageError as error:
        raise UsageError(f"{setting}: {error}") from error
    problem = mismatch(content, Each([str])) or ("" if content else "it holds no classes")
    if not problem:
        for name, sentences in content.items():
            if not sentences or not all(sentence.strip() for sentence in sentences):
                problem = f"class {name!r} has no sentence, or an empty one"
                break
    if problem:
        raise UsageError(
            f'{setting}: {path}: {problem}; wanted {{"class name": ["sentence", ...], ...}} as JSON'
        )
    descriptions = Descriptions(content)
    descriptions.source = f"{setting}: {path}"
    return descriptions


def find_descriptions(descriptions: Mapping[str, Sequence[str]], classname: str) -> list[str]:
    """Return a class's sentences, by its exact name or else regardless of case, ``_`` and ``-``.

    Entries that differ in no more than that describe one class, and are joined.

    Raises:
        UsageError: no entry fits; names the nearest ones.
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
    near = [by_normalised[name] for name in nearest(wanted, by_normalised)]
    hint = f" Nearest: {', '.join(near)}." if near else ""
    source = getattr(descriptions, "source", Descriptions.source)
    raise UsageError(
        f"{source}: no entry for class {classname!r} among {len(descriptions)} classes.{hint}"
        " Add one, or do without the file."
    )


def leading_sentences(text: str, max_words: int = MAX_WORDS) -> str:
    """Return ``text`` on one line, cut after the last whole sentence within ``max_words`` words.

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
