"""A trained model, built again from its run's folder: for evaluation, and without its data set.

It takes what a run leaves behind (``config.yaml`` and a checkpoint of learned tensors) and the
names of the classes.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from anprompt.runs.checkpoints import epoch_to_load, model_dir
from anprompt.runs.config import recorded_cfg, weights_digest
from anprompt.runs.recorded import CONFIG
from common.checkpoints import checkpoint_name
from common.paths import seen_from
from common.reading import read_yaml
from dassl.data.datasets import DATASET_REGISTRY, reading_of
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UsageError, check_availability
from trainers.base import (
    ClassPrompts,
    PromptedCLIP,
    PromptTrainer,
    load_clip,
    load_learned,
    read_learned,
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what building a model prints; many are built here, and nobody trains them."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def read_cfg(folder: str | Path, root: str = "") -> CfgNode:
    """Return the configuration of the run in ``folder``, wherever that folder is now.

    Args:
        root: the folder of the data sets, where it is another than the run's.

    Raises:
        UsageError: no run there, or one with settings that this version does not know.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UsageError(
            f"{folder}: no {CONFIG}; name the folder of a run, e.g. "
            "output/base2new/train_base/shapes/shots_16/CoOp/CONFIG/seed1"
        )
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: not the settings of a run")
    try:
        cfg = recorded_cfg(content, path)
    except UsageError as error:
        raise UsageError(f"{error} (for a trainer or data set of your own: --plugin)") from None
    cfg.OUTPUT_DIR = str(folder)
    if root:
        cfg.DATASET.ROOT = root
    trainer_class(cfg)
    return cfg


def trainer_class(cfg: CfgNode) -> type[PromptTrainer]:
    """Return the run's trainer.

    Raises:
        UsageError: it is not registered, or cannot be given classes and prompts from outside.
    """
    name = cfg.TRAINER.NAME
    check_availability(name, TRAINER_REGISTRY.registered_names(), kind="trainer (TRAINER.NAME)")
    found = TRAINER_REGISTRY.get(name)
    if not issubclass(found, PromptTrainer):
        raise UsageError(
            f"trainer {name} does not build on trainers.base.PromptTrainer, which this command "
            "needs"
        )
    return found


def check_dataset(cfg: CfgNode, folder: str | Path) -> None:
    """Refuse a model whose data set is not known, and so neither is how its images are read.

    Raises:
        UsageError: so.
    """
    if cfg.DATASET.NAME not in DATASET_REGISTRY:
        raise UsageError(
            f"{folder}: no data set {cfg.DATASET.NAME!r} is known here, nor how its images are "
            "read; name its file with --plugin"
        )


def device_of(cfg: CfgNode) -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")


