"""The folders of runs: written (`run_folder`) and read (`read_path`).

Read are upstream's layouts too. Where a run's own files say something, they are believed; a path is
the last resort.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from common.paths import ROOT

SHOTS = re.compile(r"^(?:shots_(\d+)|.*_(\d+)shots)$")
SEED = re.compile(r"^seed(-?\d+)$")
HALVES = {"train_base": "base", "test_base": "base", "test_new": "new"}
EVALUATIONS = {"test_base", "test_new", "evaluation"}
LAYOUTS = ("base2new", "crossdata", "fewshot")


@dataclass(frozen=True)
class PathFacts:
    """What a path says; empty or None where it says nothing.

    Attributes:
        dataset: what is tested on.
        source: of a cross-dataset test the data set trained on.
        config: what stands between the trainer and the seed, without data set and shots.
        is_evaluation: whether the run trained nothing.
    """

    layout: str
    dataset: str
    source: str
    part: str
    shots: int | None
    trainer: str
    config: str
    seed: int | None
    is_evaluation: bool


def run_folder(
    *,
    layout: str,
    stage: str,
    source: str,
    dataset: str,
    shots: int,
    trainer: str,
    config: str,
    seed: int,
) -> str:
    """Return a run's folder below OUTPUT, with forward slashes.

    Args:
        layout: base2new, crossdata or fewshot.
        stage: train or test.
        source: the data set trained on.
        dataset: the data set tested on.
        config: the configuration's name, with the backbone's where that is another than it names.
    """
    if layout == "base2new":
        above = f"{layout}/{'train_base' if stage == 'train' else 'test_new'}/{dataset}"
    elif layout == "crossdata":
        above = f"{layout}/{stage}/{source if stage == 'train' else f'{source}/{dataset}'}"
    else:
        above = f"{layout}/{dataset}"
    return f"{above}/shots_{shots}/{trainer}/{config}/seed{seed}"


def read_path(path: str | Path, trainer: str = "") -> PathFacts:
    """Read the path of a run's folder. ``trainer``: which one it is, where that is known."""
    parts = Path(os.path.abspath(path)).parts
    layout = next((part for part in reversed(parts) if part in LAYOUTS), "")
    if layout:
        parts = parts[len(parts) - 1 - parts[::-1].index(layout) :]
    named = [part for part in parts if part.lower() in datasets()]
    if not trainer:
        trainer = next((part for part in reversed(parts) if part in trainers()), "")
    shots = [int(next(filter(None, m.groups()))) for part in parts if (m := SHOTS.match(part))]
    seeds = [int(m.group(1)) for part in parts if (m := SEED.match(part))]
    is_transfer = parts[:2] == ("crossdata", "test") and len(parts) > 2
    return PathFacts(
        layout=layout,
        dataset=datasets()[named[-1].lower()] if named else "",
        source=datasets().get(parts[2].lower(), parts[2]) if is_transfer else "",
        part=next((HALVES[part] for part in reversed(parts) if part in HALVES), "all"),
        shots=shots[-1] if shots else None,
        trainer=trainer,
        config=_config(parts, trainer),
        seed=seeds[-1] if seeds else None,
        is_evaluation=is_transfer or bool(EVALUATIONS & set(parts)),
    )


def _config(parts: tuple[str, ...], trainer: str) -> str:
    if trainer not in parts:
        return ""
    below = parts[len(parts) - parts[::-1].index(trainer) :]
    names = [re.sub(r"_\d+shots$", "", part) for part in below if part.lower() not in datasets()]
    names = [name for name in names if not SHOTS.match(name)]
    if names and (SEED.match(names[-1]) or len(names) > 1):
        names.pop()  # the seed's folder, whatever it is called
    return "/".join(names)


@cache
def datasets() -> dict[str, str]:
    """The names of data sets, by the lower-case name of their folder and their own."""
    names: dict[str, str] = {}
    for path in (ROOT / "configs/datasets").glob("*.yaml"):
        name = yaml.safe_load(path.read_text(encoding="utf-8"))["DATASET"]["NAME"]
        names |= {path.stem: name, name.lower(): name}
    return names


def data_name(dataset: str, title: str | None) -> str:
    """Return what tables call a data set.

    Args:
        dataset: its name in the configuration.
        title: of images of one's own; it makes none of the known data sets of them.
    """
    if not title or title == dataset:
        return dataset
    return f"{title} (own images)" if title.lower() in datasets() else title


@cache
def trainers() -> frozenset[str]:
    """Trainers that have configurations here."""
    return frozenset(path.name for path in (ROOT / "configs/trainers").iterdir() if path.is_dir())
