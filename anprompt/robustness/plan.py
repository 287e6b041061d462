"""What an evaluation measures: kinds of noise, severities and seeds. Nothing here needs torch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from common.errors import UsageError
from noise.cells import GROUPS, Cell, image_cell
from noise.image import IMAGE_KINDS
from noise.kinds import get_kind
from noise.masking import UNBOUNDED
from noise.text import ALL_TEXT_KINDS

MANY = 1000  # more seeds than anybody waits for
ALL = ("text", "image", "both", "learned")  # "all": what needs neither a bound nor a package


@dataclass(frozen=True)
class Attack:
    """An attack on images.

    Attributes:
        about: one line on it.
        steps: of PGD; 0 for others.
        loss: of PGD: "ce", "unscaled" (of logits without scale) or "dlr".
        package: whether pyautoattack makes it.
    """

    about: str
    steps: int = 0
    loss: str = "ce"
    package: bool = False


ATTACKS = {
    "pgd": Attack("10 steps of PGD, each a quarter of the bound", 10),
    "pgd2": Attack("2 steps of PGD", 2),
    "pgd10": Attack("10 steps of PGD", 10),
    "pgd100": Attack("100 steps of PGD", 100),
    "pgd100-unscaled": Attack("the same on logits without scale", 100, "unscaled"),
    "pgd100-dlr": Attack("the same on the difference-of-logits ratio", 100, "dlr"),
    "transfer": Attack("pgd100, made on zero-shot CLIP", 100),
    "apgd": Attack("AutoAttack's APGD on cross-entropy, then on targeted DLR", package=True),
    "square": Attack("AutoAttack's Square, which needs no gradient", package=True),
    "autoattack": Attack("AutoAttack's standard set", package=True),
}
# What each stands for: attacks, and the bound in 255ths; None: those of --eps.
PRESETS: dict[str, tuple[tuple[str, ...], int | None]] = {
    "eps1": (("pgd100",), 1),
    "eps4": (("pgd100",), 4),
    "masking": (("pgd2", "pgd10", "pgd100", "transfer", "square"), None),
}


def pgd_step(kind: str, bound: int) -> float:
    """Return the size of a PGD attack's step: a quarter of the bound; but of those named by their
    number of steps at least 1/255, as the protocols at 1/255 and 4/255 have it.
    """
    return (bound / 4 if kind == "pgd" else max(1.0, bound / 4)) / 255


@dataclass(frozen=True)
class Plan:
    """All cells that are asked for.

    Attributes:
        kinds: of text and image noise, by group.
        both: every kind of group "image" with every one of "text".
        attacks: with their bounds in 255ths.
        spare: those of a preset that are left out where their package is not installed.
    """

    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    both: bool = False
    learned: bool = False
    worst_text: bool = False
    attacks: tuple[tuple[str, int], ...] = ()
    spare: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    seeds: tuple[int, ...] = (1, 2, 3)

    def cells(self) -> Iterator[Cell]:
        """Give every cell once."""
        texts = {group: own for group, own in self.kinds.items() if GROUPS[group].of == "text"}
        images = {group: own for group, own in self.kinds.items() if GROUPS[group].of == "image"}
        for severity in self.severities:
            for seed in self.seeds:
                for group, kinds in texts.items():
                    yield from (Cell(group, kind, severity, seed) for kind in kinds)
                for group, kinds in images.items():
                    for kind in kinds:
                        cell = image_cell(group, kind, severity, seed)
                        if seed == self.seeds[0] or cell.seed is not None:
                            yield cell
                        if self.both and group == "image":
                            for text_kind in self.kinds.get("text", ()):
                                yield Cell("both", f"{kind}+{text_kind}", severity, seed)
                if self.learned:
                    yield Cell("learned", "tokens", severity, seed)
        if self.worst_text:
            yield Cell("worst-text", "misspelling", 1, self.seeds[0])
        for attack, bound in self.attacks:  # as good as it gets from one start: the first seed's
            yield Cell("adversarial", attack, bound, self.seeds[0])


def parse_plan(
    noise: str,
    severities: str = "1-5",
    seeds: str = "3",
    eps: str = "1,4",
    has_descriptions: bool = False,
) -> Plan:
    """Return the plan that the command line asks for.

    Args:
        noise: groups, kinds, attacks and presets: "text,blur,imagenet-c:fog,eps1"; "all" is text,
            image, both and learned.
        severities, seeds, eps: as the flags of these names.
        has_descriptions: whether kind ``description`` can be had; groups leave it out otherwise.

    Raises:
        UsageError: an unknown name, nothing at all, or ``description`` by name without its file.
    """
    bounds = parse_bounds(eps)
    names = _split(noise)
    if "all" in names:
        names = list(dict.fromkeys([*ALL, *(name for name in names if name != "all")]))
    if not names:
        raise UsageError("--noise: name a kind or group of noise, e.g. all")
    if "description" in names and not has_descriptions:
        raise UsageError("--noise description: name the file of descriptions with --descriptions")
    kinds, attacks = _chosen(names, bounds)
    for group, own in kinds.items():
        if not has_descriptions:
            kinds[group] = [kind for kind in own if kind != "description"]
    return Plan(
        kinds={group: tuple(kinds[group]) for group in GROUPS if kinds.get(group)},
        both="both" in names,
        learned="learned" in names,
        worst_text="worst-text" in names,
        attacks=tuple(dict.fromkeys(attacks)),
        spare=("square",) if "masking" in names and "square" not in names else (),
        severities=parse_severities(severities),
        seeds=parse_seeds(seeds),
    )


def _chosen(
    names: list[str], bounds: tuple[int, ...]
) -> tuple[dict[str, list[str]], list[tuple[str, int]]]:
    """Return the kinds by group, and the attacks with their bounds."""
    known = {
        **dict.fromkeys(("all", *GROUPS, *ATTACKS, *PRESETS)),
        **dict.fromkeys((*ALL_TEXT_KINDS, *IMAGE_KINDS)),
    }
    single: dict[str, list[str]] = {group: [] for group in GROUPS}
    attacks: list[tuple[str, int]] = []
    for name in names:
        group, colon, kind = name.partition(":")
        if colon:
            get_kind(GROUPS, group, "noise (--noise): group of a")
            if not GROUPS[group].kinds:
                raise UsageError(
                    f"--noise {name}: group {group} has no kinds of its own; attacks go by their "
                    "name alone, as in --noise pgd100"
                )
            get_kind(GROUPS[group].kinds, kind, f"{group} noise (--noise)")
            single[group].append(kind)
            continue
        get_kind(known, name, "noise (--noise)")
        if name in IMAGE_KINDS:
            single["image"].append(name)
        elif name in ALL_TEXT_KINDS:
            single[_text_group(name)].append(name)
        elif name in ATTACKS:
            attacks += [(name, bound) for bound in bounds]
        elif name == "adversarial":
            attacks += [("pgd", bound) for bound in bounds]
        elif name in PRESETS:
            own, only = PRESETS[name]
            attacks += [(attack, only or bound) for attack in own for bound in bounds]
            if name == "masking":
                attacks.append(("pgd100", UNBOUNDED))
    wanted = set(names)
    return _with_groups(single, wanted), attacks


def _with_groups(single: dict[str, list[str]], wanted: set[str]) -> dict[str, list[str]]:
    """Return the kinds by group, where groups that are named whole have all of theirs."""
    kinds = {group: list(dict.fromkeys(own)) for group, own in single.items()}
    for group, own in kinds.items():
        named = group in wanted or (group in ("text", "image") and "both" in wanted and not own)
        if named and GROUPS[group].of in ("text", "image"):
            kinds[group] = list(GROUPS[group].kinds)
    # What is hit in one place alone: the kinds that are asked for, where they can be.
    asked = [k for g in ("text", "text-chen", "text-form") for k in kinds[g]]
    for group in ("text-name", "text-template"):
        able = [kind for kind in asked if kind in GROUPS[group].kinds]
        if group in wanted:
            kinds[group] = list(dict.fromkeys([*single[group], *(able or ["char"])]))
    order = {group: list(GROUPS[group].kinds) for group in kinds}
    return {group: sorted(own, key=order[group].index) for group, own in kinds.items()}


def _text_group(kind: str) -> str:
    return next(group for group, found in GROUPS.items() if kind in found.kinds)


def parse_severities(text: str) -> tuple[int, ...]:
    """Read "1-5" or "1,3,5".

    Raises:
        UsageError: a severity that does not exist.
    """
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
    """Read "3" as three seeds, 1 to 3; "4,7" and "4-6" as those seeds."""
    numbers = _numbers(text, "--seeds")
    if re.fullmatch(r"\s*\d+\s*", text):
        if numbers[0] > MANY:
            raise UsageError(f"--seeds {text}: give fewer than {MANY:,} seeds")
        numbers = tuple(range(1, numbers[0] + 1))
    if not numbers:
        raise UsageError("--seeds 0: give at least one seed")
    return numbers


def parse_bounds(text: str) -> tuple[int, ...]:
    """Read the largest changes of a value, in 255ths: "1,4"."""
    numbers = _numbers(text, "--eps")
    if not all(1 <= number <= UNBOUNDED for number in numbers):
        raise UsageError(f"--eps {text}: give 1 to 255, in 255ths of the range of values")
    return numbers


def _split(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text.strip()) if name]


def _numbers(text: str, flag: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for item in _split(text):
        found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", item)
        if found is None or len(item) > 9:
            raise UsageError(f"{flag} {text!r}: give whole numbers as 1-5 or 1,3,5")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UsageError(f"{flag} {item}: the range runs backwards")
        if last - first >= MANY:
            raise UsageError(f"{flag} {item}: that are {last - first + 1:,}; give fewer")
        numbers += range(first, last + 1)
    if not numbers:
        raise UsageError(f"{flag}: give whole numbers as 1-5 or 1,3,5")
    return tuple(dict.fromkeys(numbers))
