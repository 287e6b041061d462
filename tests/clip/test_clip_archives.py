"""TorchScript archives and pickles are read without running what they hold."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from backbone_files import TRACING, WRITERS, save_archive

from clip.weights import archive
from clip.weights.loading import load_state_dict
from common.errors import UsageError

pytestmark = [pytest.mark.usefixtures("cache"), *TRACING]


def test_archive_is_read_without_its_code(weights, tmp_path):
    """With the code cut out, torch.jit.load fails; the tensors are still there."""
    path, without_code = tmp_path / "archive.pt", tmp_path / "no_code.pt"
    save_archive(weights, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(without_code, "w") as rest:
        for name in whole.namelist():
            if "/code/" not in name:
                rest.writestr(name, whole.read(name))
    with pytest.raises(RuntimeError):
        torch.jit.load(without_code)
    tensors = archive.read_archive(without_code)
    stored = torch.jit.load(path).state_dict()
    assert set(stored) <= set(tensors)
    assert {"input_resolution", "vocab_size"} <= set(tensors)
    assert all(torch.equal(tensors[key], value) for key, value in stored.items())


def rewrite(path: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, value in content.items():
            new.writestr(name, data if name.endswith(member) else value)


class Call:
    """Pickles as a call of any function; what a hostile file would hold."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["archive.pt", "plain.pt"])
def test_hostile_pickle_is_refused_and_not_run(kind, weights, tmp_path):
    path, victim = tmp_path / kind, tmp_path / "created"
    WRITERS[kind](weights, path)
    rewrite(path, "/data.pkl", pickle.dumps(Call(Path.touch, victim), protocol=2))
    with pytest.raises(UsageError, match=rf"{kind}: holds a \w+, not a state dict"):
        load_state_dict(str(path))
    assert not victim.exists()


def test_archive_of_other_dtypes_and_shared_storage(tmp_path):
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.arange(6.0)
            self.register_buffer("base", base)
            self.register_buffer("view", base[1:].reshape(5))
            self.register_buffer("transposed", base.reshape(2, 3).t())
            self.register_buffer("brain_float", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("flags", torch.tensor([True, False]))
            self.register_buffer("empty", torch.zeros(0, dtype=torch.long))
            self.sizes = [1, 2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.base.sum() + self.sizes[0]

    scripted = torch.jit.script(Holder())
    torch.jit.save(scripted, tmp_path / "holder.pt")
    tensors = archive.read_archive(tmp_path / "holder.pt")
    assert tensors.keys() == scripted.state_dict().keys()
    for key, value in scripted.state_dict().items():
        assert tensors[key].dtype == value.dtype and torch.equal(tensors[key], value)
