"""How sure a difference is: numbers computed anew for drawn images and seeds.

A number knows what it is computed from (`anprompt.results.value`). Where those runs kept their
answers, it can be computed again for test images and seeds drawn with replacement. All methods get
the same draws, so that differences between them are paired.

References:
    [0] Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tqdm import tqdm

from anprompt.results.predictions import FILE_NAME, read_predictions
from anprompt.results.run import Run
from anprompt.results.statistics import mcnemar
from anprompt.results.value import Source, Value, leaves
from common.errors import UsageError

SAMPLES = 2000
_CHUNK = 100  # draws at a time: 100 times the number of images in memory


@dataclass(frozen=True)
class _Answered:
    """Which images of a test (``images``: a digest of their list) a run got right, (N,)."""

    images: str
    is_correct: np.ndarray
    learns: bool


class Evidence:
    """Draws of images and seeds, the same for every number.

    Args:
        runs: those that numbers are computed from. Their predictions are read when the first number
            needs them.
        samples: how often images and seeds are drawn.
    """

    def __init__(self, runs: Iterable[Run], samples: int = SAMPLES):
        self._runs = {run.file: run for run in runs}
        self._samples = samples

    def interval(self, first: Value, second: Value) -> tuple[float, float] | None:
        """Return the 95% interval of the first less the second.

        None without predictions, and for tests on other images, which cannot be paired.
        """
        one, two = self._drawn(first.source), self._drawn(second.source)
        if one is None or two is None or self._images(first) != self._images(second):
            return None
        low, high = np.quantile(one - two, (0.025, 0.975))
        return float(low), float(high)

    def p_value(self, first: Value, second: Value) -> float | None:
        """Return McNemar's exact p over the pairs of answers of each seed.

        None unless both are accuracies of the same seeds. What learns nothing has one answer to an
        image, which is paired with that of every seed.
        """
        one, two = self._answers(first), self._answers(second)
        one = _of_seeds(one, two)
        two = _of_seeds(two, one)
        if not one or one.keys() != two.keys():
            return None
        only_first = only_second = 0
        for seed, a in one.items():
            b = two[seed]
            if a.images != b.images:
                return None
            only_first += int((a.is_correct & ~b.is_correct).sum())
            only_second += int((b.is_correct & ~a.is_correct).sum())
        return mcnemar(only_first, only_second)

    @property
    def has_any(self) -> bool:
        """Return whether some run kept its predictions."""
        return bool(self._answered)

    @cached_property
    def _answered(self) -> dict[str, _Answered]:
        """Return kept answers by the entry of results.json that is their accuracy.

        Raises:
            UsageError: predictions are damaged, or do not give the accuracy that results.json says.
        """
        found: dict[str, _Answered] = {}
        runs = [run for run in self._runs.values() if (run.folder / FILE_NAME).is_file()]
        for run in tqdm(runs, "predictions", delay=3, leave=False, disable=None):
            answers = read_predictions(run.folder, run.results, whole=False)
            for number, (rule, own) in enumerate(answers.items()):
                content = "\n".join([*own.paths.tolist(), *map(str, own.labels.tolist())])
                images = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
                places = [f"rules/{rule}/accuracy"] if rule in run.rules else []
                for place in [*places, *(["accuracy"] if number == 0 else [])]:
                    said = (run.results["rules"][rule] if "/" in place else run.results)["accuracy"]
                    if abs(said - own.accuracy) > 1e-4:
                        raise UsageError(
                            f"{run.folder / FILE_NAME} gives an accuracy of {own.accuracy:.2f}, "
                            f"results.json one of {said:.2f}; test again"
                        )
                    found[f"{run.file}#{place}"] = _Answered(images, own.is_correct, run.learns)
        return found

    @cached_property
    def _accuracies(self) -> dict[str, np.ndarray]:
        """Return the accuracy (percent) of every entry under every draw of images, (samples,)."""
        by_images: dict[str, dict[str, np.ndarray]] = {}
        for entry, answered in self._answered.items():
            by_images.setdefault(answered.images, {})[entry] = answered.is_correct
        found: dict[str, np.ndarray] = {}
        for images, own in tqdm(by_images.items(), "bootstrap", delay=3, leave=False, disable=None):
            generator = np.random.default_rng(int(images[:16], 16))
            correct = np.stack(list(own.values()), axis=1).astype(np.float32)  # (N, entries)
            count, entries = correct.shape
            drawn = np.empty((self._samples, entries))
            for start in range(0, self._samples, _CHUNK):
                rows = min(_CHUNK, self._samples - start)
                picked = generator.integers(count, size=(rows, count))
                picked += np.arange(rows)[:, None] * count
                times = np.bincount(picked.ravel(), minlength=rows * count).reshape(rows, count)
                drawn[start : start + rows] = 100 * (times.astype(np.float32) @ correct) / count
            found.update(zip(own, drawn.T, strict=True))
        return found

    def _drawn(self, source: Source) -> np.ndarray | None:
        """Return what an expression is under every draw, (samples,)."""
        if isinstance(source, str):
            return self._accuracies.get(source)
        operation, *parts = source
        values = [self._drawn(part) for part in parts]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        if operation == "mean":
            seeds = [self._seed(part) for part in parts]
            told = [seed for seed in seeds if seed is not None]
            if len(set(told)) == len(parts) > 1:
                times = self._times(tuple(sorted(told)))
                weighted = [times[seed] * own for seed, own in zip(told, known, strict=True)]
                return np.sum(weighted, axis=0) / len(told)
            return np.mean(known, axis=0)
        if operation == "hm":
            both = known[0] + known[1]
            return np.divide(2 * known[0] * known[1], both, out=np.zeros_like(both), where=both > 0)
        if operation == "minus":
            return known[0] - known[1]
        return None

    def _images(self, value: Value) -> set[str]:
        """Return digests of the lists of images behind a number."""
        entries = [entry for entry in leaves(value.source) if entry in self._answered]
        return {self._answered[entry].images for entry in entries}

    def _seed(self, source: Source) -> int | None:
        """Return the one seed that an expression's trained runs have; None for more or none."""
        runs = [self._runs[file] for entry in leaves(source) if (file := entry.split("#")[0])]
        seeds = {run.seed for run in runs if run.learns}
        return seeds.pop() if len(seeds) == 1 else None

    def _times(self, seeds: tuple[int, ...]) -> dict[int, np.ndarray]:
        """Return how often each seed is drawn, (samples,) each."""
        generator = np.random.default_rng([len(seeds), *(seed & 0xFFFFFFFF for seed in seeds)])
        drawn = generator.integers(len(seeds), size=(self._samples, len(seeds)))
        return {seed: (drawn == i).sum(axis=1) for i, seed in enumerate(seeds)}

    def _answers(self, value: Value) -> dict[int, _Answered]:
        """Return the answers behind a mean of accuracies by seed; {} where it is none."""
        found = {
            seed: self._answered[own.source]
            for seed, own in (value.of_seeds() if value.by_seed else {}).items()
            if isinstance(own.source, str) and own.source in self._answered
        }
        is_whole = len(found) == len(value.by_seed)
        return found if is_whole and len({own.images for own in found.values()}) == 1 else {}


def _of_seeds(own: dict[int, _Answered], others: dict[int, _Answered]) -> dict[int, _Answered]:
    """Return answers by the seeds of others, which those of what learns nothing go with."""
    (only, *more) = own.values() if own else (None,)
    if only is None or more or only.learns:
        return own
    return dict.fromkeys(others, only)
