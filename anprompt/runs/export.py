"""A trained model in a folder of its own: ``model.json`` and ``model.safetensors``.

The safetensors file holds the learned tensors as ``learned.<name>`` and, unless every image has
class features of its own, the normalised ``class_features`` (C, E). Weights of the image tower that
have what was learned inside, as CLIP-LoRA's can, are ``merged.<name in the backbone>``. The JSON
file holds class names, settings and how images are prepared; it names the frozen backbone, which is
not copied, and carries a digest over both files.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from yacs.config import CfgNode

from anprompt.runs.config import recorded_cfg
from anprompt.runs.recorded import CONFIG
from anprompt.runs.trained import TrainedModel, versions
from common.errors import UsageError
from common.images import READINGS
from common.reading import read_bytes, read_json
from common.schema import Number, mismatch
from dassl.utils import atomic_write, save_checkpoint, write_json
from trainers.base import PromptedCLIP, trained_classnames

DESCRIPTION = "model.json"
TENSORS = "model.safetensors"
FORMAT = 1
LEARNED = "learned."
TRAINED_ROWS = "of the classes trained on"
CLASS_FEATURES = "class_features"
MERGED = "merged."
# What a model needs to know of its training; see `PromptedCLIP.check_checkpoint`.
_KEPT_META = ("dataset", "classnames", "teacher_weights")
CONTENT = {
    "format": Number(FORMAT, FORMAT, whole=True),
    "trainer": str,
    "classnames": [str],
    "rule": str,
    "trained_on": {},
    "config": {},
    "input?": {"reading?": str},
    "rows?": str,
    "digest?": str,
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """What an export holds.

    Attributes:
        cfg: the run's settings.
        classnames: what the model answered with.
        rule: its inference rule.
        checkpoint: learned tensors and what they were trained on; empty for a method that learns
            nothing.
        path: of the tensors.
        has_trained_rows: whether tensors of each class's own are those of the classes trained on;
            in files of earlier versions they are those of ``classnames``.
        reading: how image files become RGB; "" in files of earlier versions that do not say.
    """

    cfg: CfgNode
    classnames: list[str]
    rule: str
    checkpoint: dict[str, Any]
    path: Path
    has_trained_rows: bool = True
    reading: str = ""


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export."""
    return (folder / DESCRIPTION).is_file()


def describe(trained: TrainedModel, classnames: Sequence[str]) -> dict[str, Any]:
    """Return what whoever uses a model has to know of it, as JSON holds it.

    ``input`` says how an image is prepared: its shorter side resized to ``size``, the middle cut
    out, values 0 to 1, less ``mean``, over ``std`` (0 and 1 without normalisation); ``reading`` is
    how its file becomes RGB (`common.images`). ``image_tower`` is "backbone" where an image meets
    nothing but the backbone and ``class_features``, so that any implementation of it answers alike
    to an image prepared so; "merged" where that holds once it has the tensors ``merged.<name>``;
    else "changed".
    """
    cfg = trained.cfg
    is_normalised = "normalize" in cfg.INPUT.TRANSFORMS
    return {
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "image_tower": image_tower(trained),
        "classnames": list(classnames),
        "rule": trained.model.rule,
        "logit_scale": float(trained.model.scale),
        "input": {
            "size": list(cfg.INPUT.SIZE),
            "interpolation": cfg.INPUT.INTERPOLATION,
            "mean": list(cfg.INPUT.PIXEL_MEAN) if is_normalised else [0.0] * 3,
            "std": list(cfg.INPUT.PIXEL_STD) if is_normalised else [1.0] * 3,
            "reading": trained.reading,
        },
        "versions": versions(),
    }


@torch.no_grad()
def image_tower(trained: TrainedModel) -> str:
    """Return what an image meets, as `describe` says; tried with an image of noise."""
    model = trained.model
    merged, state = model.merged(), model.class_state()
    if not isinstance(state, torch.Tensor):
        return "changed"
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *trained.cfg.INPUT.SIZE, generator=generator).to(trained.device)
    plain = merged.scale * PromptedCLIP.image_features(merged, image) @ state.t()
    if not torch.allclose(model(image), plain, atol=1e-3, rtol=1e-4):
        return "changed"
    return "backbone" if merged is model else "merged"


def refuse_runs_folder(folder: str | Path) -> None:
    """Refuse to write a model among a run's own files, which it would stand for or replace."""
    if (Path(folder) / CONFIG).is_file():
        raise UsageError(f"{folder} is the folder of a run; write the model to one of its own")


