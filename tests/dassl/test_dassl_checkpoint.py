"""Checkpoint files: plain, safe to load, never half written, damage is noticed."""

import copy
import os
import pathlib
import random
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from dassl.engine.checkpoints import check_one_run
from dassl.utils import (
    UsageError,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.integrity import content_digest


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


# Damage


def trained(tmp_path, epoch=2):
    """A checkpoint as trainings write it, and its path."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    content = checkpoint(
        model,
        epoch=epoch,
        optimizer=optimizer.state_dict(),
        scheduler={"last_epoch": epoch, "base_lrs": [0.1]},
        scaler=None,
        rng={"torch": torch.get_rng_state()},
        trainer={"sum": torch.ones(2)},
        val_result=None,
        meta={"train_seconds": 1.5, "best_result": -float("inf"), "superseded": [1]},
    )
    return pathlib.Path(save_checkpoint(content, str(tmp_path)))


def test_digest_depends_on_content_alone():
    content = {"a": torch.tensor([1.0, 2.0]), 3: [1, (2.5, None)], "b": True}
    digest = content_digest(content)
    same = {"b": True, 3: [1, (2.5, None)], "a": torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0]}
    assert content_digest(same) == digest
    others = (
        {**content, "a": torch.tensor([1.0, -2.0])},
        {**content, "a": torch.tensor([[1.0, 2.0]])},
        {**content, "a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {**content, 3: [1, [2.5, None]]},
        {**content, "b": 1},
        {**content, "b": 1.0},
        {**content, "c": None},
        {"a": content["a"], "3": content[3], "b": True},
    )
    assert len({content_digest(other) for other in others} | {digest}) == len(others) + 1
    zeros = content_digest(torch.tensor(0.0)), content_digest(torch.tensor(-0.0))
    assert zeros[0] != zeros[1]
    for dtype in (torch.bfloat16, torch.float16, torch.bool, torch.int64, torch.complex64):
        tensor = torch.zeros(2, 2, dtype=dtype)
        assert content_digest(tensor) != content_digest(tensor[:1])


def test_damaged_bytes_are_refused_or_change_nothing(tmp_path):
    path = trained(tmp_path)
    whole, digest = path.read_bytes(), content_digest(load_checkpoint(str(path)))
    rng = random.Random(0)
    refused = 0
    for number in range(150):
        damaged = bytearray(whole)
        if number % 5 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        elif number % 5 == 1:
            start = rng.randrange(len(damaged))
            damaged[start : start + 64] = rng.randbytes(64)
        else:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(str(path))
        except UsageError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert content_digest(loaded) == digest
    assert refused > 75  # the rest hit padding


def test_every_edit_is_refused(tmp_path):
    path = trained(tmp_path)
    whole = torch.load(path, weights_only=True)
    edits = {
        "epoch": 7,
        "val_result": 99.0,
        "scaler": {},
        "trainer": {"sum": torch.zeros(2)},
        "scheduler": {"last_epoch": 0, "base_lrs": [0.1]},
        "rng": {"torch": torch.zeros_like(whole["rng"]["torch"])},
        "meta": {**whole["meta"], "train_seconds": 0.0},
        "optimizer": {**whole["optimizer"], "state": {}},
        "state_dict": {**whole["state_dict"], "bias": -whole["state_dict"]["bias"]},
        "new": None,
        "digest": "0" * 64,
    }
    assert set(edits) >= set(whole)
    for key, value in edits.items():
        torch.save({**whole, key: value}, path)
        with pytest.raises(UsageError, match="edited|as its name says"):
            load_checkpoint(str(path))
    for key in set(whole) - {"digest"}:
        torch.save({other: value for other, value in whole.items() if other != key}, path)
        with pytest.raises(UsageError, match="edited"):
            load_checkpoint(str(path))
    torch.save(whole, path)
    assert content_digest(load_checkpoint(str(path))) == content_digest(whole)


def test_a_file_without_digest_is_read_with_a_line(tmp_path, capsys):
    path = trained(tmp_path)
    whole = torch.load(path, weights_only=True)
    del whole["digest"]
    torch.save(whole, path)
    capsys.readouterr()
    assert load_checkpoint(str(path))["epoch"] == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert str(path) in line and "no digest" in line
    # Its archive's CRCs are still compared: a bit that flips in a tensor is found.
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/data/" in name]
        largest = max((archive.getinfo(name) for name in names), key=lambda i: i.file_size)
    middle = damaged.index(archive_bytes(path, largest)) + largest.file_size // 2
    damaged[middle] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match="CRC"):
        load_checkpoint(str(path))


def archive_bytes(path, entry):
    with zipfile.ZipFile(path) as archive:
        return archive.read(entry)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["weight", "momentum", "rate"])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(tmp_path, place, value):
    path = trained(tmp_path)
    whole = torch.load(path, weights_only=True)
    content = copy.deepcopy({key: part for key, part in whole.items() if key != "digest"})
    if place == "weight":
        content["state_dict"]["weight"][1, 1] = value
    elif place == "momentum":
        content["optimizer"]["state"][0]["momentum_buffer"][0, 0] = value
    else:
        content["optimizer"]["param_groups"][0]["lr"] = value
    before = path.read_bytes()
    with pytest.raises(UsageError, match="infinite or NaN") as caught:
        save_checkpoint(content, str(tmp_path))
    assert isinstance(caught.value, FloatingPointError)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    torch.save({**content, "digest": content_digest(content)}, path)
    with pytest.raises(UsageError, match="of no use: .*infinite or NaN"):
        load_checkpoint(str(path))


def test_a_mask_of_minus_infinity_is_no_learned_tensor(tmp_path):
    mask = torch.full((3, 3), -float("inf")).triu(1)
    path = save_checkpoint({"state_dict": {"mask": mask}, "epoch": 1}, str(tmp_path))
    assert torch.equal(load_checkpoint(path)["state_dict"]["mask"], mask)


def test_a_file_under_another_ones_name(tmp_path):
    path = trained(tmp_path)
    path.rename(tmp_path / "model.pth.tar-5")
    with pytest.raises(UsageError, match="after 2 epochs, not after 5"):
        load_checkpoint(str(tmp_path / "model.pth.tar-5"))


def test_files_made_to_exhaust_the_machine(tmp_path):
    path = tmp_path / "model.pth"
    nested, repeated = [], [0]
    for _ in range(60):
        nested = [nested]
        repeated = [repeated, repeated]
    wide = torch.zeros(1).expand(10**6, 10**6)
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(2**25))
    for content in (nested, repeated, {"state_dict": {"a": wide}, "epoch": 1}):
        torch.save({"epoch": 1, "content": content}, path)
        with pytest.raises(UsageError, match="model.pth cannot be read"):
            load_checkpoint(str(path))
    with pytest.raises(UsageError, match="unpack to"):
        load_checkpoint(str(bomb))


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("state_dict", {"weight": torch.zeros(4, 3, dtype=torch.int64)}, "torch.int64"),
        ("state_dict", {"weight": 3}, "no tensor"),
        ("state_dict", 5, "no state_dict"),
        ("epoch", True, "no state_dict and epoch"),
        ("epoch", np.int64(2), "no state_dict and epoch"),
        ("epoch", 10**40, "no state_dict and epoch"),
        ("epoch", -1, "no state_dict and epoch"),
        ("optimizer", {"state": {}, "param_groups": "x"}, "optimiser"),
        ("optimizer", {"state": {0: {"momentum_buffer": torch.zeros(2)}}}, "optimiser"),
        ("scheduler", {"last_epoch": "x", "base_lrs": [0.1]}, "schedule"),
        ("scheduler", {}, "schedule"),
    ],
)
def test_content_of_a_wrong_kind(tmp_path, part, value, named):
    """In files without a digest, which cannot be told to be damaged."""
    path = trained(tmp_path)
    content = torch.load(path, weights_only=True)
    del content["digest"]
    if part in ("state_dict", "optimizer") and isinstance(value, dict):
        value = {**content[part], **value}
    content[part] = value
    torch.save(content, tmp_path / "other")
    (tmp_path / "checkpoint").write_text("other\n")
    model = nn.Linear(3, 4)
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    from dassl.config import get_cfg_default
    from dassl.optim import build_lr_scheduler

    cfg = get_cfg_default()
    scheduler = build_lr_scheduler(optimizer, cfg.OPTIM)
    with pytest.raises(UsageError, match=named) as caught:
        resume_from_checkpoint(str(tmp_path), model, optimizer, scheduler)
    assert str(tmp_path / "other") in str(caught.value)
    assert torch.equal(model.weight, before)


def test_models_of_two_runs_are_no_run():
    def file(**changes):
        meta = {"trainer": "Two", "dataset": "Toy", "seed": 1, "classnames": ["a", "b"]}
        return {"epoch": changes.pop("epoch", 3), "meta": {**meta, **changes}}

    check_one_run([("body", file()), ("head", file())])
    check_one_run([("body", file()), ("head", {"epoch": 3})])  # upstream's
    check_one_run([])
    for changes in ({"seed": 2}, {"epoch": 2}, {"classnames": ["b", "a"]}):
        with pytest.raises(UsageError, match=f"body and head .* {next(iter(changes))} differs"):
            check_one_run([("body", file()), ("head", file(**changes))])


def test_a_pointer_leads_nowhere_else(tmp_path):
    path = trained(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (f"../{path.name}", str(path), "", "..", "x" * 5000, "a\0b"):
        (folder / "checkpoint").write_text(name)
        with pytest.raises(UsageError, match="is not in"):
            resume_from_checkpoint(str(folder), nn.Linear(3, 4))
