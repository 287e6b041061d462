"""Upstream CoOp, unmodified, on this project's ``dassl`` and ``clip``.

Needs a checkout of github.com/KaiyangZhou/CoOp, named by ``COOP_REPO``; skipped without one. Its
``train.py``, ``trainers``, ``datasets`` and ``configs`` run as they are; only ``clip`` (of which it
carries a copy) and ``dassl`` are ours.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
COOP_REPO = os.environ.get("COOP_REPO", "")
PATIENCE = 600  # seconds

pytestmark = pytest.mark.skipif(
    not COOP_REPO, reason="COOP_REPO does not name a checkout of KaiyangZhou/CoOp"
)

FEW_STEPS = {
    "MODEL.BACKBONE.NAME": "",
    "INPUT.SIZE": "(64,64)",
    "DATASET.SUBSAMPLE_CLASSES": "base",
    "DATASET.NUM_SHOTS": "4",
    "DATALOADER.TRAIN_X.BATCH_SIZE": "4",
    "DATALOADER.NUM_WORKERS": "0",
    "OPTIM.MAX_EPOCH": "2",
    "OPTIM.WARMUP_EPOCH": "0",
    "OPTIM.LR": "0.02",
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A folder in which upstream's code finds our ``clip`` and ``dassl``."""
    folder = tmp_path_factory.mktemp("stock")
    for name in ("train.py", "trainers", "datasets", "configs"):
        source = Path(COOP_REPO).resolve() / name
        assert source.exists(), f"COOP_REPO={COOP_REPO}: no {name} in it"
        (folder / name).symlink_to(source)
    for name in ("clip", "common", "dassl", "torchvision_compat.py"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def run(stock, fake_eurosat, tiny_clip_path, tmp_path):
    """Runs upstream's train.py; returns what it prints."""

    def run_train(trainer: str, config: str, *flags: str, backbone: str = "", **options: str):
        merged = FEW_STEPS | {"MODEL.BACKBONE.NAME": backbone or str(tiny_clip_path)}
        merged |= {name.replace("__", "."): value for name, value in options.items()}
        command = [sys.executable, "-m", "train", "--root", str(fake_eurosat), "--seed", "1"]
        command += ["--trainer", trainer, "--config-file", f"configs/trainers/{config}.yaml"]
        command += ["--dataset-config-file", "configs/datasets/eurosat.yaml", *flags]
        command += [part for option in merged.items() for part in option]
        environment = {**os.environ, "CLIP_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            command, cwd=stock, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run_train


def figures(printed: str) -> list[str]:
    found = re.findall(r"^\* (?:accuracy|macro_f1): ([\d.]+)%$", printed, flags=re.MULTILINE)
    assert len(found) == 2, printed
    return found


@pytest.mark.parametrize(
    ("trainer", "config", "options"),
    [
        ("CoOp", "CoOp/vit_b16_ep50", {"TRAINER__COOP__PREC": "fp32"}),
        (
            "CoOp",
            "CoOp/vit_b16_ep50",
            {"TRAINER__COOP__CSC": "True", "TRAINER__COOP__CLASS_TOKEN_POSITION": "middle"},
        ),
        ("CoOp", "CoOp/vit_b16_ep50_ctxv1", {"TRAINER__COOP__PREC": "amp"}),
        ("CoCoOp", "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1", {"TRAINER__COCOOP__PREC": "fp32"}),
    ],
    ids=["coop", "coop-fp16-csc-middle", "coop-amp-ctxv1", "cocoop"],
)
def test_trains_saves_loads_and_tests(run, trainer, config, options, tmp_path):
    output = str(tmp_path / "output")
    trained = run(trainer, config, "--output-dir", output, **options)
    assert re.search(r"epoch \[2/2\] batch \[\d+/\d+\].* loss \d+\.\d+", trained)
    assert "Finish training" in trained

    checkpoint = torch.load(f"{output}/prompt_learner/model.pth.tar-2", weights_only=True)
    assert checkpoint["epoch"] == 2 and "ctx" in checkpoint["state_dict"]

    load = ("--eval-only", "--model-dir", output, "--load-epoch", "2")
    loaded = run(trainer, config, *load, **options)
    assert figures(loaded) == figures(trained)
    if trainer == "CoOp" and "TRAINER__COOP__CSC" not in options:
        figures(run(trainer, config, *load, DATASET__SUBSAMPLE_CLASSES="new", **options))


def test_loading_changes_the_outcome(run, tmp_path):
    """Equal figures after loading mean something: without loading they are others."""
    options = {"TRAINER__COOP__PREC": "fp32", "OPTIM__MAX_EPOCH": "3"}
    trained = run("CoOp", "CoOp/vit_b16_ep50", "--output-dir", str(tmp_path), **options)
    untrained = run("CoOp", "CoOp/vit_b16_ep50", "--eval-only", **options)
    assert figures(untrained) != figures(trained)


def test_zeroshot_on_the_bundled_clip(run):
    """The backbone's name goes through upstream's own look-up, download and torch.load."""
    figures(
        run(
            *("ZeroshotCLIP", "CoOp/vit_b16_ep50", "--eval-only"),
            backbone="small",
            INPUT__SIZE="(48,48)",
        )
    )
