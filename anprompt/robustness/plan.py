"""What an evaluation measures: kinds of noise, severities and seeds, as cells of a table."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.errors import UsageError
from noise.image import IMAGE_KINDS
from noise.kinds import get_kind
from noise.text import TEXT_KINDS

GROUPS = ("text", "image", "both", "learned", "adversarial")
PLAIN_GROUPS = GROUPS[:4]  # "all": what needs neither a bound nor an extra package
ATTACKS = ("pgd", "autoattack")


@dataclass(frozen=True)
class Cell:
    """One measurement of one model.

    Attributes:
        group: one of `GROUPS`.
        kind: kind of noise; for "both" the image's and the text's, "blur+char".
        severity: 1 to 5; for "adversarial" the bound in 255ths of the range of values.
        seed: None where nothing is drawn, so that any seed gives the same.
    """

    group: str
    kind: str
    severity: int
    seed: int | None

    @property
    def key(self) -> str:
        return f"{self.group}/{self.kind}/{self.severity}/{'-' if self.seed is None else self.seed}"

    @staticmethod
    def from_key(key: str) -> "Cell":
        group, kind, severity, seed = key.split("/")
        return Cell(group, kind, int(severity), None if seed == "-" else int(seed))

    @property
    def image_kind(self) -> str:
        return self.kind.partition("+")[0] if self.group in ("image", "both") else ""

    @property
    def text_kind(self) -> str:
        return {"text": self.kind, "both": self.kind.partition("+")[2]}.get(self.group, "")

    @property
    def image_cell(self) -> "Cell":
        """The cell of this one's image noise alone."""
        return image_cell(self.image_kind, self.severity, self.seed)

    @property
    def text_cell(self) -> "Cell":
        """The cell of this one's text noise alone."""
        return Cell("text", self.text_kind, self.severity, self.seed)


def image_cell(kind: str, severity: int, seed: int | None) -> Cell:
    return Cell("image", kind, severity, seed if IMAGE_KINDS[kind].draws else None)


@dataclass(frozen=True)
class Plan:
    """All cells that are asked for."""

    text_kinds: tuple[str, ...]
    image_kinds: tuple[str, ...]
    both: bool
    learned: bool
    attacks: tuple[str, ...]
    severities: tuple[int, ...]
    seeds: tuple[int, ...]
    bounds: tuple[int, ...] = ()

    def cells(self) -> Iterator[Cell]:
        """Every cell once."""
        for severity in self.severities:
            for seed in self.seeds:
                yield from (Cell("text", kind, severity, seed) for kind in self.text_kinds)
                for kind in self.image_kinds:
                    if seed == self.seeds[0] or IMAGE_KINDS[kind].draws:
                        yield image_cell(kind, severity, seed)
                    if self.both:
                        for text_kind in self.text_kinds:
                            yield Cell("both", f"{kind}+{text_kind}", severity, seed)
                if self.learned:
                    yield Cell("learned", "tokens", severity, seed)
        for attack in self.attacks:  # as good as it gets from one start: the first seed's
            yield from (Cell("adversarial", attack, bound, self.seeds[0]) for bound in self.bounds)


def parse_noise(text: str, has_descriptions: bool) -> dict:
    """The fields of `Plan` that ``--noise`` speaks of.

    Args:
        text: groups and kinds, "text,blur,both"; "all" is text, image, both and learned.
        has_descriptions: whether kind ``description`` can be had; "all" and "text" leave it out
            otherwise.

    Raises:
        UsageError: an unknown name, nothing at all, or ``description`` by name without its file.
    """
    names = _split(text)
    if "all" in names:
        names = [*PLAIN_GROUPS, *(name for name in names if name != "all")]
    known = {**TEXT_KINDS, **IMAGE_KINDS, **dict.fromkeys((*GROUPS, *ATTACKS, "all"))}
    for name in names:
        get_kind(known, name, "noise (--noise)")
    if not names:
        raise UsageError("--noise: name a kind or group of noise, e.g. all")
    if "description" in names and not has_descriptions:
        raise UsageError("--noise description: name the file of descriptions with --descriptions")
    wants_text = {"text", "both"} & set(names) and not set(TEXT_KINDS) & set(names)
    wants_images = {"image", "both"} & set(names) and not set(IMAGE_KINDS) & set(names)
    text_kinds = [kind for kind in TEXT_KINDS if kind in names or "text" in names or wants_text]
    if not has_descriptions:
        text_kinds = [kind for kind in text_kinds if kind != "description"]
    image_kinds = [
        kind for kind in IMAGE_KINDS if kind in names or "image" in names or wants_images
    ]
    attacks = [attack for attack in ATTACKS if attack in names]
    if "adversarial" in names and "pgd" not in attacks:
        attacks.insert(0, "pgd")
    return {
        "text_kinds": tuple(text_kinds),
        "image_kinds": tuple(image_kinds),
        "both": "both" in names,
        "learned": "learned" in names,
        "attacks": tuple(attacks),
    }


def parse_severities(text: str) -> tuple[int, ...]:
    """ "1-5" or "1,3,5"; UsageError for what does not exist."""
    numbers = _numbers(text, "--severities")
    for number in numbers:
        if number == 0:
            raise UsageError(
                "--severities 0: that is no noise, which is measured anyway; give 1 to 5"
            )
        if number > 5:
            raise UsageError(f"--severities {number}: there is no such severity; give 1 to 5")
    return numbers


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "3" is three seeds, 1 to 3; "4,7" and "4-6" are those seeds."""
    numbers = _numbers(text, "--seeds")
    if re.fullmatch(r"\s*\d+\s*", text):
        numbers = tuple(range(1, numbers[0] + 1))
    if not numbers:
        raise UsageError("--seeds 0: give at least one seed")
    return numbers


def parse_bounds(text: str) -> tuple[int, ...]:
    """Largest changes of a value, in 255ths: "1,4"."""
    numbers = _numbers(text, "--eps")
    if not all(1 <= number <= 255 for number in numbers):
        raise UsageError(f"--eps {text}: give 1 to 255, in 255ths of the range of values")
    return numbers


def _split(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text.strip()) if name]


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for item in _split(text):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if found is None or len(item) > 9:
            raise UsageError(f"{flag} {text!r}: give whole numbers as 1-5 or 1,3,5")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UsageError(f"{flag} {item}: the range runs backwards")
        numbers += range(first, last + 1)
    if not numbers:
        raise UsageError(f"{flag}: give whole numbers as 1-5 or 1,3,5")
    return tuple(dict.fromkeys(numbers))


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Cells by group, kind, severity and seed; None before any seed."""
    place = {kind: i for i, kind in enumerate([*TEXT_KINDS, *IMAGE_KINDS])}
    return sorted(
        cells,
        key=lambda cell: (
            GROUPS.index(cell.group),
            [place.get(kind, len(place)) for kind in cell.kind.split("+")],
            cell.kind,
            cell.severity,
            -1 if cell.seed is None else cell.seed,
        ),
    )
