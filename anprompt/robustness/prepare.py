"""From the command line to models and images; all is checked before anything is measured."""

import argparse
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from anprompt.results.comparable import TEST_DATA
from anprompt.results.noise.files import OWN_PHRASINGS
from anprompt.robustness.attacks import check_attack, has_autoattack
from anprompt.robustness.chosen import find_trained, is_classifier, subsets_to_measure
from anprompt.robustness.earlier import (
    ATTACKED_IN,
    check_attacked,
    check_distinct,
    check_precision,
    check_start,
    images_digest,
)
from anprompt.robustness.evaluation import Task, measure
from anprompt.robustness.examples import add_examples, example_cells
from anprompt.robustness.images import (
    ImageNetC,
    TestImages,
    frost_pictures,
    select,
    split_transform,
)
from anprompt.robustness.models import TrainedClassifier, describe, zero_shot
from anprompt.robustness.plan import Plan, parse_plan
from anprompt.robustness.store import Store
from anprompt.robustness.texts import Pools, read_phrasings
from anprompt.runs.config import load_plugin
from anprompt.runs.fingerprint import earlier_fingerprint
from anprompt.runs.folder import refuse_redrawn, was_trained_on_these
from anprompt.runs.trained import (
    build_trained,
    device_of,
    load_backbone,
    quiet,
    read_cfg,
    trainer_class,
    training_folder,
    versions,
)
from common.errors import UsageError
from common.files import file_digest
from common.lock import FolderLock
from common.paths import image_key
from common.reading import MissingFile
from common.settings import leaves
from dassl.data.datasets import build_dataset
from datasets import identity as data_identity
from noise.descriptions import find_descriptions, load_descriptions
from noise.imagenet_c import SIZES, nearest_size
from trainers.base import prompt_template

logger = logging.getLogger(__name__)

ROBUSTNESS_LOCK = ".robustness.lock"  # a training's own lock is another: they may go side by side


