"""Runs, trained and evaluated once per session, and images that the tests of commands look at."""

import io
import shutil
from pathlib import Path

import pytest
from evaluated_runs import SMALL
from PIL import Image
from runs_of_tests import CONFIGS, QUICK, ROOT, run_folder

import train
from anprompt.__main__ import main
from anprompt.commands import predict
from common import cli


@pytest.fixture(scope="session")
def trained_output(fake_eurosat, tiny_clip_path, tmp_path_factory) -> Path:
    """An output folder with base-to-new runs of four methods on the fake EuroSAT."""
    output = tmp_path_factory.mktemp("output")
    for trainer, config in CONFIGS.items():
        flags = [
            "--root", str(fake_eurosat), "--seed", "1", "--trainer", trainer,
            "--backbone", str(tiny_clip_path),
            "--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml"),
            "--config-file", str(ROOT / f"configs/trainers/{config}.yaml"),
        ]  # fmt: skip
        base, new = (run_folder(output, trainer, part) for part in ("train_base", "test_new"))
        learns = trainer != "ZeroshotCLIP"
        training = [] if learns else ["--eval-only"]
        testing = ["--eval-only", *(["--model-dir", str(base)] if learns else [])]
        for folder, how, part in ((base, training, "base"), (new, testing, "new")):
            options = [*QUICK, "DATASET.SUBSAMPLE_CLASSES", part]
            assert train.main([*flags, *how, "--output-dir", str(folder), *options]) == 0
    return output


@pytest.fixture(scope="session")
def evaluated_output(trained_output, tmp_path_factory) -> Path:
    """A copy of the trained runs, all four evaluated in one call."""
    folder = tmp_path_factory.mktemp("evaluated") / "output"
    shutil.copytree(trained_output, folder)
    assert main(["robustness", "--model-dir", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def fresh(trained_output, tmp_path) -> Path:
    """An own copy of the trained runs, not evaluated."""
    shutil.copytree(trained_output, tmp_path / "output")
    return tmp_path / "output"


@pytest.fixture
def call(capsys):
    """Runs anprompt predict: its exit status, what it printed and its complaints."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.run(predict.main, "anprompt predict", [str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def images(fake_eurosat, tmp_path) -> Path:
    """Good images in two folders, among them a text file and a broken JPEG."""
    folder = tmp_path / "mine"
    source = fake_eurosat / "eurosat/2750"
    (folder / "more").mkdir(parents=True)
    shutil.copy(source / "Forest/Forest_30.png", folder / "a.png")
    Image.open(source / "River/River_31.png").save(folder / "more" / "b.JPG", "JPEG")
    good = io.BytesIO()
    Image.open(source / "River/River_32.png").save(good, "JPEG")
    (folder / "broken.jpeg").write_bytes(good.getvalue()[:400])
    (folder / "notes.txt").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    return folder
