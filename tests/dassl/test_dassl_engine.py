"""Trainers: a run's life, its log and its results."""

import csv
import os
import re
import sys
from collections import OrderedDict

import dassl_toy
import pytest
import torch
from dassl_toy import CLASSES, ToyTrainer, build, files, results, train_until

from dassl.data.samplers import SAMPLERS
from dassl.engine import TrainerX, build_trainer
from dassl.evaluation import EVALUATOR_REGISTRY, EvaluatorBase
from dassl.utils import UsageError, set_random_seed


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
