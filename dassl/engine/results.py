"""``results.json``: what a test measured, and what it takes to know where the numbers come from."""

import math
import os
import platform
from collections import Counter
from importlib import metadata
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from common.provenance import now
from dassl.evaluation import Predictions
from dassl.utils import write_json

FILE_NAME = "results.json"


def write_results(
    folder: str,
    facts: dict[str, Any],
    predictions: Predictions,
    rules: dict[str, Predictions],
    *,
    with_confusions: bool = False,
    more: dict[str, Any] | None = None,
) -> None:
    """Write the results of a finished test, atomically.

    Args:
        folder: the run's.
        facts: what was tested and how: names, settings, times.
        predictions: those that the reported accuracy is computed from.
        rules: predictions by inference rule, if the method has several.
        with_confusions: also the confusion matrix.
        more: further entries, behind the others.
    """
    results = {
        "finished": True,
        **facts,
        **_figures(predictions),
        "rules": {name: _figures(some) for name, some in rules.items()},
        "versions": versions(),
        "date": now(),
        **(more or {}),
    }
    if with_confusions:
        results["confusion_matrix"] = predictions.confusion_matrix().tolist()
    write_json(results, os.path.join(folder, FILE_NAME))


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "numpy": np.__version__,
    }


def _figures(predictions: Predictions) -> dict[str, Any]:
    figures = predictions.figures()
    rows = figures["per_class"]
    count = Counter(row["name"] for row in rows)
    # Class names can repeat (ImageNet has two "maillot"); then the label tells them apart.
    names = [
        row["name"] if count[row["name"]] == 1 else f"{row['name']} ({row['label']})"
        for row in rows
    ]
    return {
        "accuracy": figures["accuracy"],
        "error": figures["error"],
        "macro_f1": figures["macro_f1"],
        "num_test": figures["num_test"],
        "per_class": {name: row["accuracy"] for name, row in zip(names, rows, strict=True)},
    }


def as_plain(value: Any) -> Any:
    """Return a configuration as plain nested dictionaries."""
    if isinstance(value, CfgNode):
        return {key: as_plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def as_number(value: Any) -> Any:
    """Return a metric of somebody's evaluator as JSON can hold it."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    plain = (bool, int, float, str, type(None))
    if isinstance(value, dict):
        return {str(key): as_number(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_number(item) for item in value]
    is_finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, plain) and is_finite else str(value)


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
