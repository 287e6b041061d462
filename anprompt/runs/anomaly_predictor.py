"""A trained anomaly detector as a Python object: a score and a map of any image.

>>> detector = AnomalyPredictor.load("output/anomaly/train/...")  # doctest: +SKIP
>>> scores, maps = detector.predict(["a.png", "b.png"])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anprompt.runs.identity import refuse_changed_data
from anprompt.runs.trained import (
    TrainedModel,
    build_trained,
    check_dataset,
    load_backbone,
    quiet,
    read_cfg,
)
from common.errors import UsageError
from common.images import read_image
from dassl.data.datasets import build_dataset
from datasets.anomaly import CLASSNAMES

MEMORY = ("few_shot", "train_files")  # digests of what it is made of


class AnomalyPredictor:
    """Answers with the run's own fusion of text and memory.

    Args:
        trained: a run's model; its memory is filled.
    """

    def __init__(self, trained: TrainedModel):
        self.trained = trained
        self.model: Any = trained.model
        self._transform: Any = trained.method.image_transform(trained.cfg)
        self.reading = trained.reading

    @staticmethod
    def load(folder: str | Path, root: str = "", epoch: int | None = None) -> AnomalyPredictor:
        """Load the model of a run's folder.

        Its memory is made of the run's normal images, so the data set must be there.

        Args:
            root: folder of the data sets, where it is another than the run's.
            epoch: checkpoint to read (default: as train.py --eval-only chooses).

        Raises:
            UsageError: no run, no checkpoint or no data there, or other normal images than the run
                had.
        """
        cfg = read_cfg(folder, root)
        check_dataset(cfg, folder)
        trained = build_trained(cfg, CLASSNAMES, load_backbone(cfg), epoch)
        model: Any = trained.model
        if model.needs_memory:
            with quiet():
                dataset: Any = build_dataset(cfg)
            dataset.check_draw()
            now = {key: value for key, value in dataset.digests().items() if key in MEMORY}
            refuse_changed_data(folder, now, "its memory is made of normal images")
            method: Any = trained.method
            model.remember(method.support_of(cfg, dataset)[0].to(trained.device))
        return AnomalyPredictor(trained)

    def prepare(self, image: str | Path) -> Tensor:
        """Return the model's input (3, H, W) for an image file.

        Raises:
            UsageError: the file does not decode.
        """
        return self._transform(read_image(image, self.reading))

    @torch.no_grad()
    def predict(self, images: Iterable[str | Path | Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Return image scores (N,) and maps (N, S, S), in [0, 1], 1 being anomalous.

        Args:
            images: files, or what `prepare` gave; run together.

        Raises:
            UsageError: a file does not decode, or an answer is not finite.
        """
        inputs = [x if isinstance(x, Tensor) else self.prepare(x) for x in images]
        if not inputs:
            return np.zeros(0), np.zeros((0, 1, 1))
        model = self.model
        encoded = model.encode(torch.stack(inputs).to(self.trained.device))
        answer = model.scores(encoded, model.class_state())[model.rule]
        maps = model.enlarged(answer.grid).clamp(0, 1)
        if not (torch.isfinite(answer.image).all() and torch.isfinite(maps).all()):
            name = self.trained.cfg.TRAINER.NAME
            raise UsageError(f"{name}: this model gives values that are not finite; train anew")
        return answer.image.float().cpu().numpy(), maps.float().cpu().numpy()


def map_picture(scores: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return a map (S, S) as a 16-bit grey picture of a size (width, height); 65535 means 1."""
    enlarged = Image.fromarray(scores.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(enlarged), 0, 1) * 65535 + 0.5
    return Image.fromarray(values.astype(np.uint16))
