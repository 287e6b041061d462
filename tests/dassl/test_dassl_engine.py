"""Trainers: a run's life, its log, its checkpoints, and that a killed run loses nothing."""

import csv
import json
import os
import re
import shutil
import sys
from collections import OrderedDict

import dassl_toy
import pytest
import torch
from dassl_toy import CLASSES, ToyTrainer, state

from dassl.data.samplers import SAMPLERS
from dassl.engine import TrainerX, build_trainer
from dassl.evaluation import EVALUATOR_REGISTRY, EvaluatorBase
from dassl.utils import UsageError, load_checkpoint, set_random_seed, torchtools

# Counted by machine and clock, so no run repeats them.
MEASURED = {"train_seconds", "test_seconds", "peak_memory_mb", "date", "config"}


def build(cfg, seed=0):
    set_random_seed(seed)
    return build_trainer(cfg)


def results(cfg):
    with open(os.path.join(cfg.OUTPUT_DIR, "results.json")) as file:
        return json.load(file)


def figures(cfg):
    return {key: value for key, value in results(cfg).items() if key not in MEASURED}


def files(cfg, model="linear"):
    return sorted(os.listdir(os.path.join(cfg.OUTPUT_DIR, model)))


def train_until(cfg, epoch, batch=1):
    """A run that dies in that epoch (index)."""
    trainer = build(cfg)
    trainer.stop_at = (epoch, batch)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


# A run


def test_log(toy_cfg, capsys):
    trainer = build(toy_cfg("TRAIN.PRINT_FREQ", 2, "OPTIM.MAX_EPOCH", 2))
    capsys.readouterr()
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "No checkpoint found, train from scratch"
    progress = [line for line in lines if line.startswith("epoch")]
    number = r"\d+\.\d+"
    pattern = (
        rf"epoch \[(\d)/2\] batch \[(\d)/3\] time {number} \({number}\) data {number} \({number}\) "
        rf"loss ({number}) \(({number})\) acc {number} \({number}\) lr (\S+) eta 0:\d\d:\d\d"
    )
    matches = [re.fullmatch(pattern, line) for line in progress]
    assert [(m.group(1), m.group(2)) for m in matches] == [("1", "2"), ("2", "2")]
    assert [m.group(5) for m in matches] == ["1.0000e-05", "5.0000e-02"]
    for match, losses in zip(matches, (trainer.losses[:2], trainer.losses[3:5]), strict=True):
        assert float(match.group(3)) == pytest.approx(losses[-1], abs=1e-4)
        assert float(match.group(4)) == pytest.approx(sum(losses) / 2, abs=1e-4)
    end = lines[lines.index("Finish training") :]
    assert end[1:4] == ["Deploy the last-epoch model", "Evaluate on the *test* set", "=> result"]
    assert re.fullmatch(r"\* accuracy: ([\.\deE+-]+)%", end[6])
    assert re.fullmatch(r"Elapsed: 0:\d\d:\d\d", end[-1])


def test_short_epoch_prints_every_batch(toy_cfg, capsys):
    build(toy_cfg("TRAIN.PRINT_FREQ", 5, "OPTIM.MAX_EPOCH", 1)).train()
    printed = re.findall(r"batch \[(\d)/3\].* lr (\S+)", capsys.readouterr().out)
    # The rate printed with an epoch's last batch is already the next epoch's, as in Dassl.
    assert printed == [("1", "1.0000e-05"), ("2", "1.0000e-05"), ("3", "5.0000e-02")]


def test_learning_rates_in_training(toy_cfg):
    class Watched(ToyTrainer):
        rates = []

        def before_epoch(self):
            self.rates.append(self.get_current_lr())

    trainer = Watched(toy_cfg("OPTIM.MAX_EPOCH", 4))
    trainer.train()
    assert trainer.rates == pytest.approx([1e-5, 0.05, 0.0426777, 0.025], rel=1e-5)


class ShrinkingSampler(torch.utils.data.Sampler):
    """One of a user's own: every other epoch is half as long."""

    def __init__(self, data_source):
        self.number, self.epoch = len(data_source), 0

    def __iter__(self):
        yield from range(len(self))
        self.epoch += 1

    def __len__(self):
        return self.number // (1 + self.epoch % 2)


