"""Class names: read from files, and compared as prompts see them."""

import html
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from common.errors import UsageError, one_line
from common.reading import read_text


def read_classnames(path: str | Path) -> dict[str, str]:
    """Return {key: class name} in file order, from lines ``key class name`` or a JSON object.

    Raises:
        UsageError: a line without a name, a key given twice, or an unreadable file.
    """
    names: dict[str, str] = {}
    text = read_text(path)
    if str(path).lower().endswith(".json"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
            raise UsageError(f"{path}: not readable as class names ({reason})") from error
    else:
        lines = [line.strip().replace("\t", " ") for line in text.splitlines()]
        pairs = [line.partition(" ")[::2] for line in lines if line]
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise UsageError(f"{path}: expected {{key: class name}}, found {pair!r:.80}")
        key, name = pair[0], pair[1].strip()
        if not name:
            raise UsageError(
                f"{path}: class {key!r:.80} has no name; lines are 'key class name' (keys with "
                "blanks take a JSON file)"
            )
        if key in names:
            raise UsageError(f"{path}: class {key!r:.80} is named twice")
        names[key] = name
    return names


def as_prompted(name: str) -> str:
    """Return a class name as a prompt's text model reads it, to compare names by.

    Underscores are blanks, and neither case, nor runs of blanks, nor the way in which a character
    is encoded, nor characters that are not seen (of width zero, or for the direction of writing),
    make a difference.

    >>> as_prompted("Golden_retriever") == as_prompted("golden  retriever")
    True
    """
    text = unicodedata.normalize("NFKC", html.unescape(html.unescape(name)))
    seen = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(seen.replace("_", " ").casefold().split())


def same_names(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that are one name in prompts, in order.

    >>> same_names(["Ketch", "crane", "ketch", "dog"])
    [['Ketch', 'ketch']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(as_prompted(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def read_lines(path: str | Path) -> list[str]:
    """Return the stripped lines of a text file that are not empty."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
