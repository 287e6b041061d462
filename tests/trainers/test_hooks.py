"""What a method can override beyond its three functions, tried on a small method of the test's."""

import csv

import pytest
import torch
from test_golden import golden_cfg

from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY
from trainers.base import ClassPrompts, Loss

CoOp = TRAINER_REGISTRY.get("CoOp")


@pytest.fixture
def make(tiny_clip_path, fake_eurosat, tmp_path):
    def make_trainer(cls, **changes):
        cfg = golden_cfg({}, "CoOp", tiny_clip_path, fake_eurosat, tmp_path / "run")
        cfg.DATASET.NUM_SHOTS = 2
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 5
        cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 0.01, 2
        cfg.TRAINER.COOP.N_CTX = 2
        cfg.merge_from_list([x for pair in changes.items() for x in pair])
        cfg.freeze()
        torch.manual_seed(1)
        return cls(cfg)

    return make_trainer


def with_model(changed):
    """CoOp with a model class of the test's own."""

    class Trainer(CoOp):
        @classmethod
        def build(cls, cfg, clip_model, prompts):
            model = super().build(cfg, clip_model, prompts)
            model.__class__ = type("Model", (changed, type(model)), {})
            return model

    return Trainer


@pytest.mark.parametrize("views", [1, 3])
def test_a_loss_is_given_views_index_and_epoch(make, views):
    seen = []

    class Model:
        def loss(self, batch):
            seen.append(batch)
            return super().loss(batch)

    trainer = make(with_model(Model), **{"DATALOADER.K_TRANSFORMS": views})
    trainer.train()
    assert len(seen) == 4  # two batches an epoch
    assert [batch.epoch for batch in seen] == [0, 0, 1, 1]
    source = trainer.train_loader_x.dataset.data_source
    for batch in seen:
        assert len(batch.views) == views - 1
        assert all(view.shape == batch.image.shape == (5, 3, 64, 64) for view in batch.views)
        assert [source[i].label for i in batch.index.tolist()] == batch.label.tolist()
    assert sorted(i for batch in seen[:2] for i in batch.index.tolist()) == list(range(10))


def test_training_is_prepared_once_with_the_training_set_at_hand(make):
    calls = []

    class Model:
        def prepare_training(self):
            calls.append("model")

        def loss(self, batch):
            calls.append("loss")
            return super().loss(batch)

    class Trainer(with_model(Model)):
        def prepare_training(self):
            calls.append(sum(len(batch["label"]) for batch in self.train_loader_x))
            super().prepare_training()

    make(Trainer).train()
    assert calls == [10, "model", *["loss"] * 4]


def test_parameter_groups_have_rates_of_their_own(make):
    class Trainer(CoOp):
        def parameter_groups(self):
            return [{"params": list(self.model.prompt_learner.parameters()), "lr": 0.5}]

    trainer = make(Trainer)
    assert trainer.get_current_lr() == 0.5
    assert make(CoOp).get_current_lr() == 0.01


class TwoOptimisers(CoOp):
    """CoOp with a second learned tensor that has an optimiser of its own."""

    @classmethod
    def build(cls, cfg, clip_model, prompts):
        model = super().build(cfg, clip_model, prompts)
        learner = model.prompt_learner
        learner.shift = torch.nn.ParameterDict(
            {"all": torch.nn.Parameter(torch.zeros(clip_model.visual.output_dim))}
        )
        model.__class__ = type("Shifted", (Shifted, type(model)), {})
        return model

    def build_optimizers(self):
        super().build_optimizers()
        shift = self.model.prompt_learner.shift
        self.register_model("shift", shift, torch.optim.SGD(shift.parameters(), lr=1.0))

    def parameter_groups(self):
        return [{"params": [self.model.prompt_learner.ctx]}]


class InPartsAlone(TwoOptimisers):
    """Each optimiser with its part: no file would hold all that is learned."""

    def build_optimizers(self):
        shift = self.model.prompt_learner.shift
        self.register_model("shift", shift, torch.optim.SGD(shift.parameters(), lr=1.0))


