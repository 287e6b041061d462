"""Parts of a sweep: for several machines that share a disk, and for schedulers of other kinds."""

import heapq
import math
import os
import re
import shlex
from collections.abc import Callable, Sequence

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from common.errors import UsageError


def groups(runs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Return runs that belong together: a training and the tests that read it, in this order."""
    planned = set(runs)
    found: dict[RunSpec, list[RunSpec]] = {}
    for run in runs:
        needs = run.needs
        found.setdefault(needs if needs is not None and needs in planned else run, []).append(run)
    return list(found.values())


def shard(
    runs: Sequence[RunSpec], which: str, seconds: Callable[[RunSpec], float]
) -> list[RunSpec]:
    """Return the i-th of n parts of about equal length, in the order of ``runs``.

    Every machine that asks with the same runs gets parts of one division, whatever is finished:
    ``seconds`` must be the same for all of them.

    Args:
        which: ``i/n``, from ``1/n`` to ``n/n``.

    Raises:
        UsageError: no such part.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", which)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard {which}: expected I/N, from 1/N to N/N")
    chosen = set(_parts(runs, count, seconds)[number - 1])
    return [run for run in runs if run in chosen]


def pack(
    runs: Sequence[RunSpec], seconds: Callable[[RunSpec], float], limit: float
) -> list[list[RunSpec]]:
    """Return shards of about ``limit`` seconds, the longest first; a test follows its training.

    Few are much longer: those whose training alone is.
    """
    total = sum(map(seconds, runs))
    shards = [part for part in _parts(runs, max(math.ceil(total / limit), 1), seconds) if part]
    return sorted(shards, key=lambda shard: -sum(map(seconds, shard)))


def _parts(
    runs: Sequence[RunSpec], count: int, seconds: Callable[[RunSpec], float]
) -> list[list[RunSpec]]:
    """Divide runs into parts of about equal length: the longest groups first, to the shortest."""
    lengths = [(0.0, place) for place in range(count)]
    parts: list[list[RunSpec]] = [[] for _ in range(count)]
    weighed = [(sum(map(seconds, group)), group) for group in groups(runs)]
    for total, group in sorted(weighed, key=lambda item: -item[0]):
        length, place = heapq.heappop(lengths)
        heapq.heappush(lengths, (length + total, place))
        parts[place] += group
    return parts


def command_lines(
    runs: Sequence[RunSpec], environment: Environment, options: Sequence[str]
) -> list[str]:
    """Return a line of shell for each group of runs; lines may run in any order, side by side.

    A test waits for its training and does not run where that fails; one test that fails keeps the
    others from nothing.
    """
    folder = shlex.quote(os.getcwd())
    lines = []
    for group in groups(runs):
        first, *rest = (shlex.join(environment.command(run, options)) for run in group)
        if not rest:
            lines.append(f"cd {folder} && {first}")
        elif group[1].needs == group[0]:
            lines.append(f"cd {folder} && {first} && {{ {'; '.join(rest)}; }}")
        else:  # the training is there already
            lines.append(f"cd {folder} && {{ {'; '.join([first, *rest])}; }}")
    return lines
