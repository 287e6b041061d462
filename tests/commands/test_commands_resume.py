"""Train, kill -9 in the middle, the same command again, test: through the scripts, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATASET.NUM_SHOTS", "16"]
PATIENCE = 600  # seconds until the test gives up on a process that should have got further


@pytest.fixture
def command(fake_eurosat, tiny_clip_path):
    """Builds the arguments of subprocess calls of ANPrompt's scripts."""

    def build(part: str, output: Path, workers: int) -> dict:
        script = ROOT / f"scripts/anprompt/base2new_{part}.sh"
        environment = {
            **os.environ,
            "VIRTUAL_ENV": sys.prefix,  # whatever runs these tests has all that is needed
            "DATA": str(fake_eurosat),
            "OUTPUT": str(output),
            "BACKBONE": str(tiny_clip_path),
        }
        options = [*OPTIONS, "DATALOADER.NUM_WORKERS", str(workers)]
        return {
            "args": ["bash", str(script), "eurosat", "1", "--", *options],
            "env": environment,
            "stdin": subprocess.DEVNULL,
        }

    return build


def run_folder(output: Path, half: str) -> Path:
    (folder,) = (output / "base2new" / half / "eurosat/shots_16/ANPrompt").glob("*/seed1")
    return folder


def kill_after_first_epoch(command: dict, output: Path) -> None:
    """Start the training and kill -9 it and its workers while the second epoch runs."""
    process = subprocess.Popen(**command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        # The pointer is written last: killed before it, a run would rightly begin anew.
        while not list(output.rglob("AntiNoisePromptLearner/checkpoint")):
            assert process.poll() is None, "training ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def learned(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "AntiNoisePromptLearner/model.pth.tar-3"
    return torch.load(path, weights_only=True)["state_dict"]


def test_killed_and_resumed_equals_undisturbed(command, tmp_path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    kill_after_first_epoch(command("train", killed, workers=1), killed)
    assert not list(killed.rglob("results.json"))
    subprocess.run(**command("train", killed, workers=0), check=True, timeout=PATIENCE)
    subprocess.run(**command("train", undisturbed, workers=0), check=True, timeout=PATIENCE)

    one, other = run_folder(killed, "train_base"), run_folder(undisturbed, "train_base")
    # It was resumed and not begun anew: one log, in which the first epoch was trained once.
    log = (one / "log.txt").read_text()
    assert log.count("epoch [1/3] batch [20/20]") == 1
    assert log.count("epoch [3/3] batch [20/20]") == 1
    expected = learned(other)
    for name, tensor in learned(one).items():
        assert torch.equal(tensor, expected[name]), name
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    for figure in ("accuracy", "macro_f1", "per_class", "rules"):
        assert results[0][figure] == results[1][figure]

    subprocess.run(**command("test", killed, workers=0), check=True, timeout=PATIENCE)
    tested = json.loads((run_folder(killed, "test_new") / "results.json").read_text())
    assert tested["subsample_classes"] == "new" and tested["headline_rule"] == "class"
    assert set(tested["rules"]) == {"class", "mix"}
