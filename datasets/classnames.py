"""Files that give folders or labels their names in words."""

import json
import os
from pathlib import Path

from common.errors import UsageError


def read_classnames(path: str | os.PathLike) -> dict[str, str]:
    """{key: class name} in file order, from lines ``key class name`` or a JSON object.

    Raises:
        UsageError: a line without a name, a key given twice, or an unreadable file.
    """
    names: dict[str, str] = {}
    try:
        text = Path(path).read_text(encoding="utf-8")
        if str(path).lower().endswith(".json"):
            pairs = json.loads(text, object_pairs_hook=list)
        else:
            pairs = [line.strip().partition(" ")[::2] for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as class names ({error})") from None
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[1], str):
            raise UsageError(f"{path}: expected {{key: class name}}, found {pair!r:.80}")
        key, name = pair[0], pair[1].strip()
        if not name:
            raise UsageError(f"{path}: class {key!r} has no name; lines are 'key class name'")
        if key in names:
            raise UsageError(f"{path}: class {key!r} is named twice")
        names[key] = name
    return names


def read_lines(path: str | os.PathLike) -> list[str]:
    """The stripped lines of a text file that are not empty."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]
