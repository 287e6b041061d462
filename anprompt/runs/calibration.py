"""Confidences that can be believed: temperature scaling, and DAC for classes not trained on.

Both multiply an image's logits by a positive number, so answers stay as they are.

References:
    [1] Guo et al., On Calibration of Modern Neural Networks, 2017,
        https://arxiv.org/abs/1706.04599
    [2] Wang et al., Open-Vocabulary Calibration for Fine-tuned CLIP, 2024,
        https://arxiv.org/abs/2402.04655 (DAC)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.runs.trained import TrainedModel, trained_from
from common.errors import UsageError
from common.files import file_digest
from common.reading import read_json
from common.schema import Each, Number, mismatch
from trainers.base import (
    ClassPrompts,
    PromptedCLIP,
    encode_prompts,
    prompt_template,
    trained_classnames,
)

FILE_NAME = "calibration.json"
CONTENT = {
    "temperature": Number(1e-3, 1e3),
    "temperatures?": Each(Number(1e-3, 1e3)),
    "fitted_on?": {"checkpoint?": str, "rule?": str},
    "figures?": {},
}
KINDS = ("temperature", "dac", "both")
NEIGHBOURS = 5  # base classes that a class's distance is taken to [2]
SAME = 0.05  # a class nearer to a base class than this counts as one [2]
TEMPERATURES = (0.01, 100.0)


@dataclass(frozen=True)
class Scaling:
    """What is done to logits before they become probabilities.

    Attributes:
        temperature: divides them.
        factors: (C,) by the class answered; None for 1.
    """

    temperature: float = 1.0
    factors: Tensor | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits (B, C) with the same order in each row."""
        if self.factors is not None:
            answered = logits.argmax(dim=-1, keepdim=True)
            logits = logits * self.factors.to(logits.device)[answered]
        return logits / self.temperature


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimises the negative log-likelihood. [1]

    Fit it on validation images, never on those it is reported on.

    Args:
        log_probabilities: (N, C); adding a constant to a row changes nothing, so logits will do.
        labels: (N,).
    """
    from scipy.optimize import minimize_scalar

    z = log_probabilities.astype(np.float64)

    def nll(log_temperature: float) -> float:
        scaled = z / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        normaliser = np.log(np.exp(scaled).sum(axis=1))
        return float((normaliser - scaled[np.arange(len(labels)), labels]).mean())

    low, high = map(math.log, TEMPERATURES)
    best = minimize_scalar(nll, bounds=(low, high), method="bounded")
    return math.exp(float(best.x))


def distance_factors(
    tuned: Tensor, zero_shot: Tensor, base_tuned: Tensor, base_zero_shot: Tensor
) -> Tensor:
    """Return DAC's factor of each class: its closeness to the base classes after tuning, over
    that before; 1 for a class that is one of them. [2]

    Args:
        tuned, zero_shot: normalised class features (C, E) of the model and of zero-shot CLIP.
        base_tuned, base_zero_shot: the same of the classes trained on, (B, E).

    Returns:
        (C,), positive.
    """

    def closeness(features: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.cdist(features, base, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = nearest.topk(min(NEIGHBOURS, len(base)), largest=False).values
        return (-nearest.mean(dim=-1)).exp(), nearest[:, 0]

    after, nearest = closeness(tuned, base_tuned)
    before, _ = closeness(zero_shot, base_zero_shot)
    return torch.where(nearest < SAME, torch.ones_like(after), after / before)


@torch.no_grad()
def factors_of(trained: TrainedModel) -> Tensor:
    """Return DAC's factors (C,) for the classes of a model.

    Raises:
        UsageError: it does not know what it was trained on, or has no class features of its own.
    """
    name = trained.cfg.TRAINER.NAME
    base = trained_classnames(trained.checkpoint.get("meta", {}))
    if not base:
        raise UsageError(f"{name}: DAC needs the classes of training, and this model names none")
    if trained.model.prompt_learner.per_class:
        raise UsageError(f"{name}: DAC is for other classes than those of training")
    features = []
    for classnames in (trained.model.prompts.classnames, base):
        own = _for(trained, classnames).model.class_state()
        if not isinstance(own, Tensor):
            raise UsageError(f"{name} has class features that depend on the image; DAC needs fixed")
        features += [own.float(), _zero_shot(trained, classnames)]
    tuned, zero_shot, base_tuned, base_zero_shot = features
    return distance_factors(tuned, zero_shot, base_tuned, base_zero_shot).cpu()


def _for(trained: TrainedModel, classnames: Sequence[str]) -> TrainedModel:
    if list(classnames) == list(trained.model.prompts.classnames):
        return trained
    clip_model = trained.model.clip
    return trained_from(trained.cfg, classnames, clip_model, trained.checkpoint, trained.path)


def _zero_shot(trained: TrainedModel, classnames: Sequence[str]) -> Tensor:
    """Return zero-shot CLIP's class features (C, E), normalised, by the hand-written prompt."""
    prompts = ClassPrompts(prompt_template(trained.cfg), list(classnames))
    return F.normalize(encode_prompts(trained.model.text_clip, prompts), dim=-1)


def read_calibration(folder: str | Path) -> dict[str, Any]:
    """Return what ``anprompt calibrate`` wrote for a run.

    Raises:
        UsageError: nothing, or a damaged file.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise UsageError(f"{folder}: no {FILE_NAME}; run python -m anprompt calibrate {folder}")
    content = read_json(path)
    if problem := mismatch(content, CONTENT):
        raise UsageError(f"{path}: not a calibration ({problem}); calibrate again")
    return content


def checkpoint_of(trained: TrainedModel) -> str:
    """Return a digest of the checkpoint that a model was read from; "" where nothing is learned."""
    return file_digest(trained.path) if trained.path else ""


def _temperature(content: dict[str, Any], folder: str | Path, model: PromptedCLIP) -> float:
    """Return the temperature for logits of a model's rule.

    Earlier versions wrote one, and not of which rule it is.
    """
    only = {model.rule: content["temperature"]} if len(model.rules) == 1 else {}
    temperatures: dict[str, float] = content.get("temperatures", only)
    if model.rule not in temperatures:
        raise UsageError(
            f"{Path(folder) / FILE_NAME} has no temperature for logits of the rule {model.rule!r}; "
            f"run python -m anprompt calibrate {folder} again"
        )
    return temperatures[model.rule]


def scaling_of(kind: str, folder: str | Path, trained: TrainedModel) -> Scaling:
    """Return the scaling of a kind, one of KINDS, for a model of the run in ``folder``.

    Raises:
        UsageError: the run was not calibrated, its model was another one then, or the file has no
            temperature for logits of the model's rule; or DAC does not go with it.
    """
    scaling = Scaling()
    if kind != "dac":
        content = read_calibration(folder)
        fitted = (content.get("fitted_on") or {}).get("checkpoint")
        if fitted is not None and fitted != checkpoint_of(trained):
            raise UsageError(
                f"{Path(folder) / FILE_NAME} was fitted to another checkpoint than {trained.path}; "
                f"run python -m anprompt calibrate {folder} again"
            )
        scaling = replace(scaling, temperature=_temperature(content, folder, trained.model))
    if kind != "temperature":
        scaling = replace(scaling, factors=factors_of(trained))
    return scaling
