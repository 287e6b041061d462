"""From the command line to models and images; all is checked before anything is measured."""

import argparse
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from anprompt.robustness import plan as plans
from anprompt.robustness.attacks import check_autoattack
from anprompt.robustness.evaluate import Work, add_examples, measure
from anprompt.robustness.images import TestImages, image_key, select, split_transform
from anprompt.robustness.models import Subject, cfg_part, describe
from anprompt.robustness.store import Store
from anprompt.runs.config import load_plugin
from anprompt.runs.folder import CONFIG, recorded_config
from anprompt.runs.trained import (
    device_of,
    load_backbone,
    quiet,
    read_cfg,
    trainer_class,
    training_folder,
    versions,
)
from common.errors import UsageError
from common.lock import FolderLock
from dassl.data.datasets import build_dataset
from noise.descriptions import find_descriptions, load_descriptions

PARTS = ("all", "base", "new")
ROBUSTNESS_LOCK = ".robustness.lock"  # a training's own lock is another: they may go side by side


def evaluate(args: argparse.Namespace) -> tuple[list[Path], tuple[str, ...]]:
    """Measure what ``args`` asks for and is not there yet.

    Returns:
        The runs' folders, and the parts of the classes that they were measured on.

    Raises:
        UsageError: bad input, or another process is at one of these runs;
            nothing was written.
    """
    plan = plans.Plan(
        severities=plans.parse_severities(args.severities),
        seeds=plans.parse_seeds(args.seeds),
        bounds=plans.parse_bounds(args.eps),
        **plans.parse_noise(args.noise, has_descriptions=args.descriptions is not None),
    )
    for flag, value, least in (
        ("--images", args.images, 1),
        ("--batch-size", args.batch_size, 1),
        ("--workers", args.workers, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{flag} {value}: give {least} or more")
    for path in args.plugin:
        load_plugin(path)
    descriptions = load_descriptions(args.descriptions) if args.descriptions else None
    cfgs = {folder: read_cfg(folder, args.root) for folder in find_trained(args.model_dir)}
    parts = parts_to_measure(cfgs, args.classes)
    with contextlib.ExitStack() as held:
        for folder in cfgs:
            held.enter_context(FolderLock(folder, ROBUSTNESS_LOCK)).acquire()
        jobs = Jobs(args, plan, descriptions, cfgs)
        prepared = [jobs.prepare(part) for part in parts]
        for part in prepared:
            jobs.run(part)
    return list(cfgs), parts


def find_trained(paths: list[Path]) -> list[Path]:
    """Folders of runs: the given ones, or those below the given ones.

    Raises:
        UsageError: a path holds no run.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"--model-dir {path}: no such folder")
        if (path / CONFIG).is_file():
            found = [path]
        else:
            found = sorted(file.parent for file in path.rglob(CONFIG) if _is_model(file.parent))
        if not found:
            raise UsageError(f"--model-dir {path}: no trained model there or below (no {CONFIG})")
        folders |= dict.fromkeys(found)
    return list(folders)


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model, and not the evaluation of another folder's."""
    recorded = recorded_config(folder) or {}
    if not recorded.get("TRAINER.NAME"):
        return False
    # A method that learns nothing has evaluations only; that of base classes stands for it.
    evaluates = recorded.get("RUN.MODEL_DIR") or recorded.get("DATASET.SUBSAMPLE_CLASSES") == "new"
    return not (recorded.get("RUN.EVAL_ONLY") and evaluates)


def parts_to_measure(cfgs: dict[Path, CfgNode], asked: str) -> tuple[str, ...]:
    """The parts of the classes, the same for all runs.

    Args:
        asked: "base,new"; empty: base and new for models trained on base, else what they were
            trained on.

    Raises:
        UsageError: unknown parts, or runs that do not have the same classes.
    """
    _refuse_different(cfgs, lambda cfg: cfg.DATASET.NAME)
    if asked:
        parts = tuple(dict.fromkeys(asked.replace(",", " ").split()))
        if not parts or set(parts) - set(PARTS):
            raise UsageError(f"--classes {asked!r}: choose from {', '.join(PARTS)}")
        return parts

    def own_parts(cfg: CfgNode) -> tuple[str, ...]:
        trained_on = cfg_part(training_folder(cfg), cfg)
        return ("base", "new") if trained_on == "base" else (trained_on,)

    _refuse_different(cfgs, own_parts, hint="Say which with --classes, or give like runs")
    return own_parts(next(iter(cfgs.values())))


def _refuse_different(
    cfgs: dict[Path, CfgNode],
    classes: Callable[[CfgNode], Any],
    hint: str = "Give one data set's runs at a time",
) -> None:
    (first, known), *others = [(folder, classes(cfg)) for folder, cfg in cfgs.items()]
    for folder, found in others:
        if found != known:
            a, b = (v if isinstance(v, str) else "+".join(v) for v in (known, found))
            raise UsageError(
                f"these runs have different class sets and cannot be compared: {first} has {a}, "
                f"{folder} has {b}. {hint}"
            )


@dataclass
class Part:
    """All models on one part of the classes."""

    name: str
    works: list[Work]
    images: TestImages
    after: Callable


class Jobs:
    """What one call of the command works with."""

    def __init__(
        self,
        args: argparse.Namespace,
        plan: plans.Plan,
        descriptions: dict[str, list[str]] | None,
        cfgs: dict[Path, CfgNode],
    ):
        self.args = args
        self.plan = plan
        self.descriptions = descriptions
        self.cfgs = cfgs
        self._backbones: dict[tuple, Any] = {}
        self._stores: dict[Path, Store] = {}

    def prepare(self, name: str) -> Part:
        """Models, images and results so far for a part of the classes.

        Raises:
            UsageError: no checkpoint, other classes or images than another run's, ...
        """
        first: tuple[Path, CfgNode] | None = None
        works: list[Work] = []
        for folder, recorded in self.cfgs.items():
            cfg = recorded.clone()
            cfg.defrost()
            cfg.DATASET.SUBSAMPLE_CLASSES = name
            if first is None or _data(cfg) != _data(first[1]):
                with quiet():
                    dataset = build_dataset(cfg)
                labels = [item.label for item in dataset.test]
                keys = [image_key(item.impath, dataset, cfg.DATASET.ROOT) for item in dataset.test]
                if first is None:
                    first = (folder, cfg)
                    classnames, all_keys = dataset.classnames, keys
                    crop, after = split_transform(cfg)
                    chosen = select(keys, labels, self.args.images)
                    images = TestImages(
                        [dataset.test[i] for i in chosen], [keys[i] for i in chosen], crop
                    )
                elif (dataset.classnames, keys) != (classnames, all_keys):
                    raise UsageError(
                        f"these runs have different class sets and cannot be compared: {name} "
                        f"classes or test images of {first[0]} and {folder} differ"
                    )
            if _preparation(cfg) != _preparation(first[1]):
                raise UsageError(
                    f"{first[0]} and {folder} prepare images differently (INPUT.SIZE, "
                    "INTERPOLATION, normalisation); evaluate them one after the other"
                )
            epoch = self.args.load_epoch
            subject = Subject.build(folder, cfg, classnames, self._backbone(cfg), epoch)
            works.append(self._work(subject, name, images, len(all_keys)))
        if "description" in self.plan.text_kinds:
            for word in works[0].subject.words:
                find_descriptions(self.descriptions, word)  # refuses a class without any
        if "autoattack" in self.plan.attacks:
            check_autoattack(len(classnames))
        return Part(name, works, images, after)

    def run(self, part: Part) -> None:
        """Measure what is missing of a part."""
        for work in part.works:
            if work.store.is_stale:
                print(f"{work.store.path}: the model was trained anew; starting over")
                work.store.is_stale = False
        measure(
            part.works,
            part.images,
            part.after,
            self.descriptions,
            self.args.batch_size,
            self.args.workers,
            f"{part.works[0].subject.cfg.DATASET.NAME} {part.name}, {len(part.images)} images",
        )
        for work in part.works:
            add_examples(work, part.images, part.after, self.plan, self.descriptions)

    def _work(self, subject: Subject, name: str, images: TestImages, number: int) -> Work:
        folder = subject.folder
        if folder not in self._stores:
            header = {**describe(subject), "versions": versions()}
            self._stores[folder] = Store(folder, header, redo=self.args.redo)
        store = self._stores[folder]
        digest = hashlib.sha256("\n".join(images.keys).encode()).hexdigest()[:16]
        header = {
            "classnames": subject.classnames,
            "headline_rule": subject.headline_rule,
            "template": subject.template,
            "images": {"used": len(images), "of": number, "sha256": digest},
        }
        store.part(name, header, self._descriptions_digest())
        cells = list(self.plan.cells())
        if not subject.model.prompt_learner.learned_tokens():
            cells = [cell for cell in cells if cell.group != "learned"]
        return Work(subject, store, name, store.missing(name, cells))

    def _descriptions_digest(self) -> str | None:
        if self.descriptions is None:
            return None
        return hashlib.sha256(self.args.descriptions.read_bytes()).hexdigest()[:16]

    def _backbone(self, cfg: CfgNode) -> Any:
        """The frozen CLIP, loaded once for all runs that share it."""
        with quiet():
            precision = trainer_class(cfg).precision_of(cfg, device_of(cfg))
        speed = (cfg.MODEL.CLASSES_AT_ONCE, *cfg.INEXACT.values())
        key = (cfg.MODEL.BACKBONE.NAME, cfg.RUN.WEIGHTS, precision, device_of(cfg), *speed)
        if key not in self._backbones:
            self._backbones[key] = load_backbone(cfg)
        return self._backbones[key]


def _data(cfg: CfgNode) -> list[Any]:
    """What decides which images a configuration tests on."""
    keys = ("NAME", "ROOT", "SUBSAMPLE_CLASSES", "IMAGE_DIR", "CSV", "CLASSNAMES_FILE")
    return [cfg.DATASET.get(key) for key in keys]


def _preparation(cfg: CfgNode) -> list[Any]:
    """What decides how a configuration prepares a test image."""
    node = cfg.INPUT
    steps = [name for name in ("normalize",) if name in node.TRANSFORMS]
    values = (node.SIZE, node.PIXEL_MEAN, node.PIXEL_STD)
    return [node.INTERPOLATION, steps, *(list(value) for value in values)]
