"""Read the answers that a run kept for its test images (``predictions.npz``)."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anprompt.runs.recorded import read_results
from common.errors import UsageError
from common.reading import read_bytes

FILE_NAME = "predictions.npz"
MAX_BYTES = 1 << 30


BAD_ARRAYS = (
    KeyError, ValueError, TypeError, IndexError, OSError, EOFError, OverflowError, SyntaxError,
    AttributeError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What a damaged or foreign file of arrays raises while it is read and looked into."""


@dataclass(frozen=True)
class Answers:
    """Answers to N images under one inference rule.

    Attributes:
        rule: its name.
        paths: (N,) images, below the folder that holds the data set.
        labels: (N,).
        classnames: (C,).
        top_classes: (N, k), best first.
        top_probabilities: (N, k).
        true_probability: (N,) of the label.
        log_probabilities: (N, C), None where a large test kept the best k only.
    """

    rule: str
    paths: np.ndarray
    labels: np.ndarray
    classnames: tuple[str, ...]
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    true_probability: np.ndarray
    log_probabilities: np.ndarray | None = None

    @property
    def is_correct(self) -> np.ndarray:
        """(N,) whether the first answer is the label."""
        return self.top_classes[:, 0] == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """(N,) probability of the first answer, float64."""
        return self.top_probabilities[:, 0].astype(np.float64)

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100.0 * float(self.is_correct.mean())

    def confusion_matrix(self) -> np.ndarray:
        """Return how many images of each class (row) got each answer (column), (C, C)."""
        matrix = np.zeros((len(self.classnames),) * 2, dtype=np.int64)
        np.add.at(matrix, (self.labels, self.top_classes[:, 0]), 1)
        return matrix


def read_predictions(
    folder: str | Path, results: Mapping[str, Any] | None = None, whole: bool = True
) -> dict[str, Answers]:
    """Read a run's kept predictions by inference rule, the reported rule first.

    Args:
        results: the run's results.json, where it was read already.
        whole: with the probabilities of all classes, which take most of the time.

    Returns:
        Empty where the run kept none.

    Raises:
        UsageError: the file is damaged, or not the one that results.json speaks of.
    """
    folder = Path(folder)
    results = read_results(folder) if results is None else results
    said = (results or {}).get("predictions")
    if not isinstance(said, Mapping):
        return {}
    path = folder / FILE_NAME
    if not path.is_file():
        raise UsageError(f"{path}: no such file, though results.json speaks of it; test again")
    content = read_bytes(path, MAX_BYTES)
    if hashlib.sha256(content).hexdigest() != said.get("sha256"):
        raise UsageError(f"{path}: not the file that results.json speaks of; test again")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            names = [n for n in file.files if whole or not n.startswith("log_probabilities")]
            arrays = {name: file[name] for name in names}
        return _checked(arrays)
    except BAD_ARRAYS as error:
        raise UsageError(f"{path}: not the predictions of a test ({error}); test again") from error


def _checked(arrays: dict[str, np.ndarray]) -> dict[str, Answers]:
    paths, labels, names = arrays["paths"], arrays["labels"], arrays["classnames"]
    count, classes = len(labels), len(names)
    if paths.shape != (count,) or labels.shape != (count,) or not count or not classes:
        raise ValueError("paths and labels do not go together")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError("labels without a class")
    found = {}
    for number, rule in enumerate(arrays["rules"].tolist()):
        top, probability = (arrays[f"top_{what}_{number}"] for what in ("classes", "probabilities"))
        true = arrays[f"true_probability_{number}"]
        whole = arrays.get(f"log_probabilities_{number}")
        if top.ndim != 2 or top.shape != probability.shape or len(top) != count or not top.size:
            raise ValueError("answers of another number of images")
        if true.shape != (count,) or (whole is not None and whole.shape != (count, classes)):
            raise ValueError("probabilities of another number of images")
        if top.min() < 0 or top.max() >= classes:
            raise ValueError("answers without a class")
        for values in (probability, true):
            if not ((values >= 0) & (values <= 1)).all():
                raise ValueError("probabilities outside 0 to 1")
        if whole is not None and not (np.isfinite(whole) & (whole <= 0)).all():
            raise ValueError("log-probabilities above 0 or not finite")
        found[str(rule)] = Answers(
            rule=str(rule),
            paths=paths,
            labels=labels.astype(np.int64),
            classnames=tuple(map(str, names)),
            top_classes=top.astype(np.int64),
            top_probabilities=probability,
            true_probability=true,
            log_probabilities=whole,
        )
    return found
