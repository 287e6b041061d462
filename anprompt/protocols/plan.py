"""The runs of a sweep, in order, from what is asked for."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from common.paths import ROOT

DATASETS = [
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101",
    "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101",
]  # fmt: skip
IMAGENET_VARIANTS = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
# The script that runs a protocol. Domain generalisation is cross-dataset with other targets, and
# they share their trainings.
SCRIPTS = {
    "base2new": "base2new",
    "crossdata": "crossdata",
    "domaingen": "crossdata",
    "fewshot": "fewshot",
}


@dataclass(frozen=True)
class Job:
    """One call of a protocol's script.

    ``part`` is "train" or "test" ("train" where the protocol has one part). ``source`` is the data
    set trained on where it is not ``dataset``.
    """

    script: str
    method: str
    part: str
    dataset: str
    seed: str
    shots: str = "16"
    source: str = ""

    def __str__(self) -> str:
        data = f"{self.source} to {self.dataset}" if self.source else self.dataset
        shots = "" if self.shots == "16" else f" {self.shots} shots"
        part = "" if self.script == "fewshot" else f" {self.part}"
        return f"{self.method} {data}{shots} seed {self.seed}{part}"

    @property
    def arguments(self) -> list[str]:
        """Of the script."""
        if self.script == "fewshot":
            return [self.method, self.dataset, self.shots, self.seed]
        return [self.method, self.part, self.dataset, self.seed]

    @property
    def training(self) -> "Job | None":
        """The job that must be done before; None where nothing is read."""
        if self.part == "train" or not learns(self.method):
            return None
        return replace(self, part="train", dataset=self.source or self.dataset, source="")


def plan(
    protocol: str,
    methods: list[str],
    datasets: list[str],
    seeds: list[str],
    shots: list[str] | None = None,
    source: str = "imagenet",
) -> list[Job]:
    """All jobs in the order they start.

    A method that learns nothing runs for the first seed and the first number of shots only.

    Args:
        datasets: trained and tested on; of crossdata and domaingen the targets, among which the
            source is left out, being tested when training ends.
    """
    shots = shots or ["16"]
    jobs = []
    for seed, shot in itertools.product(seeds, shots):
        is_first = (seed, shot) == (seeds[0], shots[0])
        of_these = [method for method in methods if is_first or learns(method)]
        jobs.extend(_plan_seed(SCRIPTS[protocol], of_these, datasets, seed, shot, source))
    return jobs


def _plan_seed(
    script: str, methods: list[str], datasets: list[str], seed: str, shots: str, source: str
) -> Iterator[Job]:
    if script == "crossdata":
        for method in methods:
            yield Job(script, method, "train", source, seed, shots)
            for target in datasets:
                if target != source:
                    yield Job(script, method, "test", target, seed, shots, source)
        return
    for dataset in datasets:
        for method in methods:
            yield Job(script, method, "train", dataset, seed, shots)
            if script == "base2new":
                yield Job(script, method, "test", dataset, seed, shots)


def all_methods() -> list[str]:
    """The method folders of scripts/, those that learn nothing (and take least time) first."""
    names = [path.parent.name for path in (ROOT / "scripts").glob("*/settings.sh")]
    return sorted(names, key=lambda name: (learns(name), name))


def learns(method: str) -> bool:
    """Whether a method trains, as its settings.sh says."""
    settings = ROOT / "scripts" / method / "settings.sh"
    return "LEARNS=no" not in settings.read_text(encoding="utf-8").split()


def all_datasets() -> list[str]:
    """The files of configs/datasets/."""
    return [path.stem for path in (ROOT / "configs/datasets").glob("*.yaml")]


def check_names(kind: str, names: list[str], known: list[str]) -> None:
    """Raise ValueError unless all names are known, saying which are nearest or which there are."""
    if not names:
        raise ValueError(f"no {kind} named; there are: {', '.join(known)}")
    for name in names:
        if name not in known:
            near = get_close_matches(name, known)
            hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
            raise ValueError(f"no {kind} {name!r}; {hint}")


def check_numbers(option: str, numbers: list[str], least: int) -> None:
    """Raise ValueError unless all are whole numbers and not too small."""
    for number in numbers or [""]:
        if not number.isdecimal() or int(number) < least:
            raise ValueError(f"{option} {number!r}: expected whole numbers from {least}, as 1,2,3")
