"""What sections of the page are made of. The templates turn it into HTML and escape all text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from anprompt.results.report.charts import Chart
from anprompt.results.table import Column, Table
from anprompt.results.value import Value


@dataclass(frozen=True)
class Shown:
    """A value within text; the column says how it is written."""

    value: Value
    digits: int = 1
    unit: str = ""
    signed: bool = False

    @property
    def column(self) -> Column:
        """The format of the number."""
        return Column("", digits=self.digits, signed=self.signed)


Part = str | Shown
Sentence = tuple[Part, ...]


def joined(sentences: Iterable[Sentence], between: str = ", ") -> Sentence:
    """Pieces of text with something between them."""
    parts: list[Part] = []
    for sentence in sentences:
        parts += [between, *sentence] if parts else sentence
    return tuple(parts)


def words(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Findings:
    """What the numbers of a section say."""

    kind: ClassVar[str] = "findings"
    sentences: Sequence[Sentence]


@dataclass(frozen=True)
class Notes:
    """What is to be known about the table or the figures above."""

    kind: ClassVar[str] = "notes"
    items: Sequence[str]


@dataclass(frozen=True)
class Numbers:
    """A table of numbers.

    Attributes:
        shades: how dark a cell (row, column) is, from 0 to 1.
        has_links: whether rows lead to the files that they come from.
    """

    kind: ClassVar[str] = "numbers"
    table: Table
    shades: dict[tuple[int, int], float] = field(default_factory=dict)
    has_links: bool = False


@dataclass(frozen=True)
class Words:
    """A table of text; a cell is text, a value or a path. ``ids``: of rows, to be linked to."""

    kind: ClassVar[str] = "words"
    headers: Sequence[str]
    rows: Sequence[Sequence[Part]]
    title: str = ""
    ids: Sequence[str] = ()
    code: frozenset[int] = frozenset()  # columns that hold code


@dataclass(frozen=True)
class Legend:
    """The look of methods in figures."""

    kind: ClassVar[str] = "legend"
    methods: Sequence[str]


@dataclass(frozen=True)
class Figures:
    """Figures side by side."""

    kind: ClassVar[str] = "figures"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Folded:
    """Content that a click unfolds."""

    kind: ClassVar[str] = "folded"
    title: str
    content: Sequence["Block"]


@dataclass(frozen=True)
class Paths:
    """Folders or files, each with what is to be said about it."""

    kind: ClassVar[str] = "paths"
    title: str
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Tiles:
    """A few large numbers or words."""

    kind: ClassVar[str] = "tiles"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What a model says of a picture."""

    is_right: bool
    answer: str
    probability: Shown


@dataclass(frozen=True)
class Card:
    """A picture in several views (label, data URI or ""), and each method's answers to them."""

    title: str
    image: str
    severity: int
    views: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[Answer | None]]]


@dataclass(frozen=True)
class Cards:
    """Pictures side by side."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[Card]


Block = (
    Text | Heading | Findings | Notes | Numbers | Words | Legend | Figures | Folded | Paths | Tiles
    | Cards
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A section of the page; ``name`` is what the navigation calls it."""

    id: str
    name: str
    title: str
    blocks: Sequence[Block]
