"""``predictions.npz``: what a model answered for every test image, compact.

Arrays, for N images, C classes, k = min(5, C):

- ``paths`` (N,): images, below the folder that holds the data set;
- ``labels`` (N,); ``classnames`` (C,); ``rules`` (R,): inference rules, the reported one first;
- by rule r, from 0: ``top_classes_r`` and ``top_probabilities_r`` (N, k), best first;
  ``true_probability_r`` (N,); and, where N C is at most FULL_SIZE, ``log_probabilities_r`` (N, C).

Probabilities are float16. Without pickles: ``numpy.load(path, allow_pickle=False)``.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.files import atomic_write

FILE_NAME = "predictions.npz"
TOP = 5
FULL_SIZE = 2_000_000  # numbers of log_probabilities that are kept whole: 4 MB a rule


class KeptPredictions:
    """Collects the answers of one inference rule.

    Args:
        num_images: of the test, to decide what is kept whole.
    """

    def __init__(self, num_images: int):
        self._num_images = num_images
        self._batches: list[tuple[torch.Tensor, ...]] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: logits (B, C), labels (B,). Nothing is moved off the device yet."""
        log_probabilities = logits.float().log_softmax(dim=-1)
        top = log_probabilities.topk(min(TOP, logits.shape[1]), dim=-1)
        true = log_probabilities.gather(1, labels[:, None])[:, 0]
        batch = [top.indices, top.values.exp().half(), true.exp().half()]
        if self._num_images * logits.shape[1] <= FULL_SIZE:
            batch.append(log_probabilities.half())
        self._batches.append(tuple(batch))

    def arrays(self, rule: int) -> dict[str, np.ndarray]:
        """Return the file's arrays of this rule, its number."""
        names = ("top_classes", "top_probabilities", "true_probability", "log_probabilities")
        columns = [torch.cat(parts).cpu().numpy() for parts in zip(*self._batches, strict=True)]
        columns[0] = columns[0].astype(np.uint16 if columns[0].max(initial=0) < 2**16 else np.int32)
        return {f"{names[i]}_{rule}": column for i, column in enumerate(columns)}


def write_predictions(
    folder: str,
    paths: Sequence[str],
    labels: Sequence[int],
    classnames: Sequence[str],
    rules: dict[str, KeptPredictions],
) -> dict[str, Any]:
    """Write the file, atomically.

    Args:
        rules: by name, the reported one first.

    Returns:
        What ``results.json`` says of it: its name, size in bytes and SHA-256.
    """
    arrays: dict[str, np.ndarray] = {
        "paths": np.array(list(paths), dtype=np.str_),
        "labels": np.asarray(labels, dtype=np.int32),
        "classnames": np.array(list(classnames), dtype=np.str_),
        "rules": np.array(list(rules), dtype=np.str_),
    }
    for number, kept in enumerate(rules.values()):
        arrays |= kept.arrays(number)
    return write_arrays(os.path.join(folder, FILE_NAME), arrays)


def write_arrays(path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write an npz file, atomically; returns its ``file`` name, ``bytes`` and ``sha256``."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    with atomic_write(path, "wb") as file:
        file.write(content)
    return {
        "file": os.path.basename(path),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