def test_a_learner_registered_in_parts_alone_is_refused_at_once(make):
    with pytest.raises(UsageError, match="InPartsAlone.build_optimizers.*super"):
        make(InPartsAlone)


class Shifted:
    def text_features(self):
        return super().text_features() + self.prompt_learner.shift["all"]


def test_every_optimiser_takes_its_step_and_is_saved(make, tmp_path):
    trainer = make(TwoOptimisers)
    before = {k: x.clone() for k, x in trainer.model.prompt_learner.state_dict().items()}
    trainer.train()
    after = trainer.model.prompt_learner.state_dict()
    assert set(before) == {"ctx", "shift.all"}
    assert all(not torch.equal(before[key], after[key]) for key in before)
    fresh = make(TwoOptimisers)
    fresh.load_model(str(tmp_path / "run"))
    for key, tensor in fresh.model.prompt_learner.state_dict().items():
        assert torch.equal(tensor, after[key])
    resumed = make(TwoOptimisers, **{"OPTIM.MAX_EPOCH": 3})
    assert resumed.resume_model_if_exist(str(tmp_path / "run")) == 2
    assert (tmp_path / "run/shift/model.pth.tar-2").is_file()


def test_gradients_can_be_changed_before_the_step(make):
    """ProGrad's rule: of one term's gradient, what points against another's is taken off."""

    class Model:
        def loss(self, batch):
            loss = super().loss(batch)
            against = -loss.terms["ce"] + self.prompt_learner.ctx.square().sum()
            return Loss.of(loss.logits, ce=loss.terms["ce"], kl=against)

    class Trainer(with_model(Model)):
        def backward(self, loss):
            parameters = list(self.model.prompt_learner.parameters())
            general = torch.autograd.grad(loss.terms["kl"], parameters, retain_graph=True)
            own = torch.autograd.grad(loss.terms["ce"], parameters)
            for parameter, g, b in zip(parameters, own, general, strict=True):
                along = (g * b).sum() / b.square().sum()
                parameter.grad = g - torch.clamp(along, max=0) * b

    trainer = make(Trainer)
    directions = []
    step = trainer.model_update

    def noting():
        model = trainer.model
        (g,) = [p.grad for p in model.prompt_learner.parameters()]
        directions.append(g.clone())
        step()

    trainer.model_update = noting
    trainer.train()
    assert len(directions) == 4 and all(torch.isfinite(g).all() for g in directions)


def test_terms_are_logged_by_name(make, tmp_path, capsys):
    class Model:
        def loss(self, batch):
            loss = super().loss(batch)
            return Loss.of(loss.logits, ce=loss.terms["ce"], length=0 * loss.total + 0.5)

    trainer = make(with_model(Model), **{"TRAIN.PRINT_FREQ": 1})
    trainer.train()
    assert " length 0.5000 (0.5000) " in capsys.readouterr().out
    assert trainer.epoch_metrics["length"] == pytest.approx(0.5)
    assert trainer.epoch_metrics["loss"] == pytest.approx(trainer.epoch_metrics["ce"] + 0.5)
    with open(tmp_path / "run/curve.csv", encoding="utf-8") as file:
        curve = list(csv.DictReader(file))
    assert [float(epoch["length"]) for epoch in curve] == pytest.approx([0.5, 0.5])
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert {"train/loss", "train/ce", "train/length"} <= set(events.Tags()["scalars"])


def test_texts_are_filled_by_the_placeholder_only():
    prompts = ClassPrompts("a {size} photo of {}, {}.", ["a_b", "{}"])
    assert prompts.texts == ("a {size} photo of a b, a b.", "a {size} photo of {}, {}.")
    assert prompts.classnames == ("a b", "{}")
    assert prompts.with_texts(["x", "y"]).texts == ("x", "y")
    with pytest.raises(ValueError, match="3 texts for 2 classes"):
        prompts.with_texts(["x", "y", "z"])
