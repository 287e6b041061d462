"""Checkpoint files: plain, safe to load, never half written, damage is noticed."""

import os
import pathlib

import numpy as np
import pytest
import torch
from torch import nn

from dassl.utils import (
    UsageError,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)


def checkpoint(model, epoch=1, **more):
    return {"state_dict": model.state_dict(), "epoch": epoch, **more}


def test_names_and_pointer(tmp_path):
    model = nn.Linear(2, 2)
    path = save_checkpoint(checkpoint(model, epoch=3), str(tmp_path))
    assert path == str(tmp_path / "model.pth.tar-3")
    assert (tmp_path / "checkpoint").read_text() == "model.pth.tar-3\n"
    save_checkpoint(checkpoint(model), str(tmp_path), is_best=True, model_name="mine")
    assert (tmp_path / "checkpoint").read_text() == "mine\n"
    assert sorted(os.listdir(tmp_path)) == [
        "checkpoint",
        "mine",
        "model-best.pth.tar",
        "model.pth.tar-3",
    ]


def test_content_is_plain_and_small(tmp_path):
    big = torch.zeros(1000, 100)
    state = {
        "state_dict": {"module.slice": nn.Parameter(big[:2])},
        "epoch": np.int64(2),
        "val_result": np.float64(1.5),
        "nested": {"list": [1, (2.5, None)], "flag": True},
    }
    path = save_checkpoint(state, str(tmp_path))
    assert os.path.getsize(path) < 10_000  # not the whole tensor that the slice was cut from
    loaded = torch.load(path, weights_only=True)
    assert list(loaded["state_dict"]) == ["slice"]
    assert loaded["nested"] == state["nested"]
    assert (type(loaded["epoch"]), type(loaded["val_result"])) == (int, float)
    with pytest.raises(TypeError, match="Linear"):
        save_checkpoint({**state, "model": nn.Linear(1, 1)}, str(tmp_path))
    assert torch.load(path, weights_only=True)["epoch"] == 2


def test_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    save_checkpoint(checkpoint(model), str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(checkpoint(nn.Linear(2, 2)), str(tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_cannot_be_written_whole_is_named(tmp_path):
    """As on a full disk: torch's own error names neither the file nor the reason."""
    resource = pytest.importorskip("resource")  # not on Windows
    state = {"state_dict": {"w": torch.zeros(20_000)}, "epoch": 1}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large.*model.pth.tar-1"):
            save_checkpoint(state, str(tmp_path), verbose=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_files_are_named(tmp_path):
    good = pathlib.Path(save_checkpoint(checkpoint(nn.Linear(2, 2)), str(tmp_path)))
    bad = tmp_path / "bad.pth"
    for content in (good.read_bytes()[:-200], good.read_bytes()[:50], b"", b"hello", b"PK\x03\x04"):
        bad.write_bytes(content)
        with pytest.raises(UsageError, match="bad.pth"):
            load_checkpoint(str(bad))
        assert bad.read_bytes() == content
    torch.save([1, 2], bad)
    with pytest.raises(UsageError, match="bad.pth holds a list"):
        load_checkpoint(str(bad))
    with pytest.raises(UsageError, match="gone"):
        load_checkpoint(str(tmp_path / "gone"))


class Shout:
    """Runs a command when unpickled, as a malicious file would."""

    def __reduce__(self):
        return os.mkdir, ("shouted",)


def test_no_code_from_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "epoch": 1, "x": Shout()}, "evil.pth")
    with pytest.raises(UsageError, match="evil.pth"):
        load_checkpoint("evil.pth")
    assert os.listdir(tmp_path) == ["evil.pth"]


def test_scheduler_objects_as_dassl_saves_them_are_passed_over(tmp_path):
    """Dassl pickles a live scheduler, which holds its optimiser; the tensors around it are read."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    content = {
        **checkpoint(model),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": scheduler, "last_epoch": 1},
        "val_result": None,
    }
    path = str(tmp_path / "dassl.pth")
    torch.save(content, path)
    with pytest.raises(Exception, match="weights_only|Weights only"):
        torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert loaded["scheduler"]["last_epoch"] == 1
    assert not isinstance(loaded["scheduler"]["successor"], type(scheduler))
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded["state_dict"][key], tensor)


def test_resume_from_folder(tmp_path):
    def make():
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)

    model, optimizer, scheduler = make()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    save_checkpoint(
        checkpoint(
            model,
            epoch=4,
            optimizer=optimizer.state_dict(),
            scheduler={"last_epoch": scheduler.last_epoch},
        ),
        str(tmp_path),
    )
    other = make()
    assert resume_from_checkpoint(str(tmp_path), *other) == 4
    assert torch.equal(other[0].weight, model.weight)
    assert other[1].param_groups[0]["lr"] == pytest.approx(0.01)
    assert other[2].last_epoch == 1


def test_resume_refuses_what_does_not_fit_and_changes_nothing(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.clone()
    with pytest.raises(UsageError, match="no checkpoint to resume"):
        resume_from_checkpoint(str(tmp_path), model)
    for other, named in (
        (nn.Linear(3, 2), "'weight' has shape"),
        (nn.Linear(2, 2, bias=False), "no tensor 'bias'"),
        (nn.BatchNorm1d(2), "model.pth.tar-1 is of another model"),
    ):
        save_checkpoint(checkpoint(other), str(tmp_path))
        with pytest.raises(UsageError, match=named):
            resume_from_checkpoint(str(tmp_path), model)
    save_checkpoint(checkpoint(nn.Linear(2, 2)), str(tmp_path))
    with pytest.raises(UsageError, match="no optimizer state"):
        resume_from_checkpoint(str(tmp_path), model, optimizer)
    (tmp_path / "checkpoint").write_text("model.pth.tar-9\n")
    with pytest.raises(UsageError, match="names 'model.pth.tar-9'"):
        resume_from_checkpoint(str(tmp_path), model)
    assert torch.equal(model.weight, before)


def test_load_what_fits(tmp_path, capsys):
    source, model = nn.Linear(2, 2), nn.Linear(2, 2)
    path = str(tmp_path / "w.pth")
    torch.save({"state_dict": {"module.weight": source.weight.data, "bias": torch.ones(3)}}, path)
    bias = model.bias.clone()
    load_pretrained_weights(model, path)
    assert torch.equal(model.weight, source.weight)
    assert torch.equal(model.bias, bias)
    assert "['bias']" in capsys.readouterr().out
    torch.save({"other": torch.ones(1)}, path)
    with pytest.warns(UserWarning, match="w.pth"):
        load_pretrained_weights(model, path)


def test_count_parameters():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert count_num_param(model) == 13
    assert count_num_param(params=model[0].parameters()) == 9
    assert count_num_param(params=[{"params": list(model[1].parameters())}]) == 4
