"""Shares of a step, sums and gathers over processes, and processes that are lost."""

import os

import pytest
import torch

from benchmarks.processes import PATIENCE, Together
from common.errors import UsageError
from common.ranks import LostProcess, Share, gather, here, joined

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 12])
def test_shares_are_every_thing_once(size, total):
    shares = [Share(rank, size, total) for rank in range(size)]
    assert sum(share.weight for share in shares) == pytest.approx(1)
    for share in shares:
        own = list(range(total))[share.own]
        assert share.count == len(own) > 0
        assert [share.before(end) for end in range(total + 1)] == [
            sum(place < end for place in own) for end in range(total + 1)
        ]
    if size <= total:
        assert sorted(place for s in shares for place in range(total)[s.own]) == list(range(total))


def sums(total):
    """Gather rows of w and sum what a loss over all of them gives back."""
    share = here().share(total)
    w = torch.arange(2.0 * total, dtype=torch.float32).view(total, 2).requires_grad_()
    rows = share.together((3 * w)[share.own].half())
    loss = share.weight * (rows.float() * torch.arange(1.0, total + 1)[:, None]).sum()
    loss.backward()
    told = here().told(here().rank + 5)
    return rows.detach().float(), share.add_up([w.grad])[0], told


def lose(rank):
    if here().rank == rank:
        os._exit(9)
    try:
        for _ in range(100):  # what is sent on its way may not be missed at once
            gather(torch.zeros(1), here().size)
    except LostProcess as error:
        return str(error)
    return "not noticed"


def compare(contents):
    try:
        here().check_alike("files", contents[here().rank])
    except UsageError as error:
        return str(error)
    return ""


def test_the_process_that_has_other_content_says_so(own_cache):
    processes = Together(3, str(own_cache))
    assert processes.call(compare, ["a", "a", "a"]) == ["", "", ""]
    first, second, third = processes.call(compare, ["a", "a", "b"])
    assert first == second == "" and third.startswith("process 2 of this run has other files")
    processes.close()


@pytest.mark.parametrize(
    "said",
    [
        {"RANK": "x"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "-1"},
        {"WORLD_SIZE": "0"},
        {"RANK": "2"},
        {"LOCAL_RANK": ""},
        {"LOCAL_RANK": "7"},
    ],
    ids=str,
)
def test_places_that_are_none_are_one_line(said, monkeypatch):
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    for name, value in {**given, "MASTER_PORT": "29999", **said}.items():
        monkeypatch.setenv(name, value)
    (name, value), *_ = said.items()
    with (
        pytest.raises(UsageError, match=f"{name}={value}(,|:).*no place among processes"),
        joined(),
    ):
        pass


@pytest.mark.parametrize("size", [2, 3])
def test_gathered_rows_and_their_gradients(size, own_cache):
    processes = Together(size, str(own_cache))
    for total in (1, 3, 7):
        for rows, gradient, told in processes.call(sums, total):
            w = torch.arange(2.0 * total).view(total, 2)
            assert torch.equal(rows, 3 * w)
            weights = 3 * torch.arange(1.0, total + 1)[:, None].expand(total, 2)
            torch.testing.assert_close(gradient, weights, rtol=1e-3, atol=0)  # of halves
            assert told == 5
    for _, pipe in processes.members:
        pipe.send((lose, (size - 1,)))
    for _, pipe in processes.members[:-1]:
        assert pipe.poll(PATIENCE) and "another process of this run has ended" in pipe.recv()[1]
    processes.close()
