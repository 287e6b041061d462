"""A data set of tiny pictures and a linear trainer: enough to run all of dassl in a second."""

import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from PIL import Image
from torch import nn

from dassl.config import get_cfg_default
from dassl.data.datasets import DatasetBase, Datum
from dassl.engine import TrainerX, build_trainer
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import set_random_seed

# For property tests: no time limit per example, because machines are busy.
few = settings(deadline=None, max_examples=40)

CLASSES = ["red apple", "green leaf", "blue sky"]
SPLITS = {"train": 8, "val": 3, "test": 5}
SIDE = 12


def make_images(root):
    """Noise tinted in the class's colour, 20 x 16 pixels: ``root/<split>/<label>_<number>.png``."""
    rng = np.random.default_rng(0)
    for split, number in SPLITS.items():
        os.makedirs(root / split)
        for label in range(len(CLASSES)):
            for i in range(number):
                pixels = rng.integers(0, 150, (16, 20, 3), dtype=np.uint8)
                pixels[..., label] += 60
                Image.fromarray(pixels).save(root / split / f"{label}_{i}.png")


class ToyImages(DatasetBase):
    def __init__(self, cfg):
        super().__init__(
            **{
                argument: [
                    Datum(
                        impath=os.path.join(cfg.DATASET.ROOT, split, f"{label}_{i}.png"),
                        label=label,
                        domain=i % 2,
                        classname=name,
                    )
                    for label, name in enumerate(CLASSES)
                    for i in range(SPLITS[split])
                ]
                for argument, split in (("train_x", "train"), ("val", "val"), ("test", "test"))
            }
        )


class ToyTrainer(TrainerX):
    """A linear layer behind dropout, and a second model with no optimiser.

    ``stop_at`` = (epoch, batch) makes it die there, as if the process had been killed.
    """

    stop_at = None

    def build_model(self):
        self.model = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(3 * SIDE * SIDE, self.num_classes)
        ).to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, self.optim, self.sched)
        self.counter = nn.BatchNorm1d(1, affine=False)  # has state, but nothing to optimise
        self.register_model("counter", self.counter)
        self.losses = []

    def forward_backward(self, batch):
        if self.stop_at == (self.epoch, self.batch_idx):
            raise KeyboardInterrupt
        image, label, _ = self.parse_batch_train(batch)
        logits = self.model(image)
        loss = F.cross_entropy(logits, label)
        self.model_backward_and_update(loss)
        self.counter(loss.detach().view(1, 1).expand(2, 1))
        self.losses.append(loss.item())
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss, "acc": compute_accuracy(logits, label)[0]}


class TwoRuleTrainer(ToyTrainer):
    """Offers its logits, and their negative as a second rule."""

    headline_rule = "straight"

    def model_inference_rules(self, image):
        logits = self.model(image)
        return {"inverted": -logits, "straight": logits}


def make_cfg(root, output, *options):
    """Configuration of a short run; ``options`` are alternating keys and values."""
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "ToyImages"
    cfg.DATASET.ROOT = str(root)
    cfg.OUTPUT_DIR = str(output)
    cfg.SEED = 0
    cfg.TRAINER.NAME = "ToyTrainer"
    cfg.INPUT.SIZE = (SIDE, SIDE)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize", "colorjitter")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 7
    cfg.OPTIM.NAME = "sgd"
    cfg.OPTIM.LR = 0.05
    cfg.OPTIM.LR_SCHEDULER = "cosine"
    cfg.OPTIM.WARMUP_EPOCH = 1
    cfg.OPTIM.WARMUP_TYPE = "constant"
    cfg.OPTIM.MAX_EPOCH = 4
    cfg.merge_from_list(list(options))
    return cfg


def state(trainer):
    """All that training changed, as one flat tensor."""
    models = trainer._models.values()
    tensors = [t.double().flatten() for model in models for t in model.state_dict().values()]
    for group in trainer.optim.state.values():
        tensors += [t.double().flatten() for t in group.values() if isinstance(t, torch.Tensor)]
    return torch.cat(tensors)


# Counted by machine and clock, so no run repeats them.
MEASURED = {"train_seconds", "test_seconds", "peak_memory_mb", "date", "config"}


def build(cfg, seed=0):
    set_random_seed(seed)
    return build_trainer(cfg)


def results(cfg):
    with open(os.path.join(cfg.OUTPUT_DIR, "results.json")) as file:
        return json.load(file)


def figures(cfg):
    return {key: value for key, value in results(cfg).items() if key not in MEASURED}


def files(cfg, model="linear"):
    return sorted(os.listdir(os.path.join(cfg.OUTPUT_DIR, model)))


def train_until(cfg, epoch, batch=1):
    """A run that dies in that epoch (index)."""
    trainer = build(cfg)
    trainer.stop_at = (epoch, batch)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer
