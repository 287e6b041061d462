"""Trained runs as classifiers."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from anprompt.results.noise.files import of_training
from anprompt.results.run import title_of
from anprompt.robustness.classifier import Classifier
from anprompt.robustness.texts import noisy_tokens, noisy_words, takes_text
from anprompt.runs.fingerprint import fingerprint
from anprompt.runs.recorded import CONFIG, read_results, recorded_config, training_of
from anprompt.runs.trained import (
    TrainedModel,
    read_cfg,
    relative,
    trainer_class,
    training_folder,
)
from noise.cells import Cell
from trainers.base import ClassPrompts, KnownFeatures, PromptedCLIP, encode_prompts, prompt_template
from trainers.zsclip import FixedCLIP

# Augmentations of training and the kinds of image noise that they amount to.
AUGMENTATIONS = {
    "gaussian_noise": ("gaussian_noise",),
    "gaussian_blur": ("blur", "gaussian_blur"),
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


class TrainedClassifier(Classifier):
    """A run's model, with certain classes.

    Args:
        trained: what the run learned.
        transform: the rest of the test transform, (3, H, W) from 0 to 1 -> the model's input.
        folder: the run's.
        classnames: as the data set has them.
    """

    def __init__(
        self,
        trained: TrainedModel,
        transform: Callable[[Tensor], Tensor],
        folder: Path,
        classnames: Sequence[str],
    ):
        model = trained.model
        super().__init__(
            model, classnames, template=model.prompts.template, with_prompts=self.prompted_state,
            scale=float(model.scale), device=trained.device,
        )  # fmt: skip
        self.trained = trained
        self.transform = transform
        self.folder = folder
        self.rules, self.rule = model.rules, model.rule

    @property
    def model(self) -> PromptedCLIP:
        """The run's."""
        return self.trained.model

    def encode(self, pictures: Tensor, shared: dict[Any, Any]) -> Any:
        """Return what the model needs of pictures.

        Methods that leave the image tower, or its first blocks, as they are compute them once
        between them. With a gradient nothing is shared.
        """
        model = self.model
        if ("input", self.device) not in shared:
            prepared = [self.transform(picture) for picture in pictures.to(self.device)]
            shared["input", self.device] = torch.stack(prepared)
        inputs = shared["input", self.device]
        if torch.is_grad_enabled():
            return model.encode(inputs)
        if model.frozen_blocks:
            return model.encode_above(self._tokens(inputs, model.frozen_blocks, shared))
        if not model.is_image_tower_frozen:
            return model.encode(inputs)
        key = ("features", id(model.clip))
        if key not in shared:
            shared[key] = self._features(inputs, shared)
        return model.encode(shared[key])

    def _tokens(self, inputs: Tensor, stop: int, shared: dict[Any, Any]) -> Tensor:
        """Return what the first ``stop`` blocks of the frozen tower make of images."""
        clip_model = self.model.clip
        known = shared.setdefault(("tokens", id(clip_model)), {})
        if stop not in known:
            visual, start = clip_model.visual, max((s for s in known if s < stop), default=0)
            if not start:
                known[0] = visual.ln_pre(visual.embed(inputs.type(clip_model.dtype)))
            known[stop] = visual.transformer.run(known[start], start=start, stop=stop)
        return known[stop]

    def _features(self, inputs: Tensor, shared: dict[Any, Any]) -> KnownFeatures:
        """Return frozen CLIP's features, from where another model's blocks left off."""
        visual = self.model.clip.visual
        known = shared.get(("tokens", id(self.model.clip)))
        if not known:
            return KnownFeatures(self.model.raw_image_features(inputs))
        start = max(known)
        last = visual.transformer.run(known[start], start=start, keep=slice(0, 1))[:, 0]
        return KnownFeatures(visual.project(last).float())

    def class_state(self) -> Any:
        return self.model.class_state()

    @torch.no_grad()
    def prompted_state(self, prompts: Sequence[str]) -> Any:
        return self.trained.with_texts(prompts).class_state()

    def classify(self, encoded: Any, state: Any) -> dict[str, Tensor]:
        return self.model.classify(encoded, state)

    def noisy_words(self, rate: float, seed: int) -> contextlib.AbstractContextManager:
        return noisy_words(self.model.text_clip, rate, seed)

    def noisy_tokens(self, rate: float, seed: int) -> contextlib.AbstractContextManager:
        return noisy_tokens(self.model.prompt_learner, rate, seed)

    @torch.no_grad()
    def similarity(self, prompts: Sequence[str], clean: Sequence[str]) -> Tensor | None:
        texts = list(dict.fromkeys([*prompts, *clean]))
        features = encode_prompts(self.model.text_clip, ClassPrompts("{}", texts, texts))
        features = F.normalize(features, dim=-1)
        place = {text: i for i, text in enumerate(texts)}
        noisy, without = ([place[text] for text in own] for own in (prompts, clean))
        return (features[noisy] * features[without]).sum(dim=-1)

    def takes(self, cell: Cell) -> bool:
        if cell.group == "learned":
            return bool(self.model.prompt_learner.learned_tokens())
        if cell.text_kind and not self.model.reads_texts and self.model.knows_classes:
            return False  # its answers do not depend on words
        if cell.text_kind == "embed":
            return takes_text(self.template, self.words, cell)
        return super().takes(cell)


def zero_shot(of: TrainedClassifier) -> TrainedClassifier:
    """Return frozen CLIP with the data set's prompt, for the classes of another run."""
    cfg = of.trained.cfg
    prompts = ClassPrompts(prompt_template(cfg), of.classnames)
    model = FixedCLIP(of.model.clip, prompts, [prompts]).to(of.device).eval()
    trained = TrainedModel(cfg, of.trained.method, model, {}, None, of.trained.reading)
    return TrainedClassifier(trained, of.transform, of.folder, of.classnames)


def describe(classifier: TrainedClassifier) -> dict[str, Any]:
    """Return what robustness.json says of a run's model.

    A run may test what another run trained: what was trained on, and how, is that run's to say.
    """
    cfg, folder, path = classifier.trained.cfg, classifier.folder, classifier.trained.path
    training = training_folder(cfg)
    config = folder.parent.name
    if folder.parent.parent.name != cfg.TRAINER.NAME:
        config = ""
    title = (read_results(folder) or {}).get("dataset_title")
    header = {
        "trainer": cfg.TRAINER.NAME,
        "config": config,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "dataset": cfg.DATASET.NAME,
        "dataset_title": title or title_of(recorded_config(folder) or {}) or cfg.DATASET.NAME,
        "trained_on": trained_subset(training, cfg),
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        # Training's folder may be another run's, when this run is an evaluation.
        "checkpoint": "" if path is None else relative(path, folder),
        "fingerprint": fingerprint(folder, path),
        "noise_in_training": noise_in_training(
            read_cfg(training) if (training / CONFIG).is_file() else cfg
        ),
    }
    return header | of_training(
        folder, training_of(folder, {"RUN.MODEL_DIR": cfg.RUN.MODEL_DIR}), header
    )


def trained_subset(folder: Path, cfg: CfgNode) -> str:
    """Return the classes (all, base or new) that the training in ``folder`` had."""
    recorded = recorded_config(folder) or {}
    return recorded.get("DATASET.SUBSAMPLE_CLASSES", cfg.DATASET.SUBSAMPLE_CLASSES)
