"""Groups of noise, and the cells of a robustness table. Nothing here needs torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import UsageError
from noise.image import IMAGE_KINDS
from noise.imagenet_c import TEST_KINDS, VALIDATION_KINDS
from noise.text import CHEN_KINDS, FORM_KINDS, TEXT_KINDS


@dataclass(frozen=True)
class Group:
    """Kinds of noise that may be averaged.

    Attributes:
        of: what is perturbed: "text", "image", "both", "tokens" (learned ones) or "attack" (text or
            image, chosen to mislead the very model).
        about: one line on it.
        kinds: its kinds, by name; {} where they are another group's.
    """

    of: str
    about: str
    kinds: Mapping[str, Any]


_PLACED = {
    name: kind
    for name, kind in {**TEXT_KINDS, **CHEN_KINDS, **FORM_KINDS}.items()
    if kind.has_places
}

# In the order of tables.
GROUPS: dict[str, Group] = {
    "text": Group("text", "this project's noise in class prompts", TEXT_KINDS),
    "text-chen": Group("text", "Chen et al. 2023: noise on single characters", CHEN_KINDS),
    "text-form": Group("text", "changes of form, and phrasings none trained with", FORM_KINDS),
    "text-name": Group("text", "text noise in the class name alone", _PLACED),
    "text-template": Group("text", "text noise in the words around the name alone", _PLACED),
    "image": Group("image", "this project's corruptions, milder than ImageNet-C's", IMAGE_KINDS),
    "imagenet-c": Group("image", "ImageNet-C's 15 test corruptions, made in memory", TEST_KINDS),
    "imagenet-c-val": Group("image", "its 4 for choosing settings, in memory", VALIDATION_KINDS),
    "imagenet-c-disk": Group("image", "the released ImageNet-C, on disk", TEST_KINDS),
    "both": Group("both", "every kind of image with every kind of text, paired", {}),
    "learned": Group("tokens", "noise on learned tokens", {}),
    "worst-text": Group("attack", "the worst of misspellings with one edit", {}),
    "adversarial": Group("attack", "images changed to mislead the model", {}),
}


@dataclass(frozen=True)
class Cell:
    """One measurement of one model.

    Attributes:
        group: a key of `GROUPS`.
        kind: kind of noise; for "both" the image's and the text's, "blur+char".
        severity: 1 to 5; for "adversarial" the bound in 255ths of the range of values; for
            "worst-text" the number of edits.
        seed: None where nothing is drawn, so that any seed gives the same.
    """

    group: str
    kind: str
    severity: int
    seed: int | None

    @property
    def key(self) -> str:
        """What robustness.json calls it."""
        return f"{self.group}/{self.kind}/{self.severity}/{'-' if self.seed is None else self.seed}"

    @staticmethod
    def from_key(key: str) -> "Cell":
        """Return the cell of a key.

        Raises:
            UsageError: the key is not one of a cell.
        """
        group, _, rest = key.partition("/")
        kind, severity, seed = rest.split("/") if rest.count("/") == 2 else ("", "", "")
        numbers = severity.isdecimal() and (seed == "-" or seed.isdecimal())
        if group not in GROUPS or not kind or not numbers or len(key) > 100:
            raise UsageError(f"{key[:100]!r} names no cell: group/kind/severity/seed")
        return Cell(group, kind, int(severity), None if seed == "-" else int(seed))

    @property
    def image_kind(self) -> str:
        """The kind of its image noise; "" for none."""
        of = GROUPS[self.group].of
        return self.kind.partition("+")[0] if of == "both" else self.kind if of == "image" else ""

    @property
    def text_kind(self) -> str:
        """The kind of its text noise; "" for none."""
        of = GROUPS[self.group].of
        return self.kind.partition("+")[2] if of == "both" else self.kind if of == "text" else ""

    @property
    def image_cell(self) -> "Cell | None":
        """The cell of this one's image noise alone; None where the images are clean."""
        if not self.image_kind:
            return None
        group = "image" if self.group == "both" else self.group
        return image_cell(group, self.image_kind, self.severity, self.seed)

    @property
    def text_cell(self) -> "Cell | None":
        """The cell of this one's text noise alone; None where the prompts are clean."""
        if not self.text_kind:
            return None
        group = "text" if self.group == "both" else self.group
        return Cell(group, self.text_kind, self.severity, self.seed)


def image_cell(group: str, kind: str, severity: int, seed: int | None) -> Cell:
    """Return a cell of image noise, without a seed where nothing is drawn."""
    draws = group != "imagenet-c-disk" and GROUPS[group].kinds[kind].draws
    return Cell(group, kind, severity, seed if draws else None)


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Sort cells by group, kind, severity and seed; None before any seed."""
    groups = list(GROUPS)

    def place(cell: Cell) -> tuple:
        known: list[Mapping[str, Any]] = [GROUPS[cell.group].kinds]
        if cell.group == "both":
            known = [IMAGE_KINDS, TEXT_KINDS]
        kinds = [
            list(own).index(kind) if kind in own else len(own)
            for kind, own in zip(cell.kind.split("+"), known, strict=False)
        ]
        seed = -1 if cell.seed is None else cell.seed
        return groups.index(cell.group), kinds, cell.kind, cell.severity, seed

    return sorted(cells, key=place)
