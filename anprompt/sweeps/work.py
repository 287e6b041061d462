"""The runs that wait, in the order in which they may start."""

import heapq
from collections.abc import Callable, Iterable, Sequence

from anprompt.protocols.plan import RunSpec


class WorkQueue:
    """Hands out runs: a test only when its training is done.

    Args:
        runs: in the order in which they start, unless ``seconds`` is given.
        seconds: what a run is expected to take; then the longest start first, a training with the
            tests that wait for it. The last ones to end are then short, and no device idles long.
    """

    def __init__(self, runs: Sequence[RunSpec], seconds: Callable[[RunSpec], float] | None = None):
        planned = set(runs)
        self._needs = {run: need for run in runs if (need := run.needs) in planned and need}
        self._waits: dict[RunSpec, list[RunSpec]] = {}
        for run, need in self._needs.items():
            self._waits.setdefault(need, []).append(run)
        self._place = {run: place for place, run in enumerate(runs)}
        self._rank: dict[RunSpec, float] = {}
        if seconds is not None:
            self._rank = {run: -seconds(run) for run in runs}
            for need, tests in self._waits.items():
                self._rank[need] += min(self._rank[test] for test in tests)
        self._ready: list[tuple[float, int, RunSpec]] = []
        self._blocked = set(self._needs)
        self._push(run for run in runs if run not in self._blocked)

    def __len__(self) -> int:
        return len(self._ready) + len(self._blocked)

    def __iter__(self):
        yield from (run for *_, run in self._ready)
        yield from self._blocked

    def take(self) -> RunSpec | None:
        """Return the next run that may start, or None where all wait for others."""
        return heapq.heappop(self._ready)[-1] if self._ready else None

    def put_back(self, run: RunSpec) -> None:
        """Queue a run that could not be started once more."""
        self._push([run])

    def done(self, run: RunSpec) -> None:
        """Note the end of a run: those that waited for it may start."""
        freed = self._waits.pop(run, [])
        self._blocked -= set(freed)
        self._push(freed)

    def failed(self, run: RunSpec) -> list[RunSpec]:
        """Note that a run failed; return those that now cannot run, which are dropped."""
        dropped = self._waits.pop(run, [])
        self._blocked -= set(dropped)
        return dropped

    def _push(self, runs: Iterable[RunSpec]) -> None:
        for run in runs:
            heapq.heappush(self._ready, (self._rank.get(run, 0.0), self._place[run], run))
