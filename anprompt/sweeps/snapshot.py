"""A copy of the code that runs of a cluster start from: what is edited later cannot change them."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anprompt.protocols.environment import Environment
from anprompt.protocols.methods import is_path, read_settings
from anprompt.protocols.plan import RunSpec
from common import paths, provenance
from common.errors import UsageError
from common.files import file_digest, temporary_folder, write_json

CODE = (
    "train.py", "anprompt", "clip", "common", "configs", "dassl", "datasets", "noise", "trainers",
)  # fmt: skip
"""What a run reads of the repository."""


def check_committed(allow_dirty: bool) -> dict[str, Any]:
    """Return the code's version, commit and whether it differs from that.

    Raises:
        UsageError: it differs, or belongs to no commit, and that is not allowed.
    """
    changes = provenance.changes(CODE)
    if not allow_dirty and changes is None:
        raise UsageError(
            f"{paths.ROOT}: no git checkout, so no commit says what runs; --allow-dirty takes the "
            "files as they are"
        )
    if not allow_dirty and changes:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise UsageError(
            f"{changes[0]}{more} not committed: commit first, or --allow-dirty takes the files as "
            "they are now"
        )
    return {**provenance.code(), "dirty": None if changes is None else bool(changes)}


def take(parent: Path, code: Mapping[str, Any]) -> Path:
    """Copy the code into a folder of ``parent`` that its content names, once; return the folder.

    Args:
        code: what `check_committed` returned; the copy's runs record it.

    Raises:
        OSError: it cannot be written, say on a full disk.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(parent, "code") as folder:
        copy = folder / "code"
        for name in CODE:
            source = paths.ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.tmp")
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                copy.mkdir(exist_ok=True)
                shutil.copy2(source, copy / name)
        write_json(dict(code), str(copy / provenance.RECORD))
        kept = parent / f"code-{_digest(copy)}"
        if not kept.is_dir():
            try:
                os.rename(copy, kept)
            except OSError:
                if not kept.is_dir():  # else another sweep was faster
                    raise
    return kept


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)} {file_digest(file)}\n".encode())
    return digest.hexdigest()[:12]


def files_outside(runs: Iterable[RunSpec], environment: Environment) -> dict[str, str]:
    """Return digests of the files of one's own that runs read, by path.

    Those are configurations (with those they start from) and plugins, and what a plugin that this
    process has loaded imports from beside itself. They are read where they are, not copied.
    """
    found = [Path(plugin).expanduser().resolve() for plugin in environment.plugins]
    beside = {file.parent for file in found}
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or os.devnull)
        if beside & set(file.parents) and not file.is_relative_to(sys.prefix):
            found.append(file)
    named = {run.config_file for run in runs if is_path(run.config)}
    named |= {run.dataset_file for run in runs if is_path(run.dataset)}
    for config in named:
        found += [config, *(Path(source) for _, source in read_settings(config).values())]
    return {str(file): file_digest(file) for file in sorted({file.resolve() for file in found})}


def changed(files: Mapping[str, str]) -> list[str]:
    """Return those of `files_outside` that are not what they were."""
    return [file for file, digest in files.items() if _digest_or_none(file) != digest]


def _digest_or_none(file: str) -> str | None:
    try:
        return file_digest(file)
    except OSError:
        return None
