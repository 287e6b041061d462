"""This project's trainers and data sets on Dassl.pytorch itself.

What they import of ``dassl`` is checked always. Running them there needs a checkout of
github.com/KaiyangZhou/Dassl.pytorch, named by ``DASSL_REPO``; skipped without one. Both sides run
``dassl_runner.py`` in a process of their own.
"""

import ast
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import trainers  # noqa: F401  (registers them)
from dassl.engine import TRAINER_REGISTRY
from trainers.feature_methods import FeatureTrainer

ROOT = Path(__file__).resolve().parents[2]
DASSL_REPO = os.environ.get("DASSL_REPO", "")
PATIENCE = 900  # seconds

# What Dassl.pytorch 0.6.3 offers under these names, as far as CoOp's family uses it.
PUBLIC = {
    "dassl.config": ["get_cfg_default"],
    "dassl.data": ["DataManager"],
    "dassl.data.data_manager": ["build_data_loader"],
    "dassl.data.datasets": ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset"],
    "dassl.data.transforms": ["INTERPOLATION_MODES", "build_transform"],
    "dassl.engine": [
        "TRAINER_REGISTRY",
        "SimpleTrainer",
        "TrainerBase",
        "TrainerX",
        "build_trainer",
    ],
    "dassl.evaluation": [
        "EVALUATOR_REGISTRY",
        "Classification",
        "EvaluatorBase",
        "build_evaluator",
    ],
    "dassl.metrics": ["compute_accuracy"],
    "dassl.optim": ["build_lr_scheduler", "build_optimizer"],
    "dassl.utils": [
        "AverageMeter",
        "MetricMeter",
        "Registry",
        "check_isfile",
        "collect_env_info",
        "count_num_param",
        "listdir_nohidden",
        "load_checkpoint",
        "load_pretrained_weights",
        "mkdir_if_missing",
        "read_image",
        "resume_from_checkpoint",
        "save_checkpoint",
        "set_random_seed",
        "setup_logger",
        "tolist_if_not",
        "write_json",
    ],
}

NAMES = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).__module__.startswith("trainers.")
    and TRAINER_REGISTRY.get(name).task == "classification"
)

needs_checkout = pytest.mark.skipif(
    not DASSL_REPO, reason="DASSL_REPO does not name a checkout of KaiyangZhou/Dassl.pytorch"
)


def imported_from_dassl(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything that a file takes from ``dassl``.

    Of anomaly detection, which does not run there: when it is imported.
    """
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if path.parent.name == "anomaly" else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "dassl"]


@pytest.mark.parametrize("room", ["trainers", "datasets"])
def test_only_public_names_are_imported(room):
    used = 0
    for path in sorted((ROOT / room).rglob("*.py")):
        if path.name == "scores.py":  # imported by tests of anomaly detection alone
            continue
        for module, name in imported_from_dassl(path):
            assert name in PUBLIC.get(module, ()), f"{path.name}: {module}.{name}"
            used += 1
    assert used > 10


def test_the_public_names_are_there():
    for module, names in PUBLIC.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def report_of(data: Path, clip: Path, folder: Path, dassl_repo: str) -> dict:
    program = Path(__file__).with_name("dassl_runner.py")
    file = folder / "report.json"
    command = [sys.executable, program, data, clip, folder, file, *filter(None, [dassl_repo])]
    done = subprocess.run(
        [str(part) for part in command],
        input=json.dumps(PUBLIC),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def upstream(fake_eurosat, tiny_clip_path, tmp_path_factory) -> dict:
    repo = Path(DASSL_REPO).resolve()
    assert (repo / "dassl" / "engine").is_dir(), f"DASSL_REPO={DASSL_REPO}: no dassl/engine in it"
    folder = tmp_path_factory.mktemp("upstream")
    report = report_of(fake_eurosat, tiny_clip_path, folder, str(repo))
    assert Path(report["dassl"]).is_relative_to(repo)
    return report


@pytest.fixture(scope="module")
def ours(fake_eurosat, tiny_clip_path, tmp_path_factory) -> dict:
    report = report_of(fake_eurosat, tiny_clip_path, tmp_path_factory.mktemp("ours"), "")
    assert Path(report["dassl"]).is_relative_to(ROOT)
    return report


@needs_checkout
def test_upstream_has_the_public_names(upstream):
    assert upstream["missing"] == []


@needs_checkout
@pytest.mark.parametrize("name", NAMES)
def test_trains_tests_and_loads_as_here(name, upstream, ours):
    there, here = upstream["trainers"][name], ours["trainers"][name]
    if issubclass(TRAINER_REGISTRY.get(name), FeatureTrainer):
        assert "trained on features needs this repository's dassl" in there["error"]
        return
    assert "error" not in there, there["error"]
    assert "error" not in here, here["error"]
    assert there["losses"] == pytest.approx(here["losses"], abs=1e-5)
    torch.testing.assert_close(
        torch.tensor(there["stepped"]), torch.tensor(here["stepped"]), atol=1e-5, rtol=0
    )
    learns = bool(there["losses"])
    for report in (there, here):
        assert all(math.isfinite(loss) for loss in report["losses"])
        assert len(report["accuracy"]) == 1, report["printed"]
        assert 0 <= float(report["accuracy"][0]) <= 100
        assert torch.tensor(report["trained"]).isfinite().all()
        # The epoch changed something, and a new trainer gets it from the checkpoint.
        assert (report["trained"] != report["stepped"]) == learns
        assert report["loaded"] == report["trained"]
        if learns:
            assert "Finish training" in report["printed"]
