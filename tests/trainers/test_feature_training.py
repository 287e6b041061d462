"""Training on frozen features: batches of kept passes, and whole runs."""

import json
import time

import pytest
import torch
from test_golden import golden_cfg

from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY, build_trainer
from trainers.base import KnownFeatures
from trainers.feature_methods import FeatureBatches
from trainers.tipadapter import grid


class Images:
    def __init__(self, batch_size):
        self.dataset, self.batch_size = None, batch_size


def epoch(count, batch_size, **how):
    """Images and views of each batch."""
    views = torch.arange(3)[:, None, None] + torch.zeros(3, count, 1)
    batches = FeatureBatches(Images(batch_size), views, torch.arange(count), **how)
    found = list(batches)
    assert len(found) == len(batches)
    return [(b["index"].tolist(), b["img"].values[:, 0].tolist()) for b in found]


def test_an_epoch_has_every_image_once_in_a_random_view():
    torch.manual_seed(0)
    first, second = (epoch(10, 4, pooled=False, keeps_last=True) for _ in range(2))
    assert [len(index) for index, _ in first] == [4, 4, 2]
    assert sorted(i for index, _ in first for i in index) == list(range(10))
    assert first != second and {view for _, views in first for view in views} == {0, 1, 2}
    assert [len(i) for i, _ in epoch(10, 4, pooled=False, keeps_last=False)] == [4, 4]
    assert [len(i) for i, _ in epoch(3, 4, pooled=False, keeps_last=False)] == [3]


def test_pooled_views_fill_as_many_batches_as_images_would():
    assert [len(i) for i, _ in epoch(10, 4, pooled=True, keeps_last=False)] == [4, 4]
    ((index, views),) = epoch(3, 4, pooled=True, keeps_last=False)
    assert len(index) == 4 and len(set(zip(index, views, strict=True))) == 4
    assert [len(i) for i, _ in epoch(3, 40, pooled=True, keeps_last=False)] == [9]


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path):
    def make(name, node, options=None, **settings):
        cfg = golden_cfg({}, name, tiny_clip_path, fake_eurosat, tmp_path / "run")
        cfg.DATASET.NUM_SHOTS = 2
        cfg.OPTIM.MAX_EPOCH = 2
        cfg.merge_from_list([word for pair in (options or {}).items() for word in pair])
        for key, value in settings.items():
            cfg.TRAINER[node][key] = value
        cfg.freeze()
        torch.manual_seed(1)
        return build_trainer(cfg)

    return make


@pytest.mark.parametrize(
    ("name", "node"),
    [("TaskRes", "TaskRes"), ("CLAP", "ADAPTER"), ("TipAdapterF", "TIPADAPTER")],
)
def test_without_passes_it_trains_from_images(name, node, make_trainer):
    trainer = make_trainer(name, node, PASSES=0)
    loader = trainer.train_loader_x
    trainer.prepare_training()
    assert trainer.train_loader_x is loader
    assert not isinstance(next(iter(loader))["img"], KnownFeatures)
    trainer.train()


@pytest.mark.parametrize(("passes", "views"), [(0, "images"), (2, "features")])
def test_tip_adapter_f_keeps_the_last_batch_and_its_rate_ends_at_zero(passes, views, make_trainer):
    options = {
        "DATALOADER.TRAIN_X.BATCH_SIZE": 4, "OPTIM.WARMUP_EPOCH": 0, "OPTIM.LR_SCHEDULER": "cosine",
    }  # fmt: skip
    trainer = make_trainer("TipAdapterF", "TIPADAPTER", options, PASSES=passes, AUGMENT_EPOCH=1)
    trainer.train()  # ten images
    assert trainer.num_batches == 3, views
    assert trainer.optim.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_step_sizes_are_epochs_where_the_schedule_goes_by_steps(make_trainer):
    options = {
        "DATALOADER.TRAIN_X.BATCH_SIZE": 4, "OPTIM.WARMUP_EPOCH": 0, "OPTIM.MAX_EPOCH": 3,
        "OPTIM.LR": 0.1, "OPTIM.LR_SCHEDULER": "single_step", "OPTIM.STEPSIZE": (2,),
    }  # fmt: skip
    trainer = make_trainer("TipAdapterF", "TIPADAPTER", options, PASSES=1, AUGMENT_EPOCH=1)
    trainer.train()
    assert trainer.optim.param_groups[0]["lr"] == pytest.approx(0.01)


