"""Where numbers come from: this code's version and commit, machine, date, command."""

import datetime
import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UsageError
from .paths import ROOT
from .reading import read_json

RECORD = "commit.json"
"""In a copy of the code without git: what `code` says of it."""


def provenance(command: str | None = None) -> dict[str, Any]:
    """Return ``code``, ``host`` and ``command`` of this process.

    Args:
        command: as a shell takes it; this process's own where left out.
    """
    return {
        "code": dict(code()),
        "host": platform.node(),
        "command": shlex.join(["python", *sys.argv]) if command is None else command,
    }


def now() -> str:
    """Return the date and time in UTC, as ISO 8601 has it, to the second.

    >>> now()[10], now()[-6:]
    ('T', '+00:00')
    """
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@functools.cache
def code() -> dict[str, Any]:
    """Return this code's ``version``, ``commit`` and whether it is ``dirty``.

    Commit and dirty are None where the code is in no git checkout of its own, or git is missing.
    A copy that a sweep has made (`RECORD`) knows what it was copied from.
    """
    commit, dirty = None, None
    if (ROOT / RECORD).is_file():
        try:
            recorded = read_json(ROOT / RECORD)
            return {key: recorded[key] for key in ("version", "commit", "dirty")}
        except (UsageError, KeyError, TypeError):
            pass
    if (ROOT / ".git").exists():
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
        dirty = None if changes is None else bool(changes)
    return {"version": _version(), "commit": commit, "dirty": dirty}


def commit_text(code: Mapping[str, Any]) -> str:
    """Return what is said of a commit that `code` returned; nothing of one that is not known.

    >>> commit_text({"commit": "0123456789abcdef", "dirty": True}), commit_text({"commit": None})
    ('0123456789ab with changes', '')
    """
    commit = str(code.get("commit") or "")[:12]
    return f"{commit} with changes" if commit and code.get("dirty") else commit


def changes(names: Sequence[str]) -> list[str] | None:
    """Return which of the repository's files differ from the commit or are in none.

    Args:
        names: the files and folders that are looked at.

    Returns:
        None where the code is in no git checkout of its own, or git is missing.
    """
    if not (ROOT / ".git").exists():
        return None
    lines = _git("status", "--porcelain", "--untracked-files=all", "--", *names)
    return None if lines is None else [line[2:].strip() for line in lines.splitlines()]


def _version() -> str | None:
    """Return ``anprompt.__version__`` without importing what lies above this package."""
    try:
        lines = (ROOT / "anprompt" / "__init__.py").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("__version__ = ")]
    return found[0].split("=")[1].strip().strip("\"'") if found else None


def _git(*arguments: str) -> str | None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "--no-optional-locks", *arguments],
            capture_output=True, text=True, timeout=20, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
