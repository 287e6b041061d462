"""The epoch over labelled images.

A method subclasses ``TrainerX`` and fills in ``build_model`` and ``forward_backward``. Models and
the loop over epochs come from ``TrainerBase``, data, testing and the life of a run from
``SimpleTrainer``.
"""

import datetime
import time
from typing import Any

import torch

from dassl.utils import AverageMeter, MetricMeter

from .base import TrainerBase
from .simple import SimpleTrainer

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]


class TrainerX(SimpleTrainer):
    """Trains on labelled images only."""

    def run_epoch(self) -> None:
        """Pass over the training images once, with a printed line every PRINT_FREQ batches.

        Losses that ``forward_backward`` returns as tensors are read out only when a line is
        printed, so on a GPU steps queue up without waiting in between. The step that prints waits
        for all before it and is charged for them: single times then vary, averages are true.
        """
        self.set_model_mode("train")
        self.epoch_metrics = {"lr": self.get_current_lr()}
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        print_freq = self.cfg.TRAIN.PRINT_FREQ
        pending: list[tuple[int, float, dict[str, Any] | None]] = []

        end = time.time()
        for self.batch_idx, batch in enumerate(self.train_loader_x):  # noqa: B020
            data_time.update(time.time() - end)
            # Some samplers know how long an epoch is once it has begun.
            self.num_batches = len(self.train_loader_x)
            summary = self.forward_backward(batch)
            n_iter = self.epoch * self.num_batches + self.batch_idx
            pending.append((n_iter, self.get_current_lr(), _detached(summary)))

            is_printing = (self.batch_idx + 1) % print_freq == 0 or self.num_batches < print_freq
            if is_printing:
                self._read_out(pending, losses)
            batch_time.update(time.time() - end)
            if is_printing:
                self._print_progress(losses, batch_time, data_time)
            end = time.time()
        self._read_out(pending, losses)
        self.epoch_metrics |= {name: meter.avg for name, meter in losses.meters.items()}

    def _read_out(
        self, pending: list[tuple[int, float, dict[str, Any] | None]], losses: MetricMeter
    ) -> None:
        """Move what steps reported into the meters and TensorBoard, step by step."""
        self._raise_if_anomalous()
        for n_iter, lr, summary in pending:
            losses.update(summary)
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, n_iter)
            self.write_scalar("train/lr", lr, n_iter)
        pending.clear()

    def _print_progress(
        self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter
    ) -> None:
        remaining = self.num_batches - self.batch_idx - 1
        remaining += (self.max_epoch - self.epoch - 1) * self.num_batches
        eta = datetime.timedelta(seconds=int(batch_time.avg * remaining))
        print(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] "
            f"batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
            f"data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} "
            f"lr {self.get_current_lr():.4e} "
            f"eta {eta}"
        )

    def parse_batch_train(
        self, batch: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images (B, 3, H, W), labels (B,) and domains (B,) on the device."""
        return (
            self._to_device(batch["img"]),
            self._to_device(batch["label"]),
            self._to_device(batch["domain"]),
        )


def _detached(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the same values without the graph they came from."""
    if not isinstance(summary, dict):
        return summary
    return {
        name: value.detach() if isinstance(value, torch.Tensor) else value
        for name, value in summary.items()
    }
