"""What sections of the page are made of. The templates turn it into HTML and escape all text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anprompt.results.table import Column
from anprompt.results.value import Value


@dataclass(frozen=True)
class Shown:
    """A value within text, and how it is written."""

    value: Value
    digits: int = 1
    unit: str = ""
    signed: bool = False

    @property
    def column(self) -> Column:
        """Return the format of the number."""
        return Column("", digits=self.digits, signed=self.signed)


Sentence = tuple[str | Shown, ...]


@dataclass(frozen=True)
class Block:
    """A piece of a section.

    Attributes:
        kind: the macro of templates/macros.html.j2 that shows it; what it takes stands there.
    """

    kind: str
    content: Any
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A section of the page; ``name`` is what the navigation calls it."""

    id: str
    name: str
    title: str
    blocks: Sequence[Block]


def joined(sentences: Iterable[Sentence], between: str = ", ") -> Sentence:
    """Return pieces of text with something between them."""
    parts: list[str | Shown] = []
    for sentence in sentences:
        parts += [between, *sentence] if parts else sentence
    return tuple(parts)


def words(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def listed(title: str, items: Sequence[tuple[str, str]], few: int = 3) -> list[Block]:
    """Return paths, each with a remark; folded where they are many, nothing for none."""
    if len(items) > few:
        return [Block("folded", [Block("paths", items)], f"{title}: {len(items)}")]
    return [Block("paths", items, f"{title}: {len(items)}")] if items else []
