"""A method's model: a frozen CLIP, what is learned, the logits and the loss.

It needs neither data set nor optimiser nor run::

    model = CoOp.build(cfg, clip_model, ClassPrompts(CoOp.fixed_template(cfg), ["cat", "dog"]))
    load_learned(model, load_checkpoint(path), where=path)
    logits = model.eval()(images)
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clip
from clip.blocks import Changes, Edit
from clip.text import SharedText
from common.errors import UsageError
from common.ranks import Share
from common.schema import COUNT, Number, mismatch

from .prompts import ClassPrompts

logger = logging.getLogger(__name__)


# How many images the frozen tower takes at once in an evaluation, whatever the batch: the last bits
# of a feature may depend on what it is computed with, and methods are to share them.
TOGETHER = 100

# What is read of a checkpoint, beside its tensors.
CHECKPOINT = {"state_dict": {}, "epoch?": COUNT}
META = {"train_seconds?": Number(0, 1e12), "dataset?": str, "classnames?": [str]}


def grad_if_image_asks(image: Tensor) -> torch.set_grad_enabled:
    """Guard frozen parts of a model: no graph, except to the pixels when an attack asks for it."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and image.requires_grad)


@dataclass(frozen=True)
class KnownFeatures:
    """Images of which only the tower's output is left; it stands where images (B, 3, H, W) do.

    Attributes:
        values: (B, E), fp32, not normalised.
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> KnownFeatures:
        return KnownFeatures(self.values[rows])

    def to(self, *args: Any, **named: Any) -> KnownFeatures:
        """Return them on another device, as ``Tensor.to`` does."""
        return KnownFeatures(self.values.to(*args, **named))


Images = Any  # a Tensor (B, 3, H, W), or KnownFeatures where nothing else is read of images


@dataclass(frozen=True)
class TrainingBatch:
    """What a loss is given.

    Attributes:
        image: (B, 3, H, W), the first view of each image, or their features.
        label: (B,).
        index: (B,) position of each sample in the training set; None where the loader does not
            tell.
        epoch: from 0.
        views: further views of the images, each (B, 3, H, W); with DATALOADER.K_TRANSFORMS k there
            are k - 1.
        class_state: what `PromptedCLIP.class_state` gave, where this step has asked for it already.
        share: which images of the step's batch these are, where processes share it.
    """

    image: Images
    label: Tensor
    index: Tensor | None = None
    epoch: int = 0
    views: tuple[Tensor, ...] = ()
    class_state: Any = None
    share: Share | None = None

    def whole(self, x: Tensor) -> Tensor:
        """Return rows (B, ...) of these images with those of the step's other images.

        For terms of a loss that are no mean over images; where one process has them all, as is.
        """
        return x if self.share is None else self.share.together(x)


@dataclass(frozen=True)
class Loss:
    """What a loss gives back.

    Attributes:
        total: scalar, what is minimised.
        logits: (B, C) that the reported accuracy is taken from.
        terms: the scalars that ``total`` is made of, as they are weighted in it, by name.
        label: (B,) that the reported accuracy is of, where it is not the batch's.
    """

    total: Tensor
    logits: Tensor
    terms: dict[str, Tensor]
    label: Tensor | None = None

    @staticmethod
    def of(logits: Tensor, **terms: Tensor) -> Loss:
        """Return the loss whose total is the sum of ``terms``, added in this order."""
        first, *others = terms.values()
        total = first
        for term in others:
            total = total + term
        return Loss(total, logits, terms)

    def times(self, weight: float) -> Loss:
        """Return the loss with total and terms multiplied by a number."""
        if weight == 1:
            return self
        terms = {name: weight * term for name, term in self.terms.items()}
        return Loss(weight * self.total, self.logits, terms, self.label)


class PromptLearner(nn.Module):
    """Base of a method's learned module: all its parameters train, in fp32, and nothing else does.

    Values derived from the parameters may be kept while the module is in eval mode (``cached``).
    Any change of mode and any loading of weights forgets them.

    Attributes:
        per_class: names of parameters that belong to the classes of training, one row a class, with
            the setting that learns for all classes instead ("" where there is none). They are not
            read for other classes.
    """

    def __init__(self):
        super().__init__()
        self.per_class: dict[str, str] = {}
        self._cache: dict[str, Any] = {}
        self.register_load_state_dict_post_hook(lambda module, keys: module._cache.clear())

    def train(self, mode: bool = True) -> PromptLearner:
        self._cache.clear()
        return super().train(mode)

    def learned_tokens(self) -> dict[str, tuple[nn.Parameter, Tensor]]:
        """Return learned tokens by name, each with what reaches the towers of it (the same shape).

        By default the parameters of this module and of its parameter lists; what a linear map
        learns is no token. The evaluation of noise on learned tokens scales it by the second.
        """
        owners: dict[str, nn.Module] = {"": self}
        owners |= {
            f"{name}.": child
            for name, child in self.named_children()
            if isinstance(child, nn.ParameterList)
        }
        return {
            prefix + name: (parameter, parameter.detach())
            for prefix, owner in owners.items()
            for name, parameter in owner.named_parameters(recurse=False)
        }

    def word_context(self) -> Tensor | None:
        """Return learned vectors (n, D), or (C, n, D) by class, that stand in the place of words'
        embeddings; None where there are none. By default what is named ``ctx``.
        """
        return getattr(self, "ctx", None)

    def cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, evaluated once per evaluation; always anew in training mode."""
        if self.training:
            return compute()
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]


