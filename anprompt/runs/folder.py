"""A run's folder compared with what is asked for: whether it is finished, or may be gone on with.

``config.yaml`` and ``identity.json`` are written when a run has been built and starts,
``results.json`` when it is finished. Whether a run is finished, and whether it may be gone on with,
is decided by the settings and the content they record, never by times. Reading them needs no
PyTorch, so that tables appear at once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from common.checkpoints import POINTER
from common.errors import UsageError
from common.reading import MissingFile
from common.settings import shorten

from .checkpoints import checkpoint_files, epochs_behind, model_dir
from .identity import (
    NEUTRAL,
    OWN_CODE,
    changed_data,
    checkpoint_digests,
    identity_of,
    recorded_identity,
    refuse_changed_data,
)
from .recorded import (
    headline,
    of_no_effect,
    read_results,
    recorded_config,
    settings_in,
    settings_of,
)

# A resumed training has the old one's optimiser and schedule, whatever these are set to.
_RESUMED = ("OPTIM.", "TRAINER.", "MODEL.BACKBONE.", "RUN.WEIGHTS")
_IMAGES = ("NAME", "IMAGE_DIR", "CSV", "CLASSNAMES_FILE")  # settings that say which images
_MAY_DIFFER = ("OPTIM.MAX_EPOCH", "MODEL.INIT_WEIGHTS", "TEST.", "RUN.", "TRAIN.")


def check_same_settings(cfg: CfgNode, results: dict | None = None) -> None:
    """Refuse a folder that holds a run with other settings.

    Keys that only one side knows are left out, so a newer version's new keys do no harm; so is what
    belongs to training where nothing is trained.

    Args:
        results: the run's, where they have been read already.

    Raises:
        UsageError: naming the first key that differs.
    """
    results = read_results(cfg.OUTPUT_DIR) if results is None else results
    for key, there, here in _differences(settings_of(cfg.OUTPUT_DIR, results) or {}, cfg):
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
    current = settings_in(cfg)
    ignored = of_no_effect(recorded, current)
    return [
        (key, value, current[key])
        for key, value in recorded.items()
        if key in current
        and key not in NEUTRAL
        and not key.startswith(ignored)
        and _plain(current[key]) != _plain(value)
    ]


def check_resumed(cfg: CfgNode, known: dict | None = None) -> list[str]:
    """Compare a run with the training that RESUME names.

    Args:
        known: as `datasets.identity`.

    Returns:
        A phrase for each thing that may differ and does.

    Raises:
        UsageError: a setting differs that the resumed optimiser and schedule would overrule; or no
            epoch is left, so that nothing would be trained with what differs.
    """
    if not cfg.RESUME:
        return []
    if not any(Path(cfg.RESUME).glob(f"*/{POINTER}")):
        raise UsageError(f"--resume {cfg.RESUME}: no checkpoint of a training there")
    epochs = epochs_behind(cfg.RESUME)
    if epochs > cfg.OPTIM.MAX_EPOCH:
        raise UsageError(
            f"--resume {cfg.RESUME}: {epochs} epochs were trained there, OPTIM.MAX_EPOCH is "
            f"{cfg.OPTIM.MAX_EPOCH}; ask for more epochs, or test it with --eval-only --model-dir"
        )
    phrases = []
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
        phrases.append(f"{key} was {shorten(there)}, is {shorten(here)} from here on")
    changed = changed_data(recorded_identity(cfg.RESUME) or {}, identity_of(cfg, known=known))
    if changed:
        phrases.append(f"from here on other data: {', '.join(changed)}")
    if phrases and epochs == cfg.OPTIM.MAX_EPOCH:
        raise UsageError(
            f"--resume {cfg.RESUME}: OPTIM.MAX_EPOCH is {epochs}, and so many epochs were trained "
            f"there: nothing would be trained here ({phrases[0]}); ask for more epochs, or test it "
            f"with --eval-only --model-dir {cfg.RESUME}"
        )
    return phrases


def resumed_in(cfg: CfgNode, phrases: list[str]) -> list[str]:
    """Return in what a training differs from those of other folders that it went on from.

    Args:
        phrases: those of `check_resumed`. A training that is taken up in its own folder keeps what
            that says instead.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if any(folder.glob(f"*/{POINTER}")):
        return (recorded_identity(folder) or {}).get("resumed", [])
    earlier = (recorded_identity(cfg.RESUME) or {}).get("resumed", []) if cfg.RESUME else []
    return [*earlier, *phrases]


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
    has_checkpoint = any(Path(cfg.OUTPUT_DIR).glob(f"*/{POINTER}"))
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
        "the code of --plugin" if name == OWN_CODE else f"the file that {name} names"
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


def check_division(cfg: CfgNode, dataset: Any, known: dict | None = None) -> None:
    """Refuse to test a training on its own images where these were divided anew since.

    Args:
        dataset: that is tested.
        known: as `datasets.identity`.

    Raises:
        UsageError: so; `refuse_redrawn` says why.
    """
    if getattr(dataset, "is_drawn", False) and was_trained_on_these(model_dir(cfg), cfg):
        refuse_redrawn(model_dir(cfg), identity_of(cfg, known=known)["data"])


def was_trained_on_these(training: str | Path, cfg: CfgNode) -> bool:
    """Return whether a training's images are those that a configuration names, however it does."""
    recorded = recorded_config(training) or {}
    root = str(recorded.get("DATASET.ROOT", ""))
    return all(
        _place(recorded.get(f"DATASET.{key}"), key, root)
        == _place(cfg.DATASET.get(key), key, cfg.DATASET.ROOT)
        for key in _IMAGES
    )


def _place(value: Any, key: str, root: str) -> Any:
    if key == "NAME" or not value:
        return value or ""
    parts = map(os.path.expanduser, (root, str(value)))
    return os.path.realpath(os.path.join(*parts))


def refuse_redrawn(folder: str | Path, data: Mapping[str, str]) -> None:
    """Refuse images that were divided into those of training and testing anew since a training.

    Among those to test on there would be some that it was trained on.

    Args:
        folder: of the training.
        data: digests, see `datasets.identity`.

    Raises:
        UsageError: says what has changed.
    """
    now = {key: data[key] for key in ("train", "val", "test") if key in data}
    refuse_changed_data(folder, now, "its test images were drawn from all that there were")


def _plain(value: Any) -> Any:
    """Return a value as it looks after a trip through a file: tuples are lists."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
