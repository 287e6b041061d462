"""Two and three processes that share a run do what one does: every method, from values to files.

In fp32 a sum over processes is rounded otherwise than one process's, and where the sign of a nearly
zero number decides (Adam's first steps, an attack's, a hidden unit) single values then differ a
little. So what is learned is compared in double precision, number by number: there nothing but
1e-12 of round-off is left, and a term that is really lost or counted twice stands out. Losses,
accuracy and kept answers are compared in fp32 as well, as a run has it.
"""

import contextlib
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


@contextlib.contextmanager
def double_precision():
    """Let everything that is fp32 be double: what is drawn, loaded, cast and sent."""
    softmax = torch.Tensor.softmax
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.Tensor, torch.nn.Module):
            patch.setattr(kind, "float", kind.double)
        patch.setattr(torch.Tensor, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def run(name, clip_path, data, output, changes, precision="fp32"):
    """Train and test; return what every step reported, what was learned, and the accuracy."""
    if precision == "double":
        with double_precision():
            return run(name, clip_path, data, output, changes)
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
    """One process's results, by method, settings and precision."""
    known = {}

    def get(*key):
        if key not in known:
            name, *rest = key
            folder = tmp_path_factory.mktemp("alone")
            known[key] = folder, run(name, micro_clip, fake_eurosat, folder, *rest)
        return known[key]

    return get


def weak_attack(name):
    """Return settings with which a method of adversarial training learns something here."""
    method = TRAINER_REGISTRY.get(name)
    if not issubclass(method, AttackedTraining):
        return ()
    node, eps = f"TRAINER.{method.attack_node}", 0.02 if name == "NAPTuning" else 0.25
    return f"{node}.EPS", eps, f"{node}.STEPS", 1, f"{node}.START", "uniform"


def assert_steps(expected, steps, within):
    assert len(expected) == len(steps)
    for number, (own, theirs) in enumerate(zip(expected[:10], steps, strict=False)):
        assert own == pytest.approx(theirs, rel=within, abs=within), f"step {number + 1}"


def assert_same_files(one, other, processes, within):
    """Compare results.json and the kept answers of two folders."""
    own, theirs = (json.loads((f / "results.json").read_text()) for f in (one, other))
    assert theirs["processes"] == processes and "processes" not in own
    assert (theirs["accuracy"], theirs["per_class"]) == (own["accuracy"], own["per_class"])
    own, theirs = (np.load(f / "predictions.npz") for f in (one, other))
    assert set(own) == set(theirs)
    for key in own:
        if key.startswith("top_classes"):
            # Of classes that are equally probable to so many digits either may come first.
            top = own[key.replace("classes", "probabilities")].astype(float)
            tied = np.abs(np.diff(top)) <= within
            differs = own[key] != theirs[key]
            assert not (differs[:, :-1] & ~tied & ~np.roll(tied, 1, axis=1)).any(), key
        elif own[key].dtype.kind == "f":  # float16
            np.testing.assert_allclose(own[key], theirs[key], rtol=within, atol=within)
        else:
            assert np.array_equal(own[key], theirs[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_shared_run_learns_what_one_process_learns(
    name, together, alone, micro_clip, fake_eurosat, tmp_path
):
    changes = weak_attack(name)
    folder, expected = alone(name, changes, "double")
    results = together.call(run, name, micro_clip, fake_eurosat, tmp_path, changes, "double")
    if TRAINER_REGISTRY.get(name).learns:
        assert len(expected[0]) == (40 if name == "CLIPLoRA" else 10)  # an epoch of 20 steps
        assert {tensor.dtype for tensor in expected[1].values()} == {np.dtype("float64")}
    for steps, learned, accuracy, number in results:
        assert_steps(expected[0], steps, 1e-11)
        for key, tensor in expected[1].items():
            np.testing.assert_allclose(learned[key], tensor, rtol=1e-8, atol=1e-10, err_msg=key)
            assert np.array_equal(learned[key], results[0][1][key]), f"{key}: processes differ"
        assert accuracy == expected[2]
        assert number == expected[3], "random numbers of the processes drift apart"
    assert_same_files(folder, tmp_path, len(results), within=1e-3)


IN_FP32 = ("ANPrompt", "AdvCoOp", "CLIPLoRA", "CoCoOp", "CoOp", "MaPLe", "NAPTuning", "TipAdapterF")


@pytest.mark.parametrize("name", IN_FP32)
def test_shared_run_in_fp32(name, together, alone, micro_clip, fake_eurosat, tmp_path):
    changes = weak_attack(name)
    within = 1e-4 if changes else 1e-5
    folder, expected = alone(name, changes, "fp32")
    results = together.call(run, name, micro_clip, fake_eurosat, tmp_path, changes)
    for steps, learned, accuracy, number in results:
        assert_steps(expected[0], steps, within)
        assert (accuracy, number) == expected[2:]
        for key, tensor in learned.items():
            assert np.array_equal(tensor, results[0][1][key]), f"{key}: processes differ"
    assert_same_files(folder, tmp_path, len(results), within=2e-3)


WEAK = ("TRAINER.ADVERSARIAL.EPS", 0.25, "TRAINER.ADVERSARIAL.STEPS", 1)
CASES = {
    "fewer images than processes": ("CoCoOp", ("DATALOADER.TRAIN_X.BATCH_SIZE", 1)),
    "some classes at once, dropout": ("CLIPLoRA", ("MODEL.CLASSES_AT_ONCE", 3)),
    "both of an attack's halves": ("AdvCoOp", ("DATALOADER.TRAIN_X.BATCH_SIZE", 2, *WEAK)),
    "a divergence attacked": ("AdvVPT", ("TRAINER.ADVERSARIAL.LOSS", "trades", *WEAK)),
    "contexts of classes": ("CoOp", ("TRAINER.COOP.CSC", True)),
    "best epoch": ("CoOp", ("TEST.FINAL_MODEL", "best_val")),
    "a last batch of two images": ("CLIPLoRA", ("DATALOADER.TRAIN_X.BATCH_SIZE", 3)),
    "a last batch of one image": ("CLIPLoRA", ("DATALOADER.TRAIN_X.BATCH_SIZE", 19)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_special_cases(case, together, alone, micro_clip, fake_eurosat, tmp_path):
    name, changes = CASES[case]
    expected = alone(name, changes, "double")[1]
    for result in together.call(run, name, micro_clip, fake_eurosat, tmp_path, changes, "double"):
        assert_steps(expected[0], result[0], 1e-11)
        for key, tensor in expected[1].items():
            np.testing.assert_allclose(result[1][key], tensor, rtol=1e-8, atol=1e-10, err_msg=key)
        assert result[2] == expected[2]
