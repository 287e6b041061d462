"""What a run was made of, as digests: settings, data, backbone and the checkpoint it read.

``identity.json`` is written when a run starts, and stands in ``results.json`` when it is finished.
Names, times and places are no part of it. Nothing here needs PyTorch, so that a finished run is
recognised at once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from anprompt.runs.declared import declare_datasets
from anprompt.runs.plugins import plugin_digest
from common.errors import UsageError
from common.files import file_digest, write_json
from common.reading import MissingFile, read_json
from common.schema import Each, mismatch
from common.settings import described, leaves
from dassl.config import get_cfg_default

IDENTITY = "identity.json"
OWN_CODE = "--plugin"  # among the files of an identity: the code of a trainer or data set

# Settings that never have an effect on results: where things are and what is shown.
declare_datasets(get_cfg_default())  # which describes them
NEUTRAL = {name for name, setting in described().items() if setting.scope == "neutral"}

_DESCRIPTION = {
    "settings?": str,
    "data?": Each(str),
    "weights?": str,
    "initial?": str,
    "checkpoint?": Each(str),
    "files?": Each(str),
    "resumed?": [str],
}

# What a test reads of the data; the rest matters to training alone.
_TESTED = {
    "test": ("train", "val", "test", "test_files"),
    "val": ("train", "val", "test", "train_files"),
}
DATA_WORDS = {
    "train": "the list of training images or classes",
    "val": "the list of validation images or classes",
    "test": "the list of test images or classes",
    "few_shot": "the images drawn for training",
    "train_files": "the files of training images",
    "test_files": "the files of test images",
}


def identity_of(
    cfg: CfgNode, checkpoint: Mapping[str, str] | None = None, known: dict | None = None
) -> dict[str, Any]:
    """Return the identity of the run that a configuration asks for.

    Keys: ``settings`` (those that results depend on), ``data`` (see `datasets.identity`),
    ``weights`` (of a backbone from a file; "" for a registered name), ``initial`` (the file that
    MODEL.INIT_WEIGHTS names; "" without one), ``checkpoint`` (of an evaluation: digest by file),
    ``files`` (of a training: those that the method's settings name, such as descriptions; and under
    ``--plugin`` the code of a trainer or data set of one's own). train.py
    adds ``resumed`` where a training went on from another folder's: what differs from that one's.

    Args:
        checkpoint: what `checkpoint_digests` gave.
        known: as `datasets.identity`.

    Raises:
        UsageError: the data or a file cannot be read.
    """
    from datasets import identity

    initial = cfg.MODEL.INIT_WEIGHTS
    return {
        "settings": settings_digest(cfg),
        "data": identity(cfg, known),
        "weights": cfg.RUN.WEIGHTS,
        "initial": file_digest(initial) if initial else "",
        "checkpoint": dict(checkpoint or {}),
        "files": {**({} if cfg.RUN.EVAL_ONLY else _named_files(cfg)), **_own_code(cfg)},
    }


def _own_code(cfg: CfgNode) -> dict[str, str]:
    digest = plugin_digest(cfg)
    return {OWN_CODE: digest} if digest else {}


def _named_files(cfg: CfgNode) -> dict[str, str]:
    """Return digests of the files that the method's settings name, by setting.

    Of settings that are not described as files, what ends as names of files do is taken for one.
    """
    files = {name for name, setting in described().items() if setting.is_file}
    named = {
        name: Path(value)
        for name, value in leaves(cfg)
        if name.startswith("TRAINER.")
        and isinstance(value, str)
        and value
        and (name in files or Path(value).suffix)
    }
    return {name: file_digest(path) for name, path in named.items() if path.is_file()}


def settings_digest(cfg: Mapping[str, Any]) -> str:
    """Return a digest (16 hex digits) of the settings that results depend on."""
    kept = {key: value for key, value in leaves(cfg) if key not in NEUTRAL}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checkpoint_digests(folder: str | Path, files: Iterable[str]) -> dict[str, str]:
    """Return digests of checkpoint files by their path within a run's folder.

    Raises:
        OSError: one cannot be read.
    """
    return {file: file_digest(Path(folder) / file) for file in files}


def changed_data(recorded: Mapping, now: Mapping, split: str = "") -> list[str]:
    """Return in words what differs between the data of two identities.

    What only one of them knows is not compared.

    Args:
        split: test or val for an evaluation, which the images of training do not matter to.
    """
    one, other = recorded.get("data") or {}, now.get("data") or {}
    keys = _TESTED[split] if split else DATA_WORDS
    return [
        DATA_WORDS[key] for key in keys if one.get(key, "") and other.get(key, one[key]) != one[key]
    ]


def refuse_changed_data(folder: str | Path, now: Mapping[str, str], why: str) -> None:
    """Refuse data that are not those that a run recorded.

    Args:
        now: digests of what is read of them, see `datasets.identity`.
        why: what they are read for, for the message.

    Raises:
        UsageError: says what has changed.
    """
    changes = changed_data(recorded_identity(folder) or {}, {"data": now})
    if changes:
        raise UsageError(
            f"{folder}: {why}, and they have changed since the run ({', '.join(changes)}); put "
            "them back, or run it anew"
        )


def record_identity(folder: str | Path, identity: Mapping[str, Any]) -> None:
    """Write ``identity.json`` into a run's folder."""
    write_json(dict(identity), str(Path(folder) / IDENTITY))


def recorded_identity(folder: str | Path) -> dict[str, Any] | None:
    """Return what ``identity.json`` in a run's folder says; None where there is none.

    Raises:
        UsageError: it cannot be read or is something else.
    """
    path = Path(folder) / IDENTITY
    try:
        content = read_json(path)
    except MissingFile:
        return None
    check_identity(content, path)
    return content


def check_identity(content: Any, source: str | Path) -> None:
    """Refuse what is no identity; ``source`` is the file it is from.

    Raises:
        UsageError: names the entry that is wrong.
    """
    problem = mismatch(content, _DESCRIPTION)
    if problem:
        raise UsageError(f"{source}: not the identity of a run ({problem}); remove it to go on")
