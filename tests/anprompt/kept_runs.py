"""Runs with kept predictions, written as a test leaves them."""

import json
from pathlib import Path

import numpy as np
import torch

from dassl.evaluation.kept import KeptPredictions, write_predictions


def keep(folder: Path, is_correct: np.ndarray, classes: int = 4, name: str = "class") -> None:
    """Give a run predictions that are right where ``is_correct`` (N,) says so.

    Wrong answers are the class after the right one, and confidences fall from image to image.
    """
    count = len(is_correct)
    labels = torch.arange(count) % classes
    answers = torch.where(torch.tensor(is_correct), labels, (labels + 1) % classes)
    logits = torch.zeros(count, classes)
    logits[torch.arange(count), answers] = torch.linspace(6, 1, count)
    kept = KeptPredictions(count)
    kept.add(logits, labels)
    results = folder / "results.json"
    content = json.loads(results.read_text())
    names = [f"{name} {c}" for c in range(classes)]
    paths = [f"{content['dataset']}/{name}/{i:05d}.png" for i in range(count)]
    said = write_predictions(str(folder), paths, labels.tolist(), names, {"logits": kept})
    accuracy = 100 * float(np.mean(is_correct))
    if own := content["rules"].get(content["headline_rule"]):
        own["accuracy"] = accuracy
    content |= {
        "predictions": said,
        "accuracy": accuracy,
        "num_test": count,
        "classnames": names,
    }
    results.write_text(json.dumps(content))
