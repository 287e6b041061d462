"""The configuration of one run: defaults, then YAML files, then flags, then KEY VALUE options.

The order is upstream's (CoOp's train.py). The trainer's name is read first, from the same places,
since a configuration has the settings of the run's own method only. Everything is checked against
the descriptions of the settings (``common.settings``) before anything is built.

Building a configuration does not import PyTorch (``anprompt.runs.declared`` says how), unless a
plugin does.
"""

import functools
import importlib.util
import logging
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.runs.declared import (
    declare_datasets,
    declared,
    declares_own,
    extend,
    trainer_names,
)
from common.errors import UsageError
from common.names import nearest
from common.paths import seen_from
from common.settings import Setting, declare, describe, leaves, shorten
from dassl.config import Config, check_config, get_cfg_default
from dassl.config.node import read_file
from dassl.data.datasets import DATASET_REGISTRY

if TYPE_CHECKING:
    from clip.weights.configs import Preprocessing

# What an evaluation reads its model from, and which file a backbone of no registered name is: part
# of what results depend on.
RUN = {
    "EVAL_ONLY": Setting(False, "whether the run evaluates a training (--eval-only)", scope="data"),
    "MODEL_DIR": Setting("", "folder of that training, seen from the run's", scope="data"),
    "LOAD_EPOCH": Setting(-1, "its checkpoint; -1: chosen", ge=-1, le=10**9, scope="data"),
    "WEIGHTS": Setting("", "digest of the backbone's file; empty: a registered name", scope="data"),
}

UPSTREAM_NAMES = {  # of trainers that have another one here
    "MultiModalAdapter": "MMA",
    "CLIP_Adapter": "CLIPAdapter",
    "ExtrasLinearProbeCoOp": "DePTCoOp",
    "ExtrasLinearProbeKgCoOp": "DePTKgCoOp",
    "ExtrasLinearProbeMaPLe": "DePTMaPLe",
}

logger = logging.getLogger(__name__)


def load_plugin(path: str) -> None:
    """Import a user's Python file, which registers trainers or data sets of its own.

    A name that this repository has as well is the plugin's from then on; that is said.

    Raises:
        UsageError: the file is not there, or importing it fails.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UsageError(f"--plugin {path}: no such file")
    name = f"plugin_{file.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return
    # First, so that these names are there to be taken over, and their settings known.
    import datasets  # noqa: F401
    import trainers  # noqa: F401

    declared()
    from dassl.engine import TRAINER_REGISTRY

    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file (its name ends in .py)")
    module = importlib.util.module_from_spec(spec)
    # A plugin may import its neighbours, as it could if it were run itself.
    sys.path.append(str(file.parent))
    sys.modules[name] = module
    TRAINER_REGISTRY.replaces = DATASET_REGISTRY.replaces = True
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"--plugin {path}{where}: {type(error).__name__}: {error}") from error
    finally:
        TRAINER_REGISTRY.replaces = DATASET_REGISTRY.replaces = False


def default_cfg(trainer: str = "") -> Config:
    """Dassl's defaults, with the settings of a trainer and of all data sets.

    Args:
        trainer: registered name; without one the settings of all trainers are declared, as for a
            trainer written for Dassl, which may read any.
    """
    cfg = get_cfg_default()
    declare(cfg, "RUN", RUN)
    declare_datasets(cfg)
    if not declares_own(trainer):
        for name in declared():
            extend(cfg, name)
        cfg.INPUT = get_cfg_default().INPUT  # which methods may have given other defaults
        cfg.DATASET.pop("UNLABELLED", None)  # what PromptKD reads is nothing to others
    if trainer in trainer_names():
        extend(cfg, trainer)
    here = {name for name, _ in leaves(cfg)}
    cfg.TRAINER.__dict__["_others"] = {
        key: name
        for name, keys in reversed(declared().items())
        for key in keys or ()
        if key not in here
    }
    return cfg


def node_of(key: str) -> str:
    """Return the method's node that a setting (dotted name) belongs to; "" for other settings."""
    path = key.split(".")
    return path[1] if path[0] == "TRAINER" and len(path) > 2 else ""


