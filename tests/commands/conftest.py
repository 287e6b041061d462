"""Where sweeps run in tests: an empty OUTPUT, and stand-ins for train.py and for SLURM."""

import os
import sys

import pytest
from slurm_stand_ins import SBATCH, SCONTROL, SQUEUE, SRUN, TRAIN
from sweeping import ROOT, STAND_IN, VARIABLES

from anprompt.commands import sweep
from anprompt.protocols import environment as environments
from anprompt.sweeps import devices, scheduler, slurm, snapshot
from common import paths, provenance


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The variables of an empty OUTPUT."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "no downloads"))
    monkeypatch.setenv("OUTPUT", str(tmp_path / "an output"))
    monkeypatch.setenv("DATA", str(tmp_path))
    return tmp_path / "an output"


@pytest.fixture
def stand_in(tree, tmp_path, monkeypatch):
    """Calls ``anprompt sweep`` with stand-ins for train.py; its status and what they noted."""
    script, calls = tmp_path / "train.sh", tmp_path / "calls"
    script.write_text(STAND_IN)
    calls.touch()
    monkeypatch.setattr(environments, "TRAIN", ["bash", str(script)])
    monkeypatch.setattr(scheduler, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    monkeypatch.setattr(sweep, "problems", lambda *_: [])
    monkeypatch.setenv("CALLS", str(calls))

    def go(*arguments: str, command=sweep) -> tuple[int, list[str]]:
        calls.write_text("")
        return command.main(list(arguments)), calls.read_text().splitlines()

    return go


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A repository with a stand-in for train.py, an empty OUTPUT, and SLURM's commands."""
    repository, tools = tmp_path / "a repository", tmp_path / "tools"
    repository.mkdir()
    for name in snapshot.CODE:
        if (ROOT / name).is_dir():
            os.symlink(ROOT / name, repository / name)
    (repository / "train.py").write_text(TRAIN)
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE),
                       ("scontrol", SCONTROL)):  # fmt: skip
        tools.mkdir(exist_ok=True)
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for name in ("JOBS", "QUEUE", "CALLS"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("BACKBONE", "CFG", "DATA", "DRY_RUN", "PLUGIN", "SHOTS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "queue").touch()
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OUTPUT", str(tmp_path / "an output"))
    monkeypatch.setattr(paths, "ROOT", repository)
    monkeypatch.setattr(provenance, "ROOT", repository)
    monkeypatch.setattr(environments, "TRAIN", [sys.executable, str(repository / "train.py")])
    monkeypatch.setattr(sweep, "problems", lambda *_: [])
    monkeypatch.setattr(slurm, "torch_has_gpu_support", lambda: False)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    provenance.code.cache_clear()
    yield tmp_path
    provenance.code.cache_clear()
