"""Trackers: everything by name, the same training with them, and none that can stop it."""

import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from dassl_toy import build, results, state


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for W&B that notes what it is given, and draws random numbers."""
    module = ModuleType("wandb")
    module.logged, module.settings, module.ended = [], {}, []

    def init(**settings):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        module.settings = settings
        return SimpleNamespace(
            log=lambda values, step: module.logged.append((step, values)),
            finish=lambda: module.ended.append(True),
        )

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


def test_all_scalars_by_name_and_step(toy_cfg, wandb, capsys):
    options = ["OPTIM.MAX_EPOCH", 2, "TEST.FINAL_MODEL", "best_val"]
    plain = build(toy_cfg(*options))
    plain.train()
    cfg = toy_cfg(*options, "TRAIN.TRACK", "wandb", output="tracked")
    tracked = build(cfg)
    tracked.train()
    assert torch.equal(state(plain), state(tracked))
    assert wandb.settings["mode"] == "offline" and wandb.settings["dir"] == cfg.OUTPUT_DIR
    assert wandb.settings["config"]["OPTIM"]["MAX_EPOCH"] == 2 and wandb.ended == [True]
    steps = [step for step, _ in wandb.logged]
    assert steps == sorted(set(steps)) == [*range(6)]  # 3 batches an epoch
    assert {"train/loss", "train/acc", "train/lr"} <= set(wandb.logged[0][1])
    validated = [step for step, values in wandb.logged if "val/accuracy" in values]
    assert validated == [2, 5]
    assert wandb.logged[-1][1]["test/accuracy"] == pytest.approx(results(cfg)["accuracy"])
    assert "Tracked by wandb" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["init", "log", "finish", "missing"])
def test_a_failing_tracker_stops_nothing(toy_cfg, wandb, where, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("no space\nleft")

    if where == "missing":
        monkeypatch.setitem(sys.modules, "wandb", None)
    elif where == "init":
        wandb.init = fail
    else:
        works = {"log": lambda values, step: None, "finish": lambda: None}
        run = SimpleNamespace(**works | {where: fail})
        wandb.init = lambda **_: run
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 1, "TRAIN.TRACK", "wandb")
    build(cfg).train()
    assert results(cfg)["finished"]
    said = capsys.readouterr().out
    if where == "missing":
        assert "wandb is not installed: nothing is tracked (pip install wandb)" in said
    else:
        assert said.count("wandb failed, nothing more is tracked (OSError: no space left)") == 1


def test_mlflow(toy_cfg, monkeypatch):
    called = []

    class Stand(ModuleType):
        def __getattr__(self, name):
            return lambda *given, **options: called.append((name, given, options))

    monkeypatch.setitem(sys.modules, "mlflow", Stand("mlflow"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 1, "TRAIN.TRACK", "mlflow")
    build(cfg).train()
    names = [name for name, _, _ in called]
    assert names[:4] == ["set_tracking_uri", "set_experiment", "start_run", "log_params"]
    assert called[0][1] == (f"sqlite:///{cfg.OUTPUT_DIR}/mlflow.db",)
    assert called[3][1][0]["OPTIM.MAX_EPOCH"] == "1"
    assert names[-1] == "end_run"
    _, (values,), options = called[-2]
    assert "test/accuracy" in values and options == {"step": 2}


def test_every_rules_accuracy(toy_cfg, wandb):
    cfg = toy_cfg("OPTIM.MAX_EPOCH", 1, "TRAIN.TRACK", "wandb", "TRAINER.NAME", "TwoRuleTrainer")
    build(cfg).train()
    rules = results(cfg)["rules"]
    last = wandb.logged[-1][1]
    for name, figures in rules.items():
        assert last[f"test/accuracy_{name}"] == pytest.approx(figures["accuracy"])
