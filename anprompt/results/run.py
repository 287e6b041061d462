"""Finished runs, as their files tell them. What is missing stays missing.

A file is believed only where it is what this project (or upstream's code) writes: anything else is
refused in one line, so that no damaged or foreign number ends in a table.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.protocols.layout import data_name, read_path
from anprompt.protocols.methods import ANOMALY, method_of
from anprompt.results.comparable import data_of, resumed_of
from anprompt.results.logs import final_result, log_files, read_header
from anprompt.results.method import Method
from anprompt.results.value import Value
from anprompt.runs.identity import OWN_CODE
from anprompt.runs.recorded import (
    CONFIG,
    RESULTS,
    contradiction,
    is_anomaly,
    known_shots,
    read_results,
    recorded_config,
    settings_in,
    training_of,
)
from common.errors import UsageError
from common.files import file_digest
from common.schema import COUNT, PERCENT, WHOLE, Each, Number, mismatch
from common.text import plain
from common.walk import folders_with

HEADLINE = "headline"  # the rule that a method's protocol prescribes
METRICS = ("accuracy", "macro_f1")

_FIGURES = {
    "accuracy": PERCENT,
    "error?": PERCENT,
    "macro_f1?": PERCENT,
    "per_class?": Each(PERCENT),
}
_AMOUNT = Number(0)
_RESULTS = {
    **_FIGURES,
    "trainer": str,
    "dataset": str,
    "backbone": str,
    "subsample_classes": str,
    "shots": WHOLE,
    "seed": WHOLE,
    "rules?": Each(_FIGURES),
    "headline_rule?": str,
    "dataset_title?": str,
    "fewest_shots?": COUNT,
    "takes_all?": bool,
    "split?": str,
    "classnames?": [str],
    "num_test?": COUNT,
    "epochs?": COUNT,
    "num_trainable?": COUNT,
    "train_seconds?": _AMOUNT,
    "test_seconds?": _AMOUNT,
    "peak_memory_mb?": _AMOUNT,
    "device?": str,
    "versions?": Each(str),
    "code?": {"version?": str, "commit?": str, "dirty?": bool},
    "date?": str,
    "host?": str,
    "command?": str,
    "identity?": {"data?": Each(str)},
    "predictions?": {"sha256": str},
    "config?": {
        "RUN?": {"EVAL_ONLY?": bool, "MODEL_DIR?": str, "METHODS?": [str]},
        "DATASET?": {"NUM_SHOTS?": WHOLE},
    },
}
_LOGGED = {
    "TRAINER.NAME?": str,
    "DATASET.NAME?": str,
    "DATASET.SUBSAMPLE_CLASSES?": str,
    "DATASET.NUM_SHOTS?": WHOLE,
    "MODEL.BACKBONE.NAME?": str,
    "SEED?": WHOLE,
    "TASK?": str,
}


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        shots: images a class trained on; ALL_IMAGES without such a limit.
        subset: all, base or new: the classes tested on.
        trained_on: the data set and the subset of its classes that were trained on; "" where that
            is not known (a training that is not there).
        training: the folder of the training, of runs that evaluate one.
        learns: False for methods without training, such as zero-shot CLIP.
        is_untrained: a method that learns, evaluated without a training.
        layout: base2new, crossdata or fewshot, where the path says so.
        origin: "log.txt" for runs of upstream's code, else "".
        split: test or val: the images tested on.
        epochs: how many the model was trained; None where that is not known.
        resumed: in what its training differs from another run's that it went on from.
        settings: the configuration, as dotted names.
        trained_with: that of its training, as far as it is there.
        results: what results.json says; of a log the accuracy alone.
        file: where that stands.
    """

    folder: Path
    trainer: str
    config: str
    backbone: str
    shots: int
    dataset: str
    subset: str
    seed: int
    results: dict[str, Any] = field(repr=False)
    file: str
    headline_rule: str = ""
    trained_on: tuple[str, str] = ("", "")
    training: Path | None = None
    learns: bool = True
    is_untrained: bool = False
    layout: str = ""
    origin: str = ""
    split: str = "test"
    epochs: int | None = None
    resumed: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    trained_with: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def method(self) -> Method:
        """Return what tells methods apart, whatever they are tested on."""
        return Method(
            trainer=self.trainer,
            config=self.config,
            backbone=self.backbone,
            shots=self.shots if self.learns else None,
            origin=self.origin,
            learns=self.learns,
        )

    @property
    def rules(self) -> list[str]:
        """Return inference rules that the run was tested with."""
        return list(self.results.get("rules") or ())

    @property
    def shortage(self) -> str:
        """Return how many images the smallest class had where that is too few; else ""."""
        fewest = self.results.get("fewest_shots")
        if fewest is None or fewest >= self.shots or self.training or not self.learns:
            return ""
        return f"{fewest} of the {self.shots} images asked for"

    @property
    def classnames(self) -> tuple[str, ...]:
        """Return the classes tested on, as far as results.json has them."""
        return tuple(self.results.get("classnames") or ())

    @property
    def num_test(self) -> int | None:
        """Return how many images it was tested on."""
        return self.results.get("num_test")

    @property
    def data(self) -> dict[str, str]:
        """Return digests of its data, of runs that recorded them."""
        return data_of(self.results)

    @property
    def tested(self) -> str:
        """Return a digest of the test images' list and labels, of runs that recorded it."""
        return self.data.get("test") or ""

    @property
    def weights(self) -> str:
        """Return a digest of the backbone's file, of runs that recorded it."""
        return (self.results.get("identity") or {}).get("weights") or ""

    @property
    def own_code(self) -> str:
        """Return a digest of the plugin's code that it ran, of runs that recorded it."""
        return ((self.results.get("identity") or {}).get("files") or {}).get(OWN_CODE) or ""

    @property
    def depends_on(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return its settings and those of its training, for `comparable.differing_runs`."""
        return self.settings, self.trained_with

    def value(self, key: str, rule: str = HEADLINE) -> Value | None:
        """Return a number of results.json, under an inference rule; None where it is not there."""
        place, start = self.results, ""
        if rule != HEADLINE:
            place, start = (self.results.get("rules") or {}).get(rule) or {}, f"rules/{rule}/"
        number = place.get(key)
        return None if number is None else Value(float(number), f"{self.file}#{start}{key}")

    def per_class(self) -> dict[str, Value]:
        """Return accuracy of each class tested on."""
        figures = (self.results.get("per_class") or {}).items()
        return {name: Value(float(n), f"{self.file}#per_class/{name}") for name, n in figures}


def find_runs(paths: Iterable[Path], logs: bool = False) -> tuple[list[Run], list[Path]]:
    """Return finished runs below ``paths``, and the folders of runs that are not finished.

    Args:
        logs: also runs of upstream's code, which leave log.txt alone. A run with results.json or
            config.yaml is never read from its log.

    Those of anomaly detection are passed over (`anprompt.results.anomaly`).

    Raises:
        UsageError: a path does not exist, or a file cannot be read or is not what it should be.
    """
    runs, unfinished = [], []
    folders: set[Path] = set()
    digests: dict[Path, str] = {}  # of checkpoints: many tests may have read one
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder")
        folders.update(folders_with(path, [RESULTS, CONFIG, *(["log.txt*"] if logs else [])]))
    for folder in sorted(folders):
        has_results = (folder / RESULTS).is_file()
        if has_results or (folder / CONFIG).is_file():
            results = read_results(folder)
            if is_anomaly(results) or (results is None and is_of_anomaly(folder)):
                continue  # it has tables of its own
            if results is not None:
                runs.append(_run(folder, results, digests))
            elif has_results or "TRAINER.NAME" in (recorded_config(folder) or {}):
                unfinished.append(folder)
        elif run := _logged_run(folder):
            runs.append(run)
        else:
            unfinished.append(folder)
    return runs, unfinished


def is_of_anomaly(folder: Path) -> bool:
    """Return whether an unfinished run is one of anomaly detection."""
    trainer = (recorded_config(folder) or {}).get("TRAINER.NAME")
    return isinstance(trainer, str) and method_of(trainer).task == ANOMALY


def _check(content: Any, description: Any, path: Path) -> None:
    problem = mismatch(content, description)
    if description is _RESULTS:
        problem = problem or contradiction(content)
    if problem:
        raise UsageError(
            f"{path}: not the results of a run ({problem}); remove it and run again, or give "
            "other folders"
        )


def _run(folder: Path, results: dict, digests: dict[Path, str]) -> Run:
    path = folder / RESULTS
    _check(results, _RESULTS, path)
    settings = settings_in(results.get("config") or {})
    trainer, subset, backbone = (
        plain(results[key]) for key in ("trainer", "subsample_classes", "backbone")
    )
    dataset = _dataset(results)
    facts = read_path(folder, trainer)
    training = training_of(folder, settings)
    learns = results.get("num_trainable") != 0 and not _is_zero_shot(trainer)
    behind = Training(dataset, subset, results["shots"], resumed_of(results), settings)
    if training and learns:
        _check_checkpoint(folder, results, training, digests)
        behind = read_training(training, behind.shots)
        trained_on = (behind.dataset or facts.source, behind.subset)
    elif facts.source:
        trained_on = (facts.source, "")
    else:
        trained_on = (dataset, subset if learns and settings else "")
    return Run(
        folder=folder,
        trainer=trainer,
        config=without_backbone(facts.config, backbone),
        backbone=backbone,
        shots=known_shots(behind.shots),
        dataset=dataset,
        subset=subset,
        seed=results["seed"],
        results=results,
        file=path.as_posix(),
        headline_rule=plain(results.get("headline_rule") or ""),
        trained_on=trained_on,
        training=training,
        learns=learns,
        is_untrained=learns and bool(settings.get("RUN.EVAL_ONLY")) and not training,
        layout=facts.layout,
        split=results.get("split") or "test",
        epochs=results.get("epochs"),
        resumed=behind.resumed,
        settings=settings,
        trained_with=behind.settings,
    )


def _dataset(results: dict) -> str:
    """Return what a data set is called: a user's own images have a title."""
    return plain(data_name(results["dataset"], results.get("dataset_title")))


def title_of(settings: dict[str, Any]) -> str:
    """Return what results call the data set of these settings."""
    name = plain(settings.get("DATASET.NAME", ""))
    if name != "ImageFolder":
        return name
    places = (settings.get(f"DATASET.{key}") for key in ("CSV", "IMAGE_DIR"))
    own = next((Path(str(place)).stem for place in places if place), name)
    return plain(data_name(name, settings.get("DATASET.TITLE") or own))


def without_backbone(config: str, backbone: str) -> str:
    """Return a configuration's name without the backbone that a folder's name adds to it."""
    return plain(config).removesuffix(f"-{backbone.replace('/', '_').replace(':', '_')}")


def _is_zero_shot(trainer: str) -> bool:
    return trainer.startswith("ZeroshotCLIP")


def _check_checkpoint(
    folder: Path, results: dict, training: Path, digests: dict[Path, str]
) -> None:
    """Refuse a test of a model that was trained anew since."""
    read = (results.get("identity") or {}).get("checkpoint") or {}
    for name, digest in read.items():
        file = training / name
        if file not in digests and file.is_file():
            digests[file] = file_digest(file)
        if digests.get(file, digest) != digest:
            raise UsageError(
                f"{folder} has results of another checkpoint than {file} is now; test again, or "
                "remove it"
            )


@dataclass(frozen=True)
class Training:
    """A training, as far as its folder says anything.

    Attributes:
        dataset, subset: the data set and the subset of its classes trained on; "" where unknown.
        shots, resumed, settings: as `Run` has them.
    """

    dataset: str
    subset: str
    shots: int
    resumed: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict, repr=False)