def build_cfg(args: Namespace) -> Config:
    """The frozen configuration that train.py's arguments describe.

    Raises:
        UsageError: a file cannot be read, a key does not exist, a value is not allowed.
    """
    for plugin in args.plugin:
        load_plugin(plugin)
    _take_upstream_names(args)
    for key in args.opts[::2]:
        if key.startswith("-"):
            raise UsageError(f"{key}: flags stand before the KEY VALUE options")
    files = [read_file(path) for path in (args.dataset_config_file, args.config_file) if path]
    cfg = default_cfg(_trainer_name(args, files))
    for pairs in files:
        cfg.merge_pairs(pairs)
    _merge_flags(cfg, args)
    cfg.merge_from_list(args.opts)

    if not cfg.MODEL.BACKBONE.NAME:
        cfg.MODEL.BACKBONE.NAME = "small"
    fit_images(cfg, args.opts[::2])
    cfg.RUN.WEIGHTS = weights_digest(cfg.MODEL.BACKBONE.NAME)
    cfg.RUN.EVAL_ONLY = args.eval_only
    if args.model_dir:
        # Seen from the run's folder: the same wherever the command is given, or both are moved to.
        cfg.RUN.MODEL_DIR = seen_from(args.model_dir, cfg.OUTPUT_DIR)
    cfg.RUN.LOAD_EPOCH = -1 if args.load_epoch is None else args.load_epoch
    check_config(cfg)
    cfg.freeze()
    return cfg


def _take_upstream_names(args: Namespace) -> None:
    """Put a trainer's name here in the place of its name upstream, unless a plugin has that."""
    ours = UPSTREAM_NAMES.get(args.trainer, "")
    if not ours or args.trainer in trainer_names():
        return
    logger.info("%s is called %s here", args.trainer, ours)
    file = args.config_file.replace(f"/{args.trainer}/", f"/{ours}/")
    if not os.path.exists(args.config_file) and os.path.exists(file):
        args.config_file = file
    args.trainer = ours


def _trainer_name(args: Namespace, files: list[dict[str, tuple[Any, str]]]) -> str:
    """The name of the run's trainer: that of the last place that names one.

    Raises:
        UsageError: none does, or there is no such trainer.
    """
    key = "TRAINER.NAME"
    named = [str(pairs[key][0]) for pairs in files if key in pairs]
    named += [args.trainer] if args.trainer else []
    options = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    named += [str(options[key])] if key in options else []
    if not named:
        known = ", ".join(sorted(trainer_names()))
        raise UsageError(f"no trainer is named: --trainer NAME, one of {known}")
    _check_trainer(named[-1])
    return named[-1]


def _check_trainer(name: str, source: str = "") -> None:
    known = trainer_names()
    if name not in known:
        near = nearest(name, known)
        hint = f"nearest known: {', '.join(near)}" if near else f"known: {', '.join(sorted(known))}"
        raise UsageError(f"{source}unknown trainer (TRAINER.NAME) {shorten(name)}; {hint}")


def recorded_cfg(content: Mapping[str, Any], source: str | Path) -> Config:
    """The configuration that a run recorded, of whatever version.

    Args:
        content: of its config.yaml.
        source: what messages call it.

    Raises:
        UsageError: it has settings that this version does not know, or does not allow.
    """
    method = content.get("TRAINER")
    if not isinstance(method, dict):
        raise UsageError(f"{source}: not the settings of a run")
    trainer = str(method.get("NAME", ""))
    _check_trainer(trainer, source=f"{source}: ")
    cfg = default_cfg(trainer)
    # Earlier versions recorded all methods' settings.
    others = {"RUN.METHODS", "RUN.OTHER_METHODS", *cfg.TRAINER.__dict__["_others"]}
    pairs = {
        name: (value, str(source))
        for name, value in leaves(content)
        if name not in others and (not node_of(name) or node_of(name) in cfg.TRAINER)
    }
    cfg.merge_pairs(pairs)
    return cfg


# Transforms that act on test images; the others make training images.
_TESTED_TRANSFORMS = {"normalize"}


