"""The trainer of methods for anomaly detection: whole images, maps, and their metrics."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from common.errors import UsageError
from common.images import read_image, read_mask
from common.paths import seen_from
from common.provenance import now
from common.settings import Setting, declare
from dassl.data import DataManager
from dassl.data.transforms import INTERPOLATION_MODES
from dassl.utils import write_json

from ..settings import declare_method, precision
from ..trainer import PromptTrainer
from .model import FUSIONS, HARMONIC, AnomalyModel

logger = logging.getLogger(__name__)

NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO (0.3)",
}

SETTINGS = {
    "PREC": precision("fp32"),
    "RADIUS": Setting(
        3, "local path: how many rows and columns of patches a patch sees around itself; -1: all",
        ge=-1, le=1000,
    ),
    "OF_STOCK": Setting(
        True, "local path: it adds up values of the stock path's patches, not of its own"
    ),
    "START": Setting(0, "local path: its first block, from 0", ge=0, le=63),
    "LAYERS": Setting(
        [2, 7], "memory: blocks whose patches are compared, from 0", ge=0, le=63, length=(1, 8)
    ),
    "ROTATIONS": Setting(True, "memory: the normal images turned by 90, 180, 270 degrees too"),
    "FUSE": Setting(
        HARMONIC,
        "which answer is reported, of methods with several; all are measured",
        choices=FUSIONS, scope="inference",
    ),
    "TEMPERATURE": Setting(
        0.07, "of the softmax over normal and anomalous; 0: CLIP's own", ge=0, le=100
    ),
    "MAP_SIZE": Setting(
        400, "pixels of a side of the maps that are evaluated", ge=8, le=2048, scope="inference"
    ),
    "SIGMA": Setting(
        4.0, "Gaussian that smooths a map, in its pixels; 0: none", ge=0, le=200, scope="inference"
    ),
}  # fmt: skip

PRO_STEPS = Setting(
    0,
    "anomaly detection: thresholds of the AUPRO, evenly spaced (PromptAD and AnomalyCLIP: 200); 0: "
    "every one",
    ge=0, le=10**6, scope="data",
)  # fmt: skip


class AnomalyTrainer(PromptTrainer):
    """Learns from K normal images of a category, and tests with a score and a map an image.

    A method fills in ``build``.
    """

    method = "ANOMALY"
    task = "anomaly"
    any_size = True
    shares_steps = False  # a category's few images are one process's
    model: AnomalyModel

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_method(cfg, "ANOMALY", SETTINGS)
        declare(cfg, "TEST", {"PRO_STEPS": PRO_STEPS})

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        super().check_cfg(cfg)
        if cfg.TEST.FINAL_MODEL != "last_step":
            raise UsageError(
                f"TEST.FINAL_MODEL {cfg.TEST.FINAL_MODEL}: there are no images to validate on, and "
                "none is chosen on test images; leave it at last_step"
            )
        if cfg.TEST.SPLIT != "test":
            raise UsageError(f"TEST.SPLIT {cfg.TEST.SPLIT}: there are test images only")
        if cfg.DATASET.SUBSAMPLE_CLASSES != "all":
            raise UsageError(
                f"DATASET.SUBSAMPLE_CLASSES {cfg.DATASET.SUBSAMPLE_CLASSES}: anomaly detection has "
                "no base and new classes; leave it at all"
            )

    @classmethod
    def fixed_template(cls, cfg: Any) -> str:
        return "{}"  # the classes are no words of a prompt

    @classmethod
    def object_name(cls, cfg: Any) -> str:
        """Return what prompts call the object."""
        own = cfg.DATASET.get("OBJECT_NAME", "object")
        return own or cfg.DATASET.get("CATEGORY", "").replace("_", " ") or "object"

    @classmethod
    def image_transform(cls, cfg: Any) -> Callable[[Image.Image], Tensor]:
        """Return how images become the model's input: resized whole, not cut."""
        steps = [
            T.Resize(tuple(cfg.INPUT.SIZE), INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]),
            T.ToTensor(),
        ]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            steps.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        return T.Compose(steps)

    def build_data_loader(self) -> None:
        transform = self.image_transform(self.cfg)
        dm = DataManager(self.cfg, custom_tfm_train=transform, custom_tfm_test=transform)
        self.dm = dm
        self.train_loader_x, self.val_loader = dm.train_loader_x, dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes, self.lab2cname = dm.num_classes, dm.lab2cname

    @classmethod
    def support_of(cls, cfg: Any, dataset: Any) -> tuple[Tensor, list[str]]:
        """Return the normal images (K, 3, H, W) of a data set, and their names below its folder."""
        transform = cls.image_transform(cfg)
        items = dataset.train_x
        images = torch.stack([transform(read_image(i.impath, i.reading)) for i in items])
        keys = [seen_from(item.impath, dataset.image_dir) for item in items]
        return images, [key.replace(os.sep, "/") for key in keys]

    def _support(self) -> tuple[Tensor, list[str]]:
        images, keys = self.support_of(self.cfg, self.dm.dataset)
        return images.to(self.device), keys

    def prepare_training(self) -> None:
        super().prepare_training()
        self.model.prepare_support(*self._support())

    # Testing

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on the test images, write ``results.json`` and print the metrics.

        Returns:
            The image AUROC of the reported answer, in percent.

        Raises:
            UsageError: an answer is not finite.
        """
        # Dassl.pytorch, on which the methods for classes run, has not got what these are made of.
        from dassl.engine import results

        from .scores import RuleScores, defect_figures, write_scores

        cfg, model = self.cfg, self.model
        dataset: Any = self.dm.dataset
        model.eval()
        print("Evaluate on the *test* set")
        started = time.perf_counter()
        if model.needs_memory and not model.bank:
            model.remember(self._support()[0])
        size = cfg.TRAINER.ANOMALY.MAP_SIZE
        kept = {rule: RuleScores() for rule in (model.rule, *model.rules)}
        for batch in tqdm(self.test_loader, disable=None):
            with self.autocast():
                answers = model.scores(
                    model.encode(self.parse_batch_test(batch)[0]), model.class_state()
                )
            masks = self._masks(batch["index"].tolist(), size) if dataset.masks else None
            for rule, answer in answers.items():
                grid = answer.grid.float().cpu()
                kept[rule].add(answer.image.float().cpu().numpy(), grid.numpy())
                if masks is not None:
                    kept[rule].pixels.add(model.enlarged(grid).clamp(0, 1).numpy(), masks)
        seconds = time.perf_counter() - started
        labels = [item.label for item in dataset.test]
        figures = {rule: found.figures(labels, cfg.TEST.PRO_STEPS) for rule, found in kept.items()}
        own = figures[model.rule]
        facts = self._facts("test", model.rule if len(figures) > 1 else None, seconds)
        defects = [sample.defect for sample in dataset.samples]
        facts |= {
            "task": self.task,
            "category": dataset.category,
            "object_name": self.object_name(cfg),
            "seconds_per_image": round(seconds / len(labels), 5),
            "scores": write_scores(self.output_dir, dataset, kept, size, cfg.TRAINER.ANOMALY.SIGMA),
        }
        content = {
            "finished": True,
            **facts,
            **own,
            "num_test": len(labels),
            "per_defect": defect_figures(np.concatenate(kept[model.rule].images), defects),
            "rules": figures if len(figures) > 1 else {},
            "versions": results.versions(),
            "date": now(),
        }
        write_json(content, os.path.join(self.output_dir, results.FILE_NAME))
        print(f"=> result\n* total: {len(labels):,}")
        for name, value in own.items():
            print(f"* {NAMES[name]}: {value:.1f}%")
        if not dataset.masks:
            print("No masks, so nothing is said of pixels")
        for name, value in own.items():
            self.write_scalar(f"test/{name}", value, self.epoch)
        return own["image_auroc"]

    def _masks(self, index: Sequence[int], size: int) -> np.ndarray:
        """Return masks (B, size, size) of test images; of one without a mask all is normal."""
        dataset: Any = self.dm.dataset
        found = np.zeros((len(index), size, size), bool)
        for place, number in enumerate(index):
            path = dataset.samples[number].mask
            if path:
                mask = Image.fromarray(read_mask(os.path.join(dataset.image_dir, path)))
                found[place] = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST))
        return found
