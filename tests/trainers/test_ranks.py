"""Two and three processes that share a run do what one does: every method, from values to files."""

import json

import numpy as np
import pytest
import torch
from inputs import random_clip_state_dict
from test_golden import golden_cfg

import trainers  # noqa: F401  (registers them)
from benchmarks.processes import Together
from dassl.engine import TRAINER_REGISTRY, build_trainer
from trainers.adversarial import AttackedTraining

pytestmark = pytest.mark.slow

NAMES = [
    name
    for name in sorted(TRAINER_REGISTRY.registered_names())
    if TRAINER_REGISTRY.get(name).__module__.startswith("trainers.")
    and TRAINER_REGISTRY.get(name).shares_steps
]


def run(name, clip_path, data, output, changes):
    """Train and test; return what every step reported, what was learned, and the accuracy."""
    cfg = golden_cfg({}, name, clip_path, data, output)
    cfg.DATASET.NUM_SHOTS = 4
    cfg.INPUT.SIZE = (32, 32)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4  # over three processes: two images, one, one
    cfg.DATALOADER.TEST.BATCH_SIZE = 8
    cfg.OPTIM.MAX_EPOCH = 2
    cfg.OPTIM.LR = 0.002
    cfg.TEST.SAVE_PREDICTIONS = True
    cfg.TRAINER.MMRL.REP_DIM = 64
    cfg.merge_from_list(list(changes))
    torch.manual_seed(1)
    trainer = build_trainer(cfg)
    steps, step = [], trainer.forward_backward

    def recorded(batch):
        steps.append({key: float(value) for key, value in step(batch).items()})
        return {key: torch.tensor(value) for key, value in steps[-1].items()}

    trainer.forward_backward = recorded
    trainer.train()
    learned = {key: x.numpy() for key, x in trainer.model.prompt_learner.state_dict().items()}
    return steps, learned, trainer.test(), torch.rand(()).item()


@pytest.fixture(scope="module")
def micro_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("micro") / "micro.pt"
    torch.save(random_clip_state_dict("micro"), path)
    return path


@pytest.fixture(scope="module", params=[2, 3])
def together(request, own_cache):
    processes = Together(request.param, str(own_cache))
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def alone(micro_clip, fake_eurosat, tmp_path_factory):
    """One process's results, by method and settings."""
    known = {}

    def get(name, changes=()):
        if (name, changes) not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[name, changes] = folder, run(name, micro_clip, fake_eurosat, folder, changes)
        return known[name, changes]

    return get


def assert_same(one, other, within=1e-5):
    assert len(one[0]) == len(other[0])
    for number, (own, theirs) in enumerate(zip(one[0][:10], other[0], strict=False)):
        assert own == pytest.approx(theirs, rel=within, abs=within), f"step {number + 1}"
    # By norm: a single number may be far off where round-off decides, as the sign of a gradient
    # that is nearly zero under Adam, or whether a hidden unit is on.
    share = 0.02 if within >= 1e-4 else 100 * within
    for key, tensor in one[1].items():
        apart = np.linalg.norm(other[1][key] - tensor)
        assert apart <= share * np.linalg.norm(tensor) + share / 20, key
    assert one[2] == other[2]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("CoOp", "ANPrompt") else pytest.mark.slow) for n in NAMES],
)
def test_shared_run_is_one_processs(name, together, alone, micro_clip, fake_eurosat, tmp_path):
    changes, within = (), 1e-5
    method = TRAINER_REGISTRY.get(name)
    if issubclass(method, AttackedTraining):
        # An attack's step is the sign of a gradient: where that is nearly zero, round-off decides.
        node, eps = f"TRAINER.{method.attack_node}", 0.02 if name == "NAPTuning" else 0.25
        changes, within = (
            (f"{node}.EPS", eps, f"{node}.STEPS", 1, f"{node}.START", "uniform"),
            1e-4,
        )
    folder, expected = alone(name, changes)
    results = together.call(run, name, micro_clip, fake_eurosat, tmp_path, changes)
    if method.learns:
        assert len(expected[0]) == 10
    for steps, learned, accuracy, number in results:
        assert_same(expected, (steps, learned, accuracy), within)
        assert number == expected[3], "random numbers of the processes drift apart"
        for key, tensor in learned.items():
            assert np.array_equal(tensor, results[0][1][key]), f"{key} differs between processes"
    one, other = (json.loads((f / "results.json").read_text()) for f in (folder, tmp_path))
    assert other["processes"] == len(results) and "processes" not in one
    assert (other["accuracy"], other["per_class"]) == (one["accuracy"], one["per_class"])
    one, other = (np.load(f / "predictions.npz") for f in (folder, tmp_path))
    assert set(one) == set(other)
    for key in one:
        if within >= 1e-4 and key.startswith("top_classes"):
            continue  # of classes that are equally probable to three digits either may come first
        if one[key].dtype.kind == "f":
            np.testing.assert_allclose(one[key], other[key], rtol=2e-3, atol=2e-3)  # float16
        else:
            assert np.array_equal(one[key], other[key]), key


WEAK = ("TRAINER.ADVERSARIAL.EPS", 0.25, "TRAINER.ADVERSARIAL.STEPS", 1)
CASES = {
    "fewer images than processes": ("CoCoOp", ("DATALOADER.TRAIN_X.BATCH_SIZE", 1)),
    "some classes at once, dropout": ("CLIPLoRA", ("MODEL.CLASSES_AT_ONCE", 3)),
    "both of an attack's halves": ("AdvCoOp", ("DATALOADER.TRAIN_X.BATCH_SIZE", 2, *WEAK)),
    "a divergence attacked": ("AdvVPT", ("TRAINER.ADVERSARIAL.LOSS", "trades", *WEAK)),
    "contexts of classes": ("CoOp", ("TRAINER.COOP.CSC", True)),
    "best epoch": ("CoOp", ("TEST.FINAL_MODEL", "best_val")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_special_cases(case, together, alone, micro_clip, fake_eurosat, tmp_path):
    name, changes = CASES[case]
    expected = alone(name, changes)[1]
    for result in together.call(run, name, micro_clip, fake_eurosat, tmp_path, changes):
        assert_same(expected, result, 1e-4 if name.startswith("Adv") else 2e-5)
