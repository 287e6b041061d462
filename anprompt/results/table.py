"""Tables of numbers, whatever they are written as."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from anprompt.results.method import Method
from anprompt.results.run import Run
from anprompt.results.value import Value

PROTOCOLS = {
    "base2new": "Base to new",
    "crossdata": "Cross-dataset",
    "domaingen": "Domain generalisation",
    "fewshot": "Few-shot",
}
# The order of the papers' tables; any other data set comes after, by name.
DATASETS = [
    "ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "OxfordFlowers", "Food101",
    "FGVCAircraft", "SUN397", "DescribableTextures", "EuroSAT", "UCF101",
    "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR",
]  # fmt: skip
ELEVEN, IMAGENET_VARIANTS = DATASETS[:11], DATASETS[11:]


def in_order(datasets: set[str]) -> list[str]:
    """Return data sets as the papers list them."""
    place = {name: i for i, name in enumerate(DATASETS)}
    return sorted(datasets, key=lambda name: (place.get(name, len(place)), name))


# How the papers shorten names where columns are data sets.
SHORT = {
    "OxfordPets": "Pets", "StanfordCars": "Cars", "OxfordFlowers": "Flowers",
    "FGVCAircraft": "Aircraft", "DescribableTextures": "DTD", "ImageNetV2": "-V2",
    "ImageNetSketch": "-Sketch", "ImageNetA": "-A", "ImageNetR": "-R",
}  # fmt: skip


class Evidence(Protocol):
    """What `anprompt.results.evidence` knows of differences."""

    def interval(self, first: Value, second: Value) -> tuple[float, float] | None:
        """Return the 95% interval of the first less the second; None where it is not known."""


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        best: "highest" or "lowest"; "" where no number is better than another.
        signed: positive numbers have a plus.
        has_deviation: deviations over seeds are shown.
    """

    name: str
    digits: int = 2
    best: str = "highest"
    signed: bool = False
    has_deviation: bool = True


@dataclass(frozen=True)
class Row:
    """A method's numbers, one a column; None where one is missing.

    Attributes:
        rule: which logits decide, of methods with several inference rules.
        is_difference: between two rows of the table; takes part in no comparison.
        counts: how many seeds stand behind the row: one number, or two where columns differ.
        between: what stands between two counts.
        is_protocol: the method's own inference rules, not one rule used for everything.
        published: where the numbers were published; "" for our own.
        runs: those that the row is made of.
    """

    method: Method
    values: tuple[Value | None, ...]
    rule: str = ""
    counts: tuple[Value, ...] = ()
    between: str = "-"
    is_protocol: bool = True
    published: str = ""
    is_difference: bool = False
    runs: tuple[Run, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Return the method's."""
        return self.method.name

    @property
    def seeds(self) -> str:
        """Return the counts as text."""
        return self.between.join(str(round(count.number)) for count in self.counts)


@dataclass
class Table:
    """Methods by columns.

    Attributes:
        title: "" for a table that goes on from the one before it.
        subject: the data set it is about, or, of transfer tables, the data set trained on; "" for
            an average.
        averaged: the data sets that averages in it are over.
        references: where published rows come from, by the number in their names.
        measure: what the numbers are.
        counted: what ``Row.counts`` are of.
        has_rules: whether rules have a column; None: where some row of the tables shown has one.
        evidence: what tells whether numbers are separated.
        panel: of a grid of tables with the same columns, what the table's part of it is called.
        attack: that the accuracies are under, "pgd100 1/255"; "" for none.
    """

    protocol: str
    title: str
    columns: list[Column]
    rows: list[Row]
    subject: str = ""
    averaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    measure: str = "Accuracy in %"
    counted: str = "seeds"
    has_rules: bool | None = None
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    panel: str = ""
    attack: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, every number with its source."""
        return {
            "protocol": self.protocol,
            "title": self.title,
            "subject": self.subject,
            "measure": self.measure,
            "averaged": self.averaged,
            "notes": [*self.notes, *self.references],
            "columns": [column.__dict__ for column in self.columns],
            "rows": [
                {
                    "method": row.method.__dict__,
                    "rule": row.rule,
                    "seeds": row.seeds,
                    "is_protocol": row.is_protocol,
                    "published": row.published,
                    "files": [run.file for run in row.runs],
                    "values": [value and value.as_dict() for value in row.values],
                }
                for row in self.rows
            ],
        }
