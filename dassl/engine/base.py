"""The part of a trainer that knows no data: models, checkpoints, scalars, a loop over epochs."""

import time
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from common.ranks import here
from dassl.utils import get_rng_state, load_checkpoint, set_rng_state
from dassl.utils.integrity import NotFiniteError
from dassl.utils.torchtools import check_fits, content_of, restore

from . import checkpoints
from .models import Names, RegisteredModels
from .scalars import ScalarWriter
from .tracking import Tracker


class TrainerBase:
    """Registered models with their optimisers and schedules, and a generic loop over epochs.

    Attributes:
        epoch: index of the current epoch, from 0.
        trained_epochs: epochs the model has behind it; None if unknown (loaded by other means).
        train_seconds: time spent in them, those before a resume included.
    """

    start_epoch: int
    max_epoch: int
    epoch: int
    batch_idx: int

    def __init__(self) -> None:
        self._registered = RegisteredModels()
        self._scalars = ScalarWriter()
        self._tracker = Tracker()
        self._suspects: list[tuple[str, torch.Tensor]] = []
        self.trained_epochs: int | None = None
        self.train_seconds = 0.0

    # Models

    @property
    def _models(self) -> "OrderedDict[str, nn.Module]":
        return self._registered.models

    @property
    def _optims(self) -> "OrderedDict[str, torch.optim.Optimizer | None]":
        return self._registered.optims

    @property
    def _scheds(self) -> "OrderedDict[str, Any]":
        return self._registered.scheds

    def register_model(
        self,
        name: str = "model",
        model: nn.Module | None = None,
        optim: torch.optim.Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Put a model under the trainer's care: its mode, optimiser steps and checkpoints.

        Args:
            name: name of its folder in the run's folder.
            model: its ``state_dict`` is what checkpoints hold.
            optim, sched: None for a model that does not train.
        """
        if "_registered" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if model is None:
            raise TypeError(f"register_model({name!r}) takes a model")
        self._registered.add(name, model, optim, sched)

    def get_model_names(self, names: Names = None) -> list[str]:
        """Return ``names`` as a list after a check that they are registered; by default all."""
        return self._registered.names(names)

    @property
    def num_trainable(self) -> int:
        """Number of values that training changes, over all registered models."""
        return sum(parameter.numel() for _, parameter in self._registered.parameters())

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Put models in training ("train") or evaluation ("test", "eval") mode."""
        if mode not in ("train", "test", "eval"):
            raise ValueError(f"the mode is train, test or eval, not {mode!r}")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: Names = None) -> None:
        """Let schedules take a step. A trainer calls this at the last batch of every epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: Names = None) -> float:
        """Return the learning rate of the first model's first parameter group."""
        return next(self._registered.optimizers(names)).param_groups[0]["lr"]

    # Checkpoints

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write every model's checkpoint to ``directory/<name>/``.

        A checkpoint holds ``state_dict``, ``epoch`` (finished epochs), ``optimizer``,
        ``scheduler``, ``scaler`` (of ``self.scaler``, a gradient scaler, if the trainer has one in
        use), ``rng`` (all random states), ``trainer`` (see :meth:`extra_state`), ``val_result`` and
        ``meta``: all that a continuation needs to give the same numbers.

        Args:
            epoch: index of the epoch that has just ended.
            directory: the run's folder.
            is_best: write ``model-best.pth.tar`` as well.
            val_result: accuracy on validation, if measured.
            model_name: file name; by default ``model.pth.tar-<epoch + 1>``.

        Raises:
            NotFiniteError: a loss or a learned number is not finite; nothing is written.
        """
        self._raise_if_anomalous()
        scaler = getattr(self, "scaler", None)
        meta = self.checkpoint_meta(epoch, model_name)
        shared = {
            "epoch": epoch + 1,
            "scaler": scaler.state_dict() if scaler is not None and scaler.is_enabled() else None,
            "rng": get_rng_state(),
            "trainer": self.extra_state(),
            "val_result": val_result,
            "meta": meta,
        }
        is_verbose = bool(model_name) or not meta.get("rolling", False)
        checkpoints.write(self._registered, directory, shared, is_best, model_name, is_verbose)

    def extra_state(self) -> dict[str, Any]:
        """Return what else must be back to continue: tensors and plain values by name."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`extra_state` gave."""

    def checkpoint_meta(self, epoch: int, model_name: str) -> dict[str, Any]:
        """Return numbers and names about the run that go into a checkpoint."""
        return {"train_seconds": self.train_seconds}

    def restore_meta(self, epoch: int, meta: dict[str, Any]) -> None:
        """Continue counting from the numbers of the checkpoint written after ``epoch`` epochs."""
        self.train_seconds = float(meta["train_seconds"])

    def check_origin(self, directory: str, path: str, meta: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint that another run wrote; called before any change."""

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the newest checkpoint in a run's folder, if there is one.

        Returns:
            Index of the epoch to go on with; 0 without a checkpoint.

        Raises:
            UsageError: a checkpoint is damaged or of another model. Nothing is changed then.
        """
        found = checkpoints.find_common(directory, self.get_model_names()) if self._models else None
        if not found:
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        for name, (path, checkpoint) in found.items():
            check_fits(path, checkpoint, self._models[name])
            self.check_origin(directory, path, checkpoint["meta"])
        for name, (path, checkpoint) in found.items():
            print(f'Loading checkpoint from "{path}"')
            restore(path, checkpoint, self._models[name], self._optims[name], self._scheds[name])
        path, checkpoint = next(reversed(found.values()))
        epoch = checkpoint["epoch"]
        with content_of(path, "this trainer"):
            scaler = getattr(self, "scaler", None)
            if scaler is not None and checkpoint["scaler"]:
                scaler.load_state_dict(checkpoint["scaler"])
            self.load_extra_state(checkpoint.get("trainer", {}))
            self.restore_meta(epoch, checkpoint["meta"])
            set_rng_state(checkpoint["rng"])
        self.trained_epochs = epoch
        here().wait()  # the first process removes files that the others have read now
        print(f"Previous epoch: {epoch}")
        return epoch

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load weights for testing.

        Args:
            directory: a run's folder; if empty, nothing is loaded.
            epoch: number of finished epochs; None loads the model that was best on validation.

        Raises:
            UsageError: no such file, or it is of another model.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        found = {}
        for name in self.get_model_names():
            path = checkpoints.model_path(directory, name, epoch)
            found[name] = path, load_checkpoint(path)
            check_fits(*found[name], self._models[name])
        checkpoints.check_one_run(found.values())
        for name, (path, checkpoint) in found.items():
            val_result = checkpoint.get("val_result")
            shown = f"{val_result:.1f}" if isinstance(val_result, (int, float)) else "none"
            print(f"Load {path} to {name} (epoch={checkpoint['epoch']}, val_result={shown})")
            self._models[name].load_state_dict(checkpoint["state_dict"])
            self.trained_epochs = checkpoint["epoch"]
            if not self.train_seconds:  # not trained in this process
                with content_of(path, "this trainer"):
                    seconds = checkpoint.get("meta", {}).get("train_seconds", 0.0)
                    self.train_seconds = float(seconds)

    # One step

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Stop training when the loss is not finite.

        On a GPU the answer is not waited for; it comes with the next printed line or checkpoint,
        whichever is first, so no checkpoint is ever written after such a loss.

        Raises:
            NotFiniteError: the loss, or on a GPU an earlier one, is infinite or NaN.
        """
        place = f"epoch {getattr(self, 'epoch', 0) + 1}, batch {getattr(self, 'batch_idx', 0) + 1}"
        self._suspects.append((place, ~torch.isfinite(loss.detach()).all()))
        if loss.device.type == "cpu":
            self._raise_if_anomalous()

    def _raise_if_anomalous(self) -> None:
        suspects, self._suspects = self._suspects, []
        for place, is_anomalous in suspects:
            if is_anomalous:
                raise NotFiniteError(
                    f"Loss is infinite or NaN! ({place}) Lower OPTIM.LR or look at the other "
                    "settings; what the epochs before it wrote is kept"
                )

    def model_zero_grad(self, names: Names = None) -> None:
        """Forget gradients."""
        for optim in self._registered.optimizers(names):
            optim.zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Compute gradients of a finite loss."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        """Let optimisers take a step."""
        for optim in self._registered.optimizers(names):
            optim.step()

    def model_backward_and_update(self, loss: torch.Tensor, names: Names = None) -> None:
        """Compute gradients of ``loss`` and take one optimiser step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Start writing scalars to ``log_dir``, if tensorboard is installed."""
        self._scalars.open(log_dir)

    def close_writer(self) -> None:
        """Finish writing scalars."""
        self._scalars.close()
        self._tracker.close()

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a scalar; does nothing outside training."""
        self._scalars.add(tag, scalar_value, global_step)
        self._tracker.add(tag, scalar_value, global_step)

    # The loop

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run epochs ``start_epoch`` (``before_train`` may move it) to ``max_epoch`` - 1.

        Raises:
            NotFiniteError: a loss or, after an epoch, a learned tensor is not finite.
        """
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020
            started = time.perf_counter()
            self.before_epoch()
            self.run_epoch()
            self.train_seconds += time.perf_counter() - started
            self._raise_if_anomalous()
            self._registered.check_finite(f"epoch {self.epoch + 1}")
            self.trained_epochs = self.epoch + 1
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Do what comes once before the first epoch."""

    def after_train(self) -> None:
        """Do what comes once after the last epoch."""

    def before_epoch(self) -> None:
        """Do what comes before every epoch."""

    def after_epoch(self) -> None:
        """Do what comes after every epoch."""

    def run_epoch(self) -> None:
        """Train for one epoch."""
        raise NotImplementedError

    def test(self) -> float:
        """Evaluate."""
        raise NotImplementedError

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Return what a training step needs of a batch, on the device."""
        raise NotImplementedError

    def parse_batch_test(self, batch: dict[str, Any]) -> Any:
        """Return images and labels of a batch, on the device."""
        raise NotImplementedError

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any] | None:
        """Take one training step; return what to log by name."""
        raise NotImplementedError

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        raise NotImplementedError

    def model_inference_rules(self, image: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """Return logits by inference rule, for a method that has several; None for one rule.

        A test then evaluates all rules in one pass and reports the one that ``headline_rule``
        names.
        """
        return None