def load_backbone(cfg: CfgNode) -> Any:
    """Load the frozen CLIP that a run was trained on, in its precision.

    Raises:
        UsageError: the backbone's file is not the one that the run used.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if cfg.RUN.WEIGHTS and weights_digest(name) != cfg.RUN.WEIGHTS:
        raise UsageError(
            f"{cfg.OUTPUT_DIR}: backbone {name!r} had other weights when this run was made than "
            "are there now; run it anew, or put the old file back"
        )
    with quiet():
        precision = trainer_class(cfg).precision_of(cfg, device_of(cfg))
        return load_clip(cfg, precision, device_of(cfg), trainer_class(cfg).any_size)


@dataclass(frozen=True)
class TrainedModel:
    """A run's model in evaluation mode, with certain classes.

    Attributes:
        method: the run's trainer; here it only says how the model is built.
        checkpoint: what the model's learned tensors were read from; empty for a method that learns
            nothing.
        path: its file; None where there is none.
        reading: how image files become RGB, one of ``common.images.READINGS``.
    """

    cfg: CfgNode
    method: type[PromptTrainer]
    model: PromptedCLIP
    checkpoint: dict[str, Any]
    path: Path | None
    reading: str

    @property
    def device(self) -> torch.device:
        return device_of(self.cfg)

    def with_texts(self, texts: Sequence[str]) -> PromptedCLIP:
        """Return a model with the same learned tensors whose classes are described by ``texts``."""
        prompts = self.model.prompts.with_texts(texts)
        return _build(self.cfg, self.model.clip, prompts, self.checkpoint, str(self.path))


def build_trained(
    cfg: CfgNode,
    classnames: Sequence[str],
    clip_model: Any,
    epoch: int | None = None,
    own: Sequence[str] = (),
) -> TrainedModel:
    """Build a run's model for ``classnames`` and load what the run learned.

    Args:
        clip_model: what `load_backbone` gives; models may share one.
        epoch: which checkpoint; None as ``train.py --eval-only`` chooses.
        own: the run's classes, where ``classnames`` are others: those that a file without names
            (upstream's) is taken to be trained on.

    Raises:
        UsageError: there is no checkpoint, or it does not fit.
    """
    path = checkpoint_path(cfg, epoch)
    checkpoint = {} if path is None else read_learned(cfg, path)
    if checkpoint and own:
        checkpoint["meta"].setdefault("classnames", list(own))
    return trained_from(cfg, classnames, clip_model, checkpoint, path)


def trained_from(
    cfg: CfgNode,
    classnames: Sequence[str],
    clip_model: Any,
    checkpoint: dict[str, Any],
    path: Path | None = None,
    reading: str = "",
) -> TrainedModel:
    """Build a run's model from a checkpoint that was read already; {} leaves it untrained.

    Args:
        reading: how image files become RGB; "": as the run's data set says.

    Raises:
        UsageError: the checkpoint does not fit.
    """
    method = trainer_class(cfg)
    method.check_cfg(cfg)
    prompts = ClassPrompts(method.fixed_template(cfg), list(classnames))
    model = _build(cfg, clip_model, prompts, checkpoint, str(path))
    reading = reading or reading_of(cfg.DATASET.NAME)
    return TrainedModel(cfg, method, model, checkpoint, path, reading)


def _build(
    cfg: CfgNode, clip_model: Any, prompts: ClassPrompts, checkpoint: dict[str, Any], where: str
) -> PromptedCLIP:
    with quiet():
        model = trainer_class(cfg).build(cfg, clip_model, prompts).to(device_of(cfg))
        if checkpoint:
            load_learned(model, checkpoint, where=where)
    return model.eval()


def training_folder(cfg: CfgNode) -> Path:
    """Return where the learned tensors are: the run's folder, or its training's."""
    return model_dir(cfg) if cfg.RUN.MODEL_DIR else Path(cfg.OUTPUT_DIR)


def checkpoint_path(cfg: CfgNode, epoch: int | None = None) -> Path | None:
    """Return the checkpoint that a run's model is read from; None for a method that learns nothing.

    Args:
        epoch: which; None for the one that an evaluation was asked to read, else as
            ``train.py --eval-only`` chooses.

    Raises:
        UsageError: there is none, or training was not finished.
    """
    method = trainer_class(cfg)
    if not method.learns:
        return None
    folder = training_folder(cfg)
    if epoch is None and cfg.RUN.MODEL_DIR and cfg.RUN.LOAD_EPOCH >= 0:
        epoch = cfg.RUN.LOAD_EPOCH
    elif epoch is None:
        epoch = epoch_to_load(str(folder), method.model_name, cfg.OPTIM.MAX_EPOCH)
    return folder / method.model_name / checkpoint_name(epoch)


def versions() -> dict[str, str]:
    """Return versions that numbers may depend on."""
    import platform
    from importlib import metadata

    packages = ("torch", "torchvision", "numpy", "Pillow")
    return {"python": platform.python_version()} | {
        name.lower(): metadata.version(name) for name in packages
    }


def relative(path: str | Path, start: str | Path) -> str:
    """Return a path seen from ``start``, with forward slashes."""
    return Path(seen_from(path, start)).as_posix()