def test_the_rate_falls_though_epochs_differ_in_length(toy_cfg, monkeypatch):
    class Watched(ToyTrainer):
        def forward_backward(self, batch):
            self.lengths.append(self.num_batches)
            return super().forward_backward(batch)

        def after_epoch(self):
            self.rates.append(self.get_current_lr())
            self.ends.append((self.batch_idx + 1, self.lengths[-1]))
            super().after_epoch()

    monkeypatch.setitem(SAMPLERS, "RandomSampler", ShrinkingSampler)
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 8, "OPTIM.WARMUP_EPOCH", -1)
    set_random_seed(0)
    trainer = Watched(cfg)
    trainer.rates, trainer.ends, trainer.lengths = [], [], []
    trainer.train()
    assert len({end for end, _ in trainer.ends}) == 2
    assert all(end == length for end, length in trainer.ends)
    assert trainer.rates == sorted(trainer.rates, reverse=True)
    assert len(set(trainer.rates)) == 8


def test_the_best_without_validation_images_is_said(toy_cfg, monkeypatch, capsys, caplog):
    monkeypatch.setattr(dassl_toy.ToyImages, "val", None)
    ToyTrainer(toy_cfg())
    assert "chosen on the test set" not in capsys.readouterr().out + caplog.text
    ToyTrainer(toy_cfg("TEST.FINAL_MODEL", "best_val"))
    assert "chosen on the test set" in capsys.readouterr().out + caplog.text


def test_results(toy_cfg):
    cfg = toy_cfg("TEST.COMPUTE_CMAT", True)
    trainer = build(cfg)
    trainer.train()
    found = results(cfg)
    assert found["finished"] is True
    assert (found["trainer"], found["dataset"], found["split"]) == (
        "ToyTrainer",
        "ToyImages",
        "test",
    )
    assert (found["shots"], found["seed"], found["subsample_classes"]) == (-1, 0, "all")
    assert (found["epochs"], found["num_test"]) == (4, 15)
    assert found["num_trainable"] == 3 * (3 * 12 * 12 + 1)
    assert list(found["per_class"]) == CLASSES
    assert found["accuracy"] == pytest.approx(sum(found["per_class"].values()) / 3)
    assert found["error"] == 100.0 - found["accuracy"]
    matrix = torch.tensor(found["confusion_matrix"])
    assert matrix.diagonal().mean() * 100 == pytest.approx(found["accuracy"])
    assert found["config"]["OPTIM"]["LR"] == 0.05
    assert found["versions"]["torch"] == torch.__version__
    assert found["rules"] == {}
    assert set(found["code"]) == {"version", "commit", "dirty"} and found["code"]["version"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert found["host"] and found["command"].startswith("python ")
    assert "evaluator" not in found
    assert found["train_seconds"] > 0
    assert found["peak_memory_mb"] > 0


def test_several_rules_in_one_pass(toy_cfg, capsys):
    cfg = toy_cfg("TRAINER.NAME", "TwoRuleTrainer")
    trainer = build(cfg)
    capsys.readouterr()
    accuracy = trainer.test()
    found = results(cfg)
    assert found["headline_rule"] == "straight"
    assert list(found["rules"]) == ["inverted", "straight"]
    for key in ("accuracy", "macro_f1", "per_class"):
        assert found[key] == found["rules"]["straight"][key]
    assert found["rules"]["inverted"] != found["rules"]["straight"]
    assert found["accuracy"] == accuracy
    assert f"* accuracy: {accuracy:.1f}%" in capsys.readouterr().out
    plain = build(toy_cfg(output="plain"))
    plain.model.load_state_dict(trainer.model.state_dict())
    assert plain.test() == accuracy


def test_only_the_final_test_writes_results(toy_cfg):
    cfg = toy_cfg()
    trainer = build(cfg)
    trainer.test(split="val")
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "results.json"))
    cfg.TEST.SPLIT = "val"
    trainer.test()
    assert (results(cfg)["split"], results(cfg)["num_test"]) == ("val", 9)


