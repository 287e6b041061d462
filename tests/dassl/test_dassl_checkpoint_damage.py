"""Damaged, edited and hostile checkpoint files change nothing."""

import copy
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
    load_checkpoint,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.integrity import content_digest


def trained(tmp_path, epoch=2):
    """A checkpoint as trainings write it, and its path."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    content = dict(
        state_dict=model.state_dict(),
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
