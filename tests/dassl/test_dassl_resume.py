"""Trainers: checkpoints, and that a killed run loses nothing."""

import os
import shutil

import pytest
import torch
from dassl_toy import ToyTrainer, build, figures, files, results, state, train_until

from dassl.utils import UsageError, load_checkpoint, set_random_seed, torchtools

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
    monkeypatch.setattr("dassl.engine.simple.process_peak_memory_mb", lambda device: 1.0)
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
    train_until(cfg, epoch=2).close_writer()  # whose thread may write a little later
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