def test_tip_adapter_trains_nothing_and_searches_on_validation(make_trainer):
    trainer = make_trainer("TipAdapter", "TIPADAPTER", SEARCH_STEP=[5, 4])
    trainer.train()
    learner = trainer.model.prompt_learner
    norms = learner.keys.norm(dim=-1)[learner.present.bool()]
    torch.testing.assert_close(norms, torch.ones(10))
    assert learner.strengths[0].tolist() == [2.0, 1.0]
    assert any(float(learner.strengths[1, 1]) == pytest.approx(beta) for beta in grid(12, 5))
    searched = learner.strengths[1].clone()
    trainer.dm.dataset._val = trainer.dm.dataset.test  # as ImageNet's
    learner.strengths[1] = learner.strengths[0]
    trainer.search()
    assert torch.equal(learner.strengths[1], learner.strengths[0])
    assert not torch.equal(searched, learner.strengths[0])


def test_without_validation_images_the_rule_is_called_fixed(make_trainer, tmp_path):
    trainer = make_trainer("TipAdapter", "TIPADAPTER", SEARCH_STEP=[5, 4])
    trainer.val_loader = None
    trainer.train()
    assert trainer.model.rule == "fixed"
    (results,) = tmp_path.rglob("results.json")
    found = json.loads(results.read_text())
    assert found["headline_rule"] == "fixed"
    assert found["rules"]["fixed"] == found["rules"]["searched"]
    again = make_trainer("TipAdapter", "TIPADAPTER", SEARCH_STEP=[5, 4])
    again.model.prompt_learner.strengths[1, 0] = 9
    again.model.choose_rule()
    assert again.model.rule == "searched"
    again.load_model(trainer.output_dir)
    assert again.model.rule == "fixed"


def test_strengths_are_not_searched_on_images_that_are_reported(make_trainer):
    trainer = make_trainer("TipAdapter", "TIPADAPTER", SEARCH_STEP=[5, 4])
    trainer.cfg.defrost()
    trainer.cfg.TEST.SPLIT = "val"
    trainer.train()
    assert trainer.model.rule == "fixed"


def test_time_of_training_has_that_of_its_features(make_trainer, monkeypatch):
    trainer = make_trainer("TaskRes", "TaskRes")
    prepare = trainer.prepare_training
    monkeypatch.setattr(trainer, "prepare_training", lambda: (time.sleep(1), prepare()))
    trainer.train()
    assert trainer.train_seconds > 1


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
def test_a_cache_takes_no_first_weights(name, tiny_clip_path, fake_eurosat, tmp_path):
    cfg = golden_cfg({}, name, tiny_clip_path, fake_eurosat, tmp_path)
    cfg.MODEL.INIT_WEIGHTS = str(tmp_path / "model.pth.tar-1")
    with pytest.raises(UsageError, match=f"{name} makes its keys of training images"):
        build_trainer(cfg)


def test_steps_of_an_epoch_are_not_for_kept_features(make_trainer, monkeypatch):
    monkeypatch.setattr(TRAINER_REGISTRY.get("TaskRes"), "steps_per_epoch", lambda self: 3)
    with pytest.raises(UsageError, match=r"TaskRes trains on kept .*\(TRAINER.TaskRes.PASSES 0\)"):
        make_trainer("TaskRes", "TaskRes", PASSES=2)
    assert len(make_trainer("TaskRes", "TaskRes", PASSES=0).train_loader_x) == 3


def test_several_views_at_once_are_refused(tiny_clip_path, fake_eurosat, tmp_path):
    cfg = golden_cfg({}, "TaskRes", tiny_clip_path, fake_eurosat, tmp_path)
    cfg.DATALOADER.K_TRANSFORMS = 2
    with pytest.raises(UsageError, match="DATALOADER.K_TRANSFORMS 1"):
        build_trainer(cfg)


@pytest.mark.parametrize("passes", [0, 1])
def test_an_order_of_images_that_has_no_effect_is_said(passes, make_trainer, caplog):
    options = {"DATALOADER.TRAIN_X.SAMPLER": "SequentialSampler"}
    make_trainer("LinearProbe", "ADAPTER", options, PASSES=passes).prepare_training()
    assert ("SAMPLER SequentialSampler has no effect" in caplog.text) == bool(passes)
