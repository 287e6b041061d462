"""A run's folder: what it was started with, whether it is finished, what it trained.

``config.yaml`` and ``identity.json`` are written when a run has been built and starts,
``results.json`` when it is finished. Whether a run is finished, and whether it may be gone on with,
is decided by the settings and the content they record, never by times. Reading them needs no
PyTorch, so that tables appear at once.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from common.errors import UsageError
from common.files import atomic_write
from common.reading import MissingFile, read_json, read_text, read_yaml
from common.schema import COUNT, PERCENT, Each, mismatch
from common.settings import shorten

from .identity import (
    NEUTRAL,
    changed_data,
    check_identity,
    checkpoint_digests,
    identity_of,
    recorded_identity,
)

CONFIG = "config.yaml"
RESULTS = "results.json"
BEST = "model-best.pth.tar"

_METRICS = {
    "accuracy": PERCENT,
    "error?": PERCENT,
    "macro_f1?": PERCENT,
    "num_test?": COUNT,
    "per_class?": Each(PERCENT),
}
_ABOUT = {"config?": dict, "classnames?": [str]}
_RESULTS = {**_METRICS, "rules?": Each(_METRICS), **_ABOUT}

# Of anomaly detection; what is said of pixels needs masks.
ANOMALY = "anomaly"
ANOMALY_METRICS = {
    "image_auroc": PERCENT,
    "image_ap": PERCENT,
    "pixel_auroc?": PERCENT,
    "pixel_ap?": PERCENT,
    "pixel_f1_max?": PERCENT,
    "aupro?": PERCENT,
}
_ANOMALY_RESULTS = {
    **ANOMALY_METRICS,
    "rules?": Each(ANOMALY_METRICS),
    "num_test?": COUNT,
    "per_defect?": Each(PERCENT),
    **_ABOUT,
}

# A resumed training has the old one's optimiser and schedule, whatever these are set to.
_RESUMED = ("OPTIM.", "TRAINER.", "MODEL.BACKBONE.", "RUN.WEIGHTS")
_MAY_DIFFER = ("OPTIM.MAX_EPOCH", "MODEL.INIT_WEIGHTS", "TEST.", "RUN.", "TRAIN.")


def flatten(node: dict, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by their dotted names."""
    leaves = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def of_own_method(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings (dotted names) without those of other methods.

    Earlier versions recorded these; RUN.METHODS names the run's own nodes under TRAINER there.
    """
    methods = settings.get("RUN.METHODS")
    if not isinstance(methods, list) or not methods:
        return settings
    return {
        key: value
        for key, value in settings.items()
        if key not in ("RUN.METHODS", "RUN.OTHER_METHODS")
        and (not key.startswith("TRAINER.") or key.split(".")[1] in ("NAME", *methods))
    }


def read_results(folder: str | Path) -> dict | None:
    """Return the results of a finished run, or None where there are none.

    Raises:
        UsageError: results.json is there but cannot be read, or holds what no test gives.
    """
    path = Path(folder) / RESULTS
    try:
        results = read_json(path)
    except MissingFile:
        return None
    except UsageError as error:
        raise UsageError(f"{error}; remove it and run again") from error
    if isinstance(results, dict) and results.get("finished") is not True:
        return None
    problem = mismatch(results, _ANOMALY_RESULTS if is_anomaly(results) else _RESULTS)
    if problem:
        raise UsageError(f"{path}: not the results of a run ({problem}); remove it and run again")
    if results.get("identity") is not None:
        check_identity(results["identity"], path)
    return results


def is_anomaly(results: Any) -> bool:
    """Return whether results are those of anomaly detection."""
    return isinstance(results, dict) and results.get("task") == ANOMALY


def headline(results: dict) -> tuple[str, float]:
    """Return what a run's result is called, and it, in percent."""
    if is_anomaly(results):
        return "image AUROC", results["image_auroc"]
    return "accuracy", results["accuracy"]


def recorded_config(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings a run was started with, as dotted keys; None where there are none.

    Raises:
        UsageError: config.yaml cannot be read.
    """
    try:
        results = read_results(folder)
    except UsageError:  # said where the results themselves are asked for
        results = None
    return _settings_of(folder, results)


def _settings_of(folder: str | Path, results: dict | None) -> dict[str, Any] | None:
    if Path(folder).is_file():
        raise UsageError(f"{folder}: a file; a run has a folder")
    content = results.get("config") if results else None
    try:
        # Results repeat what config.yaml said before them, and are read ten times as fast.
        if content is None or _is_newer(Path(folder) / CONFIG, Path(folder) / RESULTS):
            content = read_yaml(Path(folder) / CONFIG)
    except MissingFile:
        pass
    except UsageError as error:
        mend = "" if isinstance(error.__cause__, OSError) else f"; remove {folder} to start over"
        raise UsageError(f"{error}{mend}") from error
    return of_own_method(flatten(content)) if isinstance(content, dict) else None


def _is_newer(path: Path, other: Path) -> bool:
    try:
        return path.stat().st_mtime_ns > other.stat().st_mtime_ns
    except OSError:  # whoever reads it says why
        return True


def record_config(cfg: CfgNode) -> None:
    """Write config.yaml into the run's folder, which belongs to these settings from here on."""
    with atomic_write(Path(cfg.OUTPUT_DIR) / CONFIG) as file:
        file.write(cfg.dump())


def check_same_settings(cfg: CfgNode, results: dict | None = None) -> None:
    """Refuse a folder that holds a run with other settings.

    Keys that only one side knows are left out, so a newer version's new keys do no harm.

    Args:
        results: the run's, where they have been read already.

    Raises:
        UsageError: naming the first key that differs.
    """
    results = read_results(cfg.OUTPUT_DIR) if results is None else results
    for key, there, here in _differences(_settings_of(cfg.OUTPUT_DIR, results) or {}, cfg):
        longer = key == "OPTIM.MAX_EPOCH" and not cfg.RUN.EVAL_ONLY and _is_less(there, here)
        more = f" To train on from it: --resume {cfg.OUTPUT_DIR} and a new --output-dir."
        raise UsageError(
            f"{cfg.OUTPUT_DIR} holds a run with other settings: {key} is {shorten(there)} "
            f"there, {shorten(here)} now. Choose another --output-dir, or remove that folder."
            + (more if longer else "")
        )


def _is_less(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one < other


def _differences(recorded: dict[str, Any], cfg: CfgNode) -> list[tuple[str, Any, Any]]:
    """Return name, recorded and present value of the settings that differ and matter."""
    current = flatten(cfg)
    return [
        (key, value, current[key])
        for key, value in recorded.items()
        if key in current and key not in NEUTRAL and _plain(current[key]) != _plain(value)
    ]


def check_resumed(cfg: CfgNode) -> list[str]:
    """Compare a run with the training that RESUME names.

    Returns:
        One line for each thing that may differ and does.

    Raises:
        UsageError: a setting differs that the resumed optimiser and schedule would overrule.
    """
    if not cfg.RESUME:
        return []
    if not any(Path(cfg.RESUME).glob("*/checkpoint")):
        raise UsageError(f"--resume {cfg.RESUME}: no checkpoint of a training there")
    epochs = _epochs_behind(cfg.RESUME)
    if epochs > cfg.OPTIM.MAX_EPOCH:
        raise UsageError(
            f"--resume {cfg.RESUME}: {epochs} epochs were trained there, OPTIM.MAX_EPOCH is "
            f"{cfg.OPTIM.MAX_EPOCH}; ask for more epochs, or test it with --eval-only --model-dir"
        )
    lines = []
    recorded = recorded_config(cfg.RESUME) or {}
    for key, there, here in _differences(recorded, cfg):
        if key.startswith(_MAY_DIFFER):
            continue
        if key.startswith(_RESUMED):
            raise UsageError(
                f"--resume {cfg.RESUME}: {key} is {shorten(there)} there, {shorten(here)} now, and "
                "a resumed training goes on with its own; give that value, or begin a new training "
                "from what was learned there: MODEL.INIT_WEIGHTS FILE"
            )
        lines.append(f"{key} was {shorten(there)}, is {shorten(here)} from here on")
    return [f"Resumed from {cfg.RESUME}: {line}" for line in lines]


def _epochs_behind(folder: str) -> int:
    """Return after how many epochs a training's newest checkpoint was written; 0 if unknown."""
    epochs = [0]
    for pointer in Path(folder).glob("*/checkpoint"):
        named = re.fullmatch(r"model\.pth\.tar-(\d{1,9})\s*", read_text(pointer, limit=4096))
        epochs.append(int(named[1]) if named else 0)
    return max(epochs)


# Finished or not


@dataclass(frozen=True)
class State:
    """What a run's folder says of the run that a configuration asks for.

    Attributes:
        accuracy: in percent, of a run that is finished; None where it is yet to run.
        notes: what could not be compared, and why a finished evaluation is done again.
        measure: what that is; of anomaly detection it is the image AUROC.
    """

    accuracy: float | None
    notes: tuple[str, ...] = ()
    measure: str = "accuracy"


def finished_accuracy(cfg: CfgNode, known: dict | None = None) -> float | None:
    """Return the accuracy in % of the finished run that is asked for; None where it is yet to run.

    Args:
        known: as `datasets.identity`: one dictionary for many runs over the same data.

    Raises:
        UsageError: the folder holds a run with other settings, or on other data.
    """
    return state_of(cfg, known).accuracy


def _check_is_folder(output: str) -> None:
    """Refuse a place for a folder that is a file, or below one."""
    place = next(place for place in (Path(output), *Path(output).parents) if place.exists())
    if not place.is_dir():
        raise UsageError(f"--output-dir {output}: {place} is a file; name a folder")


def state_of(cfg: CfgNode, known: dict | None = None) -> State:
    """Compare what a run's folder holds with what a configuration asks for.

    Args:
        known: as `datasets.identity`.

    Raises:
        UsageError: the folder holds a run with other settings or on other data, or is none.
    """
    _check_is_folder(cfg.OUTPUT_DIR)
    results = read_results(cfg.OUTPUT_DIR)
    check_same_settings(cfg, results)
    if results is None:
        _check_unfinished(cfg, known)
        return State(None)
    measure, number = headline(results)
    recorded = results.get("identity")
    if recorded is None:
        return State(
            number,
            (
                "made before runs recorded digests of their data and checkpoint: "
                "its settings were compared, these were not",
            ),
            measure,
        )
    notes: list[str] = []
    if cfg.RUN.MODEL_DIR and recorded.get("checkpoint"):
        try:
            same = _read_again(cfg, recorded["checkpoint"]) == recorded["checkpoint"]
        except MissingFile as error:
            notes.append(f"its checkpoint was not compared ({error})")
            same = True
        if not same:
            note = f"{cfg.OUTPUT_DIR} has results of another checkpoint; it is evaluated again"
            return State(None, (note,))
    try:
        now = identity_of(cfg, known=known)
    except MissingFile as error:
        notes.append(f"its data were not compared ({error})")
        return State(number, tuple(notes), measure)
    _refuse_changes(cfg, recorded, now, "a finished run")
    return State(number, tuple(notes), measure)


def _check_unfinished(cfg: CfgNode, known: dict | None) -> None:
    """Refuse to go on with a training whose data have changed since it began."""
    has_checkpoint = any(Path(cfg.OUTPUT_DIR).glob("*/checkpoint"))
    recorded = recorded_identity(cfg.OUTPUT_DIR) if has_checkpoint else None
    if recorded is not None:
        _refuse_changes(cfg, recorded, identity_of(cfg, known=known), "an unfinished run")


def _refuse_changes(cfg: CfgNode, recorded: dict, now: dict, what: str) -> None:
    split = cfg.TEST.SPLIT if cfg.RUN.EVAL_ONLY else ""
    changes = changed_data(recorded, now, split)
    if recorded.get("initial", now["initial"]) != now["initial"]:
        changes.append("the file that MODEL.INIT_WEIGHTS names")
    files = now.get("files", {})
    changes += [
        f"the file that {name} names"
        for name, digest in (recorded.get("files") or {}).items()
        if files.get(name, digest) != digest
    ]
    if changes:
        more = f" (and {len(changes) - 2} more)" if len(changes) > 2 else ""
        raise UsageError(
            f"{cfg.OUTPUT_DIR} holds {what} on other data; what has changed: "
            f"{', '.join(changes[:2])}{more}. Choose another --output-dir, or remove that folder."
        )


def _read_again(cfg: CfgNode, recorded: dict[str, str]) -> dict[str, str]:
    """Return digests of the files that the evaluation would read now.

    Raises:
        UsageError: there is no such checkpoint; `MissingFile` where the training is gone.
    """
    folder = model_dir(cfg)
    if not folder.is_dir():
        raise MissingFile(f"{folder}: no such folder")
    models = dict.fromkeys(file.rpartition("/")[0] for file in recorded)
    return checkpoint_digests(folder, checkpoint_files(cfg, list(models)))


def checkpoint_files(cfg: CfgNode, models: list[str]) -> list[str]:
    """Return the files that an evaluation reads, as paths within the training's folder.

    Args:
        models: names of the trainer's models.

    Raises:
        UsageError: there is no such checkpoint, or training was not finished.
    """
    folder = str(model_dir(cfg))
    files = []
    for model in models:
        epoch: int | None = cfg.RUN.LOAD_EPOCH
        if epoch == -1:
            epoch = epoch_to_load(folder, model, cfg.OPTIM.MAX_EPOCH)
        name = f"{model}/{checkpoint_name(epoch)}"
        if not (Path(folder) / name).is_file():
            raise UsageError(
                f"--model-dir {folder}: no checkpoint {name}; {_listed(folder, model)}"
            )
        files.append(name)
    return files


def _listed(folder: str, model: str) -> str:
    names = sorted(path.name for path in (Path(folder) / model).glob("model*.pth.tar*"))
    return f"there are {', '.join(names)}" if names else "train there first"


def checkpoint_name(epoch: int | None) -> str:
    """Return what the file of a checkpoint is called; None: of the best one."""
    return BEST if epoch is None else f"model.pth.tar-{epoch}"


def epoch_to_load(model_dir: str, model_name: str, max_epoch: int) -> int | None:
    """Return which checkpoint an evaluation without --load-epoch reads: None for the best.

    The best model where training kept one (upstream's rule), else the last epoch of the training
    that was asked for; never that of a training which was cut short.

    Raises:
        UsageError: no such checkpoint; says which epochs there are.
    """
    folder = Path(model_dir) / model_name
    recorded = recorded_config(model_dir)
    if recorded is not None:
        asked_for = recorded.get("OPTIM.MAX_EPOCH", max_epoch)
        max_epoch = asked_for if isinstance(asked_for, int) else max_epoch
    has_last = (folder / f"model.pth.tar-{max_epoch}").is_file()
    if (folder / BEST).is_file() and (has_last or recorded is None):
        return None
    if has_last:
        return max_epoch
    epochs = sorted(
        int(match.group(1))
        for path in folder.glob("model.pth.tar-*")
        if (match := re.fullmatch(r"model\.pth\.tar-(\d{1,9})", path.name))
    )
    if not epochs and not (folder / BEST).is_file():
        raise UsageError(f"--model-dir {model_dir}: no checkpoint in {folder}; train there first")
    kept = ", ".join([*map(str, epochs), *(["the best"] if (folder / BEST).is_file() else [])])
    raise UsageError(
        f"--model-dir {model_dir}: training has {max_epoch} epochs but only {kept} is kept. Run "
        "the training command again to finish it, or name one with --load-epoch."
    )


def model_dir(cfg: CfgNode) -> Path:
    """Return the folder of the training that a run evaluates."""
    return Path(os.path.normpath(os.path.join(cfg.OUTPUT_DIR, cfg.RUN.MODEL_DIR)))


def check_backbone(cfg: CfgNode) -> None:
    """Refuse to read a model into another backbone than it was trained with.

    Equal widths would let it load, and the figures would mean nothing.

    Raises:
        UsageError: names both backbones.
    """
    recorded = recorded_config(model_dir(cfg)) or {}
    trained = recorded.get("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME)
    if trained != cfg.MODEL.BACKBONE.NAME:
        raise UsageError(
            f"--model-dir {model_dir(cfg)} was trained with backbone {trained!r}; "
            f"this run names {cfg.MODEL.BACKBONE.NAME!r}. Pass --backbone {trained}."
        )
    if recorded.get("RUN.WEIGHTS", cfg.RUN.WEIGHTS) != cfg.RUN.WEIGHTS:
        raise UsageError(
            f"--model-dir {model_dir(cfg)} was trained with other weights of backbone {trained!r} "
            "than are there now. Train anew, or put the old file back."
        )


def _plain(value: Any) -> Any:
    """Return a value as it looks after a trip through a file: tuples are lists."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