def test_no_test(toy_cfg, capsys):
    cfg = toy_cfg("TEST.NO_TEST", True, "OPTIM.MAX_EPOCH", 1)
    build(cfg).train()
    assert "=> result" not in capsys.readouterr().out
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "results.json"))


def test_tensorboard(toy_cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = toy_cfg("OPTIM.MAX_EPOCH", 2)
    trainer = build(cfg)
    trainer.train()
    events = EventAccumulator(os.path.join(cfg.OUTPUT_DIR, "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {"train/loss", "train/acc", "train/lr"}
    first = [event.value for event in events.Scalars("train/loss")][:3]
    averages = [sum(trainer.losses[: n + 1]) / (n + 1) for n in range(3)]
    assert first == pytest.approx(averages, rel=1e-5)
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(results(cfg)["accuracy"])


def test_without_tensorboard(toy_cfg, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    build(toy_cfg("OPTIM.MAX_EPOCH", 1)).train()
    assert "tensorboard is not installed" in capsys.readouterr().out


def test_nothing_waits_for_losses_between_prints(toy_cfg):
    """Losses returned as tensors are read when a line is printed, not at every step."""
    reads = []

    class Watched(torch.Tensor):
        def item(self):
            reads.append(trainer.batch_idx)
            return super().item()

        def detach(self):
            return self

    class Trainer(ToyTrainer):
        def forward_backward(self, batch):
            super().forward_backward(batch)
            return {"loss": torch.ones(()).as_subclass(Watched)}

    trainer = Trainer(toy_cfg("TRAIN.PRINT_FREQ", 3, "OPTIM.MAX_EPOCH", 1))
    trainer.train()
    assert reads == [2, 2, 2]


def test_loss_that_is_not_finite_stops_and_saves_nothing(toy_cfg):
    class Diverging(ToyTrainer):
        def forward_backward(self, batch):
            if self.epoch == 1:
                self.model[2].weight.data[:] = float("nan")
            return super().forward_backward(batch)

    cfg = toy_cfg()
    with pytest.raises(FloatingPointError, match=r"infinite or NaN.*epoch 2, batch 1"):
        Diverging(cfg).train()
    assert files(cfg) == ["checkpoint", "model.pth.tar-1"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_after_the_last_step_are_not_kept(toy_cfg, value):
    """The loss was finite; what the optimiser made of it is not."""

    class Diverging(ToyTrainer):
        def after_step(self):
            if (self.epoch, self.batch_idx) == (3, 2):
                self.model[2].weight.data[0, 0] = value

        def forward_backward(self, batch):
            summary = super().forward_backward(batch)
            self.after_step()
            return summary

    cfg = toy_cfg("OPTIM.MAX_EPOCH", 4)
    with pytest.raises(UsageError, match=r"epoch 4: learned tensor linear.2.weight is infinite or"):
        Diverging(cfg).train()
    assert files(cfg) == ["checkpoint", "model.pth.tar-3"]
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "results.json"))


def test_logits_that_are_nan_are_no_result(toy_cfg):
    cfg = toy_cfg()
    trainer = build(cfg)
    trainer.model[2].weight.data[:] = float("nan")
    with pytest.raises(UsageError, match="logits are NaN"):
        trainer.test()
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "results.json"))


def test_results_are_on_disk_before_they_are_shown(toy_cfg, monkeypatch):
    cfg = toy_cfg()
    trainer = build(cfg)

    def fails(self):
        raise UnicodeEncodeError("ascii", "\u043a", 0, 1, "cannot be shown")

    monkeypatch.setattr("dassl.evaluation.Classification.evaluate", fails)
    with pytest.raises(UnicodeEncodeError):
        trainer.test()
    assert results(cfg)["num_test"] == 15


def test_metrics_of_an_evaluator_of_ones_own(toy_cfg, capsys, monkeypatch):
    class Lenient(EvaluatorBase):
        def __init__(self, cfg, lab2cname=None):
            super().__init__(cfg)

        def reset(self):
            pass

        def process(self, mo, gt):
            pass

        def evaluate(self):
            return OrderedDict(accuracy=100.0, ece=torch.tensor(0.25), worst=float("nan"))

    monkeypatch.setitem(EVALUATOR_REGISTRY._objects, "Lenient", Lenient)
    cfg = toy_cfg("TEST.EVALUATOR", "Lenient")
    trainer = build(cfg)
    trainer.model[2].bias.data[:] = torch.tensor([1e3, 0.0, 0.0])
    assert trainer.test() == 100.0
    found = results(cfg)
    assert found["accuracy"] == pytest.approx(100 / 3)
    assert found["evaluator"]["name"] == "Lenient"
    assert found["evaluator"]["metrics"] == {"accuracy": 100.0, "ece": 0.25, "worst": "nan"}
    assert "top-1 accuracy, 33.33%" in found["evaluator"]["note"]
    assert "Evaluator Lenient: its accuracy is 100.00%" in capsys.readouterr().out


def test_best_without_validation_images_says_so(toy_cfg, capsys, monkeypatch):
    monkeypatch.setattr(dassl_toy, "SPLITS", {"train": 8, "val": 0, "test": 5})
    build(toy_cfg("TEST.FINAL_MODEL", "best_val"))
    assert "the best epoch is chosen on the test set" in capsys.readouterr().out


def test_curve(toy_cfg):
    cfg = toy_cfg("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 3)
    undisturbed = build(cfg)
    undisturbed.train()
    path = os.path.join(cfg.OUTPUT_DIR, "curve.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "lr", "loss", "acc", "val_accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["lr"]) for row in rows[:2]] == [1e-5, 0.05]
    losses = undisturbed.losses[3:6]
    assert float(rows[1]["loss"]) == pytest.approx(sum(losses) / 3)
    killed = toy_cfg("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 3, output="killed")
    train_until(killed, epoch=2)
    build(killed).train()
    with open(path) as one, open(os.path.join(killed.OUTPUT_DIR, "curve.csv")) as other:
        assert one.read() == other.read()


def test_model_bookkeeping(toy_cfg):
    trainer = build(toy_cfg())
    assert trainer.get_model_names() == ["linear", "counter"]
    assert trainer.get_model_names("linear") == ["linear"]
    with pytest.raises(ValueError, match="'linar'"):
        trainer.get_model_names("linar")
    with pytest.raises(ValueError, match="already registered"):
        trainer.register_model("linear", trainer.model)
    trainer.set_model_mode("eval", "linear")
    assert (trainer.model.training, trainer.counter.training) == (False, True)
    with pytest.raises(ValueError, match="'evaluate'"):
        trainer.set_model_mode("evaluate")
    trainer.model.requires_grad_(False)
    assert trainer.num_trainable == 0

    class Early(TrainerX):
        def __init__(self):
            self.register_model("x")

    with pytest.raises(AttributeError, match="super"):
        Early()


def test_unknown_trainer(toy_cfg):
    with pytest.raises(UsageError, match="ToyTrainer"):
        build_trainer(toy_cfg("TRAINER.NAME", "ToyTrianer"))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("TEST.SPLIT", "tets", "takes one of test, val"),
        ("TEST.FINAL_MODEL", "best", "takes one of last_step, best_val"),
        ("OPTIM.MAX_EPOCH", 0, "OPTIM.MAX_EPOCH 0: takes"),
        ("TRAIN.PRINT_FREQ", 0, "TRAIN.PRINT_FREQ 0: takes"),
    ],
)
def test_wrong_settings(toy_cfg, key, value, named):
    with pytest.raises(UsageError, match=named):
        build_trainer(toy_cfg(key, value))


