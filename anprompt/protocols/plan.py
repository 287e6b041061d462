"""The protocols, and the runs that each of them takes.

A `RunSpec` is one call of train.py: what is trained or tested, in which folder, with which
arguments. `plan` lists the runs of a table in the order in which they start. Nothing here needs
torch.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anprompt.protocols.layout import run_folder
from anprompt.protocols.methods import Method, is_path, method_of, own_backbone
from common import paths
from common.errors import UsageError
from common.names import nearest

DATASETS = [
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101",
    "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101",
]  # fmt: skip
"""CoOp's eleven data sets, as files of ``configs/datasets``."""

IMAGENET_VARIANTS = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
DRAWN = ("shapes", "defect_tiles")
NEED_NO_DATA = (*DRAWN, "imagefolder", "anomaly_folder")
"""Data sets that are not below DATA: drawn, or at ``DATASET.IMAGE_DIR``."""


@dataclass(frozen=True)
class Protocol:
    """What is trained on what, and tested on what.

    Attributes:
        layout: the first folder of its runs. Domain generalisation is cross-dataset with other
            targets: they share their trainings.
        task: the setting ``TASK``.
        subsets: the classes (``DATASET.SUBSAMPLE_CLASSES``) of each stage.
        datasets: those trained and tested on where none are named; of a transfer the targets.
        shots: images per class where none are named.
        is_transfer: whether one training, on a source, is tested on many data sets.
    """

    layout: str
    task: str
    subsets: Mapping[str, str]
    datasets: Sequence[str]
    shots: Sequence[int] = (16,)
    is_transfer: bool = False


PROTOCOLS = {
    "base2new": Protocol("base2new", "B2N", {"train": "base", "test": "new"}, DATASETS),
    "crossdata": Protocol(
        "crossdata", "CD", {"train": "all", "test": "all"}, DATASETS, is_transfer=True
    ),
    "domaingen": Protocol(
        "crossdata", "CD", {"train": "all", "test": "all"}, IMAGENET_VARIANTS, is_transfer=True
    ),
    "fewshot": Protocol("fewshot", "FS", {"train": "all"}, DATASETS, (1, 2, 4, 8, 16)),
}


@dataclass(frozen=True)
class RunSpec:
    """One run: one call of train.py.

    Attributes:
        protocol: base2new, crossdata or fewshot (domain generalisation is crossdata).
        stage: train (which also tests on what was trained on) or test.
        method: the trainer's name.
        config: a file of the method's configurations, without ``.yaml``, or the path of one.
        backbone: as ``--backbone``.
        dataset: tested on: a file of ``configs/datasets`` without ``.yaml``, or the path of one.
        source: trained on.
        subset: classes tested on: base, new or all.
        shots: images per class trained on.
        is_usual: whether ``config`` is the method's own for this protocol; else it is named.
    """

    protocol: str
    stage: str
    method: str
    config: str
    backbone: str
    dataset: str
    source: str
    subset: str
    shots: int
    seed: int
    is_usual: bool = True

    def __str__(self) -> str:
        name = method_of(self.method).name
        config = "" if self.is_usual else f" ({_stem(self.config)})"
        data = _stem(self.dataset)
        if self.source != self.dataset:
            data = f"{_stem(self.source)} to {data}"
        shots = "" if self.shots == 16 else f" {self.shots} shots"
        stage = "" if self.protocol == "fewshot" else f" {self.stage}"
        return f"{name}{config} {data}{shots} seed {self.seed}{stage}"

    @property
    def config_file(self) -> Path:
        """The method's configuration file."""
        return method_of(self.method).config_file(self.config)

    @property
    def dataset_file(self) -> Path:
        """The data set's configuration file."""
        return dataset_file(self.dataset)

    @property
    def rules(self) -> Protocol:
        """The protocol that it is a run of."""
        return PROTOCOLS[self.protocol]

    @property
    def config_label(self) -> str:
        """The configuration's name, with the backbone's where that is another than it names."""
        if own_backbone(self.config_file) == self.backbone:
            return _stem(self.config)
        return f"{_stem(self.config)}-{self.backbone.replace('/', '_').replace(':', '_')}"

    @property
    def needs(self) -> "RunSpec | None":
        """The run that must be finished before; None where no training is read."""
        if self.stage == "train" or not method_of(self.method).learns:
            return None
        subset = self.rules.subsets["train"]
        return replace(self, stage="train", dataset=self.source, subset=subset)

    def folder(self, output: str | Path) -> str:
        """Return the run's folder below ``output``."""
        below = run_folder(
            layout=self.protocol,
            stage=self.stage,
            source=_stem(self.source),
            dataset=_stem(self.dataset),
            shots=self.shots,
            trainer=self.method,
            config=self.config_label,
            seed=self.seed,
        )
        return f"{output}/{below}"

    def argv(
        self,
        output: str | Path,
        *,
        root: str = "",
        plugins: Sequence[str] = (),
        load_epoch: str = "",
        options: Sequence[str] = (),
    ) -> list[str]:
        """Return train.py's arguments.

        Args:
            output: the folder of all results.
            root: the folder that holds the data sets.
            plugins: files to import.
            load_epoch: of a test, the epoch to read instead of the last.
            options: ``KEY VALUE`` settings, which come last and so win.
        """
        arguments = ["--root", root] if root else []
        arguments += ["--seed", str(self.seed), "--trainer", self.method]
        for plugin in plugins:
            arguments += ["--plugin", plugin]
        arguments += ["--backbone", self.backbone, "--config-file", str(self.config_file)]
        arguments += ["--dataset-config-file", str(self.dataset_file)]
        arguments += ["--output-dir", self.folder(output)]
        training = self.needs
        if self.stage == "test" or not method_of(self.method).learns:
            arguments.append("--eval-only")
        if training is not None:
            arguments += ["--model-dir", training.folder(output)]
            arguments += ["--load-epoch", load_epoch] if load_epoch else []
        shots = ["DATASET.NUM_SHOTS", str(self.shots)]
        subset = ["DATASET.SUBSAMPLE_CLASSES", self.subset]
        task = ["TASK", self.rules.task]
        arguments += (
            [*shots, *task, *subset] if self.protocol == "base2new" else ([*shots, *subset, *task])
        )
        return [*arguments, *options]


