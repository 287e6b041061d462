"""What methods share that train on frozen CLIP's features alone and leave both towers as they are.

The features of several random views of each training image are made before the first epoch and kept
(``trainers/kept_features.py``); a training of hundreds of epochs then takes seconds on a CPU. Text
features are those of the hand-written prompt; on ImageNet and its variants a mean over several.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from common import ranks
from common.errors import UsageError
from common.settings import Setting
from datasets.templates import IMAGENET_TEMPLATES_SELECT

from .base import (
    ClassPrompts,
    KnownFeatures,
    PromptedCLIP,
    PromptLearner,
    PromptTrainer,
    encode_prompts,
    prompt_template,
    trained_classnames,
)
from .kept_features import augmented_features

logger = logging.getLogger(__name__)


def passes(default: int, help: str = "") -> Setting:
    """Describe ``PASSES``."""
    return Setting(
        default,
        help
        or "random views of each training image whose features are made before training; 0: every "
        "epoch makes its own from images",
        ge=0,
        le=10_000,
        scope="training",
    )


def rows_of(names: Sequence[str], trained: Sequence[str]) -> list[int] | None:
    """Return which of the trained classes each class is; None unless all of them are known.

    A name that occurs several times stands for its occurrences in order.

    >>> rows_of(["lake", "river"], ["river", "sea", "lake"])
    [2, 0]
    >>> rows_of(["lake", "wood"], ["river", "sea", "lake"]) is None
    True
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(trained):
        places.setdefault(name, []).append(place)
    if not all(name in places for name in names):
        return None
    met: Counter[str] = Counter()
    rows = []
    for name in names:
        own = places[name]
        rows.append(own[min(met[name], len(own) - 1)])
        met[name] += 1
    return rows


