"""What runs are expected to take, in seconds and in memory of a GPU.

From similar runs that are finished, scaled by the amount of work; where there are none, a guess
from shapes: epochs, images and classes, and the work that CLIP's towers are.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from anprompt.protocols.methods import method_of, read_settings
from anprompt.protocols.plan import RunSpec
from anprompt.runs.recorded import RESULTS, flatten, read_results
from common.errors import UsageError
from common.paths import ROOT

START_SECONDS = 8.0  # until the first image: imports, weights, lists of files
# Work of one image and of one text (77 tokens) forward, in GFLOP, by backbone; others count as
# ViT-B/16.
GFLOP = {
    "small": (0.2, 0.4), "RN50": (12, 6), "RN101": (20, 6), "ViT-B/32": (9, 6),
    "ViT-B/16": (35, 6), "ViT-L/14": (160, 13), "ViT-L/14@336px": (380, 13),
}  # fmt: skip
# Done in a second, in GFLOP of texts in full length. Upstream's MaPLe takes an hour on an A100 for
# ImageNet's base classes (5 epochs of 8,000 images); a core here runs texts without their padding.
GFLOP_A_SECOND = {"cpu": 150.0, "gpu": 25_000.0}
STEP_SECONDS = {"cpu": 0.01, "gpu": 0.04}  # of a training step at least: starting its kernels
BYTES_A_VALUE = 34  # kept of a layer for the backward pass, in half precision
BATCH = "DATALOADER.TRAIN_X.BATCH_SIZE"
MOST_READ = 300  # results of other runs that are looked at
UNKNOWN = {"classes": 50, "test": 2000}


@dataclass(frozen=True)
class Work:
    """The amount of work in a run.

    Attributes:
        trainer, backbone: what is run.
        n_classes: texts that are encoded.
        n_train: images of an epoch; 0 for an evaluation.
        epochs, batch: of training.
        n_test: images tested on.
    """

    trainer: str
    backbone: str
    n_classes: int
    n_train: int
    epochs: int
    batch: int
    n_test: int

    def seconds(self, device: str) -> float:
        """Return a guess, for ``cpu`` or ``gpu``."""
        image, text = GFLOP.get(self.backbone, GFLOP["ViT-B/16"])
        rate = GFLOP_A_SECOND[device]
        batch = max(self.batch, 1)
        steps = self.epochs * math.ceil(self.n_train / batch)
        # Forward and backward of the batch, and of all classes' texts.
        step = 3 * (batch * image + self.n_classes * text) / rate
        test = (self.n_test * image + self.n_classes * text) / rate
        return START_SECONDS + steps * max(step, STEP_SECONDS[device]) + test

    def megabytes(self) -> float:
        """Return a guess at the memory of a GPU, in MiB."""
        layers, width, length = 12, 512, 77
        texts = self.n_classes * length * layers * width * BYTES_A_VALUE if self.n_train else 0
        return 2000 + texts / 2**20


@dataclass
class Costs:
    """Expects what runs take.

    Args:
        device: ``cpu`` or ``gpu``, where they will run.
        options: KEY VALUE settings for all runs.
    """

    device: str = "cpu"
    options: Sequence[str] = ()
    _ratios: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    _medians: dict[tuple[str, ...], float] = field(default_factory=dict)
    _memory: dict[tuple[str, str], float] = field(default_factory=dict)
    n_known: int = 0

    def learn(self, run: RunSpec, seconds: float) -> None:
        """Note how long a run took."""
        self._note(self.work(run), seconds)

    def learn_from_results(self, results: Mapping[str, Any]) -> None:
        """Note what a finished run says that it took; one of another device says nothing here."""
        try:
            is_gpu = results.get("device", "cpu") != "cpu"
            if is_gpu != (self.device == "gpu"):
                return
            n_classes = len(results.get("classnames") or ()) or UNKNOWN["classes"]
            settings = flatten(results.get("config") or {})
            trained = float(results["train_seconds"])
            batch = int(settings.get(BATCH) or 32)
            n_train = _epoch_images(settings, n_classes, int(results["shots"]), batch)
            n_train = _unlabelled(results["trainer"], results.get("dataset", "")) or n_train
            work = Work(
                trainer=str(results["trainer"]),
                backbone=str(results["backbone"]),
                n_classes=n_classes,
                n_train=n_train if trained else 0,
                epochs=int(results.get("epochs") or 0) if trained else 0,
                batch=batch,
                n_test=int(results["num_test"]),
            )
            self._note(work, START_SECONDS + trained + float(results["test_seconds"]))
            if is_gpu:
                key = work.trainer, work.backbone
                peak = float(results.get("peak_memory_mb") or 0)
                self._memory[key] = max(self._memory.get(key, 0), peak)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            pass  # results of another version, or damaged: they say nothing

    def seconds(self, run: RunSpec) -> float:
        """Return what a run is expected to take."""
        work = self.work(run)
        known = (key for key in _keys(work) if key in self._ratios)
        return work.seconds(self.device) * self._ratio(next(known, None))

    def total(self, runs: Iterable[RunSpec], places: int) -> float:
        """Return what runs are expected to take side by side in so many places."""
        return side_by_side([self.seconds(run) for run in runs], places)

    def gigabytes(self, runs: Iterable[RunSpec]) -> float:
        """Return the memory of a GPU that the largest of these runs is expected to take, in GiB."""
        most = 0.0
        for run in runs:
            work = self.work(run)
            known = self._memory.get((work.trainer, work.backbone))
            most = max(most, work.megabytes() if known is None else known)
        return most / 1024

    def about(self) -> str:
        """Return where the expectations come from."""
        if self.n_known:
            return f"from {self.n_known} finished runs"
        return "a guess from numbers of images and classes; it gets better with every run"

    def work(self, run: RunSpec) -> Work:
        """Return the amount of work in a run."""
        return _work(run, tuple(self.options))

    def _ratio(self, key: tuple[str, ...] | None) -> float:
        """Return what similar runs took, as a multiple of the guess."""
        if key is None:
            return 1.0
        if key not in self._medians:
            self._medians[key] = median(self._ratios[key])
        return self._medians[key]

    def _note(self, work: Work, seconds: float) -> None:
        ratio = seconds / work.seconds(self.device)
        if not 0 < ratio < math.inf:
            return
        self.n_known += 1
        for key in _keys(work):
            self._ratios.setdefault(key, []).append(ratio)
            self._medians.pop(key, None)


def _keys(work: Work) -> list[tuple[str, ...]]:
    """Return what similar runs share, the most similar first."""
    stage = "train" if work.n_train else "test"
    return [(work.trainer, work.backbone, stage), (work.backbone, stage), (stage,), ()]


@cache
def _work(run: RunSpec, options: tuple[str, ...]) -> Work:
    try:
        pairs = read_settings(run.config_file)
    except UsageError:  # the run says so itself
        pairs = {}
    settings = {key: value for key, (value, _) in pairs.items()}
    settings |= dict(zip(options[::2], options[1::2], strict=False))
    trains = run.stage == "train" and method_of(run.method).learns
    tested = _figures().get(run.dataset, UNKNOWN)
    trained = _figures().get(run.source, UNKNOWN)
    n_test = tested.get("test", UNKNOWN["test"])
    batch = _number(settings.get(BATCH), 32)
    n_train = _epoch_images(settings, _part(trained["classes"], run.subset), run.shots, batch)
    n_train = _unlabelled(run.method, run.source) or n_train
    return Work(
        trainer=run.method,
        backbone=run.backbone,
        n_classes=_part(tested["classes"], run.subset),
        n_train=n_train if trains else 0,
        epochs=_number(settings.get("OPTIM.MAX_EPOCH"), 50) if trains else 0,
        batch=batch,
        n_test=tested.get(f"test_{run.subset}", _part(n_test, run.subset)),
    )


def _epoch_images(settings: Mapping[str, Any], n_classes: int, shots: int, batch: int) -> int:
    """Return how many images an epoch reads; some methods fix its steps instead."""
    fixed = (value for key, value in settings.items() if key.endswith(".STEPS_PER_SHOT"))
    steps = _number(next(fixed, 0), 0)
    return shots * (steps * batch if steps else n_classes)


def _unlabelled(trainer: str, dataset: str) -> int:
    """Return how many images without labels an epoch of a method reads; 0 for most methods.

    Args:
        dataset: its file's name, or the registered one.
    """
    return _figures().get(dataset, {}).get("train", 0) if method_of(trainer).unlabelled else 0


def _part(number: int, subset: str) -> int:
    return number if subset == "all" else math.ceil(number / 2)


def _number(value: object, default: int) -> int:
    text = str(value)
    return int(text) if text.isdecimal() and 0 < int(text) < 10**6 else default


def side_by_side(seconds: Sequence[float], places: int) -> float:
    """Return what runs of these lengths take in so many places."""
    return max([sum(seconds) / places, *seconds])


def learn_from_folder(costs: Costs, output: str | Path) -> None:
    """Note what finished runs below a folder say, some hundreds at most."""
    found = itertools.islice(Path(output).glob(f"*/**/{RESULTS}"), MOST_READ)
    for path in found:
        try:
            results = read_results(path.parent)
        except ValueError:
            continue
        if results is not None:
            costs.learn_from_results(results)


@cache
def _figures() -> dict[str, dict[str, int]]:
    """Return numbers of classes and images by the data set's file, and by its registered name."""
    catalogue = json.loads((ROOT / "datasets/catalogue.json").read_text(encoding="utf-8"))
    entries = catalogue["datasets"].items()
    figures = {name: entry["figures"] for file, entry in entries for name in (file, entry["name"])}
    shapes = {"classes": 48, "train": 960, "test": 1200, "test_base": 600, "test_new": 600}
    return figures | {"shapes": shapes, "Shapes": shapes}
