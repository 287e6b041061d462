import multiprocessing
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from common import image_loader as module
from common.errors import DEAD_WORKER
from common.image_loader import ImageLoader


class Numbers(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index


class Broken:
    """Batches whose first is an error; their workers live on for some seconds."""

    def __init__(self, error, seconds):
        self.error = error
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds,))
        process.start()
        self._workers = [process]

    def __iter__(self):
        return self

    def __next__(self):
        raise self.error


@pytest.fixture
def broken(monkeypatch):
    """Make the next loader's batches broken."""
    made = []

    def make(error, seconds):
        made.append(Broken(error, seconds))
        monkeypatch.setattr(DataLoader, "__iter__", lambda _: made[-1])
        return ImageLoader(Numbers())

    yield make
    for batches in made:
        for worker in batches._workers:
            worker.kill()
            worker.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_torch(workers):
    ours = ImageLoader(Numbers(), batch_size=4, num_workers=workers)
    batches = [batch.tolist() for batch in ours]
    assert batches == [[0, 1, 2, 3], [4, 5]]
    assert [batch.tolist() for batch in ours] == batches


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError(2, "No such file or directory", "pymp-x/listener-y"),
        RuntimeError("Pin memory thread exited unexpectedly"),
    ],
)
def test_an_error_while_a_reader_dies_says_that_it_died(broken, error):
    batches = iter(broken(error, seconds=0.2))
    with pytest.raises(RuntimeError) as raised:
        next(batches)
    assert str(raised.value).startswith(DEAD_WORKER)
    assert raised.value.__cause__ is error


def test_an_error_while_readers_live_stays_what_it_is(broken, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_TO_DIE", 0.1)
    error = FileNotFoundError(2, "No such file or directory", "a.jpg")
    with pytest.raises(FileNotFoundError) as raised:
        next(iter(broken(error, seconds=60)))
    assert raised.value is error
