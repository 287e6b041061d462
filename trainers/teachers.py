"""A teacher that is trained within its student's run."""

from __future__ import annotations

import contextlib
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import clip
from common.errors import UsageError
from common.reading import read_text
from dassl.utils import set_random_seed

from .promptsrc import PromptSRC


class TeacherTraining(PromptSRC):
    """The teacher's training within a student's run, whose folder keeps its checkpoints.

    Args:
        clip_model: the teacher's backbone.

    Attributes:
        earlier_seconds: spent on it before a resume.
    """

    earlier_seconds = 0.0

    def __init__(self, cfg: Any, clip_model: clip.model.CLIP):
        self.clip_model = clip_model
        super().__init__(cfg)

    def load_backbone(self) -> clip.model.CLIP:
        super().load_backbone()  # for the random numbers that it draws, as in a run of its own
        return self.clip_model

    def restore_meta(self, epoch: int, meta: dict[str, Any]) -> None:
        super().restore_meta(epoch, meta)
        self.earlier_seconds = self.train_seconds

    def of_run(self) -> str:
        """Return what the student's run is made of, as train.py has written it: settings, data."""
        path = pathlib.Path(self.output_dir).parent / "identity.json"
        return read_text(path) if path.is_file() else ""

    def checkpoint_meta(self, epoch: int, model_name: str) -> dict[str, Any]:
        return {**super().checkpoint_meta(epoch, model_name), "of_run": self.of_run()}

    def check_origin(self, directory: str, path: str, meta: dict[str, Any]) -> None:
        """Refuse a teacher that an earlier run in this folder began, with other settings or data.

        Raises:
            UsageError: so.
        """
        super().check_origin(directory, path, meta)
        if meta.get("of_run", "") != self.of_run():
            raise UsageError(
                f"{path} is of a teacher that was begun with other settings or data; remove "
                f"{directory} to train it anew"
            )

    def after_train(self) -> None:
        """Test nothing: the teacher has no results of its own."""
        self.close_writer()


@contextlib.contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from a seed for a block; afterwards all generators are as before.

    Args:
        seed: negative: whatever the generators give.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (set_random_seed sets it)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed >= 0:
            set_random_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
