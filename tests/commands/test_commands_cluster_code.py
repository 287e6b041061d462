"""The code and the files that runs on a cluster read: committed, copied, unchanged since."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_stand_ins import COMMAND, TRAIN, only_batch, run_tasks, submit
from sweeping import ROOT

from anprompt.__main__ import main
from anprompt.sweeps import batches, snapshot
from common import provenance

pytestmark = pytest.mark.slow

pytest.importorskip("submitit")


def commit(repository: Path) -> None:
    variables = {"GIT_CONFIG_GLOBAL": os.devnull, **os.environ}
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b",
                                                   "commit", "-qm", "first"]):  # fmt: skip
        subprocess.run(["git", *command], cwd=repository, check=True, env=variables)


def test_only_committed_code_is_submitted_unless_allowed(cluster, capsys):
    arguments = ["sweep", *COMMAND, "--seeds", "1"]
    assert main(arguments) == 2
    assert "no git checkout" in capsys.readouterr().err.splitlines()[-1]
    repository = cluster / "a repository"
    commit(repository)
    provenance.code.cache_clear()
    assert main(arguments) == 0
    (repository / "trainers_notes.txt").touch()  # nothing that runs read
    (repository / "train.py").write_text(TRAIN + "# more\n")
    assert main(arguments) == 2
    assert "train.py not committed" in capsys.readouterr().err.splitlines()[-1]
    assert main([*arguments, "--allow-dirty"]) == 0
    clean, dirty = (batch.content["code"] for batch in batches.read_all(cluster / "an output"))
    provenance.code.cache_clear()
    assert clean["commit"] == dirty["commit"] and len(clean["commit"]) == 40
    assert (clean["dirty"], dirty["dirty"]) == (False, True)


def test_code_that_is_edited_later_does_not_change_runs(cluster, monkeypatch):
    assert submit() == 0
    (cluster / "a repository/train.py").write_text("raise SystemExit('edited')")
    assert len(run_tasks(cluster)) == 6
    copy = Path(only_batch(cluster).content["snapshot"])
    monkeypatch.setattr(provenance, "ROOT", copy)
    provenance.code.cache_clear()
    assert provenance.code() == only_batch(cluster).content["code"]
    provenance.code.cache_clear()


def test_the_copy_has_all_packages():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["importlinter"]["root_packages"]) <= set(snapshot.CODE)


def test_ones_own_files_that_changed_stop_their_shards(cluster, capsys):
    config = cluster / "mine.yaml"
    config.write_text("_BASE_: a repository/configs/trainers/CoOp/vit_b16_ctxv1.yaml\n")
    plugin, beside = cluster / "plugin.py", cluster / "beside.py"
    beside.write_text("")
    plugin.write_text("import beside  # CoOp\n")
    sys.path.append(str(cluster))
    import beside as module  # as checking the settings does

    try:
        assert submit("--cfg", "coop=mine.yaml", "--plugin", "plugin.py") == 0
    finally:
        sys.path.remove(str(cluster))
        del sys.modules[module.__name__]
    base = ROOT / "configs/trainers/CoOp/vit_b16.yaml"
    files = set(only_batch(cluster).content["files"])
    assert files >= {str(config), str(plugin), str(beside), str(base)}
    beside.write_text("x = 1")
    assert run_tasks(cluster) == []
    assert submit("--cfg", "coop=mine.yaml", "--plugin", "plugin.py", "--status") == 0
    printed = capsys.readouterr().out
    assert f"failed  coop (mine) shapes seed 1 train: {beside} changed since" in printed
