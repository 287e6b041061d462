"""What every registered trainer must do; a new one is tested by being registered."""

import copy
import json

import pytest
import torch
from test_golden import golden_cfg

import trainers  # noqa: F401  (registers them)
from dassl.engine import TRAINER_REGISTRY, build_trainer
from trainers.base import PromptTrainer

NAMES = sorted(TRAINER_REGISTRY.registered_names())
LEARNING = [name for name in NAMES if issubclass(TRAINER_REGISTRY.get(name), PromptTrainer)]


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path):
    def make(name, folder="run", **changes):
        cfg = golden_cfg({}, name, tiny_clip_path, fake_eurosat, tmp_path / folder)
        cfg.DATASET.NUM_SHOTS = 2
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
        cfg.OPTIM.MAX_EPOCH = 2
        cfg.OPTIM.LR = 0.01
        for key, value in changes.items():
            node, leaf = cfg, key.split("__")
            for section in leaf[:-1]:
                node = node[section]
            node[leaf[-1]] = value
        cfg.freeze()
        torch.manual_seed(1)
        return build_trainer(cfg)

    return make


def take_steps(trainer, steps: int = 2) -> list[float]:
    torch.manual_seed(2)  # the order of images
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.epoch = steps + 1, 0
    losses = []
    for batch_idx, batch in enumerate(trainer.train_loader_x):
        trainer.batch_idx = batch_idx
        losses.append(float(trainer.forward_backward(batch)["loss"]))
        if batch_idx + 1 == steps:
            break
    return losses


def test_logits(trainer):
    trainer.set_model_mode("eval")
    batch = next(iter(trainer.test_loader))
    with torch.no_grad():
        return trainer.model_inference(trainer.parse_batch_test(batch)[0][:6])


test_logits.__test__ = False  # a helper, not a test


def frozen_state(trainer) -> dict:
    learned = {id(p) for p in trainer.model.prompt_learner.parameters()}
    return {
        name: parameter.detach().clone()
        for name, parameter in trainer.model.named_parameters()
        if id(parameter) not in learned
    }


@pytest.mark.parametrize("name", LEARNING)
def test_only_the_learner_changes(name, make_trainer):
    trainer = make_trainer(name)
    before = frozen_state(trainer)
    learned = copy.deepcopy(list(trainer.model.prompt_learner.parameters()))
    losses = take_steps(trainer)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert before, "CLIP's own parameters are part of the model"
    for parameter_name, parameter in frozen_state(trainer).items():
        assert torch.equal(parameter, before[parameter_name]), parameter_name
    assert not any(p.requires_grad for p in trainer.model.clip.parameters())
    for old, new in zip(learned, trainer.model.prompt_learner.parameters(), strict=True):
        assert new.dtype == torch.float32
        assert not torch.equal(old, new)


@pytest.mark.parametrize("name", LEARNING)
def test_one_seed_repeats_bit_for_bit(name, make_trainer):
    first, second = make_trainer(name, "a"), make_trainer(name, "b")
    assert take_steps(first) == take_steps(second)
    assert torch.equal(test_logits(first), test_logits(second))


@pytest.mark.parametrize("name", LEARNING)
def test_saved_and_reloaded_gives_the_same_logits(name, make_trainer, tmp_path):
    trained = make_trainer(name)
    take_steps(trained)
    trained.save_model(0, str(tmp_path / "saved"))
    expected = test_logits(trained)
    fresh = make_trainer(name, "fresh")
    assert not torch.equal(test_logits(fresh), expected)
    fresh.load_model(str(tmp_path / "saved"), epoch=1)
    assert torch.equal(test_logits(fresh), expected)
    # Learned tensors only: kilobytes, not a copy of CLIP.
    folder = tmp_path / "saved" / trained.model_name
    clip_bytes = sum(p.nbytes for p in trained.model.clip.parameters())
    assert sum(file.stat().st_size for file in folder.iterdir()) < clip_bytes / 2


@pytest.mark.parametrize("name", LEARNING)
def test_evaluation_never_answers_from_before_training(name, make_trainer):
    trainer = make_trainer(name)
    before = test_logits(trainer)
    take_steps(trainer)
    assert not torch.equal(test_logits(trainer), before)


@pytest.mark.parametrize("name", NAMES)
def test_train_ends_in_results(name, make_trainer, tmp_path):
    trainer = make_trainer(name, OPTIM__MAX_EPOCH=1)
    trainer.train()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trainer"] == name
    assert results["dataset"] == "EuroSAT"
    assert results["num_test"] == 50
    assert 0 <= results["accuracy"] <= 100
    if "rules" in results and results["rules"]:
        assert results["rules"][results["headline_rule"]]["accuracy"] == results["accuracy"]


@pytest.mark.parametrize("name", LEARNING)
def test_bf16_runs_on_cpu(name, make_trainer):
    method = TRAINER_REGISTRY.get(name).method
    trainer = make_trainer(name, **{f"TRAINER__{method}__PREC": "bf16"})
    assert trainer.model.clip.dtype == torch.bfloat16
    losses = take_steps(trainer)
    assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("name", LEARNING)
def test_unknown_precision_is_refused(name, make_trainer):
    method = TRAINER_REGISTRY.get(name).method
    with pytest.raises(ValueError, match="choose one of fp32"):
        make_trainer(name, **{f"TRAINER__{method}__PREC": "fp8"})
