"""The commands of docs/TABLES.md run."""

import re
import shlex

import pytest
from runs_of_tests import ROOT

import parse_test_res
from anprompt.__main__ import main
from anprompt.results.report import page
from common import cli

TEXT = (ROOT / "docs/TABLES.md").read_text(encoding="utf-8")
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if "~" not in line and "eurosat" not in line and "crossdata" not in line
]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_commands(old_tree, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "to_svg", lambda chart: "")
    (tmp_path / "output").symlink_to(old_tree / "output_old")
    if words[1] == "parse_test_res.py":  # one experiment of the tree is not finished
        assert cli.run(parse_test_res.main, "parse_test_res.py", words[2:]) == 1
        return
    assert words[:3] == ["python", "-m", "anprompt"]
    assert main(words[3:]) == 0
    if "-o" in words:
        assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 100


def test_all_commands_are_among_them():
    assert len(LINES) >= 7
