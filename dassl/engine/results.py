"""``results.json``: what a test measured, and what it takes to know where the numbers come from."""

import os
import platform
import sys
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from yacs.config import CfgNode

from dassl.evaluation import Tally
from dassl.utils import write_json

if TYPE_CHECKING:
    from .trainer import SimpleTrainer

FILE_NAME = "results.json"


def write_results(
    trainer: "SimpleTrainer",
    split: str,
    headline: Tally,
    rules: dict[str, Tally],
    test_seconds: float,
) -> None:
    """Write the results of a finished test to the trainer's output folder, atomically.

    Args:
        trainer: what was tested.
        split: "test" or "val".
        headline: predictions that the reported accuracy is computed from.
        rules: predictions by inference rule, if the trainer has several.
        test_seconds: duration of the test.
    """
    cfg = trainer.cfg
    results = {
        "finished": True,
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "split": split,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "classnames": [name for _, name in sorted(trainer.lab2cname.items())],
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        **_figures(headline),
        "rules": {name: _figures(tally) for name, tally in rules.items()},
        "headline_rule": trainer.headline_rule if rules else None,
        "epochs": trainer.trained_epochs,
        "train_seconds": round(trainer.train_seconds, 3),
        "test_seconds": round(test_seconds, 3),
        "peak_memory_mb": round(trainer.peak_memory_mb(), 1),
        "device": _device_name(trainer.device),
        "num_trainable": trainer.num_trainable,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "numpy": np.__version__,
        },
        "config": _as_dict(cfg),
    }
    if cfg.TEST.COMPUTE_CMAT:
        results["confusion_matrix"] = headline.confusion_matrix().tolist()
    write_json(results, os.path.join(cfg.OUTPUT_DIR, FILE_NAME))


def _figures(tally: Tally) -> dict[str, Any]:
    figures = tally.figures()
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


def _as_dict(value: Any) -> Any:
    """A configuration as plain nested dictionaries."""
    if isinstance(value, CfgNode):
        return {key: _as_dict(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def process_peak_memory_mb(device: torch.device) -> float:
    """Highest memory use of this process so far (MiB): tensors on a GPU, all of it on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