def test_trainer_without_model_only_tests(toy_cfg):
    class Fixed(TrainerX):
        def build_model(self):
            pass

        def model_inference(self, image):
            return torch.eye(3)[[1] * len(image)]

    cfg = toy_cfg()
    trainer = Fixed(cfg)
    assert trainer.test() == pytest.approx(100 / 3)
    assert (results(cfg)["epochs"], results(cfg)["num_trainable"]) == (0, 0)


def test_a_trainer_without_a_model_is_told(toy_cfg):
    class Bare(TrainerX):
        def check_cfg(self, cfg):
            pass

    with pytest.raises(UsageError, match=r"trainer Bare has no build_model\(\)"):
        Bare(toy_cfg())


# Checkpoints


def test_one_rolling_checkpoint_and_the_last(toy_cfg, capsys):
    cfg = toy_cfg()
    train_until(cfg, epoch=2)
    assert files(cfg) == files(cfg, "counter") == ["checkpoint", "model.pth.tar-2"]
    assert "Checkpoint saved" not in capsys.readouterr().out
    build(cfg).train()
    assert files(cfg) == files(cfg, "counter") == ["checkpoint", "model.pth.tar-4"]
    assert "Checkpoint saved to" in capsys.readouterr().out


def test_kept_checkpoints(toy_cfg):
    cfg = toy_cfg("TRAIN.CHECKPOINT_FREQ", 2, "OPTIM.MAX_EPOCH", 5)
    build(cfg).train()
    assert files(cfg) == ["checkpoint", "model.pth.tar-2", "model.pth.tar-4", "model.pth.tar-5"]