def compare_with_training(
    cfg: Mapping[str, Any], recorded: Mapping[str, Any], source: str = "the training"
) -> list[str]:
    """Compare an evaluation's settings with those that its model was trained with.

    What the model consists of and what its images look like must be the same; an inference rule,
    the precision and the like may differ. Which data are tested differs by design and is not looked
    at; nor is the backbone, which `anprompt.runs.folder` compares by its weights.

    Args:
        cfg: of the evaluation.
        recorded: of the training, by dotted name; what it did not record is not compared.
        source: what messages call it.

    Returns:
        One line for each setting that may differ and does.

    Raises:
        UsageError: a setting differs that must not; names both values.
    """
    here = {name: value for name, value in _flat(cfg).items() if name != "MODEL.BACKBONE.NAME"}
    there = dict(recorded)
    for settings in (here, there):
        if "INPUT.TRANSFORMS" in settings:
            tested = _TESTED_TRANSFORMS & set(settings["INPUT.TRANSFORMS"])
            settings["INPUT.TRANSFORMS"] = sorted(tested)
    if "normalize" not in here.get("INPUT.TRANSFORMS", []):
        for name in ("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"):
            here.pop(name, None)
    lines = []
    for name, now in here.items():
        setting = describe(name)
        scope = setting.scope if setting is not None and name in there else ""
        if scope not in ("model", "inference") or _listed(there[name]) == _listed(now):
            continue
        if scope == "model":
            raise UsageError(
                f"{name} {shorten(now)}: {source} has {shorten(there[name])}, and an evaluation "
                "takes the training's; leave it out, or train anew"
            )
        lines.append(f"{name} {shorten(now)} ({source} has {shorten(there[name])})")
    return lines


def _flat(cfg: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name, the entries of tables too."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _merge_flags(cfg: Config, args: Namespace) -> None:
    if args.seed is not None:
        cfg.SEED = args.seed  # 0 is a seed like any other; negative means unseeded
    if args.root:
        cfg.DATASET.ROOT = args.root
    if args.output_dir:
        cfg.OUTPUT_DIR = args.output_dir
    if args.resume:
        cfg.RESUME = args.resume
    if args.source_domains:
        cfg.DATASET.SOURCE_DOMAINS = args.source_domains
    if args.target_domains:
        cfg.DATASET.TARGET_DOMAINS = args.target_domains
    if args.transforms:
        cfg.INPUT.TRANSFORMS = args.transforms
    if args.trainer:
        cfg.TRAINER.NAME = args.trainer
    if args.backbone:
        cfg.MODEL.BACKBONE.NAME = args.backbone
    if args.head:
        cfg.MODEL.HEAD.NAME = args.head
    if args.track:
        cfg.TRAIN.TRACK = args.track
    if args.train_epoch is not None:
        logger.info("--train-epoch has no effect, as in MMRL: OPTIM.MAX_EPOCH sets the epochs")


def weights_digest(name: str) -> str:
    """The first 16 hex digits of the SHA-256 of a backbone's file, "" for a registered name.

    A registered name always means the same weights; a file's do change, the bundled one's too.

    Raises:
        UsageError: as ``clip.load_model``.
    """
    from clip.weights import names

    return names.weights_digest(name)


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is written anew."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def fit_images(cfg: Config, stated: Sequence[str] = ()) -> None:
    """Set the images' size, mean, deviation and interpolation to those of the run's backbone.

    A YAML's values are made for the backbone that it names, not for the one that runs: its size is
    replaced, and so are CLIP's own pixel statistics and interpolation where the backbone was
    trained with others.

    Args:
        stated: settings given on the command line; they stay.

    Raises:
        UsageError: as ``clip.load_model``.
    """
    from clip.weights.configs import Preprocessing

    pixels, clips = backbone_preprocessing(cfg.MODEL.BACKBONE.NAME), Preprocessing()
    if "INPUT.SIZE" not in stated:
        cfg.INPUT.SIZE = (pixels.resolution, pixels.resolution)
    for name, own, theirs in (
        ("PIXEL_MEAN", list(pixels.mean), list(clips.mean)),
        ("PIXEL_STD", list(pixels.std), list(clips.std)),
        ("INTERPOLATION", pixels.interpolation, clips.interpolation),
    ):
        if f"INPUT.{name}" in stated or own == theirs or _listed(cfg.INPUT[name]) != theirs:
            continue
        cfg.INPUT[name] = own
        logger.info("INPUT.%s %s, as %s was trained", name, own, cfg.MODEL.BACKBONE.NAME)


def backbone_preprocessing(name: str) -> "Preprocessing":
    """Return the images that a backbone was trained on.

    For a registered name without touching its weights, so that a finished run is recognised on a
    machine that no longer has them.

    Raises:
        UsageError: as ``clip.load_model``.
    """
    from clip.weights import names

    path = names.resolve(name).path
    return _preprocessing(name, *(() if path is None else _version(path)))


@functools.cache
def _preprocessing(name: str, *version: int) -> "Preprocessing":
    from clip.weights import names

    return names.preprocessing(name)