def read_training(folder: Path, shots: int) -> Training:
    """Return what a training's folder says of it.

    Args:
        shots: what is believed where it says nothing of them.
    """
    results = read_results(folder)
    if results:
        _check(results, _RESULTS, folder / RESULTS)
        return Training(
            _dataset(results),
            results["subsample_classes"],
            results["shots"],
            resumed_of(results),
            settings_in(results.get("config") or {}),
        )
    settings = recorded_config(folder) or {}
    _check(settings, _LOGGED, folder / CONFIG)
    return Training(
        title_of(settings),
        settings.get("DATASET.SUBSAMPLE_CLASSES", ""),
        settings.get("DATASET.NUM_SHOTS", shots),
        settings=settings,
    )


def _logged_run(folder: Path) -> Run | None:
    """Return a run of upstream's code from its log, or None where it has no final result.

    What the log's own settings do not say comes from the path.
    """
    log = log_files(folder)[0]
    arguments, settings = read_header(log)
    _check(settings, _LOGGED, log)
    _check(arguments, {"model_dir?": str}, log)
    facts = read_path(folder, settings.get("TRAINER.NAME", ""))
    is_evaluation = arguments.get("eval_only", facts.is_evaluation) is True
    found = final_result(folder, is_test_log=is_evaluation)
    dataset = settings.get("DATASET.NAME") or facts.dataset
    if found is None or not (dataset and facts.trainer):
        return None
    subset = settings.get("DATASET.SUBSAMPLE_CLASSES") or facts.part
    seed = settings.get("SEED", -1)
    learns = not _is_zero_shot(facts.trainer)
    # The folder of a training is relative to where upstream's code ran; its names say enough.
    model_dir = arguments.get("model_dir") or ""
    shots = settings.get("DATASET.NUM_SHOTS", facts.shots)
    trained_on, training = (dataset, subset), None
    is_transfer = settings.get("TASK") == "CD"  # MMRL's scripts put it where base-to-new is
    if not learns:
        trained_on = (facts.source or dataset, "")
    elif model_dir:
        named = read_path(model_dir)
        training = Path(model_dir)
        trained_on = (named.dataset, "all" if is_transfer else named.part)
        shots = next(filter(None, (named.shots, facts.shots)), shots)
    elif is_evaluation and not arguments:  # by the path alone
        is_known = facts.source or facts.part != "all"
        trained_on = (facts.source or dataset, "") if is_known else ("", "")
    return Run(
        folder=folder,
        trainer=facts.trainer,
        config=plain(facts.config),
        backbone=settings.get("MODEL.BACKBONE.NAME") or "unknown",
        shots=known_shots(shots or 0),
        dataset=dataset,
        subset=subset,
        seed=facts.seed if seed < 0 and facts.seed is not None else seed,
        results={"accuracy": found[1]},
        file=found[0].as_posix(),
        trained_on=trained_on,
        training=training,
        learns=learns,
        is_untrained=learns and is_evaluation and bool(arguments) and not model_dir,
        layout="crossdata" if is_transfer else facts.layout,
        origin="log.txt",
        settings=settings,
    )