def test_longer_training_keeps_the_former_end(toy_cfg):
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 2)
    build(cfg).train()
    cfg.OPTIM.MAX_EPOCH = 4
    build(cfg).train()
    assert files(cfg) == ["checkpoint", "model.pth.tar-2", "model.pth.tar-4"]


def test_content(toy_cfg):
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 2)
    trainer = build(cfg)
    trainer.train()
    path = os.path.join(cfg.OUTPUT_DIR, "linear", "model.pth.tar-2")
    content = torch.load(path, weights_only=True)
    assert set(content) == {
        "state_dict",
        "epoch",
        "optimizer",
        "scheduler",
        "scaler",
        "rng",
        "trainer",
        "val_result",
        "meta",
        "digest",
    }
    assert content["epoch"] == 2
    assert content["scheduler"]["last_epoch"] == 2
    assert torch.equal(content["state_dict"]["2.weight"], trainer.model[2].weight)
    counter = load_checkpoint(os.path.join(cfg.OUTPUT_DIR, "counter", "model.pth.tar-2"))
    assert counter["optimizer"] is counter["scheduler"] is None


def test_best_on_validation(toy_cfg, capsys):
    class Scripted(ToyTrainer):
        """Accuracy on validation, by epoch, as written here."""

        script = [10.0, 30.0, 30.0, 20.0]

        def test(self, split=None):
            actual = super().test(split)
            return self.script[self.epoch] if split == "val" else actual

    cfg = toy_cfg("TEST.FINAL_MODEL", "best_val")
    trainer = Scripted(cfg)
    trainer.train()
    assert "Deploy the model with the best val performance" in capsys.readouterr().out
    best = load_checkpoint(os.path.join(cfg.OUTPUT_DIR, "linear", "model-best.pth.tar"))
    assert (best["epoch"], best["val_result"]) == (2, 30.0)  # strictly better only
    assert torch.equal(trainer.model[2].weight, best["state_dict"]["2.weight"])
    assert results(cfg)["epochs"] == 2
    assert files(cfg) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-4"]


def test_loading_a_model(toy_cfg, capsys):
    cfg = toy_cfg("TRAIN.CHECKPOINT_FREQ", 1, "OPTIM.MAX_EPOCH", 2)
    trained = build(cfg)
    trained.train()
    other = build(toy_cfg(output="test"), seed=9)
    other.load_model("")
    assert not torch.equal(other.model[2].weight, trained.model[2].weight)
    other.load_model(cfg.OUTPUT_DIR, epoch=2)
    assert torch.equal(other.model[2].weight, trained.model[2].weight)
    assert "(epoch=2, val_result=none)" in capsys.readouterr().out
    other.test()
    assert results(other.cfg)["accuracy"] == results(cfg)["accuracy"]
    assert results(other.cfg)["epochs"] == 2
    with pytest.raises(UsageError, match=r"model-best.pth.tar; there are: model.pth.tar-1, "):
        other.load_model(cfg.OUTPUT_DIR)
    with pytest.raises(UsageError, match="there are none"):
        other.load_model(cfg.OUTPUT_DIR + "x", epoch=2)


