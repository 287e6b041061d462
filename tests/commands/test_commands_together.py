"""Commands given at the same time: for one folder, and for several on data that nobody prepared."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds
OPTIONS = ["OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "2", "DATALOADER.NUM_WORKERS", "0"]
OPTIONS += ["DATASET.SUBSAMPLE_CLASSES", "base"]

HOLD = """
import sys
from common.lock import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def fresh_data(fake_eurosat, tmp_path) -> Path:
    """A data folder without few-shot sets."""
    folder = tmp_path / "data" / "eurosat"
    folder.mkdir(parents=True)
    (folder / "2750").symlink_to(fake_eurosat / "eurosat" / "2750")
    shutil.copy(fake_eurosat / "eurosat" / "split_zhou_EuroSAT.json", folder)
    return folder.parent


@pytest.fixture
def arguments(fresh_data, tiny_clip_path):
    """The arguments of a short run."""

    def build(output: Path, trainer: str = "CoOp") -> list[str]:
        given = ["--root", fresh_data, "--seed", "1", "--backbone", tiny_clip_path]
        given += ["--trainer", trainer, "--output-dir", output]
        given += ["--dataset-config-file", ROOT / "configs/datasets/eurosat.yaml"]
        given += ["--config-file", ROOT / "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml"]
        return [str(part) for part in (*given, *OPTIONS)]

    return build


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_in_use_is_left_alone(arguments, tmp_path, capsys):
    output = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        before = files_of(output)
        assert train.main(arguments(output)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"train.py: error: {output} is in use by another process")
        assert f"process {holder.pid} " in line
        assert files_of(output) == before
        holder.communicate()
    assert train.main(arguments(output)) == 0
    assert os.listdir(tmp_path / "data" / "eurosat" / "split_fewshot") == ["shot_2-seed_1.json"]


def test_the_same_command_twice_at_once(arguments, tmp_path):
    output = tmp_path / "run"
    processes = [start(arguments(output)) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE) for process in processes]
    statuses = [process.returncode for process in processes]
    assert sorted(statuses) in ([0, 0], [0, 2]), printed
    for status, (_, err) in zip(statuses, printed, strict=True):
        if status == 2:  # the other was at work
            assert err.count("train.py: error: ") == 1 and "is in use by another process" in err
    trained = [out for out, _ in printed if "Finish training" in out]
    assert len(trained) == 1
    log = (output / "log.txt").read_text()
    assert log.count("** Config **") == log.count("Finish training") == 1
    assert json.loads((output / "results.json").read_text())["finished"] is True
    # Now it is finished, and the lock is free.
    assert train.main(arguments(output)) == 0


def test_different_commands_at_once_on_fresh_data(arguments, tmp_path):
    """They draw the same few-shot set and keep it in the same file."""
    folders = {trainer: tmp_path / trainer for trainer in ("CoOp", "ZeroshotCLIP")}
    processes = [start(arguments(folder, trainer)) for trainer, folder in folders.items()]
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, out + err
    for folder in folders.values():
        assert json.loads((folder / "results.json").read_text())["finished"] is True
    kept = tmp_path / "data" / "eurosat" / "split_fewshot"
    assert os.listdir(kept) == ["shot_2-seed_1.json"]
    assert len(json.loads((kept / "shot_2-seed_1.json").read_text())["train"]) == 20