def evaluate_runs(args: argparse.Namespace) -> tuple[list[Path], tuple[str, ...]]:
    """Measure what ``args`` asks for and is not there yet.

    Returns:
        The runs' folders, and the subsets of the classes that they were measured on.

    Raises:
        UsageError: bad input, or another process is at one of these runs; nothing was written.
    """
    plan = parse_plan(
        args.noise, args.severities, args.seeds, args.eps, args.descriptions is not None
    )
    for flag, value, least in (
        ("--images", args.images, 1),
        ("--attack-images", args.attack_images, 1),
        ("--batch-size", args.batch_size, 1),
        ("--workers", args.workers, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{flag} {value}: give {least} or more")
    for path in args.plugin:
        load_plugin(path)
    cfgs = {folder: read_cfg(folder, args.root) for folder in find_trained(args.model_dir)}
    others = [folder for folder, cfg in cfgs.items() if not is_classifier(cfg)]
    cfgs = {folder: cfg for folder, cfg in cfgs.items() if folder not in others}
    if not cfgs:
        raise UsageError(
            f"--model-dir {others[0]}: a model for anomaly detection; robustness is measured of "
            "classification"
        )
    subsets = subsets_to_measure(cfgs, args.classes)
    preparation = Preparation(args, plan, cfgs, redo=subsets if args.redo else ())
    with contextlib.ExitStack() as held:
        for folder in cfgs:
            held.enter_context(FolderLock(folder, ROBUSTNESS_LOCK)).acquire()
        prepared = [preparation.subset(subset) for subset in subsets]
        for subset in prepared:
            check_distinct(subset.name, [store for _, store in subset.runs])
        for subset in prepared:
            preparation.measure(subset)
    return list(cfgs), subsets


@dataclass
class Subset:
    """All models on one subset of the classes.

    Attributes:
        runs: each model with the store of its run.
    """

    name: str
    title: str
    tasks: list[Task]
    runs: list[tuple[TrainedClassifier, Store]]
    images: TestImages


@dataclass(frozen=True)
class _TestSet:
    """The test images of one subset: ``keys`` of all of them, ``images`` those that are used,
    ``data`` what `datasets.identity` says of them, ``is_drawn`` whether they were divided here from
    those that are trained on.
    """

    folder: Path
    cfg: CfgNode
    classnames: list[str]
    keys: list[str]
    images: TestImages
    transform: Callable
    data: dict[str, str]
    is_drawn: bool


class Preparation:
    """Builds models and images, each backbone and each checkpoint once.

    Args:
        redo: subsets of the classes to measure anew.

    Raises:
        UsageError: a file that is named cannot be read.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        plan: Plan,
        cfgs: dict[Path, CfgNode],
        redo: Sequence[str] = (),
    ):
        self.args = args
        self.cfgs = cfgs
        self._redo = redo
        self.pools = Pools()
        if args.descriptions:
            known = load_descriptions(args.descriptions, "--descriptions")
            self.pools = replace(self.pools, descriptions=known)
        if args.templates:
            self.pools = replace(self.pools, phrasings=tuple(read_phrasings(args.templates)))
        self.imagenet_c = _imagenet_c(args, plan, cfgs)
        self.plan = _what_can_be_had(plan, self.imagenet_c)
        self._backbones: dict[tuple, Any] = {}
        self._stores: dict[Path, Store] = {}
        self._surrogates: dict[tuple, TrainedClassifier] = {}
        self._known_data: dict = {}

    def subset(self, name: str) -> Subset:
        """Return the models and images of a subset of the classes.

        Raises:
            UsageError: no checkpoint, other classes or images than another run's, ...
        """
        tests: _TestSet | None = None
        runs, tasks = [], []
        for folder, recorded in self.cfgs.items():
            cfg = recorded.clone()
            cfg.defrost()
            cfg.DATASET.SUBSAMPLE_CLASSES = name
            if self.plan.attacks:  # in half precision small gradients become zero
                trainer_class(cfg).settings_of(cfg).PREC = ATTACKED_IN
                cfg.INEXACT.TF32 = False
            tests = self._test_set(tests, folder, cfg)
            if tests.is_drawn and was_trained_on_these(training_folder(cfg), cfg):
                refuse_redrawn(training_folder(cfg), self._data_of(cfg))
            trained = build_trained(
                cfg, tests.classnames, self._backbone(cfg), self.args.load_epoch
            )
            classifier = TrainedClassifier(trained, tests.transform, folder, tests.classnames)
            store = self._store(classifier)
            runs.append((classifier, store))
            tasks.append(self._task(classifier, store, name, tests))
        assert tests is not None
        # First those that leave others the output of frozen blocks.
        order = sorted(range(len(runs)), key=lambda i: -runs[i][0].model.frozen_blocks)
        runs, tasks = [runs[i] for i in order], [tasks[i] for i in order]
        if "description" in self.plan.kinds.get("text", ()):
            for word in runs[0][0].words:
                find_descriptions(self.pools.descriptions or {}, word)  # refuses one without
        for attack, _ in self.plan.attacks:
            check_attack(attack, len(tests.classnames))
        title = f"{tests.cfg.DATASET.NAME} {name}, {len(tests.images)} images"
        return Subset(name, title, tasks, runs, tests.images)

    def measure(self, subset: Subset) -> None:
        """Measure what is missing of a subset."""
        shown = example_cells(self.plan)
        measure(
            subset.tasks,
            subset.images,
            self.pools,
            self.args.batch_size,
            self.args.workers,
            subset.title,
            keep=shown,
        )
        for task, (_, store) in zip(subset.tasks, subset.runs, strict=True):
            add_examples(task, store, subset.name, subset.images, self.plan, self.pools)

    def _test_set(self, first: _TestSet | None, folder: Path, cfg: CfgNode) -> _TestSet:
        """Return the test set, which must be the same for all runs."""
        if first is not None and _preparation(cfg) != _preparation(first.cfg):
            raise UsageError(
                f"{first.folder} and {folder} prepare images differently (INPUT.SIZE, "
                "INTERPOLATION, normalisation); evaluate them one after the other"
            )
        if first is not None and _data(cfg) == _data(first.cfg):
            return first
        with quiet():
            dataset = build_dataset(cfg)
        test = list(dataset.test or ())
        keys = [image_key(item.impath, dataset, cfg.DATASET.ROOT) for item in test]
        if first is not None:
            if (dataset.classnames, keys) != (first.classnames, first.keys):
                raise UsageError(
                    "these runs have different class sets and cannot be compared: "
                    f"{cfg.DATASET.SUBSAMPLE_CLASSES} classes or test images of {first.folder} "
                    f"and {folder} differ"
                )
            return first
        crop, transform = split_transform(cfg)
        chosen = select(keys, [item.label for item in test], self.args.images)
        images = TestImages(
            [test[i].impath for i in chosen],
            [test[i].label for i in chosen],
            [keys[i] for i in chosen],
            crop=crop,
            readings=[test[i].reading for i in chosen],
            imagenet_c=self.imagenet_c,
        )
        data = {key: digest for key, digest in self._data_of(cfg).items() if key in TEST_DATA}
        is_drawn = getattr(dataset, "is_drawn", False)
        names = list(dataset.classnames)
        return _TestSet(folder, cfg, names, keys, images, transform, data, is_drawn)

    def _data_of(self, cfg: CfgNode) -> dict[str, str]:
        """Return digests of the data; none where only training's, not needed here, are gone."""
        try:
            return data_identity(cfg, self._known_data)
        except MissingFile:
            return {}

    def _store(self, classifier: TrainedClassifier) -> Store:
        folder = classifier.folder
        if folder not in self._stores:
            header = {**describe(classifier), "versions": versions()}
            earlier = earlier_fingerprint(folder, classifier.trained.path)
            self._stores[folder] = Store(folder, header, self._redo, earlier)
        return self._stores[folder]

    def _task(
        self, classifier: TrainedClassifier, store: Store, name: str, tests: _TestSet
    ) -> Task:
        images, plan = tests.images, self.plan
        header = {
            "classnames": classifier.classnames,
            "headline_rule": classifier.rule,
            "template": classifier.template,
            "images": {
                "used": len(images), "of": len(tests.keys), "sha256": images_digest(images.keys)
            },
        }  # fmt: skip
        attacked = select(images.keys, images.labels, self.args.attack_images)
        cells = [cell for cell in plan.cells() if classifier.takes(cell)]
        in_memory = {"imagenet-c", "imagenet-c-val"} & plan.kinds.keys()
        on_disk = [cell for cell in cells if cell.group == "imagenet-c-disk"]
        drawn = {cell.text_kind for cell in cells}
        phrasings = file_digest(self.args.templates) if self.args.templates else OWN_PHRASINGS
        optional = {
            "descriptions": (
                file_digest(self.args.descriptions) if "description" in drawn else None
            ),
            "phrasings": phrasings if "phrasing" in drawn else None,
            "imagenet_c": self.imagenet_c.description() if in_memory else None,
            "released": self.imagenet_c.released_digests(on_disk, str(images.images[0])) or None,
        }
        results = store.subset(name, header, optional, tests.data)
        if plan.attacks:
            check_attacked(store, name, results.content, [images.keys[i] for i in attacked])
        check_start(store, name, results.content, plan)
        missing = results.missing(cells)
        if not results.content["clean"] or any(cell.group != "adversarial" for cell in missing):
            now = _precision(classifier.trained.cfg)
            check_precision(store, name, results, now, bool(plan.attacks))
        return Task(
            classifier,
            results,
            missing,
            np.array(attacked),
            outcomes=store.outcomes,
            subset=name,
            surrogate=self._surrogate(classifier),
        )

    def _surrogate(self, classifier: TrainedClassifier) -> TrainedClassifier | None:
        """Return what transferred attacks are made on, one for all models on a backbone."""
        if "transfer" not in dict(self.plan.attacks):
            return None
        template = prompt_template(classifier.trained.cfg)
        key = (id(classifier.model.clip), tuple(classifier.classnames), template)
        if key not in self._surrogates:
            self._surrogates[key] = zero_shot(classifier)
        return self._surrogates[key]

    def _backbone(self, cfg: CfgNode) -> Any:
        """Return the frozen CLIP, loaded once for all runs that share it."""
        precision = _precision(cfg)
        speed = (cfg.MODEL.CLASSES_AT_ONCE, *cfg.INEXACT.values())
        key = (cfg.MODEL.BACKBONE.NAME, cfg.RUN.WEIGHTS, precision, device_of(cfg), *speed)
        if key not in self._backbones:
            self._backbones[key] = load_backbone(cfg)
        return self._backbones[key]


def _precision(cfg: CfgNode) -> str:
    with quiet():
        found: str = trainer_class(cfg).precision_of(cfg, device_of(cfg))
    return f"{found}, TF32" if cfg.INEXACT.TF32 else found


def _imagenet_c(args: argparse.Namespace, plan: Plan, cfgs: dict[Path, CfgNode]) -> ImageNetC:
    """Return how ImageNet-C's pictures are had, if they are asked for.

    Raises:
        UsageError: pictures of a size that ImageNet-C does not have, or no folder of it.
    """
    wanted = {group: kinds for group, kinds in plan.kinds.items() if group.startswith("imagenet-c")}
    if args.released is not None and not args.released.is_dir():
        raise UsageError(f"--released {args.released}: no such folder")
    if not wanted:
        return ImageNetC()
    if "imagenet-c-disk" in wanted and args.released is None:
        raise UsageError("--noise imagenet-c-disk: name the released ImageNet-C with --released")
    height, width = next(iter(cfgs.values())).INPUT.SIZE
    size = nearest_size(min(height, width))
    if wanted.keys() - {"imagenet-c-disk"} and (height, width) not in [(s, s) for s in SIZES]:
        if not args.nearest or height != width:
            raise UsageError(
                f"ImageNet-C has parameters for square pictures of 224, 64 and 32 pixels, these "
                f"models see {height} x {width}; --nearest takes those for {size}"
            )
        logger.info(f"ImageNet-C: pictures of {height} pixels, parameters for {size} (--nearest)")
    frost: tuple = ()
    if "frost" in wanted.get("imagenet-c", ()):
        try:
            frost = frost_pictures()
        except UsageError as error:
            logger.info(f"ImageNet-C without kind frost: {error}")
    return ImageNetC(height, size, args.as_jpeg, frost, args.released)


def _what_can_be_had(plan: Plan, how: ImageNetC) -> Plan:
    """Leave out kind frost without its pictures, and Square without its package."""
    if "frost" in plan.kinds.get("imagenet-c", ()) and not how.frost:
        kinds = tuple(kind for kind in plan.kinds["imagenet-c"] if kind != "frost")
        plan = replace(plan, kinds={**plan.kinds, "imagenet-c": kinds})
    if plan.spare and not has_autoattack():
        logger.info("masking checks without Square: pyautoattack is not installed")
        attacks = tuple(pair for pair in plan.attacks if pair[0] not in plan.spare)
        plan = replace(plan, attacks=attacks)
    return plan


def _data(cfg: CfgNode) -> dict[str, Any]:
    """What decides which images a configuration tests on."""
    return {key: value for key, value in leaves(cfg.DATASET) if key != "NUM_SHOTS"}


def _preparation(cfg: CfgNode) -> list[Any]:
    """What decides how a configuration prepares a test image."""
    node = cfg.INPUT
    steps = [name for name in ("normalize",) if name in node.TRANSFORMS]
    values = (node.SIZE, node.PIXEL_MEAN, node.PIXEL_STD)
    return [node.INTERPOLATION, steps, *(list(value) for value in values)]