class PromptedCLIP(nn.Module):
    """A frozen CLIP steered by a learner, for certain classes.

    A method fills in ``raw_text_features`` or ``text_features`` and, where it goes beyond text
    prompts and cross-entropy, ``raw_image_features`` or ``image_features``, ``loss``, or
    ``encode``, ``class_state`` and ``classify``.

    The logits are ``classify(encode(image), class_state())``: what is known of the images, what is
    known of the classes, and the meeting of both. So either can be computed once and kept while
    the other changes.

    Args:
        clip_model: frozen.
        prompt_learner: all that trains.
        prompts: of the classes that it tells apart.

    Attributes:
        rules: the inference rules that ``classify`` gives logits under.
        rule: the one whose logits ``forward`` gives.
        reads_texts: whether the classes' texts have a part in the answer, once trained.
        knows_classes: whether all that was learned has a part in it; not so where some belongs to
            other classes.
    """

    rules: tuple[str, ...] = ("class",)
    rule = "class"
    reads_texts = True
    knows_classes = True
    # Parts that only the classes' features are made with: what is deployed goes without.
    only_for_texts: tuple[str, ...] = ()
    # How many of the image tower's first blocks compute what frozen CLIP's do; with any,
    # ``encode_above`` goes on from their output, and models on one CLIP may share it.
    frozen_blocks = 0

    def __init__(
        self, clip_model: clip.model.CLIP, prompt_learner: PromptLearner, prompts: ClassPrompts
    ):
        super().__init__()
        self.clip = clip_model
        self.prompt_learner: Any = prompt_learner
        self.prompts = prompts

    # Features and logits

    @property
    def text_clip(self) -> clip.model.CLIP:
        """The CLIP whose text tower reads the classes' texts."""
        return self.clip

    @property
    def scale(self) -> Tensor | float:
        """CLIP's logit scale tau, exp(logit_scale)."""
        return self.clip.logit_scale.exp().float()

    def raw_text_features(self) -> Tensor:
        """Return class features (C, E), fp32, not normalised."""
        raise NotImplementedError

    def text_features(self) -> Tensor:
        """Return normalised class features (C, E)."""
        return F.normalize(self.raw_text_features(), dim=-1)

    def raw_image_features(self, image: Tensor) -> Tensor:
        """Return image features (B, E), fp32, not normalised; by default frozen CLIP's."""
        # A graph for any number of images, as an export makes it, has no pieces.
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
        pieces = [image] if whole else image.split(TOGETHER)
        with grad_if_image_asks(image):
            return torch.cat([self.clip.encode_image(piece).float() for piece in pieces])

    def raw_features_of(self, image: Images) -> Tensor:
        """Return image features (B, E), not normalised, computed unless they are known."""
        if isinstance(image, KnownFeatures):
            return image.values
        return self.raw_image_features(image)

    def image_features(self, image: Images) -> Tensor:
        """Return normalised image features (B, E)."""
        return F.normalize(self.raw_features_of(image), dim=-1)

    @property
    def is_image_tower_frozen(self) -> bool:
        """Whether ``image_features`` are frozen CLIP's, and nothing else is read of images."""
        kind = type(self)
        return (
            all(getattr(kind, name) is getattr(PromptedCLIP, name) for name in _OF_IMAGES)
            and kind.encode in _ENCODERS
        )

    def run_text(
        self,
        text: SharedText,
        start: int = 0,
        edit: Edit | None = None,
        changes: Changes | None = None,
    ) -> Tensor:
        """Run a text from block ``start`` on; return normalised features, fp32."""
        above = text.run(self.clip.transformer, start=start, edit=edit, changes=changes)
        return F.normalize(above.features(self.clip).float(), dim=-1)

    def encode(self, image: Images) -> Any:
        """Return what the logits need of images (B, 3, H, W), whatever the classes are."""
        return self.image_features(image)

    def encode_raw(self, image: Images) -> Tensor:
        """Stand in for ``encode`` where a method classifies features that are not normalised."""
        return self.raw_features_of(image)

    def encode_above(self, tokens: Tensor) -> Any:
        """Return ``encode``'s result from the output (B, L, D) of the first ``frozen_blocks``."""
        raise NotImplementedError

    def class_state(self) -> Any:
        """Return what the logits need of the classes; kept for an evaluation."""
        return self.prompt_learner.cached("text_features", self.text_features)

    def classify(self, encoded: Any, class_state: Any) -> dict[str, Tensor]:
        """Return logits (B, C) under each of ``rules``."""
        return {self.rule: self.scale * encoded @ class_state.t()}

    def forward(self, image: Images) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.classify(self.encode(image), self.class_state())[self.rule]

    def inference_rules(self, image: Images) -> dict[str, Tensor] | None:
        """Return logits under each rule; None for a method that has one rule only."""
        if len(self.rules) == 1:
            return None
        return self.classify(self.encode(image), self.class_state())

    def merged(self) -> PromptedCLIP:
        """Return a model with the same answers that has what is learned inside CLIP's weights, as
        far as it can be; by default this one.
        """
        return self

    # Training

    def prepare_training(self) -> None:
        """Make what only training needs, such as a teacher's features.

        Called once, before the first step. A resumed run has loaded its checkpoint by then. Random
        numbers drawn here must come from a generator of the method's own.
        """

    def loss(self, batch: TrainingBatch) -> Loss:
        """Return the training loss of a batch, by default cross-entropy."""
        state = self.class_state() if batch.class_state is None else batch.class_state
        logits = self.classify(self.encode(batch.image), state)[self.rule]
        return Loss.of(logits, ce=F.cross_entropy(logits, batch.label))

    # Checkpoints

    def rename_key(self, name: str) -> str:
        """Return the learner's name of a checkpoint's tensor, ours or an upstream repository's."""
        return name.removeprefix("prompt_learner.")

    def upstream_key(self, name: str) -> str | None:
        """Return what the method's upstream repository calls a tensor of the learner; None where
        there is no upstream. The inverse of ``rename_key``.
        """
        return None

    def check_checkpoint(self, checkpoint: dict[str, Any], where: str) -> None:
        """Refuse a checkpoint whose tensors have no meaning for this model.

        Parameters of each class's own serve the classes they were learned for. Upstream loads them
        for any classes of the same number. Its files do not say for which classes they were
        learned, so there only the number is checked.

        Raises:
            UsageError: it was learned for other classes.
        """
        trained = trained_classnames(checkpoint.get("meta", {}))
        same = trained is None or trained == list(self.prompts.classnames)
        found: dict[str, Tensor] = {
            self.rename_key(name): tensor for name, tensor in checkpoint["state_dict"].items()
        }
        own: dict[str, Tensor] = dict(self.prompt_learner.named_parameters())
        for name, setting in self.prompt_learner.per_class.items():
            learned = found.get(name, own[name])
            if not same or learned.shape[:1] != own[name].shape[:1]:
                hint = f". Train with {setting} to test on other classes" if setting else ""
                raise UsageError(
                    f"{where}: {name!r} was learned for each class of its training; this run has "
                    f"other classes{hint}"
                )

    def check_initial(self, checkpoint: dict[str, Any], where: str) -> None:
        """Refuse a checkpoint that has nothing for another training to start from.

        Raises:
            UsageError: so.
        """

    def fitting(self, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors as they serve this model's classes, by the file's names."""
        tensors: dict[str, Tensor] = checkpoint["state_dict"]
        return tensors

    def on_checkpoint_loaded(self, meta: dict[str, Any]) -> None:
        """React to what a checkpoint says of its training, ``meta``, once it is loaded."""


_OF_IMAGES = (
    *("raw_image_features", "raw_features_of", "image_features"),
    *("encode_raw", "forward", "inference_rules"),
)
_ENCODERS = (PromptedCLIP.encode, PromptedCLIP.encode_raw)


def trained_classnames(meta: dict[str, Any]) -> list[str] | None:
    """Return the names of the classes that a checkpoint was trained on, with blanks; None where it
    does not say, as upstream's files do not.
    """
    names = meta.get("classnames")
    return None if names is None else [str(name).replace("_", " ") for name in names]


def load_learned(
    model: PromptedCLIP,
    checkpoint: dict[str, Any],
    *,
    where: str = "the checkpoint",
    parameters_only: bool = False,
) -> None:
    """Put a checkpoint's learned tensors into a model.

    Args:
        model: changed in place.
        checkpoint: ``state_dict`` and, in files of ours, ``meta``; see ``dassl``'s load_checkpoint.
        where: what error messages call it.
        parameters_only: start another training from it: buffers, which were made for the classes of
            its training, and ``meta`` are left out.

    Raises:
        UsageError: it holds other tensors than this method learns, or was learned for classes that
            it cannot be used without. The model is as before.
    """
    _check_form(checkpoint, where)
    model.check_checkpoint(checkpoint, where)
    if parameters_only:
        model.check_initial(checkpoint, where)
    tensors = model.fitting(checkpoint)
    learner = model.prompt_learner
    wanted = dict(learner.named_parameters()) if parameters_only else learner.state_dict()
    found, ignored = {}, []
    for name, tensor in tensors.items():
        own_name = model.rename_key(name)
        if own_name in wanted:
            found[own_name] = tensor.to(wanted[own_name].dtype)
        else:
            ignored.append(name)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UsageError(f"{where}: not a checkpoint of {type(model).__name__}, no {missing[0]!r}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise UsageError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, this run needs "
                f"{tuple(wanted[name].shape)}; use the training run's configuration"
            )
        if not torch.isfinite(tensor).all():
            raise UsageError(f"{where}: {name} holds values that are not finite; train anew")
    layers = {_without_numbers(name) for name in wanted}
    for name in ignored:
        if _without_numbers(model.rename_key(name)) in layers:
            raise UsageError(
                f"{where}: {name} has no place in this run, whose prompts reach fewer layers; "
                "use the training run's configuration"
            )
    if ignored:
        modules = Counter(name.split(".")[0] for name in ignored)
        listed = ", ".join(f"{module} ({count})" for module, count in modules.items())
        logger.info(f"Ignored {len(ignored)} tensors that this method does not learn: {listed}")
    learner.load_state_dict({**learner.state_dict(), **found})
    if not parameters_only:
        model.on_checkpoint_loaded(checkpoint.get("meta", {}))


def _check_form(checkpoint: dict[str, Any], where: str) -> None:
    """Raise UsageError unless a checkpoint has tensors in its state_dict and facts in its meta."""
    problem = mismatch(checkpoint, CHECKPOINT) or mismatch(checkpoint.get("meta", {}), META, "meta")
    if problem:
        raise UsageError(f"{where}: not a training's checkpoint ({problem})")
    for name, tensor in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UsageError(f"{where}: its state_dict holds {name!r}, which is no tensor")


def _without_numbers(name: str) -> str:
    """Return a tensor's name whatever layer it is of: "maps.3.weight" as "maps.#.weight"."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)