def plan(
    protocol: str,
    methods: Sequence[Method],
    datasets: Sequence[str],
    seeds: Sequence[int],
    shots: Sequence[int] = (16,),
    source: str = "imagenet",
    *,
    backbone: str = "small",
    configs: Mapping[str, Sequence[str]] | None = None,
) -> list[RunSpec]:
    """Return all runs of a table in the order in which they start: seed by seed.

    A method that learns nothing runs for the first seed and the first number of shots only.

    Args:
        protocol: a key of `PROTOCOLS`.
        datasets: trained and tested on; of a transfer the targets, among which the source is left
            out, being tested when training ends.
        configs: by trainer, the configurations to run where they are not the method's own.
    """
    runs: list[RunSpec] = []
    for seed, shot in itertools.product(seeds, shots):
        is_first = (seed, shot) == (seeds[0], shots[0])
        of_these = [method for method in methods if is_first or method.learns]
        for method, sources, targets in _pairs(protocol, of_these, datasets, source):
            for config in (configs or {}).get(method.trainer) or [""]:
                runs += _runs(protocol, method, sources, targets, seed, shot, config, backbone)
    return runs


def _pairs(
    protocol: str, methods: Sequence[Method], datasets: Sequence[str], source: str
) -> Iterator[tuple[Method, str, list[str]]]:
    """Yield (method, data set trained on, data sets tested on besides)."""
    if PROTOCOLS[protocol].is_transfer:
        for method in methods:
            yield method, source, [target for target in datasets if target != source]
        return
    for dataset in datasets:
        for method in methods:
            yield method, dataset, [dataset] if "test" in PROTOCOLS[protocol].subsets else []


def _runs(
    protocol: str,
    method: Method,
    source: str,
    targets: Sequence[str],
    seed: int,
    shots: int,
    config: str,
    backbone: str,
) -> Iterator[RunSpec]:
    training = run_spec(
        protocol, "train", method, source, source, seed, shots, config=config, backbone=backbone
    )
    yield training
    for target in targets:
        subset = PROTOCOLS[protocol].subsets["test"]
        yield replace(training, stage="test", dataset=target, subset=subset)


def run_spec(
    protocol: str,
    stage: str,
    method: Method,
    dataset: str,
    source: str,
    seed: int,
    shots: int,
    *,
    config: str = "",
    backbone: str = "small",
) -> RunSpec:
    """Return one run.

    Args:
        config: where it is not the method's own for this protocol.

    Raises:
        UsageError: the method has no configuration for it.
    """
    layout = PROTOCOLS[protocol].layout
    try:
        usual = method.config(layout, source, shots)
    except UsageError:
        if not config:
            raise
        usual = config
    return RunSpec(
        protocol=layout,
        stage=stage,
        method=method.trainer,
        config=config or usual,
        backbone=backbone,
        dataset=dataset,
        source=source,
        subset=PROTOCOLS[protocol].subsets[stage],
        shots=shots,
        seed=seed,
        is_usual=config in ("", usual),
    )


def all_datasets() -> list[str]:
    """Return the names of the files of ``configs/datasets``."""
    return sorted(path.stem for path in (paths.ROOT / "configs/datasets").glob("*.yaml"))


def dataset_file(name: str) -> Path:
    """Return the file of a data set's name, or the path itself where it is one."""
    if is_path(name):
        return Path(name).expanduser()
    return paths.ROOT / "configs/datasets" / f"{name}.yaml"


def check_datasets(names: Sequence[str]) -> None:
    """Refuse data sets that have no file.

    Raises:
        UsageError: one that there is not; says the nearest, or which there are.
    """
    known = all_datasets()
    if not names:
        raise UsageError(f"no data set named; there are: {', '.join(known)}")
    for name in names:
        if not dataset_file(name).is_file():
            near = nearest(name, known)
            hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
            raise UsageError(f"no data set {name!r}; {hint}")


def _stem(name: str) -> str:
    """Return the name of a configuration or data set, without folder and suffix."""
    return Path(name).stem if is_path(name) else name.rpartition("/")[2]
