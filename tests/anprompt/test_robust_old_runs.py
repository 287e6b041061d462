"""Figures under noise of an earlier version are recognised, and are what they were."""

import json
import shutil

import pytest
from evaluated_runs import call

pytestmark = pytest.mark.slow

RUNS = ["ZeroshotCLIP/vit_b16-small", "CoOp/vit_b16_ep50_ctxv1-small", "ANPrompt/vit_b16-small"]
NOISE = ["--noise", "char,embed,gaussian_noise,both", "--severities", "3", "--seeds", "1",
         "--images", "24"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(old_tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("noise") / "output_old"
    shutil.copytree(old_tree / "output_old", output)
    folder = output / "base2new/train_base/shapes/shots_2"
    return [folder / run / "seed1" for run in RUNS]


def files(runs):
    return {run: (run / "robustness.json").read_bytes() for run in runs}


@pytest.mark.slow
def test_noise_is_not_measured_again(old_tree, runs, capsys):
    before = files(runs)
    status, out, err = call(capsys, "--model-dir", *runs, *NOISE)
    assert status == 0, err
    assert files(runs) == before
    table = out[out.index("Shapes, base classes") :]
    assert table == (old_tree / "expected/robustness.txt").read_text()
    # What is missing is added, and what is there stays.
    assert call(capsys, "--model-dir", runs[1], *NOISE, "--classes", "new", "--seeds", "2")[0] == 0
    added = json.loads((runs[1] / "robustness.json").read_text())["parts"]["new"]["cells"]
    known = json.loads(before[runs[1]])["parts"]["new"]["cells"]
    assert {key: added[key] for key in known} == known
    assert "text/char/3/2" in added
