"""The configuration of one run: defaults, then YAML files, then flags, then KEY VALUE options.

The order is upstream's (CoOp's train.py).
"""

import functools
import importlib.util
import os
import sys
import traceback
from argparse import Namespace
from pathlib import Path

import yaml
from yacs.config import CfgNode

from anprompt.runs.folder import flatten, is_of_another
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UsageError, nearest_names

BASE = "_BASE_"  # in a YAML file: another one, whose settings it starts from


def load_plugin(path: str) -> None:
    """Import a user's Python file, which registers trainers or data sets of its own.

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
    # First, so that a name that is taken is the plugin's error and not that of a module it imports.
    import datasets  # noqa: F401
    import trainers  # noqa: F401

    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    # A plugin may import its neighbours, as it could if it were run itself.
    sys.path.append(str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"--plugin {path}{where}: {type(error).__name__}: {error}") from error


def default_cfg() -> CfgNode:
    """Dassl's defaults and what every registered trainer and data set adds to them."""
    import datasets  # noqa: F401  (registers the data sets)
    import trainers  # noqa: F401  (registers the trainers)

    cfg = get_cfg_default()
    # What an evaluation reads its model from, and which file a backbone of no registered name is:
    # part of what results depend on.
    cfg.RUN = CfgNode({"EVAL_ONLY": False, "MODEL_DIR": "", "LOAD_EPOCH": -1, "WEIGHTS": ""})
    # The nodes under TRAINER that are the run's own, and what the others are set to beside their
    # defaults: these may change, as when somebody works on a method, and this run stays as it is.
    cfg.RUN.METHODS = []
    cfg.RUN.OTHER_METHODS = []
    for registry in (TRAINER_REGISTRY, DATASET_REGISTRY):
        for name in registry.registered_names():
            extend_cfg = getattr(registry.get(name), "extend_cfg", None)
            if extend_cfg is not None:
                extend_cfg(cfg)
    return cfg


def build_cfg(args: Namespace) -> CfgNode:
    """The frozen configuration that train.py's arguments describe.

    Raises:
        UsageError: a file cannot be read, a key does not exist or a value has the wrong type.
    """
    for plugin in args.plugin:
        load_plugin(plugin)
    cfg = default_cfg()
    defaults = flatten(cfg.TRAINER, "TRAINER.")
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    _merge_flags(cfg, args)
    for key in args.opts[::2]:
        if key.startswith("-"):
            raise UsageError(f"{key}: flags stand before the KEY VALUE options")
    cfg.merge_from_list(args.opts)

    if not cfg.MODEL.BACKBONE.NAME:
        cfg.MODEL.BACKBONE.NAME = "small"
    if "INPUT.SIZE" not in args.opts[::2]:
        # A YAML's size fits the backbone that it names, not the one that runs.
        resolution = backbone_resolution(cfg.MODEL.BACKBONE.NAME)
        cfg.INPUT.SIZE = (resolution, resolution)
    cfg.RUN.WEIGHTS = weights_digest(cfg.MODEL.BACKBONE.NAME)
    cfg.RUN.EVAL_ONLY = args.eval_only
    if cfg.TRAINER.NAME in TRAINER_REGISTRY.registered_names():
        cfg.RUN.METHODS = methods_of(TRAINER_REGISTRY.get(cfg.TRAINER.NAME))
    if cfg.RUN.METHODS:
        others = flatten(cfg.TRAINER, "TRAINER.").items()
        cfg.RUN.OTHER_METHODS = [
            f"{key} {value}"
            for key, value in others
            if is_of_another(key, cfg.RUN.METHODS) and value != defaults.get(key)
        ]
    if args.model_dir:
        # Seen from the run's folder: the same wherever the command is given, or both are moved to.
        cfg.RUN.MODEL_DIR = os.path.relpath(args.model_dir, cfg.OUTPUT_DIR)
    cfg.RUN.LOAD_EPOCH = -1 if args.load_epoch is None else args.load_epoch
    cfg.freeze()
    return cfg


def methods_of(trainer: type) -> list[str]:
    """The nodes under TRAINER that a trainer and its bases declare.

    None where it declares none, as stock trainers do: it may then read any.
    """
    probe = get_cfg_default()
    before = set(probe.TRAINER)
    for base in reversed(trainer.__mro__):
        declare = base.__dict__.get("extend_cfg")
        if declare is not None:
            try:
                getattr(declare, "__func__", declare)(probe)
            except Exception:  # it builds on what another one declares
                return []
    declared = set(probe.TRAINER) - before | {getattr(trainer, "method", "")}
    return sorted(declared - {""})


def merge_file(cfg: CfgNode, path: str | Path) -> None:
    """Merge a YAML file; one that names another as ``_BASE_`` (seen from itself) says what differs.

    Raises:
        UsageError: a file cannot be read, a key does not exist or a value has the wrong type.
    """
    _merge_chain(cfg, Path(path), ())


def _merge_chain(cfg: CfgNode, path: Path, below: tuple[Path, ...]) -> None:
    _check_file(str(path))
    if path.resolve() in below:
        raise UsageError(f"{path}: {BASE} leads in a circle")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None  # refused below, with the reason
    if not isinstance(content, dict) or BASE not in content:
        cfg.merge_from_file(str(path))
        return
    base = content.pop(BASE)
    _merge_chain(cfg, path.parent / str(base), (*below, path.resolve()))
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except UsageError as error:
        raise UsageError(str(error).replace("the given configuration", str(path), 1)) from None


def _check_file(path: str) -> None:
    file = Path(path)
    if not file.is_file():
        near = nearest_names(file.stem, [other.stem for other in file.parent.glob("*.yaml")])
        hint = f"; nearest in {file.parent}: {', '.join(near)}" if near else ""
        raise UsageError(f"no such config file: {path}{hint}")


def _merge_flags(cfg: CfgNode, args: Namespace) -> None:
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


def weights_digest(name: str) -> str:
    """The first 16 hex digits of the SHA-256 of a backbone's file, "" for a registered name.

    A registered name always means the same weights; a file's do change, the bundled one's too.

    Raises:
        UsageError: as ``clip.load_model``.
    """
    from clip.weights import names

    path = names.resolve(name).path
    return "" if path is None else _digest(path, *_version(path))


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is written anew."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.cache  # a sweep builds hundreds of configurations with one backbone
def _digest(path: Path, *version: int) -> str:
    from clip.weights import hub

    return hub.sha256(path)[:16]


def backbone_resolution(name: str) -> int:
    """Side of the images, in pixels, that a backbone was made for.

    For a registered name without touching its weights, so that a finished run is recognised on a
    machine that no longer has them.

    Raises:
        UsageError: as ``clip.load_model``.
    """
    from clip.weights import names

    path = names.resolve(name).path
    return _resolution(name, *(() if path is None else _version(path)))


@functools.cache
def _resolution(name: str, *version: int) -> int:
    import clip

    return clip.preprocessing(name).resolution
