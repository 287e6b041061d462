"""The configuration of one run: defaults, then YAML files, then flags, then KEY VALUE options.

The order is upstream's (CoOp's train.py). Every key is checked before anything is merged, so that a
misspelt one is answered with its nearest neighbours instead of a stack trace.
"""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UsageError, nearest_names
from tools.runs import flatten


def nearest(name: str, known: list[str]) -> str:
    """A clause naming the known names closest to ``name``; empty where none is close."""
    close = nearest_names(name, known)
    return f"; nearest: {', '.join(close)}" if close else ""


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
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    # A plugin may import its neighbours, as it could if it were run itself.
    sys.path.append(str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"--plugin {path}: {type(error).__name__}: {error}") from error


def default_cfg() -> CfgNode:
    """Dassl's defaults and what every registered trainer and data set adds to them."""
    import datasets  # noqa: F401  (registers the data sets)
    import trainers  # noqa: F401  (registers the trainers)

    cfg = get_cfg_default()
    # What an evaluation read its model from: part of what its result depends on.
    cfg.RUN = CfgNode({"EVAL_ONLY": False, "MODEL_DIR": "", "LOAD_EPOCH": -1})
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
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge(cfg, _read_yaml(path), source=path)
    _merge_flags(cfg, args)
    options = _parse_options(args.opts)
    merge(cfg, options, source="options")

    if not cfg.MODEL.BACKBONE.NAME:
        cfg.MODEL.BACKBONE.NAME = "small"
    if "SIZE" not in options.get("INPUT", {}):
        _follow_backbone_resolution(cfg)
    cfg.RUN.EVAL_ONLY = args.eval_only
    cfg.RUN.MODEL_DIR = args.model_dir
    cfg.RUN.LOAD_EPOCH = -1 if args.load_epoch is None else args.load_epoch
    cfg.freeze()
    return cfg


def merge(cfg: CfgNode, changes: dict, source: str) -> None:
    """Merge nested ``changes`` into ``cfg``; ``source`` names their origin in errors.

    Unlike yacs alone, a whole number is accepted where the default is a float (``WA_WEIGHT 0``).
    """
    _check_keys(cfg, changes, source, prefix="", known=list(flatten(cfg)))
    try:
        cfg.merge_from_other_cfg(CfgNode(_with_floats(cfg, changes)))
    except ValueError as error:
        raise UsageError(f"{source}: {str(error).splitlines()[0]}") from error


def _check_keys(node: CfgNode, changes: dict, source: str, prefix: str, known: list[str]) -> None:
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if key not in node:
            if node.is_new_allowed():
                continue
            raise UsageError(f"{source}: no config key {name}{nearest(name, known)}")
        is_section = isinstance(node[key], CfgNode)
        if is_section and not isinstance(value, dict):
            raise UsageError(f"{source}: {name} is a section, it cannot be set to {value!r}")
        if is_section:
            _check_keys(node[key], value, source, f"{name}.", known)
        elif isinstance(value, dict):
            first = f"{name}.{next(iter(value), '')}"
            raise UsageError(f"{source}: no config key {first}; {name} is a single value")


def _with_floats(node: CfgNode, changes: dict) -> dict:
    converted = {}
    for key, value in changes.items():
        default = node.get(key)
        if isinstance(value, dict):
            value = _with_floats(default if isinstance(default, CfgNode) else CfgNode(), value)
        elif isinstance(default, float):
            value = _as_float(value)
        converted[key] = value
    return converted


def _as_float(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value  # the merge itself refuses it, naming the key


def _read_yaml(path: str) -> dict:
    file = Path(path)
    if not file.is_file():
        others = sorted(other.stem for other in file.parent.glob("*.yaml"))
        hint = nearest(file.stem, others)
        if others and not hint:
            hint = f"; {file.parent} has {', '.join(others)}"
        raise UsageError(f"config file {path}: no such file{hint}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"config file {path}: not valid YAML: {reason}") from error
    if content is not None and not isinstance(content, dict):
        raise UsageError(f"config file {path}: expected sections and keys, found {content!r:.40}")
    return content or {}


def _parse_options(options: list[str]) -> dict:
    nested: dict = {}
    if len(options) % 2:
        raise UsageError(f"options come as KEY VALUE pairs; {options[-1]!r} stands alone")
    for name, value in zip(options[::2], options[1::2], strict=True):
        if name.startswith("-"):
            raise UsageError(f"{name}: flags stand before the KEY VALUE options")
        *sections, key = name.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UsageError(f"options: {name} and its section {section} are both given")
        node[key] = value
    return nested


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


def backbone_resolution(name: str) -> int:
    """Side of the images, in pixels, that a backbone was made for.

    For a registered name without touching its weights, so that a finished run is recognised on a
    machine that no longer has them.

    Raises:
        ValueError, FileNotFoundError: as ``clip.load_model``.
    """
    from clip import hub, loading

    architecture, tag = loading.split_tag(name)
    if name in hub.OPENAI_NAMES or (tag and hub.is_architecture(architecture)):
        return hub.input_resolution(architecture)
    return loading.build_model(loading.load_state_dict(name)).visual.input_resolution


def _follow_backbone_resolution(cfg: CfgNode) -> None:
    """Set INPUT.SIZE to what the backbone was made for; a YAML's size fits the backbone in it."""
    resolution = backbone_resolution(cfg.MODEL.BACKBONE.NAME)
    cfg.INPUT.SIZE = (resolution, resolution)
