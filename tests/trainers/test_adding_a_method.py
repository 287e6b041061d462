"""docs/ADDING_A_METHOD.md, followed to the letter in a copy of the repository."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

import trainers  # noqa: F401  (registers the trainers)
from dassl.engine import TRAINER_REGISTRY

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["benchmarks", "clip", "common", "configs", "dassl", "datasets", "noise", "scripts"]
FOLDERS += ["anprompt", "tests", "trainers"]
FILES = ["pyproject.toml", "requirements.txt", "train.py"]


def code_blocks(document: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", document, flags=re.DOTALL | re.MULTILINE)


def replace_function(file: pathlib.Path, code: str) -> None:
    """Put a function in the place of the one that has its name."""
    (new,) = ast.parse(textwrap.dedent(code)).body
    lines = file.read_text().splitlines()
    (old,) = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == new.name
    ]
    first = min([old.lineno, *(decorator.lineno for decorator in old.decorator_list)])
    lines[first - 1 : old.end_lineno] = code.rstrip("\n").split("\n")
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    tree = tmp_path / "repository"
    tree.mkdir()
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    # "python" is the one that runs the tests.
    (tree / "bin").mkdir()
    python = tree / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tree


def test_the_document_works_as_written(tree):
    environment = {**os.environ, "PATH": f"{tree / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    blocks = code_blocks((ROOT / "docs" / "ADDING_A_METHOD.md").read_text())
    assert {language for language, _ in blocks} == {"bash", "python"}
    for language, code in blocks:
        if language == "python":
            replace_function(tree / "my_method.py", code)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=tree, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.stdout.startswith(".......")  # the last block: the shared tests found the method

    results = {
        part: json.loads((tree / "output/my_method" / part / "results.json").read_text())
        for part in ("base", "new")
    }
    for part, result in results.items():
        assert result["finished"] and result["trainer"] == "MyMethod"
        assert result["subsample_classes"] == part
        assert result["config"]["TRAINER"]["MY_METHOD"]["WEIGHT"] == 0.2
        assert result["num_trainable"] == 128
    found = json.loads((tree / "output/my_method/base/robustness.json").read_text())
    noise = {key.split("/")[1] for part in found["parts"].values() for key in part["cells"]}
    assert noise == {"char", "blur", "tokens"} and set(found["parts"]) == {"base", "new"}
    checkpoint = tree / "output/my_method/base/prompt_learner/model.pth.tar-2"
    assert checkpoint.stat().st_size < 100_000
    # With its two files it takes part in the protocols.
    done = subprocess.run(
        ["bash", "scripts/base2new.sh", "MyMethod", "train", "shapes", "1"],
        cwd=tree, env={**environment, "DRY_RUN": "1", "PYTHON": sys.executable},
        capture_output=True, text=True,
    )  # fmt: skip
    assert f"--config-file {tree}/configs/trainers/MyMethod/vit_b16.yaml" in done.stdout


def test_the_template_is_no_method_of_its_own():
    assert "Template" not in TRAINER_REGISTRY.registered_names()
