"""The processes of one run, where torchrun started several: ``torchrun --standalone ... train.py``.

Each has the whole model and takes every ``size``-th image of a batch and every ``size``-th class of
a text pass. What is learned is what one process learns from the same batch, up to summation order:

- features of classes are put together by an all-gather whose gradient is summed over processes;
- a process's loss counts as its share of the batch's images, and gradients are summed.

So a term of the loss that is a mean over images, or the same on every process, is one process's.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import UsageError

PATIENCE = datetime.timedelta(hours=1)  # of one process for the others, which may index a data set
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LostProcess(UsageError):
    """Another process of the run has ended, or the connection to it."""


@contextlib.contextmanager
def _others() -> Iterator[None]:
    """Turn what a broken connection raises into a line."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess(
            "another process of this run has ended or cannot be reached; the same command takes "
            "the run up again"
        ) from error


@dataclass(frozen=True)
class Share:
    """What one process does of ``total`` things: those at ``rank``, ``rank + size``, ...

    With fewer things than processes every process does all of them.

    >>> Share(rank=1, size=3, total=7).own, Share(rank=1, size=3, total=7).count
    (slice(1, None, 3), 2)
    """

    rank: int = 0
    size: int = 1
    total: int = 0

    def of(self, total: int) -> Share:
        """Return the same process's share of another number of things."""
        return replace(self, total=total)

    @property
    def is_split(self) -> bool:
        """Whether processes do different things."""
        return 1 < self.size <= self.total

    @property
    def own(self) -> slice:
        """Which of the things are this process's."""
        return slice(self.rank, None, self.size) if self.is_split else slice(None)

    @property
    def count(self) -> int:
        """How many they are."""
        return self.before(self.total)

    @property
    def weight(self) -> float:
        """How much a mean over this process's things counts in the mean over all."""
        return self.count / self.total if self.is_split else 1 / self.size

    def before(self, end: int) -> int:
        """Return how many of the first ``end`` things are this process's."""
        return len(range(min(end, self.total))[self.own])

    def together(self, x: Tensor) -> Tensor:
        """Return all processes' rows (total, ...), in order, of this one's (count, ...).

        The gradient that a row gets is the sum over processes.
        """
        return _Together.apply(x, self) if self.is_split else x

    def add_up(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return sums of tensors over processes, in fp32 or better, taken in one go."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return tensors
        flat = torch.cat([at_least_fp32(tensor.detach()).reshape(-1) for tensor in tensors])
        with _others():
            dist.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.view(x.shape) for piece, x in zip(pieces, tensors, strict=True)]


class _Together(torch.autograd.Function):
    """See `Share.together`; half precision is sent, and its gradients summed, as fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Share) -> Tensor:
        ctx.share = share
        rows = -(-share.total // share.size)
        padded = at_least_fp32(x.new_zeros(rows, *x.shape[1:]))
        padded[: share.count] = x
        return interleave(gather(padded, share.size))[: share.total].to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (summed,) = ctx.share.add_up([gradient])
        return summed[ctx.share.own].to(gradient.dtype), None


def at_least_fp32(x: Tensor) -> Tensor:
    """Return half precision as fp32, the rest as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gather(x: Tensor, size: int) -> list[Tensor]:
    """Return the ``size`` processes' tensors, all of one shape and type."""
    parts = [torch.empty_like(x) for _ in range(size)]
    with _others():
        dist.all_gather(parts, x)
    return parts


def interleave(parts: list[Tensor]) -> Tensor:
    """Return rows 0 of all parts, then rows 1, ..."""
    return torch.stack(parts, dim=1).flatten(0, 1)


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run.

    Attributes:
        rank: from 0; the first one alone writes files and speaks.
        size: number of processes.
        local_rank: its number on this machine, and so its GPU's.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, total: int) -> Share:
        """Return this process's share of a number of things."""
        return Share(self.rank, self.size, total)

    def told(self, value: float) -> float:
        """Return the first process's value; all processes must ask."""
        if self.size == 1:
            return value
        told = torch.tensor([value if self.is_first else 0.0], dtype=torch.float64)
        with _others():
            dist.broadcast(told, 0)
        return told.item()

    def check_alike(self, what: str, *content: object) -> None:
        """Refuse to go on unless all processes have the first one's content; all must ask.

        Args:
            what: what the message calls it.

        Raises:
            UsageError: in a process whose content is another.
        """
        if self.size == 1:
            return
        text = "\n".join(map(str, content))
        own = int(hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:13], 16)
        if self.told(own) != own:
            raise UsageError(
                f"process {self.rank} of this run has other {what} than the first one; start all "
                "with one command line, on the same code and files"
            )

    def wait(self) -> None:
        """Go on once all processes are here."""
        self.told(0)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Run a block in the first process, then in the others: they find the files it wrote."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


_here = Ranks()


def here() -> Ranks:
    """Return this process's place; a process that was started alone is one of one."""
    return _here


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let a process count as one of one for a block, so that nothing in it is shared."""
    global _here
    before, _here = _here, Ranks()
    try:
        yield
    finally:
        _here = before


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, for a block; alone where it did not.

    When the block fails, the process that failed first speaks; the others, which fail because it
    did or as it did, end with their stderr closed.

    Raises:
        UsageError: the others are not there.
    """
    global _here
    place = _place()
    if place.size == 1:
        yield _here
        return
    store, _here = _meet(place)
    try:
        with contextlib.ExitStack() as held:
            if not _here.is_first:
                held.enter_context(contextlib.redirect_stdout(held.enter_context(_nowhere())))
            yield _here
            _part(store)
    except BaseException:
        if not _is_first_failure(store):
            with _nowhere() as nowhere:
                os.dup2(nowhere.fileno(), 2)
            time.sleep(1)  # torchrun ends all once one has ended, and the first is still to speak
        raise
    finally:
        _here = Ranks()


def _nowhere() -> Any:
    return open(os.devnull, "w", encoding="utf-8")


def _place() -> Ranks:
    """Return the place that torchrun's variables give this process.

    Raises:
        UsageError: they are no numbers, or not of one another's range.
    """
    if not all(name in os.environ for name in _LAUNCHED):
        return Ranks()
    said = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if all(text.isdecimal() and len(text) < 7 for text in said.values()):
        rank, size, local_rank = map(int, said.values())
        if max(rank, local_rank) < size:
            return Ranks(rank, size, local_rank)
    listed = ", ".join(f"{name}={text}" for name, text in said.items())
    raise UsageError(
        f"{listed}: no place among processes; start them with torchrun --standalone "
        "--nproc-per-node N, or unset these variables"
    )


def _meet(place: Ranks) -> tuple[Any, Ranks]:
    """Start the process group; return its store and this process's place."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    size = place.size
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the {size} processes of this run do not meet at {address} ({reason}); start them "
            "with torchrun --standalone --nproc-per-node N"
        ) from error
    return store, place


def _part(store: Any) -> None:
    """Wait until all are done, and leave the group; the first goes last.

    The others' connections to it would otherwise break while they wait for it.
    """
    _here.wait()
    if _here.is_first:
        store.wait([f"anprompt/done/{rank}" for rank in range(1, _here.size)])
    else:
        store.set(f"anprompt/done/{_here.rank}", "")
    dist.destroy_process_group()


def _is_first_failure(store: Any) -> bool:
    try:
        return store.add("anprompt/failures", 1) == 1
    except RuntimeError:  # the one who kept count is gone
        return _here.is_first