class FeatureLearner(PromptLearner):
    """Base of what these methods learn: nothing in it is a token."""

    def learned_tokens(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        return {}


class KnownClassesCLIP(PromptedCLIP):
    """A model with tensors of each class's own (``per_class``) that serve only those classes.

    Of a checkpoint it takes the rows of its classes, by name, so ImageNet's serve ImageNet-A's two
    hundred. If one of its classes was not trained on, it takes none, and answers for all of them
    as it did before training: methods of this kind know base classes from new ones.
    """

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None:
        trained = trained_classnames(checkpoint.get("meta", {}))
        for name, tensor in checkpoint["state_dict"].items():
            if self.rename_key(name) not in self.prompt_learner.per_class or trained == []:
                continue
            count = len(self.prompts.classnames if trained is None else trained)
            if tensor.shape[:1] != (count,):
                raise UsageError(
                    f"{where}: {name!r} has shape {tuple(tensor.shape)}, not a row for each of the "
                    f"{count} classes of {'this run' if trained is None else 'its training'}"
                )

    def check_initial(self, checkpoint: dict[str, Any], where: str) -> None:
        if self._rows(checkpoint.get("meta", {})) is not None:
            return
        own = self.prompt_learner.per_class
        if all(name in own for name, _ in self.prompt_learner.named_parameters()):
            raise UsageError(
                f"{where}: all of it was learned for each class of its training; this run has "
                "other classes and could start from none of it"
            )
        logger.info(f"{where}: of other classes; starts anew: {', '.join(own)}")

    def fitting(self, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        tensors = dict(checkpoint["state_dict"])
        rows = self._rows(checkpoint.get("meta", {}))
        own = self.prompt_learner.state_dict()
        for name, tensor in tensors.items():
            key = self.rename_key(name)
            if key in self.prompt_learner.per_class and key in own:
                tensors[name] = own[key] if rows is None else tensor[rows]
        return tensors

    def _rows(self, meta: dict[str, Any]) -> list[int] | None:
        """Return which of the classes trained on each class is; None unless all of them are."""
        trained, names = trained_classnames(meta), list(self.prompts.classnames)
        return rows_of(names, names if trained is None else trained)

    def on_checkpoint_loaded(self, meta: dict[str, Any]) -> None:
        self.knows_classes = self._rows(meta) is not None
        if not self.knows_classes:
            logger.info("Not trained on these classes: what is each class's own has no part")


class FrozenTextCLIP(KnownClassesCLIP):
    """Frozen CLIP's text features, (C, E), in ``base_text_features``."""

    base_text_features: Tensor

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: PromptLearner,
        prompts: ClassPrompts,
        base_text_features: Tensor,
    ):
        super().__init__(clip_model, learner, prompts)
        self.register_buffer("base_text_features", base_text_features, persistent=False)

    def raw_text_features(self) -> Tensor:
        return self.base_text_features


class FeatureBatches:
    """Training batches of features, each epoch in another order, drawn from the global generator.

    Args:
        loader: of the images: its data set and batch size.
        features: (V, N, E), V views of each image, not normalised.
        labels: (N,).
        pooled: all views of all images are shuffled, and as many batches taken of them as the
            images would make; else an epoch has every image once, in a random one of its views.
        keeps_last: whether a last, incomplete batch is used; the only one always is.
    """

    def __init__(
        self, loader: Any, features: Tensor, labels: Tensor, pooled: bool, keeps_last: bool
    ):
        self.dataset, self.batch_size = loader.dataset, loader.batch_size
        self.features, self.labels = features, labels
        self.pooled, self.keeps_last = pooled, keeps_last

    def __len__(self) -> int:
        whole, rest = divmod(len(self.labels), self.batch_size)
        return max(whole + bool(rest and self.keeps_last), 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        views, count = self.features.shape[:2]
        if self.pooled:
            order = torch.randperm(views * count)
            view, index = order // count, order % count
        else:
            index, view = torch.randperm(count), torch.randint(views, (count,))
        view, index = view.to(self.labels.device), index.to(self.labels.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield {
                "img": KnownFeatures(self.features[view[part], index[part]]),
                "label": self.labels[index[part]],
                "index": index[part],
            }


class FeatureTrainer(PromptTrainer):
    """Trains on kept features. Its settings have ``PASSES``.

    Class attributes:
        pooled: see `FeatureBatches`.
        own_words: whether ImageNet's general wordings have the data set's own beside them.
    """

    pooled = False
    own_words = True
    train_loader_x: Any

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        super().check_cfg(cfg)
        if cfg.DATALOADER.K_TRANSFORMS != 1 or cfg.INPUT.NO_TRANSFORM:
            raise UsageError(
                f"{cls.__name__} takes one transformed view of an image at a time: set "
                "DATALOADER.K_TRANSFORMS 1 and INPUT.NO_TRANSFORM False"
            )

    @classmethod
    def has_several_wordings(cls, cfg: Any) -> bool:
        """Return whether class features are a mean over wordings, as upstream's on ImageNet."""
        return cfg.DATASET.NAME.startswith("ImageNet") and not cfg.DATASET.get("TEMPLATE")

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return "{}" if cls.has_several_wordings(cfg) else prompt_template(cfg)

    @classmethod
    def text_features_of(
        cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts, normalized: bool = False
    ) -> Tensor:
        """Return the classes' features (C, E), fp32: a mean over the wordings.

        Args:
            normalized: the mean is of normalised features, and is normalised.
        """
        wordings = [prompts]
        if cls.has_several_wordings(cfg):
            own = [prompt_template(cfg)] if cls.own_words else []
            wordings = prompts.worded([*IMAGENET_TEMPLATES_SELECT, *own])
        features = torch.stack([encode_prompts(clip_model, wording) for wording in wordings])
        if not normalized:
            return features.mean(dim=0)
        return F.normalize(F.normalize(features, dim=-1).mean(dim=0), dim=-1)

    def build_data_loader(self) -> None:
        # Steps on features take no time: processes that share a run each do all of them.
        with ranks.alone():
            super().build_data_loader()
        # With steps_per_epoch() a sampler of batches stands in the place of their size.
        if self.settings.PASSES and self.train_loader_x.batch_size is None:
            raise UsageError(
                f"{type(self).__name__} trains on kept features, and an epoch of them is as long "
                "as the images make it: leave steps_per_epoch() out, or train on images themselves "
                f"(TRAINER.{self.method}.PASSES 0)"
            )

    def share_of(self, images: int) -> ranks.Share:
        return ranks.here().share(0)

    def views(self, count: int) -> tuple[Tensor, Tensor]:
        """Return features (count, N, E) of random views of the training images, and labels."""
        loader, seed = self.dm.train_loader_x, self.cfg.SEED
        tower = self.frozen_tower(loader)
        if seed < 0:
            seed = int(ranks.here().told(secrets.randbits(52)))
        return augmented_features(tower, loader, count, seed)

    def prepare_training(self) -> None:
        super().prepare_training()
        if self.settings.PASSES:
            self.train_on(*self.views(self.settings.PASSES))

    def train_on(self, features: Tensor, labels: Tensor) -> None:
        """Train on features (V, N, E) of images with these labels (N,)."""
        sampler = self.cfg.DATALOADER.TRAIN_X.SAMPLER
        if sampler != "RandomSampler":
            logger.warning(
                f"DATALOADER.TRAIN_X.SAMPLER {sampler} has no effect: kept features are trained on "
                f"in random order (TRAINER.{self.method}.PASSES 0 trains on images)"
            )
        self.train_loader_x = FeatureBatches(
            self.dm.train_loader_x, features, labels, self.pooled, self.keeps_last
        )
