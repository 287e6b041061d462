"""A model under test: a run's learned tensors, on one part of its classes."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from anprompt.robustness.plan import Cell
from anprompt.robustness.texts import Descriptions, noisy_prompts, noisy_words
from anprompt.runs.trained import (
    TrainedModel,
    build_trained,
    fingerprint,
    relative,
    trainer_class,
    training_folder,
)
from noise.text import text_rate
from trainers.base import PromptedCLIP

# Augmentations of training and the kinds of image noise that they amount to.
AUGMENTATIONS = {
    "gaussian_noise": ("gaussian_noise",),
    "gaussian_blur": ("blur",),
    "colorjitter": ("brightness", "contrast"),
    "cutout": ("occlusion",),
    **dict.fromkeys(
        ("randaugment", "randaugment2", "randaugment_fixmatch", "imagenet_policy"),
        ("brightness", "contrast"),
    ),
}


def noise_in_training(cfg: CfgNode) -> dict[str, list]:
    """Return kinds of noise and noise seeds that a run met in training."""
    text_kinds, seeds = trainer_class(cfg).training_noise(cfg)
    image_kinds = [kind for name in cfg.INPUT.TRANSFORMS for kind in AUGMENTATIONS.get(name, ())]
    return {
        "text_kinds": list(text_kinds),
        "image_kinds": list(dict.fromkeys(image_kinds)),
        "seeds": list(seeds),
    }


@dataclass
class Subject:
    """A trained model with the classes of one part.

    Attributes:
        checkpoint: relative to the run's folder; "" for a method that learns nothing.
    """

    folder: Path
    cfg: CfgNode
    classnames: list[str]
    trained: TrainedModel
    checkpoint: str
    fingerprint: str
    _states: dict[Cell, Any] = field(default_factory=dict)

    @staticmethod
    def build(
        folder: Path,
        cfg: CfgNode,
        classnames: Sequence[str],
        clip_model: Any,
        epoch: int | None = None,
    ) -> "Subject":
        """Build and load the model of the run in ``folder`` for ``classnames``.

        Raises:
            ValueError: no checkpoint, or it does not fit.
        """
        trained = build_trained(cfg, classnames, clip_model, epoch)
        # Training's folder may be another run's, when this run is an evaluation.
        near = "" if trained.path is None else relative(trained.path, folder)
        return Subject(
            folder=folder,
            cfg=cfg,
            classnames=list(classnames),
            trained=trained,
            checkpoint=near,
            fingerprint=fingerprint(cfg, trained.path),
        )

    @property
    def model(self) -> PromptedCLIP:
        return self.trained.model

    @property
    def device(self) -> torch.device:
        return self.trained.device

    @property
    def template(self) -> str:
        """What prompts must say, ``{}`` for the class name."""
        return self.model.prompts.template

    @property
    def headline_rule(self) -> str:
        return self.model.rule

    @property
    def words(self) -> list[str]:
        """Class names as prompts say them."""
        return list(self.model.prompts.classnames)

    def prompts(self, cell: Cell, descriptions: Descriptions | None) -> list[str]:
        """Return the words that the method does not learn, under a text cell's noise."""
        return noisy_prompts(
            self.template, self.words, cell.kind, cell.severity, cell.seed, descriptions
        )

    @torch.no_grad()
    def text_state(self, cell: Cell, descriptions: Descriptions | None = None) -> Any:
        """Return what the model makes of classes whose prompts carry a text cell's noise."""
        if cell not in self._states:
            prompts = self.prompts(cell, descriptions)
            noise: contextlib.AbstractContextManager = contextlib.nullcontext()
            if cell.kind == "embed":
                rate = text_rate("embed", cell.severity)
                noise = noisy_words(self.model.clip, rate, cell.seed)
            with noise:
                self._states[cell] = self.trained.with_texts(prompts).class_state()
        return self._states[cell]

    def encode(self, inputs: torch.Tensor, shared: dict[int, Any]) -> Any:
        """Return what the model needs of images; frozen CLIP's features are kept in ``shared``.

        Methods that leave the image tower as it is then compute them once between them.
        """
        model = self.model
        kind = type(model)
        if (
            kind.encode is not PromptedCLIP.encode
            or kind.image_features is not PromptedCLIP.image_features
        ):
            return model.encode(inputs)
        key = id(model.clip)
        if key not in shared:
            shared[key] = model.encode(inputs)
        return shared[key]


def describe(subject: Subject) -> dict[str, Any]:
    """Return what robustness.json says of the model."""
    cfg = subject.cfg
    config = subject.folder.parent.name
    if subject.folder.parent.parent.name != cfg.TRAINER.NAME:
        config = ""
    return {
        "trainer": cfg.TRAINER.NAME,
        "config": config,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "dataset": cfg.DATASET.NAME,
        "trained_on": cfg_part(training_folder(cfg), cfg),
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "checkpoint": subject.checkpoint,
        "fingerprint": subject.fingerprint,
        "noise_in_training": noise_in_training(cfg),
    }


def cfg_part(folder: Path, cfg: CfgNode) -> str:
    """Return the classes (all, base or new) that the training in ``folder`` had."""
    from anprompt.runs.folder import recorded_config

    recorded = recorded_config(folder) or {}
    return recorded.get("DATASET.SUBSAMPLE_CLASSES", cfg.DATASET.SUBSAMPLE_CLASSES)
