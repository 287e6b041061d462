"""What a table is made of, whatever it is written as."""

from dataclasses import dataclass, field

from anprompt.results.run import Stat

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
    """Data sets as the papers list them."""
    place = {name: i for i, name in enumerate(DATASETS)}
    return sorted(datasets, key=lambda name: (place.get(name, len(place)), name))


@dataclass(frozen=True)
class Figure:
    """A number of a table, in percent. ``std`` is over ``seeds``; None for a single one."""

    mean: float
    std: float | None = None
    seeds: frozenset[int] = frozenset()

    @classmethod
    def of(cls, stat: Stat | None) -> "Figure | None":
        """The figure of a cell; None where it is missing."""
        if stat is None:
            return None
        return cls(stat.mean, stat.std if len(stat.by_seed) > 1 else None, frozenset(stat.by_seed))


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        method: its name in the table.
        trainer, backbone, shots: whose it is. ``shots`` is None where the columns are shots or the
            method learns nothing.
        rule: which logits decide, of methods with several rules.
        seeds: how many, as shown.
        learns: False for methods without training, which no seed changes.
        source: where the figures were published; "" for our own.
    """

    method: str
    trainer: str
    figures: tuple[Figure | None, ...]
    rule: str = ""
    seeds: str = ""
    backbone: str = ""
    shots: int | None = None
    learns: bool = True
    source: str = ""


@dataclass
class Table:
    """A table of accuracies.

    Attributes:
        subject: the data set it is about, or, of transfer tables, the data set trained on; "" for
            an average.
        averaged: the data sets that averages in it are over.
        references: where published rows come from, by the number in their names.
    """

    protocol: str
    title: str
    columns: list[str]
    lines: list[Line]
    subject: str = ""
    averaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
