"""Damaged results, evaluations, settings and logs: a line that names the file, or sound numbers."""

import json
import re
import shutil
from pathlib import Path

import pytest
from fuzzing import CASES, fuzz, mutate, mutate_json

import parse_test_res
from anprompt.commands import report, table
from anprompt.results.report import page

pytestmark = pytest.mark.slow

FILES = ("results.json", "robustness.json", "log.txt", "config.yaml")
TOKENS = (b"NaN", b"1e999", b"9" * 5000, b"[" * 9000, b"\xef\xbb\xbf", b"\x1b[31m", b"<b>", b"-1")
ABSURD = re.compile(r"(?<![\w.])(?:nan|inf|770\.\d|1e\+?308|101\.0|-1\.0)(?![\w.])")


@pytest.fixture(scope="module")
def tree(old_tree, tmp_path_factory) -> Path:
    """Both halves of three methods, evaluated under noise."""
    folder = tmp_path_factory.mktemp("fuzzed")
    for half in ("train_base", "test_new"):
        source = old_tree / f"output_old/base2new/{half}"
        for found in source.rglob("seed1/results.json"):
            target = folder / found.parent.relative_to(source.parent)
            shutil.copytree(found.parent, target, ignore=shutil.ignore_patterns("*.tar-*"))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(tree, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(page, "to_svg", lambda chart: "")  # figures take most of the time
    files = sorted(tree.rglob(name))
    assert files

    def make(rng):
        path = rng.choice(files)
        content = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.8:
            return path, mutate_json(rng, json.loads(content)).encode()
        return path, mutate(rng, content, TOKENS)

    commands = (
        lambda: table.main([str(tree), "--all-rules"]),
        lambda: table.main([str(tree), "--protocol", "noise", "--format", "latex"]),
        lambda: report.main([str(tree), "-o", str(tmp_path / "page.html")]),
    )

    def attempt(case):
        path, damaged = case
        content = path.read_bytes()
        path.write_bytes(damaged)
        refusals = []
        try:
            for command in (*commands, lambda: parse_test_res.main([str(path.parents[1])])):
                try:
                    command()
                except ValueError as error:  # UsageError, and what no command should let out
                    if type(error) is ValueError or isinstance(error, UnicodeError):
                        raise
                    refusals.append(error)
        finally:
            path.write_bytes(content)
        printed = capsys.readouterr().out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
        shown = "\n".join(line for line in printed.splitlines() if str(tree) not in line)
        assert name == "log.txt" or not ABSURD.search(shown), ABSURD.search(shown)
        if refusals:
            raise refusals[0]

    outcomes = fuzz(f"reading {name}", make, attempt, cases=max(CASES // 2, 1))
    assert sum(outcomes.values()) == max(CASES // 2, 1)
