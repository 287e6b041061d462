"""Parity of DePT and of the methods on frozen features with the authors' code: test_golden.py."""

import pytest
import torch
from test_golden import check_logits, golden_cfg, load_initial, recorded_batch, train_as_recorded

from dassl.engine import build_trainer
from trainers.base import KnownFeatures
from trainers.tipadapter import grid

NAMES = ["taskres", "linearprobe", "clap", "clipadapter", "deptcoop"]


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path):
    def make(record):
        cfg = golden_cfg(record, record["method"], tiny_clip_path, fake_eurosat, tmp_path)
        cfg.DATASET.NUM_SHOTS = record["config"]["NUM_SHOTS"]
        cfg.freeze()
        trainer = build_trainer(cfg)
        items = trainer.train_loader_x.dataset.data_source
        expected = [(str(fake_eurosat / path), label) for path, label in record["train_x"]]
        assert [(item.impath, item.label) for item in items] == expected
        return trainer

    return make


@pytest.mark.parametrize("name", NAMES)
def test_training_reproduces_upstream(name, golden, make_trainer):
    record = golden(name)
    trainer = make_trainer(record)
    load_initial(trainer, name, record)
    check_logits(trainer, record, "init_test_logits", "logits", tolerance=1e-3)
    losses = train_as_recorded(trainer, record["steps"])
    assert len(losses) >= 10
    assert losses == pytest.approx([step["loss"] for step in record["steps"]], abs=1e-4)
    check_logits(trainer, record, "final_test_logits", "logits", tolerance=1e-3)
    assert trainer.test() == pytest.approx(record["accuracy_base"])
    if name == "clap":
        assert trainer.model.multipliers.tolist() == pytest.approx(record["multipliers"], abs=1e-5)


def test_tip_adapter_reproduces_upstream(golden, make_trainer):
    record = golden("tipadapterf")
    trainer = make_trainer(record)
    trainer.prepare_training()
    model, learner = trainer.model, trainer.model.prompt_learner
    dataset = trainer.train_loader_x.dataset
    images = recorded_batch(dataset, list(range(len(dataset))))
    with torch.no_grad():  # the keys are means of these two views
        views = [model.raw_image_features(x) for x in (images["img"], images["img"].flip(-1))]
    learner.fill(torch.stack(views), images["label"])

    model.rule = "fixed"
    check_logits(trainer, record, "tip_fixed_logits", "logits", tolerance=1e-3)
    val = trainer.val_loader.dataset
    batch = recorded_batch(val, list(range(len(val))))
    with torch.no_grad():
        known = KnownFeatures(model.raw_image_features(batch["img"]))
    model.search(known, batch["label"], grid(12, 200), grid(10, 20))
    assert learner.strengths[1].tolist() == pytest.approx(record["tip_searched"], abs=1e-5)
    model.rule = "searched"
    check_logits(trainer, record, "tip_searched_logits", "logits", tolerance=1e-3)

    model.rule = "fixed"
    trainer.prepare_training = lambda: None  # it has keys
    losses = train_as_recorded(trainer, record["steps"])
    assert losses == pytest.approx([step["loss"] for step in record["steps"]], abs=1e-4)
    check_logits(trainer, record, "final_test_logits", "logits", tolerance=1e-3)
    assert trainer.test() == pytest.approx(record["accuracy_fixed"])


@pytest.mark.parametrize("name", [*NAMES, "tipadapterf"])
def test_recorded_losses_move(name, golden):
    losses = [step["loss"] for step in golden(name)["steps"]]
    assert max(losses) - min(losses) > 0.5
