"""The plain path is the fast path's twin for every trainer: losses, gradients and logits."""

import copy

import pytest
import torch

import trainers  # noqa: F401  (registers them)
from benchmarks.eval_throughput import evaluate
from benchmarks.plain import plain
from benchmarks.workload import Workload, build, difference, loss_and_gradients, make_batch
from clip.model import Transformer
from clip.text import SharedText
from dassl.engine import TRAINER_REGISTRY

pytestmark = pytest.mark.slow

NAMES = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).task == "classification"
)
LEARNING = [name for name in NAMES if TRAINER_REGISTRY.get(name).learns]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workload")


@pytest.fixture
def make(folder):
    def build_one(name, classes=5, at_once=0):
        work = Workload(name, "micro", classes=classes, batch=3)
        trainer = build(work, folder)
        trainer.model.clip.transformer.classes_at_once = at_once
        for module in trainer.model.modules():
            if hasattr(module, "dropout"):  # other draws on each path
                module.dropout = 0.0
        return trainer, make_batch(work)

    return build_one


@pytest.mark.parametrize("name", LEARNING)
def test_fast_equals_plain(name, make):
    trainer, batch = make(name)
    learner = trainer.model.prompt_learner
    begin = copy.deepcopy(learner.state_dict())  # means over batches change with each
    fast = loss_and_gradients(trainer, batch)
    fast_logits = evaluate(trainer, batch, batches=2)
    learner.load_state_dict(begin)
    with plain(trainer):
        whole = loss_and_gradients(trainer, batch)
        whole_logits = evaluate(trainer, batch, batches=1)
    loss, gradients = difference(fast, whole)
    assert loss < 1e-5
    assert gradients < 1e-4
    torch.testing.assert_close(fast_logits, whole_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ANPrompt", "CoCoOp", "CoOp", "MaPLe"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_text_in_pieces_equals_all_at_once(name, at_once, make):
    trainer, batch = make(name)
    together = loss_and_gradients(trainer, batch)
    trainer.model.clip.transformer.classes_at_once = at_once
    loss, gradients = difference(loss_and_gradients(trainer, batch), together)
    assert loss < 1e-5
    assert gradients < 1e-5


def test_plain_runs_whole_sequences_and_is_undone(make):
    trainer, batch = make("CoOp")
    before = Transformer.run, SharedText.run
    lengths = []
    first = trainer.model.clip.transformer.resblocks[0].ln_1
    first.register_forward_hook(lambda module, args, out: lengths.append(tuple(out.shape[:2])))
    loss_and_gradients(trainer, batch)
    assert max(length for shape in lengths for length in shape) < 77
    lengths.clear()
    with plain(trainer):
        loss_and_gradients(trainer, batch)
    assert lengths == [(77, 5)]  # positions, classes
    assert (Transformer.run, SharedText.run) == before
