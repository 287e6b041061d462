"""Damaged results, evaluations, settings and logs: a line that names the file, or sound numbers."""

import random
import re
import shutil
from pathlib import Path

import pytest
from fuzz.mutations import CASES, SEED, damaged

import parse_test_res
from anprompt.__main__ import main
from anprompt.results.report import page
from common import cli

FILES = ("results.json", "robustness.json", "log.txt", "config.yaml")
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


def calls(tree: Path, folder: Path, target: Path) -> dict[str, int]:
    """Every command that reads such files."""
    return {
        "table": main(["table", str(tree), "--all-rules"]),
        "noise": main(["table", str(tree), "--protocol", "noise", "--format", "latex"]),
        "report": main(["report", str(tree), "-o", str(target)]),
        "parse": cli.run(parse_test_res.main, "parse_test_res.py", [str(folder.parent)]),
    }


def test_damage_is_refused_or_does_no_harm(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "to_svg", lambda chart: "")  # figures take most of the time
    rng = random.Random(SEED)
    files = sorted(path for path in tree.rglob("*") if path.name in FILES)
    assert {path.name for path in files} == set(FILES)
    refused = 0
    for number in range(CASES):
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(damaged(content, path.suffix == ".json", rng))
        try:
            statuses = calls(tree, path.parent, tmp_path / "page.html")
        except BaseException:
            print(f"case {number}: {path.name} {path.read_bytes()[:2000]!r}")
            raise
        finally:
            path.write_bytes(content)
        printed = capsys.readouterr()
        wrong = [name for name, status in statuses.items() if status == 2]
        lines = [line for line in printed.err.splitlines() if ": error: " in line]
        assert set(statuses.values()) <= {0, 2} and len(lines) == len(wrong), printed.err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed.out + printed.err)
        if path.name != "log.txt" and not wrong:
            shown = "\n".join(line for line in printed.out.splitlines() if str(tree) not in line)
            assert not ABSURD.search(shown), f"case {number}: {ABSURD.search(shown)}"
        refused += bool(wrong)
    assert refused > CASES / 10
