"""The code of one's own that a run depends on: plugins, and what they import from beside."""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from anprompt.runs.declared import SOURCES
from common.files import file_digest
from dassl.data.datasets import DATASET_REGISTRY

_OURS = {*SOURCES, "anprompt", "train"}


def plugin_digest(cfg: Any) -> str:
    """Return a digest of the code that a run's trainer and data set are in, where that is a
    plugin's; "" where both are this repository's.
    """
    classes: list[Any] = []
    if "dassl.engine" in sys.modules:  # else no plugin can have been imported
        from dassl.engine import TRAINER_REGISTRY

        if cfg.TRAINER.NAME in TRAINER_REGISTRY.registered_names():
            classes += TRAINER_REGISTRY.get(cfg.TRAINER.NAME).__mro__
    if cfg.DATASET.NAME in DATASET_REGISTRY.registered_names():
        dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
        classes += getattr(dataset, "__mro__", [dataset])
    files = with_imports(file for item in classes if (file := _file_of(item)) is not None)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file_digest(file)}\n".encode())
    return digest.hexdigest()[:16] if files else ""


def with_imports(files: Iterable[Path]) -> list[Path]:
    """Return Python files and those beside them that they import, and these import in turn.

    What a process has imported by now plays no part: the answer is the same in each.
    """
    found: set[Path] = set()
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            stat = file.stat()
            waiting += _imported(file, stat.st_mtime_ns, stat.st_size)
    return sorted(found)


@cache
def _imported(file: Path, *version: int) -> list[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a compiled module
        return []
    found: list[Path] = []
    for name in _names(tree):
        package = file.parent / name
        if (module := package.with_suffix(".py")).is_file():
            found.append(module.resolve())
        elif package.is_dir():
            found += [path.resolve() for path in package.rglob("*.py")]
    return found


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield the first words of the modules that code imports."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
        yield from {name.partition(".")[0] for name in names} - _OURS


def _file_of(item: Any) -> Path | None:
    """Return the file that a class or function of a plugin stands in; None for all others."""
    module = str(getattr(item, "__module__", ""))
    name = getattr(sys.modules.get(module), "__file__", None)
    if not name or module.partition(".")[0] in _OURS:
        return None
    file = Path(name).resolve()
    libraries = (sys.prefix, sys.base_prefix)
    return None if any(file.is_relative_to(Path(path).resolve()) for path in libraries) else file
