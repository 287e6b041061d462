"""What is measured: a trainer on a CLIP of random weights, random images, random class names."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import synthetic
from benchmarks.random_clip import SIZES, random_clip_state_dict
from dassl.engine import build_trainer

ADAMW = ("ANPrompt", "MMRL", "MMRLpp")  # the others' recipes use SGD


@dataclass(frozen=True)
class Workload:
    """One case.

    Attributes:
        trainer: registered name.
        backbone: a size in ``random_clip.SIZES``.
        classes: number of class names.
        batch: images a step.
        precision: fp32, fp16, amp or bf16.
        device: cpu or cuda.
        threads: of torch on the CPU; 0 leaves its own choice.
        cpu_time: count processor time instead of time; with one thread that is what a step takes
            on a machine that does nothing else.
    """

    trainer: str = "CoOp"
    backbone: str = "vitb16"
    classes: int = 50
    batch: int = 4
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 0
    cpu_time: bool = False

    def __str__(self) -> str:
        return (
            f"{self.trainer}, {self.backbone}, {self.classes} classes, batch {self.batch}, "
            f"{self.precision}, {self.device}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def with_(self, **changes: Any) -> "Workload":
        return replace(self, **changes)


def write_weights(folder: Path, backbone: str) -> Path:
    """The backbone's random weights as a file in ``folder``, made once."""
    path = folder / f"{backbone}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(random_clip_state_dict(backbone), path)
    return path


def make_cfg(work: Workload, folder: Path) -> Any:
    """Configuration of a workload whose weights and data set are in ``folder``."""
    from anprompt.runs.config import default_cfg

    cfg = default_cfg()
    side = SIZES[work.backbone]["image"]
    cfg.MODEL.BACKBONE.NAME = str(write_weights(folder, work.backbone))
    cfg.INPUT.SIZE = (side, side)
    cfg.INPUT.TRANSFORMS = ("normalize",)
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.DATASET.NAME = "Synthetic"
    cfg.DATASET.ROOT = str(folder / "data")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = work.batch
    cfg.DATALOADER.TEST.BATCH_SIZE = work.batch
    cfg.TEST.KEEP_FEATURES = False
    cfg.OPTIM.NAME = "adamw" if work.trainer in ADAMW else "sgd"
    cfg.OPTIM.LR = 1e-3
    cfg.TRAINER.NAME = work.trainer
    for node in cfg.TRAINER.values():
        if isinstance(node, dict) and "PREC" in node:
            node.PREC = work.precision
    cfg.TRAINER.MMRL.REP_DIM, cfg.TRAINER.MMRL.REG_WEIGHT = 512, 1.0
    cfg.OUTPUT_DIR = str(folder / "output")
    cfg.SEED = 1
    cfg.VERBOSE = False
    cfg.USE_CUDA = work.device == "cuda"
    return cfg


def build(work: Workload, folder: Path, changes: Sequence[Any] = ()) -> Any:
    """The workload's trainer, ready to take steps; what it prints while building is dropped.

    Args:
        changes: further settings: name, value, name, value, ...
    """
    if work.threads:
        torch.set_num_threads(work.threads)
    synthetic.write(folder / "data", work.classes)
    cfg = make_cfg(work, folder)
    cfg.merge_from_list(list(changes))
    cfg.freeze()
    with contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(1)
        trainer = build_trainer(cfg)
        make_ready(trainer)
    return trainer


def make_ready(trainer: Any) -> None:
    """Stand in for what a run does before its first step."""
    trainer.prepare_training()
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 10**9
    trainer.set_model_mode("train")


def make_batch(work: Workload, seed: int = 0) -> dict[str, Tensor]:
    """Images of noise (B, 3, H, W) and labels (B,), on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    side = SIZES[work.backbone]["image"]
    return {
        "img": torch.randn(work.batch, 3, side, side, generator=generator),
        "label": torch.randint(0, work.classes, (work.batch,), generator=generator),
    }


def loss_and_gradients(trainer: Any, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """Of one batch, without an optimiser's step."""
    trainer.model_zero_grad()
    with trainer.autocast():
        loss = trainer.model.loss(trainer.training_batch(batch)).total
    loss.backward()
    learner = trainer.model.prompt_learner
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters()}
    trainer.model_zero_grad()
    return float(loss.detach()), gradients


def difference(
    one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]
) -> tuple[float, float]:
    """How far two results of ``loss_and_gradients`` are apart, relative: loss, all gradients."""
    loss = abs(one[0] - other[0]) / abs(other[0])
    squares = sum(((one[1][name] - g).double() ** 2).sum() for name, g in other[1].items())
    norm = sum((g.double() ** 2).sum() for g in other[1].values())
    return loss, float((squares / norm).sqrt())
