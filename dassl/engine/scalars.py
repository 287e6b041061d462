"""TensorBoard, if it is installed, and the curve of a run as a small table."""

import csv
import math
import os
from typing import Any

from common.errors import UsageError
from common.files import atomic_write
from common.ranks import here
from dassl.utils import mkdir_if_missing

CURVE = "curve.csv"


class ScalarWriter:
    """Writes scalars for TensorBoard between ``open`` and ``close``; otherwise does nothing."""

    def __init__(self) -> None:
        self._writer: Any = None

    def open(self, log_dir: str) -> None:
        """Start writing to ``log_dir``, if tensorboard is installed."""
        if self._writer is not None or not here().is_first:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("tensorboard is not installed: no scalars are written")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")
        mkdir_if_missing(log_dir)
        self._writer = SummaryWriter(log_dir=log_dir)

    def close(self) -> None:
        """Finish writing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def add(self, tag: str, value: float, step: int | None = None) -> None:
        """Write one value."""
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)


class Curve:
    """What each epoch measured: ``curve.csv`` in a run's folder, one line an epoch.

    Columns are ``epoch`` (from 1) and whatever epochs report, such as ``lr``, ``loss``, its terms
    and ``val_accuracy``.
    """

    def __init__(self, folder: str):
        self.path = os.path.join(folder, CURVE)
        self._rows: list[dict[str, str]] = []

    def resume(self, epochs: int) -> None:
        """Go on behind the first ``epochs`` epochs of the file; later lines were not kept.

        A file that is damaged is begun anew: it shows how training went, nothing depends on it.
        """
        self._rows = []
        if not epochs:
            return
        try:
            with open(self.path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, strict=True))
            self._rows = [
                row for row in rows if 1 <= int(row["epoch"]) <= epochs and None not in row
            ]
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            return

    def add(self, epoch: int, values: dict[str, Any]) -> None:
        """Add an epoch's line (``epoch`` counted from 1) and write the file anew, atomically."""
        row = {"epoch": str(epoch)} | {name: _shown(value) for name, value in values.items()}
        self._rows = [*(old for old in self._rows if old["epoch"] != row["epoch"]), row]
        if not here().is_first:
            return
        columns = dict.fromkeys(name for row in self._rows for name in row)
        try:
            with atomic_write(self.path) as file:
                writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(self._rows)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written ({error.strerror})") from error


def _shown(value: Any) -> str:
    """Return a number as text that reads back to the same number."""
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return str(value)
