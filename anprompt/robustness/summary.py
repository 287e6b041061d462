"""What the cells of robustness.json add up to. Reading them needs no torch.

All figures are in percent. A mean gives every kind of noise the same weight, and within a kind
every severity; seeds are averaged first.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "robustness.json"
FORMAT = 2
GROUPS = ("text", "image", "both", "learned", "adversarial")
MEASURES = ("accuracy", "consistency", "ece")


@dataclass(frozen=True)
class Measured:
    """One cell under one inference rule."""

    group: str
    kind: str
    severity: int
    seed: str
    accuracy: float
    consistency: float
    ece: float

    @property
    def text_kind(self) -> str:
        return {"text": self.kind, "both": self.kind.partition("+")[2]}.get(self.group, "")

    @property
    def image_kind(self) -> str:
        return self.kind.partition("+")[0] if self.group in ("image", "both") else ""

    @property
    def key(self) -> str:
        return f"{self.group}/{self.kind}/{self.severity}/{self.seed}"


Choice = Callable[[Measured], bool]


@dataclass(frozen=True)
class Evaluation:
    """One model on one part of the classes, as its robustness.json has it."""

    path: Path
    header: dict[str, Any]  # of the model: trainer, backbone, seed, ...
    part_name: str
    part: dict[str, Any]

    @property
    def headline_rule(self) -> str:
        return self.part["headline_rule"]

    def clean(self, measure: str = "accuracy", rule: str | None = None) -> float:
        return self.part["clean"][rule or self.headline_rule][measure]

    def cells(self, rule: str | None = None) -> list[Measured]:
        return measured(self.part, rule or self.headline_rule)


def read_evaluations(folder: Path) -> list[Evaluation]:
    """What robustness.json in a run's folder holds; nothing where there is none.

    Raises:
        ValueError: the file cannot be read.
    """
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); remove it and evaluate again"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not written by this version; evaluate again with --redo")
    header = {key: value for key, value in content.items() if key != "parts"}
    return [
        Evaluation(path, header, name, part)
        for name, part in content["parts"].items()
        if part["clean"]
    ]


def measured(part: dict[str, Any], rule: str) -> list[Measured]:
    """The cells of a part under one inference rule."""
    found = []
    for key, rules in part["cells"].items():
        group, kind, severity, seed = key.split("/")
        figures = {measure: rules[rule][measure] for measure in MEASURES}
        found.append(Measured(group, kind, int(severity), seed, **figures))
    return found


def seen_by_any(headers: Iterable[dict[str, Any]]) -> dict[str, list]:
    """Kinds and seeds of noise that at least one of several models met in training."""
    seen: dict[str, list] = {"text_kinds": [], "image_kinds": [], "seeds": []}
    for header in headers:
        for key, values in header["noise_in_training"].items():
            seen[key] += [value for value in values if value not in seen[key]]
    return seen


def unseen_in_training(seen: dict[str, list]) -> Choice:
    """Chooses the cells whose kinds, and whose seed of text noise, no training has met."""
    seeds = {str(seed) for seed in seen["seeds"]}

    def choose(cell: Measured) -> bool:
        if cell.text_kind in seen["text_kinds"] or cell.image_kind in seen["image_kinds"]:
            return False
        return not (cell.text_kind and cell.seed in seeds)

    return choose


def everything(cell: Measured) -> bool:
    return True


@dataclass(frozen=True)
class Mean:
    """What a group's cells add up to.

    Attributes:
        kinds: those that went in.
        by_kind: accuracy by kind.
        by_severity: accuracy by severity.
        keys: of the cells that went in.
    """

    accuracy: float
    consistency: float
    ece: float
    kinds: tuple[str, ...]
    by_kind: dict[str, float]
    by_severity: dict[int, float]
    keys: tuple[str, ...] = ()


def mean_of(cells: Iterable[Measured]) -> Mean | None:
    """The means over cells of one group; None where there are none."""
    cells = list(cells)
    if not cells:
        return None
    kinds = tuple(dict.fromkeys(cell.kind for cell in cells))
    severities = sorted({cell.severity for cell in cells})
    figures = {m: statistics.fmean(_by_kind(cells, m).values()) for m in MEASURES}
    return Mean(
        **figures,
        kinds=kinds,
        by_kind=_by_kind(cells, "accuracy"),
        by_severity={
            severity: statistics.fmean(
                _by_kind([cell for cell in cells if cell.severity == severity], "accuracy").values()
            )
            for severity in severities
        },
        keys=tuple(cell.key for cell in cells),
    )


def _by_kind(cells: list[Measured], measure: str) -> dict[str, float]:
    """Mean over severities of the mean over seeds, by kind."""
    values: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        values.setdefault(cell.kind, {}).setdefault(cell.severity, []).append(
            getattr(cell, measure)
        )
    return {
        kind: statistics.fmean(statistics.fmean(own) for own in by_severity.values())
        for kind, by_severity in values.items()
    }


def attack_name(kind: str, bound: int) -> str:
    """How the figures of an attack are named: "pgd 4/255"."""
    return f"{kind} {bound}/255"


def summarise(cells: Iterable[Measured], choose: Choice = everything) -> dict[str, Mean]:
    """Means by group, over the cells that are chosen; groups without any are left out.

    Every attack at every bound is a group of its own (`attack_name`): a mean over them would say
    nothing. Noise on learned tokens and attacks are chosen always: nobody trains with them here.
    """
    groups: dict[str, list[Measured]] = {group: [] for group in GROUPS[:-1]}
    for cell in cells:
        if cell.group == "adversarial":
            groups.setdefault(attack_name(cell.kind, cell.severity), []).append(cell)
        elif cell.group == "learned" or choose(cell):
            groups[cell.group].append(cell)
    return {group: mean for group, own in groups.items() if (mean := mean_of(own)) is not None}


def common_keys(evaluations: Iterable[Evaluation]) -> set[str]:
    """The cells that can be compared: those that all evaluations with any of their group have.

    A group that a model cannot have (noise on tokens where none are learned) says nothing about the
    others.
    """
    common: dict[str, set[str]] = {}
    for evaluation in evaluations:
        own: dict[str, set[str]] = {}
        for key in evaluation.part["cells"]:
            own.setdefault(key.partition("/")[0], set()).add(key)
        for group, keys in own.items():
            common[group] = common.get(group, keys) & keys
    return set().union(*common.values())


def summary_for_people(part: dict[str, Any], seen: dict[str, list]) -> dict[str, Any]:
    """The summary in robustness.json: under the headline rule, of unseen and of all kinds."""
    rule = part["headline_rule"]
    clean = part["clean"][rule]["accuracy"]
    cells = measured(part, rule)

    def figures(choose: Choice) -> dict[str, Any]:
        return {
            group: {
                "mean_corruption_accuracy": mean.accuracy,
                "drop": clean - mean.accuracy,
                "consistency": mean.consistency,
                "ece": mean.ece,
                "kinds": list(mean.kinds),
            }
            for group, mean in summarise(cells, choose).items()
        }

    return {
        "rule": rule,
        "clean": part["clean"][rule],
        "unseen_in_training": figures(unseen_in_training(seen)),
        "all": figures(everything),
    }
