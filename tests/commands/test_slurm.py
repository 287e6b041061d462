"""A sweep on a real SLURM, half of it cancelled and a run killed: the table is a local sweep's.

Uses the SLURM of this machine where there is one. Otherwise ``ANPROMPT_SLURM_START`` may name a
script that puts one up, run as root: it prints lines of ``export NAME=VALUE``, and the script
``stop`` beside it ends what it started.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anprompt.sweeps import batches

ROOT = Path(__file__).resolve().parents[2]
START = "ANPROMPT_SLURM_START"
PATIENCE = 900  # seconds until the test gives up on the queue
OPTIONS = ["--", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
SWEEP = ["base2new", "--methods", "zsclip,coop,vpt", "--datasets", "shapes,eurosat"]
SWEEP += ["--seeds", "1,2", "--shots", "1"]
CLUSTER = ["--cluster", "slurm", "--allow-dirty", "--shard-minutes", "0.4"]
CLUSTER += ["--slurm", "gpus_per_node=0"]


def answers() -> bool:
    return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=60).stdout.strip() != b""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Variables with which SLURM's commands work."""
    pytest.importorskip("submitit")
    if shutil.which("sbatch") and answers():
        yield {}
        return
    start = os.environ.get(START, "")
    if not start:
        pytest.skip(f"no SLURM on this machine, and {START} names no script that puts one up")
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"{START} takes root")
    folder = tmp_path_factory.mktemp("slurm")
    variables = {"SLURM_TEST_DIR": str(folder)}
    printed = folder / "printed"
    try:
        # Not a pipe: SLURM's daemons hold what the script was given, and it would never end.
        with printed.open("w") as file:
            done = subprocess.run(
                ["bash", start], env={**os.environ, **variables}, stdout=file,
                stderr=subprocess.DEVNULL, timeout=300,
            )  # fmt: skip
        variables |= dict(re.findall(r"(SLURM_\w+)=(\S+)", printed.read_text()))
        if done.returncode or "SLURM_CONF" not in variables:
            pytest.skip(f"{start} could not put a SLURM up (status {done.returncode})")
        yield variables
    except subprocess.TimeoutExpired:
        pytest.skip(f"{start} did not put a SLURM up in 5 minutes")
    finally:
        subprocess.run(
            ["bash", str(Path(start).with_name("stop"))], env={**os.environ, **variables}
        )


@pytest.fixture
def data(tmp_path, fake_eurosat, monkeypatch) -> Path:
    """Two small data sets."""
    from datasets import shapes

    folder = tmp_path / "data"
    folder.mkdir()
    os.symlink(fake_eurosat / "eurosat", folder / "eurosat")
    monkeypatch.setattr(shapes, "IMAGES_PER_CLASS", {"train": 2, "val": 1, "test": 3})
    shapes.ensure_drawn(folder)
    return folder


class Sweeps:
    """Calls commands with an OUTPUT."""

    def __init__(self, output: Path, data: Path, variables: dict[str, str]):
        self.output = output
        self.variables = {
            **os.environ, **variables, "DATA": str(data), "OUTPUT": str(output),
            "BACKBONE": "small", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anprompt", *arguments], env=self.variables, cwd=ROOT,
            capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def sweep(self, *flags: str) -> str:
        return self.call("sweep", *SWEEP, *flags, *OPTIONS)

    def table(self) -> list[list[str]]:
        file = self.output / "table.csv"
        self.call("table", str(self.output), "--protocol", "base2new", "--output", str(file))
        return list(csv.reader(file.read_text().splitlines()))

    def results(self) -> dict[str, dict]:
        """What each run has found, by its folder."""
        found = {}
        for path in self.output.rglob("results.json"):
            results = json.loads(path.read_text())
            kept = ("accuracy", "macro_f1", "per_class", "rules", "subsample_classes")
            found[str(path.relative_to(self.output))] = {key: results.get(key) for key in kept}
        return found

    def jobs(self) -> dict[str, str]:
        """The state of what this sweep has in the queue, by the job's number."""
        names = {batch.name for batch in batches.read_all(self.output)}
        printed = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%j|%i|%T"], env=self.variables,
            capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        lines = [line.split("|") for line in printed.splitlines()]
        return {job: state for name, job, state in lines if name.rpartition("-")[0] in names}

    def wait_until(self, is_so) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, self.sweep("--status")
            time.sleep(0.2)

    def kill_one(self) -> bool:
        """Kill a training, if one is under way."""
        for pid in self.trainings()[:1]:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def trainings(self) -> list[int]:
        """Processes of this sweep's trainings."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            is_ours = any(word.startswith(f"{self.output}/base2new/train_base") for word in words)
            if is_ours and any(word.endswith("/train.py") for word in words):
                found.append(int(process.name))
        return found


@pytest.mark.slow
def test_cancelled_killed_and_submitted_again_equals_a_local_sweep(slurm, data, tmp_path):
    sweeps = Sweeps(tmp_path / "on slurm", data, slurm)
    sweeps.sweep(*CLUSTER)
    (batch,) = batches.read_all(sweeps.output)
    assert batch.n_shards > 3
    sweeps.wait_until(sweeps.trainings)
    waiting = [job for job, state in sweeps.jobs().items() if state == "PENDING"]
    assert "0 to submit" in sweeps.sweep(*CLUSTER)
    # Half of the shards are cancelled, and a run is killed in the middle.
    subprocess.run(["scancel", *waiting[: batch.n_shards // 2]], env=sweeps.variables, check=True)
    sweeps.wait_until(sweeps.kill_one)
    sweeps.wait_until(lambda: not sweeps.jobs())
    told = sweeps.sweep("--status")
    assert "stopped" in told and "20 runs: 20 finished" not in told

    sweeps.sweep(*CLUSTER)
    first, second = batches.read_all(sweeps.output)
    again = [key for shard in range(second.n_shards) for key in second.keys(shard)]
    assert 0 < len(again) < 20
    sweeps.wait_until(lambda: not sweeps.jobs())
    assert sweeps.sweep("--status").startswith("20 runs: 20 finished")

    local = Sweeps(tmp_path / "local", data, {})
    local.sweep()
    assert local.results() == sweeps.results() and len(local.results()) == 20
    assert local.table() == sweeps.table()
    assert {row[2] for row in local.table()} >= {"CoOp", "VPT", "ZeroshotCLIP"}