# Killed and resumed


@pytest.mark.parametrize(
    "options",
    [
        ("OPTIM.NAME", "sgd"),
        ("OPTIM.NAME", "adamw", "DATALOADER.NUM_WORKERS", 2),
        ("OPTIM.LR_SCHEDULER", "multi_step", "OPTIM.STEPSIZE", "(1, 2)"),
        ("DATALOADER.TRAIN_X.SAMPLER", "SequentialSampler"),
        ("TEST.FINAL_MODEL", "best_val"),
    ],
    ids=["sgd", "adamw-workers", "multi_step", "sequential", "best_val"],
)
def test_killed_twice_equals_undisturbed(toy_cfg, options):
    """Bit for bit, with random crops, flips, noise and dropout; the resumed process starts out with
    other random states."""
    undisturbed = build(toy_cfg(*options))
    undisturbed.train()
    cfg = toy_cfg(*options, output="killed")
    train_until(cfg, epoch=1)
    second = build(cfg, seed=1)
    second.stop_at = (3, 0)
    with pytest.raises(KeyboardInterrupt):
        second.train()
    third = build(cfg, seed=2)
    third.train()
    assert third.start_epoch == 3
    assert torch.equal(state(third), state(undisturbed))
    assert third.losses == undisturbed.losses[-len(third.losses) :]
    assert figures(cfg) == figures(undisturbed.cfg)
    assert files(cfg) == files(undisturbed.cfg)


def test_workers_may_change_at_a_resume(toy_cfg):
    undisturbed = build(toy_cfg())
    undisturbed.train()
    cfg = toy_cfg("DATALOADER.NUM_WORKERS", 2, output="killed")
    train_until(cfg, epoch=2, batch=0)
    cfg.DATALOADER.NUM_WORKERS = 0
    resumed = build(cfg, seed=1)
    resumed.train()
    assert torch.equal(state(resumed), state(undisturbed))


