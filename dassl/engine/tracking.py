"""Scalars for W&B or MLflow, where one is asked for and installed; no training depends on it.

Whatever a tracker raises is said in one line and ends the tracking, not the training, and random
numbers are as they would be without it. Nothing is sent unless the environment says so: W&B runs
offline unless WANDB_MODE says otherwise (``wandb sync`` sends it later), MLflow writes to
``mlflow.db`` beside the run's other files unless MLFLOW_TRACKING_URI names a server.
"""

import importlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import one_line
from common.ranks import here

TRACKERS = ("wandb", "mlflow")
PROJECT = "anprompt"


class Tracker:
    """One run in a tracker, between ``open`` and ``close``; otherwise does nothing."""

    def __init__(self) -> None:
        self._name = ""
        self._log: Callable[[dict[str, float], int], Any] | None = None
        self._end: Callable[[], Any] | None = None
        self._waiting: dict[str, float] = {}
        self._step = 0

    def open(self, name: str, folder: str, config: dict[str, Any]) -> None:
        """Begin a run.

        Args:
            name: of the tracker, one of TRACKERS; "" for none.
            folder: the run's; its last parts name it.
            config: all settings.
        """
        if not name or self._log is not None or not here().is_first:
            return
        self._name = name
        start = {"wandb": _start_wandb, "mlflow": _start_mlflow}[name]
        with self._guarded():
            self._log, self._end = start(importlib.import_module(name), folder, config)
            print(f"Tracked by {name}")

    def add(self, tag: str, value: float, step: int | None) -> None:
        """Note one value; those of one step are sent together."""
        if self._log is None:
            return
        if step is not None and step != self._step:
            self.flush()
            self._step = step
        self._waiting[tag] = value

    def flush(self) -> None:
        """Send what is noted."""
        waiting, self._waiting = self._waiting, {}
        if self._log is not None and waiting:
            with self._guarded():
                self._log({name: float(value) for name, value in waiting.items()}, self._step)

    def close(self) -> None:
        """End the run."""
        self.flush()
        end, self._log, self._end = self._end, None, None
        if end is not None:
            with self._guarded():
                end()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        try:
            yield
        except ModuleNotFoundError as error:
            self._log = self._end = None
            missing = error.name or self._name
            print(f"{missing} is not installed: nothing is tracked (pip install {missing})")
        except Exception as error:  # whatever a tracker, its service or its disk raises
            self._log = self._end = None
            kind = type(error).__name__
            print(f"{self._name} failed, nothing more is tracked ({kind}: {one_line(error)})")
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])


def _start_wandb(wandb: Any, folder: str, config: dict[str, Any]) -> tuple[Any, Any]:
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=_name_of(folder),
        dir=folder,
        config=config,
        mode=os.environ.get("WANDB_MODE", "offline"),
    )
    return (lambda values, step: run.log(values, step=step)), run.finish


def _start_mlflow(mlflow: Any, folder: str, config: dict[str, Any]) -> tuple[Any, Any]:
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{Path(folder).resolve() / 'mlflow.db'}")
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    mlflow.start_run(run_name=_name_of(folder))
    mlflow.log_params(dict(_leaves(config)))
    return (lambda values, step: mlflow.log_metrics(values, step=step)), mlflow.end_run


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings by dotted name, as text of a length that MLflow takes."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)[:500]


def _name_of(folder: str) -> str:
    return "/".join(Path(folder).resolve().parts[-5:])
