"""The commands of docs/TABLES.md run."""

import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from kept_runs import keep
from runs_of_tests import ROOT
from written_runs import write_base_new

import parse_test_res
from anprompt.__main__ import main
from anprompt.results.report import page
from common import cli

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs/TABLES.md").read_text(encoding="utf-8")
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    # Others need runs of upstream, or attacked ones (test_results_robust.py).
    if not any(word in line for word in ("~", "eurosat", "crossdata", "--robust"))
]

UNPACK = next(line for line in LINES if line[0] == "mkdir")


@pytest.fixture(scope="module")
def kept_tree(tmp_path_factory):
    """Runs that kept their predictions, which those of the old tree did not."""
    root = tmp_path_factory.mktemp("kept")
    for number, trainer in enumerate(("ZeroshotCLIP", "CoOp", "ANPrompt"), start=1):
        for dataset in ("EuroSAT", "UCF101"):
            for folder in write_base_new(root, trainer, dataset, 0, 0):
                keep(folder, np.arange(40) % 5 < number)
    return root


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_commands(old_tree, kept_tree, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "to_svg", lambda chart: "")
    needs_kept = {"--paired", "--grid", "ece"} & set(words)
    (tmp_path / "output").symlink_to(kept_tree if needs_kept else old_tree / "output_old")
    if words[1] == "parse_test_res.py":  # one experiment of the tree is not finished
        assert cli.run(parse_test_res.main, "parse_test_res.py", words[2:]) == 1
        return
    if "output_small" in words:
        (tmp_path / "docs").symlink_to(ROOT / "docs")
        subprocess.run(shlex.join(UNPACK).replace("'&&'", "&&"), shell=True, check=True)
        shutil.rmtree(tmp_path / "output_small/fewshot/shapes")  # the tree has such runs as well
    if words == UNPACK:
        assert len(list((tmp_path / "output_small").rglob("results.json"))) > 200
        return
    assert words[:3] == ["python", "-m", "anprompt"]
    (tmp_path / "data").mkdir()
    given = [str(tmp_path / "data") if word == "$DATA" else word for word in words[3:]]
    assert main(given) == 0
    if "-o" in words:
        assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 100


def test_all_commands_are_among_them():
    assert len(LINES) >= 12