@pytest.mark.parametrize("saved", range(1, 6))
def test_killed_while_checkpoints_are_written(toy_cfg, monkeypatch, saved):
    """Two models are written one after the other, each a file and a pointer to it. Wherever the
    process dies among them, all models continue from one epoch."""
    undisturbed = build(toy_cfg())
    undisturbed.train()
    cfg = toy_cfg(output="killed")
    trainer = build(cfg)
    write, calls = torchtools.atomic_write, []

    def dying(path, mode="w"):
        calls.append(path)
        if len(calls) > 4 + saved:  # four writes per epoch: die in the second or third epoch's
            raise KeyboardInterrupt
        return write(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(torchtools, "atomic_write", dying)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    resumed = build(cfg, seed=1)
    resumed.train()
    assert resumed.start_epoch in (1, 2)
    assert torch.equal(state(resumed), state(undisturbed))
    assert files(cfg) == files(cfg, "counter") == ["checkpoint", "model.pth.tar-4"]


@pytest.mark.parametrize("written", range(4, 16))
def test_killed_while_the_best_model_is_written(toy_cfg, monkeypatch, written):
    """Whichever write is the last: every file of an undisturbed run is there in the end."""
    options = ["TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 2]
    script = [10.0, 20.0]

    class Scripted(ToyTrainer):
        def test(self, split=None):
            actual = super().test(split)
            return script[self.epoch] if split == "val" else actual

    set_random_seed(0)
    undisturbed = Scripted(toy_cfg(*options))
    undisturbed.train()
    cfg = toy_cfg(*options, output="killed")
    write, calls = torchtools.atomic_write, []

    def dying(path, mode="w"):
        calls.append(path)
        # Two models with a file and a pointer each, the best and the epoch's: 8 writes an epoch;
        # from the fourth on there is something to go on from.
        if len(calls) > written:
            raise KeyboardInterrupt
        return write(path, mode)

    set_random_seed(0)
    trainer = Scripted(cfg)
    with monkeypatch.context() as patch:
        patch.setattr(torchtools, "atomic_write", dying)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    resumed = Scripted(cfg)
    resumed.train()
    assert files(cfg) == files(cfg, "counter") == files(undisturbed.cfg)
    assert files(cfg) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-2"]
    for file in files(cfg)[1:]:
        one, other = (
            load_checkpoint(os.path.join(c.OUTPUT_DIR, "linear", file))
            for c in (cfg, undisturbed.cfg)
        )
        for key in one["state_dict"]:
            assert torch.equal(one["state_dict"][key], other["state_dict"][key])
    assert torch.equal(state(resumed), state(undisturbed))


def test_killed_before_the_former_checkpoint_was_removed(toy_cfg, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    cfg = toy_cfg("OPTIM.MAX_EPOCH", 2)
    with monkeypatch.context() as patch:
        patch.setattr("dassl.engine.checkpoints.remove", killed)
        with pytest.raises(KeyboardInterrupt):
            build(cfg).train()
    assert files(cfg) == ["checkpoint", "model.pth.tar-1", "model.pth.tar-2"]
    build(cfg).train()
    assert files(cfg) == files(cfg, "counter") == ["checkpoint", "model.pth.tar-2"]


def test_more_epochs_behind_it_than_asked_for(toy_cfg):
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 4)
    build(cfg).train()
    for short in (
        toy_cfg("OPTIM.MAX_EPOCH", 2, "RESUME", cfg.OUTPUT_DIR, output="short"),
        toy_cfg("OPTIM.MAX_EPOCH", 2),
    ):
        with pytest.raises(UsageError, match="has 4 epochs behind it, OPTIM.MAX_EPOCH is 2"):
            build(short).train()
    # As many as asked for: the new folder has its checkpoint, and can be evaluated.
    equal = toy_cfg("OPTIM.MAX_EPOCH", 4, "RESUME", cfg.OUTPUT_DIR, output="equal")
    build(equal).train()
    assert files(equal) == ["checkpoint", "model.pth.tar-4"]
    assert figures(equal) == figures(cfg)


def test_another_runs_checkpoint_is_not_gone_on_from(toy_cfg):
    cfg, other = toy_cfg(), toy_cfg("SEED", 5, output="other")
    train_until(cfg, epoch=2)
    train_until(other, epoch=2)
    shutil.rmtree(cfg.OUTPUT_DIR)
    shutil.copytree(other.OUTPUT_DIR, cfg.OUTPUT_DIR)
    with pytest.raises(UsageError, match=r"another run: its seed differs \(5 there, 0 here\)"):
        build(cfg).train()


def test_another_learning_rate_does_not_go_with_a_resumed_schedule(toy_cfg):
    cfg = toy_cfg()
    train_until(cfg, epoch=2)
    other = toy_cfg("OPTIM.LR", 0.9, "RESUME", cfg.OUTPUT_DIR, output="other")
    with pytest.raises(UsageError, match=r"rate.*0.05.*0.9"):
        build(other).train()


def test_finished_run_trains_no_more(toy_cfg):
    cfg = toy_cfg()
    build(cfg).train()
    before = figures(cfg)
    again = build(cfg, seed=5)
    again.train()
    assert again.losses == []
    assert figures(cfg) == before
    assert again.epoch == 3


def test_time_and_memory_add_up(toy_cfg, monkeypatch):
    cfg = toy_cfg()
    first = train_until(cfg, epoch=2)
    # The epoch that was interrupted is not counted: it is done again.
    saved = load_checkpoint(os.path.join(cfg.OUTPUT_DIR, "linear", "model.pth.tar-2"))["meta"]
    assert saved["train_seconds"] == first.train_seconds
    monkeypatch.setattr("dassl.engine.trainer.process_peak_memory_mb", lambda device: 1.0)
    resumed = build(cfg)
    resumed.train()
    assert resumed.train_seconds > saved["train_seconds"]
    assert results(cfg)["peak_memory_mb"] == pytest.approx(saved["peak_memory_mb"], abs=0.1)


def test_resume_from_another_folder_leaves_it_alone(toy_cfg):
    cfg = toy_cfg()
    train_until(cfg, epoch=2)
    other = toy_cfg("RESUME", cfg.OUTPUT_DIR, output="other")
    namesake = os.path.join(other.OUTPUT_DIR, "linear", "model.pth.tar-2")
    os.makedirs(os.path.dirname(namesake))
    shutil.copy(os.path.join(cfg.OUTPUT_DIR, "linear", "model.pth.tar-2"), namesake)
    trainer = train_until(other, epoch=3)
    assert trainer.start_epoch == 2
    assert files(cfg) == ["checkpoint", "model.pth.tar-2"]
    assert files(other) == ["checkpoint", "model.pth.tar-2", "model.pth.tar-3"]
    # The same command again goes on from where it was, not from RESUME once more.
    again = build(other)
    again.train()
    assert again.start_epoch == 3
    assert files(other) == ["checkpoint", "model.pth.tar-2", "model.pth.tar-4"]
    empty = toy_cfg("RESUME", str(toy_cfg(output="empty").OUTPUT_DIR), output="third")
    with pytest.raises(UsageError, match="no checkpoint in it"):
        build(empty).train()


def test_state_of_the_trainer_and_the_scaler_are_restored(toy_cfg):
    class Scaler:
        """Stands for a gradient scaler, which is in use on a GPU only."""

        value = 1.0

        def is_enabled(self):
            return True

        def state_dict(self):
            return {"scale": self.value}

        def load_state_dict(self, state):
            self.value = state["scale"]

    class Averaging(ToyTrainer):
        def build_model(self):
            super().build_model()
            self.scaler = Scaler()
            self.average = torch.zeros(3)

        def before_epoch(self):
            self.average = self.average + self.model[2].bias.detach()
            self.scaler.value *= 2

        def extra_state(self):
            return {"average": self.average}

        def load_extra_state(self, state):
            self.average = state["average"]

    undisturbed = Averaging(toy_cfg("OPTIM.MAX_EPOCH", 3))
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 3, output="killed")
    runs = []
    for stop_at in (None, (1, 0), None):
        set_random_seed(0)
        trainer = Averaging(undisturbed.cfg if not runs else cfg)
        trainer.stop_at = stop_at
        runs.append(trainer)
        if stop_at is None:
            trainer.train()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
    assert torch.equal(runs[0].average, runs[2].average)
    assert runs[2].scaler.value == runs[0].scaler.value == 8.0


@pytest.mark.parametrize(
    "damage", ["truncated", "foreign", "other model", "pointer", "no rng", "no tensor"]
)
def test_bad_checkpoint_is_named_and_nothing_is_overwritten(toy_cfg, damage):
    cfg = toy_cfg()
    train_until(cfg, epoch=2)
    folder = os.path.join(cfg.OUTPUT_DIR, "linear")
    path = os.path.join(folder, "model.pth.tar-2")
    if damage == "truncated":
        with open(path, "rb+") as file:
            file.truncate(os.path.getsize(path) // 2)
    elif damage == "foreign":
        with open(path, "w") as file:
            file.write("not a checkpoint")
    elif damage == "pointer":
        os.remove(path)
    else:
        content = load_checkpoint(path)
        if damage == "no rng":
            del content["rng"]
        elif damage == "no tensor":
            content["state_dict"]["2.weight"] = "a word"
        else:
            content["state_dict"]["2.weight"] = torch.zeros(2, 2)
        torch.save(content, path)
    before = {
        os.path.join(where, name): os.path.getmtime(os.path.join(where, name))
        for where, _, names in os.walk(cfg.OUTPUT_DIR)
        for name in names
    }
    trainer = build(cfg, seed=1)
    untouched = state(trainer)
    with pytest.raises(UsageError, match="model.pth.tar-2"):
        trainer.train()
    assert torch.equal(state(trainer), untouched)
    for name, changed in before.items():
        assert os.path.getmtime(name) == changed
