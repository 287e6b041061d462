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
    files = with_imports(found for item in classes if (found := _file_of(item)) is not None)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file_digest(file)}\n".encode())
    return digest.hexdigest()[:16] if files else ""


def with_imports(files: Iterable[tuple[Path, Path]]) -> list[Path]:
    """Return Python files and those that they import, and these import in turn.

    Those are looked for beside the importing file and in the folder that names begin at. What a
    process has imported by now plays no part: the answer is the same in each.

    Args:
        files: each with that folder.
    """
    found: set[tuple[Path, Path]] = set()
    waiting = list(files)
    while waiting:
        file, top = waiting.pop()
        if (file, top) not in found:
            found.add((file, top))
            for name in _imported(file, file.stat().st_mtime_ns, file.stat().st_size):
                waiting += [(path, top) for path in _modules(name, file.parent, top)]
    return sorted({file for file, _ in found})


def _modules(name: str, *folders: Path) -> Iterator[Path]:
    """Yield the files of a module or package of a name in folders."""
    for folder in dict.fromkeys(folders):
        package = folder / name
        if (module := package.with_suffix(".py")).is_file():
            yield module.resolve()
        elif package.is_dir():
            yield from (path.resolve() for path in package.rglob("*.py"))


@cache
def _imported(file: Path, *version: int) -> list[str]:
    try:
        return sorted(_names(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # a compiled module
        return []


def _names(tree: ast.AST) -> set[str]:
    """Return the first words of the modules that code imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name.partition(".")[0] for name in names}
    return found - _OURS


def _file_of(item: Any) -> tuple[Path, Path] | None:
    """Return the file that a class or function of a plugin stands in, and the folder that its
    module's name begins at; None for all others.
    """
    module = str(getattr(item, "__module__", ""))
    name = getattr(sys.modules.get(module), "__file__", None)
    if not name or module.partition(".")[0] in _OURS:
        return None
    file = Path(name).resolve()
    libraries = (sys.prefix, sys.base_prefix)
    if any(file.is_relative_to(Path(path).resolve()) for path in libraries):
        return None
    levels = module.count(".") + (file.stem == "__init__")
    return file, file.parents[min(levels, len(file.parents) - 1)]
