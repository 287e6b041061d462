"""A loader of images whose processes may be ended from outside."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from common.errors import DEAD_WORKER, UsageError

__all__ = ["ImageLoader"]

SECONDS_TO_DIE = 2.0  # a process that was killed closes its files first, and ends a moment later


class ImageLoader(DataLoader):
    """torch's loader, which always says it where a process that reads images was killed.

    While such a process ends, the main process may find a closed socket before it can see that
    nobody is there any more. torch passes on whatever error that makes (``EOFError``,
    ``ConnectionResetError``, a missing file), and says later, in the middle of something else, that
    a worker is dead.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return _Batches(super().__iter__())


class _Batches:
    """Batches of a loader."""

    def __init__(self, batches: Iterator[Any]):
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._batches)
        except (StopIteration, UsageError):
            raise
        except Exception as error:
            if not str(error).startswith(DEAD_WORKER):
                _raise_if_killed(getattr(self._batches, "_workers", []), error)
            raise


def _raise_if_killed(workers: list[Any], error: Exception) -> None:
    """Wait for workers that are about to be dead.

    Raises:
        RuntimeError: one is, in torch's words. torch raises the same while this waits.
    """
    until = time.monotonic() + SECONDS_TO_DIE
    while workers and time.monotonic() < until:
        dead = [str(worker.pid) for worker in workers if not worker.is_alive()]
        if dead:
            raise RuntimeError(
                f"{DEAD_WORKER}(s) {', '.join(dead)}) exited unexpectedly"
            ) from error
        time.sleep(0.01)
