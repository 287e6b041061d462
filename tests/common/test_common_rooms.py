"""Imports point one way: commands, methods and data sets above; clip, noise and dassl below."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What each room may import of this repository.
BELOW = {
    "common": set(),
    "noise": {"common"},
    "clip": {"common"},
    "dassl": {"common"},
    "datasets": {"common", "dassl"},
    "trainers": {"clip", "common", "dassl", "datasets", "noise"},
    "anprompt": {"clip", "common", "dassl", "datasets", "noise", "trainers"},
}
OWN = {path.stem for path in ROOT.glob("*.py")} | set(BELOW) | {"benchmarks", "tests"}


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_what_is_below_it(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            used = {module.split(".")[0] for module in modules} & OWN
            assert used <= BELOW[room] | {room}, f"{path.relative_to(ROOT)}, line {node.lineno}"
