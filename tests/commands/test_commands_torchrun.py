"""torchrun: killed on three processes, resumed on two, tested on two; equal to one process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds until the test gives up on a command
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

FAILS_ALONE = """
import os
from common.errors import UsageError
from trainers.coop import CoOp

after_epoch = CoOp.after_epoch

def failing(self):
    if os.environ["RANK"] == "1":
        raise UsageError("the second process has no luck")
    after_epoch(self)

CoOp.after_epoch = failing
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


def command(processes: int, data: Path, output: Path, *more: str) -> dict:
    launch = [*LAUNCH, str(processes)] if processes > 1 else [sys.executable]
    arguments = [
        "--trainer", "CoOp", "--backbone", "small", "--seed", "1", "--root", str(data),
        "--config-file", "configs/trainers/CoOp/vit_b16.yaml",
        "--dataset-config-file", "configs/datasets/shapes.yaml", "--output-dir", str(output),
        *more, "DATASET.NUM_SHOTS", "2", "DATASET.SUBSAMPLE_CLASSES", "base",
        "OPTIM.MAX_EPOCH", "4", "DATALOADER.TRAIN_X.BATCH_SIZE", "16",
        "DATALOADER.NUM_WORKERS", "1", "TRAINER.COOP.N_CTX", "4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {"args": [*launch, str(ROOT / "train.py"), *arguments], "env": environment, "cwd": ROOT}


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        **command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip


def kill_after_first_epoch(command: dict, output: Path) -> None:
    process = subprocess.Popen(**command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (output / "prompt_learner/checkpoint").exists():
            assert process.poll() is None, "training ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # torchrun gives its processes sessions of their own, which end as it does.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in map(int, children):
            with contextlib.suppress(ProcessLookupError):  # torchrun was faster
                os.kill(pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def learned(folder: Path) -> torch.Tensor:
    checkpoint = torch.load(folder / "prompt_learner/model.pth.tar-4", weights_only=True)
    return checkpoint["state_dict"]["ctx"]


def test_killed_and_resumed_on_other_processes(data, tmp_path):
    one, shared = tmp_path / "one", tmp_path / "shared"
    assert run(1, data, one).returncode == 0
    kill_after_first_epoch(command(3, data, shared), shared)
    assert not (shared / "results.json").exists()
    done = run(2, data, shared)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("=> result") == 1, "the first process alone speaks"
    log = (shared / "log.txt").read_text()
    assert log.count("epoch [1/4] batch [3/3]") == log.count("epoch [4/4] batch [3/3]") == 1
    torch.testing.assert_close(learned(shared), learned(one), rtol=1e-4, atol=1e-5)
    own, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, shared))
    assert theirs["accuracy"] == own["accuracy"]
    assert theirs["identity"] == own["identity"], "a run is the same on any number of processes"

    again = run(1, data, shared)
    assert again.returncode == 0 and "Finished already" in again.stdout
    tested = run(2, data, tmp_path / "tested", "--eval-only", "--model-dir", str(one))
    assert tested.returncode == 0, tested.stderr
    result = json.loads((tmp_path / "tested/results.json").read_text())
    assert result["accuracy"] == own["accuracy"]


ABORTS_AT_THE_END = """
import atexit, os

atexit.register(os.abort)
"""


def test_a_finished_process_ends_without_taking_the_interpreter_apart(data, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(ABORTS_AT_THE_END)
    done = run(2, data, tmp_path / "run", "--plugin", str(plugin), "OPTIM.MAX_EPOCH", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Elapsed:" in done.stdout, "what is printed last is there"


OTHERWISE = """
import os, runpy, sys

if os.environ["RANK"] == "1":
    sys.argv += ["OPTIM.LR", "0.01"]
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_processes_with_other_settings_are_refused(data, tmp_path):
    given = command(2, data, tmp_path / "run")
    program = tmp_path / "otherwise.py"
    program.write_text(OTHERWISE)
    given["args"].insert(given["args"].index(str(ROOT / "train.py")), str(program))
    ended = subprocess.run(**given, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode != 0
    assert ended.stderr.count("train.py: error:") == 1
    assert "process 1 of this run has other settings than the first one" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_one_message_when_one_process_fails(data, tmp_path):
    refused = run(2, data, tmp_path / "run", "OPTIM.NAME", "sdg")
    assert refused.returncode != 0
    assert refused.stderr.count("train.py: error:") == 1
    assert not (tmp_path / "run").exists()

    plugin = tmp_path / "plugin.py"
    plugin.write_text(FAILS_ALONE)
    ended = run(2, data, tmp_path / "run", "--plugin", str(plugin))
    assert ended.returncode != 0
    assert ended.stderr.count("train.py: error:") == 1
    assert "train.py: error: the second process has no luck\n" in ended.stderr
    assert "Traceback" not in ended.stderr.split("torch/distributed")[0]
    assert not (tmp_path / "run/results.json").exists()
