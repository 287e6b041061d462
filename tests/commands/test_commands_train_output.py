"""train.py's output: streams that fail or know few letters, --quiet, places that cannot be."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("круг", "cross")


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "фото"
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for image in range(6):
            Image.new("RGB", (20, 20), (image, 80 * number, 0)).save(folder / name / f"{image}.png")
    return folder


@pytest.fixture
def command(images, tiny_clip_path, tmp_path):
    """Arguments of a training of two epochs; ``changes`` replace flags."""

    def make(*more: str, options: tuple = (), **changes: str) -> list[str]:
        flags = {
            "trainer": "CoOp",
            "seed": "1",
            "backbone": str(tiny_clip_path),
            "dataset_config_file": str(ROOT / "configs/datasets/imagefolder.yaml"),
            "config_file": str(ROOT / "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml"),
            "output_dir": str(tmp_path / "run"),
            **changes,
        }
        named = [p for k, v in flags.items() for p in ("--" + k.replace("_", "-"), v)]
        return [
            *named, *more, "DATASET.IMAGE_DIR", str(images), "DATASET.NUM_SHOTS", "2",
            "OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0",
            "TEST.PER_CLASS_RESULT", "True", *options,
        ]  # fmt: skip

    return make


def results(tmp_path) -> dict:
    return json.loads((tmp_path / "run/results.json").read_text())


@pytest.mark.parametrize("lines", [0, 1, 60])
def test_a_pipe_that_closes_ends_no_training(command, tmp_path, monkeypatch, lines):
    """As ``train.py | head``: what it would have shown is in log.txt."""
    reading, writing = os.pipe()
    reader = os.fdopen(reading)

    class Console(io.TextIOWrapper):
        left = lines

        def write(self, text):
            if self.left <= 0 and not reader.closed:
                reader.close()
            self.left -= text.count("\n")
            return super().write(text)

    console = Console(os.fdopen(writing, "wb"), "utf-8")
    monkeypatch.setattr(sys, "stdout", console)
    assert train.main(command()) == 0
    assert results(tmp_path)["epochs"] == 2
    log = (tmp_path / "run/log.txt").read_text()
    assert "** Config **" in log and "Elapsed: " in log
    console.detach()
    with pytest.raises(OSError, match="Bad file|Broken pipe|closed"):
        os.write(writing, b"x")


def test_stdout_of_another_encoding(command, tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    assert train.main(command()) == 0
    assert results(tmp_path)["classnames"] == sorted(CLASSES)
    shown = console.buffer.getvalue().decode("cp1252")
    assert "* class: 1 (\\u043a\\u0440\\u0443\\u0433)" in shown
    assert "* class: 1 (круг)" in (tmp_path / "run/log.txt").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams(command, tmp_path, closed):
    line = f'{sys.executable} train.py "$@" {closed}'
    done = subprocess.run(["bash", "-c", line, "bash", *command()], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path)["epochs"] == 2
    assert "Elapsed: " in (tmp_path / "run/log.txt").read_text()


def test_quiet(command, tmp_path, capsys):
    assert train.main(command("--quiet")) == 0
    printed = capsys.readouterr()
    accuracy = results(tmp_path)["accuracy"]
    assert printed.out == f"accuracy {accuracy:.1f}% ({tmp_path / 'run/results.json'})\n"
    log = (tmp_path / "run/log.txt").read_text()
    assert "epoch [2/2]" in log and "** Config **" in log and "%|" not in log
    assert train.main(command("--quiet")) == 0
    assert capsys.readouterr().out.startswith("Finished already")


def test_no_progress_bars_where_nobody_looks(command, capsys):
    assert train.main(command()) == 0
    assert "%|" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("trainer", "Coop"), ("output_dir", "FILE"), ("backbone", "./x")]
)
def test_errors_come_before_the_configuration(command, tmp_path, capsys, wrong):
    name, value = wrong
    if value == "FILE":
        value = str(tmp_path / "file")
        Path(value).touch()
    assert train.main(command(**{name: value})) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("flag", ["output_dir", "model_dir", "resume"])
@pytest.mark.parametrize("place", ["file", "file/below", "x" * 5000, "~nobody-of-this-name/x"])
def test_places_that_cannot_be(command, tmp_path, capsys, monkeypatch, flag, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    more = ["--eval-only"] if flag == "model_dir" else []
    try:
        status = train.main(command(*more, **{flag: place}))
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert place[:50] in line and "remove it and run" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "фото"]


def test_a_loss_that_is_nan_is_one_line(command, tmp_path, capsys, monkeypatch):
    from trainers.model import PromptedCLIP

    honest = PromptedCLIP.loss

    def diverging(self, batch):
        loss = honest(self, batch)
        if batch.epoch == 1:
            object.__setattr__(loss, "total", loss.total * float("nan"))
        return loss

    monkeypatch.setattr(PromptedCLIP, "loss", diverging)
    assert train.main(command()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Loss is infinite or NaN! (epoch 2, batch 1)" in line and "OPTIM.LR" in line
    files = sorted(path.name for path in (tmp_path / "run/prompt_learner").iterdir())
    assert files == ["checkpoint", "model.pth.tar-1"]
    assert not (tmp_path / "run/results.json").exists()


@pytest.mark.parametrize("full", ["checkpoint", "log", "results"])
def test_a_full_disk(command, tmp_path, capsys, monkeypatch, full):
    """One line with the file; what was there before is whole, and the run can go on."""
    from dassl.engine import results as writer

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if full == "checkpoint":
            patch.setattr(torch, "save", no_space)
        elif full == "results":
            patch.setattr(writer, "write_json", no_space)
        else:
            from dassl.utils import Logger

            opened = Logger.open

            def then_full(self, *arguments, **options):
                opened(self, *arguments, **options)
                self.file.write = no_space

            patch.setattr(Logger, "open", then_full)
        assert train.main(command()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert train.main(command()) == 0
    assert results(tmp_path)["epochs"] == 2


def test_what_killed_processes_left_is_removed(command, tmp_path):
    learner = tmp_path / "run/prompt_learner"
    learner.mkdir(parents=True)
    for path in (
        learner / "model.pth.tar-1.0123abcd.tmp",  # as earlier versions named them
        learner / "checkpoint.aaaaaa-99999999-abcdef.tmp",
        tmp_path / "run/results.json.aaaaaa-99999999-abcdef.tmp",
    ):
        path.write_text("half")
    (tmp_path / "run/notes.tmp").write_text("somebody's own")
    assert train.main(command()) == 0
    assert [path.name for path in (tmp_path / "run").rglob("*.tmp")] == ["notes.tmp"]
