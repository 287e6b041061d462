"""Runs in one small file: the same tables, nothing of the machine."""

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from called import table
from runs_of_tests import ROOT
from written_runs import write_base_new, write_results

from anprompt.commands import pack
from common.errors import UsageError

RUNS = ROOT / "docs/runs.tar.xz"


def unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "xf", str(archive), "-C", str(folder)], check=True)
    return folder


def printed(capsys, folder: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert table([str(folder), "--no-published", "--format", "markdown", *arguments]) == 0
    return capsys.readouterr().out


def test_tables_are_the_same(tmp_path, capsys):
    options = {
        "DATASET": {"ROOT": "/home/me/data", "NAME": "EuroSAT", "IMAGE_DIR": "/home/me/pets"}
    }
    more = {"host": "mine", "command": "python train.py --root /home/me/data", "options": options}
    more["predictions"] = {"file": "predictions.npz", "bytes": 1, "sha256": "0"}
    for seed in (1, 2):
        write_base_new(tmp_path / "runs", "CoOp", "EuroSAT", 80 + seed, 70, seed=seed, **more)
    write_base_new(tmp_path / "runs", "ZeroshotCLIP", "EuroSAT", 60, 61, **more)
    assert pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")]) == 0
    assert re.search(r"runs.tar.xz: 6 runs, [\d,]+ bytes", capsys.readouterr().out)
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    assert printed(capsys, theirs) == printed(capsys, tmp_path / "runs")
    for path in theirs.rglob("*"):
        assert path.is_dir() or path.name == "results.json"
        assert path.is_dir() or not re.search(r"/home|mine|predictions", path.read_text())
    first = (tmp_path / "runs.tar.xz").read_bytes()
    assert pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")]) == 0
    assert (tmp_path / "runs.tar.xz").read_bytes() == first


def test_figures_of_noise_go_along(evaluated_output, tmp_path, capsys):
    assert pack.main([str(evaluated_output), str(tmp_path / "runs.tar.xz")]) == 0
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    noise = ("--protocol", "noise")
    assert printed(capsys, theirs, *noise) == printed(capsys, evaluated_output, *noise)
    found = list(theirs.rglob("robustness.json"))
    assert found and not any('"picture"' in path.read_text() for path in found)


def test_bad_input_leaves_the_file_that_is_there(tmp_path):
    archive = tmp_path / "runs.tar.xz"
    archive.write_text("mine")
    with pytest.raises(UsageError, match="no finished run"):
        pack.main([str(tmp_path), str(archive)])
    folder = write_results(tmp_path / "run", "CoOp", "EuroSAT", 80)
    (folder / "results.json").write_text('{"finished": true, "accuracy": 800}')
    with pytest.raises(UsageError, match="not the results of a run"):
        pack.main([str(tmp_path), str(archive)])
    assert archive.read_text() == "mine"


def test_the_runs_that_come_with_the_docs_say_what_the_page_says(tmp_path, capsys):
    page = (ROOT / "docs/RESULTS.md").read_text("utf-8").splitlines()
    rows = [line for line in page if line.startswith("| ")]
    theirs = unpacked(RUNS, tmp_path / "theirs")
    for protocol in ("base2new", "fewshot"):
        text = printed(capsys, theirs, "--protocol", protocol).partition("average of")[0]
        found = [line for line in text.splitlines() if re.match(r"\| [A-Z]", line)]
        assert len(found) > 20
        assert not [row for row in found if row not in rows]


def test_nothing_of_a_machine_is_in_the_docs_runs():
    with tarfile.open(RUNS) as archive:
        for member in archive:
            assert member.isfile() and not member.name.startswith(("/", "."))
            assert ".." not in Path(member.name).parts
            held = archive.extractfile(member)
            assert isinstance(held, (io.BufferedReader, io.BufferedIOBase))
            results = json.load(held)
            assert not {"host", "command"} & results.keys()
            assert "ROOT" not in results["config"]["DATASET"]
            assert "OUTPUT_DIR" not in results["config"]