@torch.no_grad()
def write_export(trained: TrainedModel, classnames: Sequence[str], folder: str | Path) -> None:
    """Write a model to ``folder``.

    Raises:
        UsageError: its tensors are not finite, or the folder is a run's.
    """
    refuse_runs_folder(folder)
    model, cfg = trained.model, trained.cfg
    tensors = {LEARNED + name: tensor for name, tensor in learned_tensors(trained).items()}
    state = model.class_state()
    if isinstance(state, torch.Tensor):
        tensors[CLASS_FEATURES] = state.contiguous().cpu()
    frozen = dict(model.clip.visual.named_parameters())
    for name, weight in model.merged().clip.visual.named_parameters():
        if not torch.equal(weight, frozen[name]):
            tensors[f"{MERGED}visual.{name}"] = weight.detach().contiguous().cpu()
    check_finite(tensors, "this model")
    meta = trained.checkpoint.get("meta", {})
    description = describe(trained, classnames) | {
        "format": FORMAT,
        "rows": TRAINED_ROWS,
        "trained_on": {key: meta[key] for key in _KEPT_META if key in meta},
        "config": _plain(cfg),
    }
    content = save_safetensors(tensors)
    description["digest"] = _digest(description, content)
    # The description last: a folder without it is no export.
    with atomic_write(str(Path(folder) / TENSORS), "wb") as file:
        file.write(content)
    write_json(description, str(Path(folder) / DESCRIPTION))


def read_export(folder: Path) -> Export:
    """Read what `write_export` wrote.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    description = read_json(folder / DESCRIPTION)
    problem = mismatch(description, CONTENT)
    if problem:
        raise UsageError(f"{folder / DESCRIPTION}: not an export of this version ({problem})")
    path = folder / TENSORS
    content = read_bytes(path, limit=1 << 32)
    digest = description.pop("digest", None)
    if digest is None:
        logger.info("%s has no digest: an earlier version wrote it", folder)
    elif digest != _digest(description, content):
        raise UsageError(f"{folder}: its files are damaged or were changed; export the model again")
    try:
        tensors = load_safetensors(content)
    except Exception as error:  # safetensors' own
        raise UsageError(f"{path}: not the tensors of this model ({error})") from None
    check_finite(tensors, str(path))
    learned = {
        name.removeprefix(LEARNED): tensor
        for name, tensor in tensors.items()
        if name.startswith(LEARNED)
    }
    # Without names: of a model from upstream's file, written by an earlier version.
    description["trained_on"].setdefault("classnames", description["classnames"])
    checkpoint = {"state_dict": learned, "meta": description["trained_on"]} if learned else {}
    cfg = recorded_cfg(description["config"], folder / DESCRIPTION)
    names = description["classnames"]
    trained_on = trained_classnames(description["trained_on"])
    as_trained = description.get("rows") == TRAINED_ROWS or trained_on == [
        name.replace("_", " ") for name in names
    ]
    reading = (description.get("input") or {}).get("reading") or ""
    if reading not in ("", *READINGS):
        raise UsageError(f"{folder / DESCRIPTION}: no reading {reading!r:.40} of images")
    return Export(cfg, names, description["rule"], checkpoint, path, as_trained, reading)


def learned_tensors(trained: TrainedModel) -> dict[str, torch.Tensor]:
    """Return what a model has learned by its learner's names, on the CPU.

    Tensors of each class's own have the rows of the classes trained on, in training's order,
    whatever classes the model answers with now: so whoever reads them can find rows by name.
    """
    model = trained.model
    learned = dict(model.prompt_learner.state_dict())
    stored = trained.checkpoint.get("state_dict", {})
    for name, tensor in stored.items():
        key = model.rename_key(name)
        if key in model.prompt_learner.per_class and key in learned:
            learned[key] = tensor.to(learned[key].dtype)
    return {name: tensor.contiguous().cpu() for name, tensor in learned.items()}


def write_upstream(trained: TrainedModel, folder: str | Path) -> Path:
    """Write a model's learned tensors as the method's upstream repository would have.

    Upstream's ``--model-dir FOLDER --load-epoch N`` reads them, N being the epoch that was read.

    Returns:
        The file.

    Raises:
        UsageError: the method has no upstream repository, or learns nothing; or the folder is a
            run's.
    """
    refuse_runs_folder(folder)
    model, name = trained.model, trained.cfg.TRAINER.NAME
    learned = learned_tensors(trained)
    renamed = {model.upstream_key(key): tensor for key, tensor in learned.items()}
    if not learned or None in renamed:
        raise UsageError(f"{name}: no upstream repository has names for what it learns")
    content = {
        "state_dict": renamed,
        "epoch": trained.checkpoint.get("epoch", 1),
        "optimizer": None,
        "scheduler": None,
        "val_result": None,
    }
    return Path(
        save_checkpoint(content, str(Path(folder) / trained.method.model_name), verbose=False)
    )


def _digest(description: dict[str, Any], tensors: bytes) -> str:
    text = json.dumps(description, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode() + hashlib.sha256(tensors).digest()).hexdigest()


def check_finite(tensors: dict[str, torch.Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UsageError(f"{where}: {name} holds values that are not finite; train anew")


def _plain(value: Any) -> Any:
    """Return a configuration as nested dictionaries and lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
