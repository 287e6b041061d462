"""The training step, checkpoints and evaluation that all methods share."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import time
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

import clip
from common import ranks
from common.checkpoints import POINTER, checkpoint_name
from common.errors import UsageError
from common.reading import read_text
from common.settings import check_settings
from common.store import feature_store
from dassl.data.datasets import DATASET_REGISTRY
from dassl.data.transforms import build_transform
from dassl.engine import TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint

from .backbone import backbone_of, load_clip, resolve_precision
from .kept_features import FrozenTower, can_be_kept, tensors_digest, test_batches
from .model import Images, Loss, PromptedCLIP, TrainingBatch, load_learned
from .prompts import ClassPrompts, prompt_template

logger = logging.getLogger(__name__)

TASKS = {"classification": "classification", "anomaly": "anomaly detection"}


def setting_for(dataset: str, value: float | None, table: dict) -> float:
    """Return a setting that may depend on the *training* data set.

    ``value`` if one is set; else the table's entry for the data set, its ``default`` entry, or 1.
    """
    return float(value if value is not None else table.get(dataset, table.get("default", 1.0)))


def _is_in_order(loader: Any) -> bool:
    own = getattr(loader, "batch_sampler", None)
    return isinstance(getattr(getattr(own, "batches", own), "sampler", None), SequentialSampler)


def read_learned(cfg: Any, path: pathlib.Path) -> dict[str, Any]:
    """Read a checkpoint of learned tensors for a run.

    Files of earlier versions say which data set and which of its classes they were trained on, but
    no names; upstream's say nothing. Where those cannot be this run's, its classes count as none
    that are known here: new classes, and those that a model trained on others is tested on.
    """
    checkpoint = load_checkpoint(str(path))
    meta, here = checkpoint.setdefault("meta", {}), cfg.DATASET
    if isinstance(meta, dict) and "classnames" not in meta:
        subset = here.get("SUBSAMPLE_CLASSES", "all")
        same = meta.get("dataset", here.NAME) == here.NAME
        is_transfer = cfg.TASK == "CD" and not here.NAME.startswith("ImageNet")
        can_be = "subsample_classes" in meta or not (subset == "new" or is_transfer)
        if not (same and can_be and meta.get("subsample_classes", subset) == subset):
            meta["classnames"] = []
    return checkpoint


class PromptTrainer(TrainerX):
    """Trains a `PromptedCLIP`. A method sets the class attributes and fills in ``build``.

    Class attributes:
        method: name of its settings' node under ``cfg.TRAINER``.
        model_name: registered name, and so the checkpoint folder's (upstream's, where there is
            one).
        learns: False for a method without training, such as zero-shot CLIP.
        task: what it is for, classification or anomaly (detection); data sets have one as well.
        any_size: whether images may be of another size than the backbone was trained on.
        shares_steps: True: several processes can share one run, see ``common.ranks``.
        has_fp16: False for a method that is fp32 where fp16 is set, as its authors' program is.
    """

    method = ""
    model_name = "prompt_learner"
    learns = True
    task = "classification"
    any_size = False
    shares_steps = True
    has_fp16 = True
    train_seconds = 0.0  # so far; Dassl.pytorch counts none

    # What a method is; none of it needs a run

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        """Add the method's defaults to ``cfg``."""

    @classmethod
    def settings_of(cls, cfg: Any) -> Any:
        """Return the method's settings in a configuration."""
        return cfg.TRAINER[cls.method]

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        """Return the words of its prompts that a method does not learn, ``{}`` for the class name.

        By default the hand-written prompt of the run. Text noise perturbs these words.
        """
        return prompt_template(cfg)

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> PromptedCLIP:
        """Build the method's model, untrained.

        Args:
            cfg: settings; of the data set only its name and the subset of its classes.
            clip_model: frozen, on the device where the model is to be.
            prompts: the classes, described in the words of ``fixed_template``.

        Raises:
            UsageError: the settings do not fit the backbone.
        """
        raise NotImplementedError

    @classmethod
    def image_transform(cls, cfg: Any) -> Any:
        """Return how an image that is answered for becomes the model's input (3, H, W)."""
        return build_transform(cfg, is_train=False)

    @classmethod
    def training_noise(cls, cfg: Any) -> tuple[list[str], list[int]]:
        """Return kinds of text noise that training meets, and its noise seeds; most meet none."""
        return [], []

    @classmethod
    def precision_of(cls, cfg: Any, device: torch.device) -> str:
        """Return the precision that a run of this method really has on a device."""
        precision = resolve_precision(cls.settings_of(cfg).PREC, device)
        if precision == "fp16" and not cls.has_fp16:
            logger.info(
                f"Precision: {cls.__name__} runs in fp32 where fp16 is set, as upstream does"
            )
            return "fp32"
        return precision

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        """Refuse settings that the method cannot work with.

        Raises:
            UsageError: so.
        """
        check_settings(cfg)
        data = cls.task
        if cfg.DATASET.NAME in DATASET_REGISTRY.registered_names():
            data = getattr(DATASET_REGISTRY.get(cfg.DATASET.NAME), "task", "classification")
        if data != cls.task:
            raise UsageError(
                f"{cfg.TRAINER.NAME} is for {TASKS[cls.task]}, data set {cfg.DATASET.NAME} for "
                f"{TASKS[data]} (python -m anprompt methods lists the methods of each)"
            )
        if "normalize" not in cfg.INPUT.TRANSFORMS:
            logger.info(
                "INPUT.TRANSFORMS lacks normalize: CLIP gets images unlike those it was trained on"
            )

    # The run

    @property
    def settings(self) -> Any:
        """The method's settings in this run."""
        return self.settings_of(self.cfg)

    def steps_per_epoch(self) -> int:
        """Return how many batches an epoch of training has; 0: as many as there are images for."""
        return 0  # said here as well: Dassl.pytorch does not ask

    def build_data_loader(self) -> None:
        super().build_data_loader()
        steps = self.steps_per_epoch()
        if steps not in (0, len(self.train_loader_x)):
            raise UsageError(
                f"{type(self).__name__}: its settings (TRAINER.{self.method}) ask for epochs of "
                f"{steps} steps, but Dassl.pytorch's are the images once; set those steps to 0 and "
                f"choose OPTIM.MAX_EPOCH for epochs of {len(self.train_loader_x)} steps"
            )

    def build_model(self) -> None:
        """Build the model and what trains it."""
        cfg = self.cfg
        self.precision = self.precision_of(cfg, self.device)
        self._towers: dict[bool, FrozenTower] = {}
        clip_model = self.load_backbone()
        prompts = ClassPrompts(self.fixed_template(cfg), self.dm.dataset.classnames)
        self.model = self.build(cfg, clip_model, prompts).to(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision == "amp" else None
        if not self.learns:
            return
        if cfg.MODEL.INIT_WEIGHTS:
            path = pathlib.Path(cfg.MODEL.INIT_WEIGHTS)
            checkpoint = read_learned(cfg, path)
            load_learned(self.model, checkpoint, where=str(path), parameters_only=True)
        parameters = list(self.model.prompt_learner.parameters())
        learned = sum(parameter.numel() for parameter in parameters)
        logger.info(f"Learned parameters: {learned:,} in {len(parameters)} tensors")
        self.build_optimizers()
        if self._models.get(self.model_name) is not self.model.prompt_learner:
            raise UsageError(
                f"{type(self).__name__}.build_optimizers registers no {self.model_name!r} that is "
                "the whole learner, which tests read: call super().build_optimizers() first"
            )

    def load_backbone(self) -> clip.model.CLIP:
        """Return the run's frozen CLIP."""
        return load_clip(self.cfg, self.precision, self.device, self.any_size)

    def build_optimizers(self) -> None:
        """Create the optimiser and its schedule, and register them with what they train.

        A method with a second optimiser extends this: it calls ``register_model`` once more, with
        the part of the learner that it is for, which ``parameter_groups`` keeps from the first.
        Every registered one takes its step and is saved and resumed.

        Raises:
            UsageError: from ``build_model``, where the whole learner is not registered: tests read
                the file of that one.
        """
        learner = self.model.prompt_learner
        self.optim = build_optimizer(learner, self.cfg.OPTIM, self.parameter_groups())
        self.sched = self.make_schedule()
        self.register_model(self.model_name, learner, self.optim, self.sched)

    def make_schedule(self) -> Any:
        """Return the optimiser's schedule, which takes a step at the end of each epoch."""
        return build_lr_scheduler(self.optim, self.cfg.OPTIM)

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        """Return the optimiser's parameter groups, as ``torch.optim`` takes them; None for one."""
        return None

    def train(self) -> None:  # type: ignore[override]  # Dassl's signature
        """Train and test; a method that learns nothing is tested only."""
        if self.learns:
            super().train()
        else:
            self.test()

    def before_train(self) -> None:
        super().before_train()
        self._check_processes()
        started = time.perf_counter()
        self.prepare_training()
        self.train_seconds += time.perf_counter() - started

    def _check_processes(self) -> None:
        """Refuse processes of one run that begin with other data or tensors than the first."""
        if ranks.here().size == 1:
            return
        data = [
            (pathlib.Path(item.impath).name, item.label, item.classname)
            for item in self.dm.dataset.train_x
        ]
        ranks.here().check_alike("training images", data)
        read = self.start_epoch or self.cfg.MODEL.INIT_WEIGHTS
        tensors = self.model.prompt_learner.state_dict() if read else {}
        ranks.here().check_alike("checkpoints", self.start_epoch, tensors_digest(tensors))

    def prepare_training(self) -> None:
        """Make what only training needs; after a resume, so the checkpoint is loaded.

        A method that looks at the training set first (features of all its images, say) overrides
        this: ``self.train_loader_x`` is there.
        """
        self.model.prepare_training()

    # A step

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context that the forward pass runs in."""
        if self.precision == "amp":
            return torch.autocast(self.device.type, dtype=torch.float16)
        return contextlib.nullcontext()

    def training_batch(self, batch: dict[str, Any]) -> TrainingBatch:
        """Return what the loss needs of a loader's batch, on the device."""

        def to_device(tensor: Any) -> Any:
            return tensor.to(self.device, non_blocking=True)

        # One transform applied k times gives a list, k transforms give img, img2, ...
        first = batch["img"]
        views = list(first) if isinstance(first, (list, tuple)) else [first]
        for number in count(2):
            if f"img{number}" not in batch:
                break
            views.append(batch[f"img{number}"])
        image, *others = map(to_device, views)
        index = batch.get("index")
        return TrainingBatch(
            image=image,
            label=to_device(batch["label"]),
            index=None if index is None else to_device(index),
            epoch=self.epoch,
            views=tuple(others),
            share=self.share_of(len(image)),
        )

    def share_of(self, images: int) -> ranks.Share:
        """Return the share of a step's images that this process has, being given so many."""
        here = ranks.here()
        if here.size > 1:
            batches: Any = self.train_loader_x.batch_sampler
            images = batches.size_of(self.batch_idx)
        return here.share(images)

    @contextlib.contextmanager
    def sharing(self, share: ranks.Share) -> Iterator[None]:
        """Let CLIP's towers know, for a block, that processes share a step."""
        visual: Any = self.model.clip.visual
        towers = [self.model.clip.transformer, getattr(visual, "transformer", None)]
        shared = [tower for tower in towers if tower is not None and share.size > 1]
        for tower in shared:
            tower.images = share
        try:
            yield
        finally:
            for tower in shared:
                tower.images = None

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Take one step; return the loss, its terms and the accuracy (%) for the log."""
        given = self.training_batch(batch)
        share: Any = given.share
        with self.autocast(), self.sharing(share):
            loss = self.loss(given)
        summary = self._summary(loss, given)
        self.detect_anomaly(summary["loss"])
        self.model_zero_grad()
        self._summed = share.size == 1
        self.backward(loss.times(share.weight))
        if not self._summed and any(p.grad is not None for p in self.learned()):
            raise UsageError(
                f"{type(self).__name__}.backward leaves each process the gradients of its own "
                "images: take them from self.gradients(term), or train in one process"
            )
        if self.scaler is None:
            self.model_update()
        elif any(p.grad is not None for p in self.learned()):  # TipAdapter's have none
            for optimizer in self._optims.values():
                if optimizer is not None:
                    self.scaler.step(optimizer)
            self.scaler.update()
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return summary

    def _summary(self, loss: Loss, given: TrainingBatch) -> dict[str, Tensor]:
        """Return what a step reports, of all processes' images."""
        label = given.label if loss.label is None else loss.label
        summary = {
            "loss": loss.total.detach(),
            "acc": compute_accuracy(loss.logits.detach(), label)[0].detach(),
        }
        if len(loss.terms) > 1:
            summary |= {name: term.detach() for name, term in loss.terms.items()}
        share: Any = given.share
        if share.size > 1:
            added = share.add_up(share.weight * value for value in summary.values())
            summary = dict(zip(summary, added, strict=True))
        return summary

    def loss(self, batch: TrainingBatch) -> Loss:
        """Return the loss of a batch. Override it where that takes more than the model."""
        return self.model.loss(batch)

    def backward(self, loss: Loss) -> None:
        """Compute gradients. Override it to change them, say by projecting one term's on another's.

        What ``super().backward(loss)`` leaves in the parameters, and what ``self.gradients(term)``
        returns, is of the whole batch, where processes share it too.
        """
        total = loss.total if self.scaler is None else self.scaler.scale(loss.total)
        total.backward()
        held = [parameter for parameter in self.learned() if parameter.grad is not None]
        summed = self._add_up(parameter.grad for parameter in held)
        for parameter, gradient in zip(held, summed, strict=True):
            parameter.grad = gradient

    def gradients(self, term: Tensor, retain_graph: bool = False) -> list[Tensor]:
        """Return a term's gradients, scaled as mixed precision has it, one for each ``learned``.

        Args:
            retain_graph: as of ``torch.autograd.grad``: another term's follow.
        """
        scaled = term if self.scaler is None else self.scaler.scale(term)
        return self._add_up(torch.autograd.grad(scaled, self.learned(), retain_graph=retain_graph))

    def learned(self) -> list[nn.Parameter]:
        """Return what trains."""
        return [p for p in self.model.prompt_learner.parameters() if p.requires_grad]

    def _add_up(self, gradients: Iterable[Any]) -> list[Tensor]:
        self._summed = True
        return ranks.here().share(0).add_up(gradients)

    # Testing

    def frozen_tower(self, loader: Any) -> FrozenTower:
        """Return the frozen image tower, whose features of a loader's images may be kept."""
        is_compiled = bool(self.cfg.get("INEXACT", {}).get("COMPILE"))
        is_asked = bool(self.cfg.TEST.get("KEEP_FEATURES", False)) and not is_compiled
        is_kept = is_asked and can_be_kept(loader)
        if is_kept not in self._towers:
            self._towers[is_kept] = FrozenTower(self.model, feature_store() if is_kept else None)
        return self._towers[is_kept]

    def test_batches(self, loader: Any) -> Iterable[dict[str, Any]]:
        """Return batches of test images, or of their features where those are all that is read."""
        kind = type(self)
        own = ("parse_batch_test", "model_inference", "model_inference_rules")
        is_plain = all(getattr(kind, name) is getattr(PromptTrainer, name) for name in own)
        if is_plain and self.model.is_image_tower_frozen and _is_in_order(loader):
            tower = self.frozen_tower(loader)
            if tower.store:
                return test_batches(tower, loader)
        return super().test_batches(loader)

    def test(self, split: str | None = None) -> float:
        """Evaluate on a split; the accuracy reported is that of the model's inference rule."""
        self.headline_rule = self.model.rule
        return super().test(split)

    @torch.no_grad()
    def model_inference(self, image: Images) -> Tensor:
        return self.model(image)

    def model_inference_rules(self, image: Images) -> dict[str, Tensor] | None:
        return self.model.inference_rules(image)

    # Checkpoints

    def checkpoint_meta(self, epoch: int, model_name: str) -> dict[str, Any]:
        """Say as well which backbone the tensors are for."""
        meta: dict[str, Any] = super().checkpoint_meta(epoch, model_name)
        return {**meta, "backbone": backbone_of(self.cfg)}

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load learned tensors from a run's folder, ours or an upstream repository's.

        Args:
            directory: the run's output folder; empty does nothing, as upstream.
            epoch: which epoch's file; None takes ``model-best.pth.tar`` if there is one, else the
                file that the folder's ``checkpoint`` names.

        Raises:
            UsageError: no such checkpoint, or it holds other tensors than this method learns.
        """
        if not self.learns:
            return
        if not directory:
            logger.info("Note that load_model() is skipped as no pretrained model is given")
            return
        folder = pathlib.Path(directory) / self.model_name
        path, pointer = folder / checkpoint_name(epoch), folder / POINTER
        if epoch is None and not path.exists() and pointer.exists():
            path = folder / read_text(pointer).strip()
        if not path.is_file():
            raise UsageError(
                f"no checkpoint {path}: train first, or name the run's folder with --model-dir "
                "and its epoch with --load-epoch"
            )
        checkpoint = read_learned(self.cfg, path)
        load_learned(self.model, checkpoint, where=str(path))
        self.trained_epochs = checkpoint.get("epoch")
        if not getattr(self, "train_seconds", 0):  # not trained in this process
            self.train_seconds = checkpoint.get("meta", {}).get("train_seconds") or 0.0
        logger.info(f'Loaded "{path}" (epoch {self.trained_epochs})')
