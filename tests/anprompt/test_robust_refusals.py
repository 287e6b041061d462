"""What python -m anprompt robustness refuses: one line, and figures that are there stay."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from evaluated_runs import SMALL, call, content
from runs_of_tests import ROOT, run_folder

from anprompt.__main__ import main
from anprompt.results.noise.compare import compare
from anprompt.results.noise.files import read_evaluations
from common.errors import UsageError

pytestmark = pytest.mark.slow


def refused(capsys, *arguments) -> str:
    status, _, err = call(capsys, *arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    return err


def test_names_of_files_that_are_no_text(fresh, fake_eurosat, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(fake_eurosat, data)
    split = next((data / "eurosat").glob("split_zhou_*.json"))
    lists = json.loads(split.read_text())
    old = data / "eurosat/2750" / lists["test"][0][0]
    new = os.fsdecode(os.fsencode(old.parent) + b"/\xff" + os.fsencode(old.suffix))
    os.rename(old, new)
    lists["test"][0][0] = os.path.relpath(new, data / "eurosat/2750")
    split.write_text(json.dumps(lists))
    arguments = ["--root", data, "--noise", "blur", "--severities", "1", "--images", "20"]
    status, _, err = call(capsys, "--model-dir", run_folder(fresh, "CoOp"), *arguments)
    assert status == 0, err


def test_bad_input_is_one_line_and_leaves_results_alone(evaluated_output, capsys):
    folder = run_folder(evaluated_output, "CoOp")
    before = (folder / "robustness.json").read_bytes()
    for arguments, message in [
        (["--noise", "blurr"], "Did you mean blur"),
        (["--severities", "6"], "--severities 6: there is no such severity"),
        (["--severities", "0-2"], "give 1 to 5"),
        (["--seeds", "x"], "whole numbers"),
        (["--images", "0"], "give 1 or more"),
        (["--images", "15", "--noise", "blur"], "--redo"),
        (["--classes", "old"], "choose from"),
        (["--noise", "description"], "--descriptions"),
        (["--descriptions", evaluated_output / "none.json"], "none.json"),
        (["--load-epoch", "7"], "model.pth.tar-7"),
        (["--root", evaluated_output / "nowhere"], "nowhere"),
        (["--noise", "autoattack", "--images", "20"], "pyautoattack"),
        (["--plugin", "none.py"], "none.py"),
        (["--nois", "x", "--wrong"], "--wrong"),
    ]:
        if "autoattack" in arguments:
            try:
                import pyautoattack  # noqa: F401

                continue
            except ImportError:
                pass
        assert message in refused(capsys, "--model-dir", folder, *arguments), arguments
    assert (folder / "robustness.json").read_bytes() == before


HOLD = """
import sys
from common.lock import FolderLock
from anprompt.robustness.prepare import ROBUSTNESS_LOCK
lock = FolderLock(sys.argv[1], ROBUSTNESS_LOCK)
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_evaluations_of_one_run_are_not_mixed(fresh, capsys):
    """Each writes its file as a whole; the later would drop what the earlier measured."""
    folder = run_folder(fresh, "CoOp")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        assert "in use by another process" in refused(capsys, "--model-dir", folder, *SMALL)
        other.communicate("")
    assert not (folder / "robustness.json").exists()
    assert main(["robustness", "--model-dir", str(folder), "--noise", "blur", "--images", "4"]) == 0


def test_another_backbones_file_is_noticed_for_every_run(fresh, capsys):
    """Runs share a loaded backbone only if it was the same file for both."""
    folders = [run_folder(fresh, name) for name in ("CoOp", "MaPLe")]
    settings = folders[1] / "config.yaml"
    changed = re.sub(r"(WEIGHTS: '?)\w{16}", r"\g<1>" + "f" * 16, settings.read_text())
    assert changed != settings.read_text()
    settings.write_text(changed)
    assert "other weights" in refused(capsys, "--model-dir", *folders, *SMALL)


def test_runs_that_are_none_or_not_alike_are_refused(evaluated_output, fresh, tmp_path, capsys):
    folder = run_folder(fresh, "CoOp")
    assert "no such folder" in refused(capsys, "--model-dir", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no trained model" in refused(capsys, "--model-dir", tmp_path / "empty")
    # another half of the classes
    assert "different class sets" in refused(
        capsys, "--model-dir", folder, run_folder(fresh, "ZeroshotCLIP", "test_new")
    )
    # another data set
    other = run_folder(fresh, "MaPLe")
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("NAME: EuroSAT", "NAME: DescribableTextures"))
    assert "different class sets" in refused(capsys, "--model-dir", folder, other)
    # no checkpoint
    shutil.rmtree(folder / "prompt_learner")
    assert "no checkpoint" in refused(capsys, "--model-dir", folder)
    assert not list(fresh.rglob("robustness.json"))


def test_a_class_without_description_is_named(fresh, tmp_path, capsys):
    path = tmp_path / "descriptions.json"
    path.write_text(json.dumps({"River": ["Water between banks."]}))
    folder = run_folder(fresh, "CoOp")
    arguments = ["--noise", "description", "--descriptions", path]
    assert "no entry for class" in refused(capsys, "--model-dir", folder, *arguments)


def test_phrasings_of_two_pools_are_not_mixed(fresh, tmp_path, capsys):
    for name, text in (("one", "a view of a {}."), ("two", "some {} there.")):
        (tmp_path / f"{name}.txt").write_text(text + "\n")
    folder = run_folder(fresh, "CoOp")
    few = ["--model-dir", folder, "--noise", "phrasing", "--seeds", "1", "--images", "10"]
    own = ["--templates", tmp_path / "one.txt"]
    assert call(capsys, *few, "--severities", "5")[0] == 0
    before = (folder / "robustness.json").read_bytes()
    line = refused(capsys, *few, "--severities", "4,5", *own)
    assert "evaluated with other phrasings (own; now " in line and "--templates" in line
    old = content(folder)
    for part in old["parts"].values():
        assert part.pop("phrasings") == "own"
    (folder / "robustness.json").write_text(json.dumps(old))  # as of an earlier version
    assert "other phrasings (own; now" in refused(capsys, *few, "--severities", "4", *own)
    (folder / "robustness.json").write_bytes(before)
    few[3] = "char"  # which draws nothing from them
    assert call(capsys, *few, "--severities", "4", *own)[0] == 0

    other = run_folder(fresh, "MaPLe")
    few[1], few[3] = other, "phrasing"
    assert call(capsys, *few, "--severities", "5", *own)[0] == 0
    with pytest.raises(UsageError, match="phrasing is made from its own forty in the first"):
        compare([*read_evaluations(folder), *read_evaluations(other)])


def test_an_unreadable_file_says_how_to_go_on(fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    (folder / "robustness.json").write_text("{")
    assert "; remove it, or evaluate again with --redo" in refused(
        capsys, "--model-dir", folder, *SMALL
    )
