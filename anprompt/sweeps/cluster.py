"""What of a sweep a cluster has already, and giving it the rest."""

import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.sweeps import slurm
from anprompt.sweeps.batches import FOLDER, Batch, State, key_of, read_all
from anprompt.sweeps.costs import Costs
from anprompt.sweeps.shards import pack
from common.errors import UsageError
from common.lock import FolderLock
from common.provenance import commit_text

Queue = Mapping[tuple[str, int], slurm.Task]


@dataclass(frozen=True)
class Standing:
    """Where a run stands that was given to a cluster.

    Attributes:
        state: ``queued``, ``running``, ``failed``, ``done``, or ``stopped``: its shard is gone.
        about: why it waits, where it runs or why it failed.
        complaints: the file of what its shard complained about; None where there is none.
    """

    state: str
    about: str = ""
    complaints: Path | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("queued", "running")


def standings(
    runs: Collection[RunSpec],
    environment: Environment,
    ask: Callable[[Sequence[Batch]], Queue] = slurm.tasks,
) -> dict[RunSpec, Standing]:
    """Return where those of some runs stand that were ever submitted.

    Args:
        ask: returns what is in the queue of some batches; not called where there are none.

    Raises:
        UsageError: a record is damaged, or the queue cannot be asked.
    """
    wanted = {key_of(run): run for run in runs}
    shards = [
        (batch, number, keys)
        for batch in read_all(environment.output)
        for number in range(batch.n_shards)
        if (keys := [key for key in batch.keys(number) if key in wanted])
    ]
    if not shards:
        return {}
    queue = ask(list({batch.folder: batch for batch, *_ in shards}.values()))
    found: dict[RunSpec, Standing] = {}
    for batch, number, keys in shards:
        state, task = State(batch, number), queue.get(batch.task_of(number))
        for key in keys:
            standing = _standing(state, key, task, batch.complaints_of(number))
            before = found.get(wanted[key])
            if before is None or standing.is_alive or not before.is_alive:  # the newest, then
                found[wanted[key]] = standing
    return found


def _standing(state: State, key: str, task: slurm.Task | None, complaints: Path | None) -> Standing:
    has = state.of(key)
    entry = state.entries.get(key, {})
    if has in ("done", "failed"):
        return Standing(has, entry["why"], complaints)
    if task is not None and task.state == "RUNNING":
        if has == "begun":
            return Standing("running", f"on {entry['host']}")
        return Standing("queued", "behind others of its shard")
    if task is not None:
        return Standing("queued", task.reason if task.state == "PENDING" else task.state)
    where = f"on {entry['host']} when it ended: " if has == "begun" else ""
    return Standing("stopped", f"{where}its shard is not in the queue any more", complaints)


def unsubmitted(
    missing: Sequence[RunSpec], known: Mapping[RunSpec, Standing]
) -> tuple[list[RunSpec], int]:
    """Return the runs to submit, and how many wait for a training that is in the queue."""
    alive = {run for run, standing in known.items() if standing.is_alive}
    free = [run for run in missing if run not in alive]
    waiting = [run for run in free if run.needs in alive]
    return [run for run in free if run.needs not in alive], len(waiting)


def submit(
    runs: Sequence[RunSpec],
    environment: Environment,
    given: Sequence[str],
    *,
    options: slurm.Options,
    costs: Costs,
    shard_minutes: float,
    jobs: int | None,
    per_gpu: int,
    code: Mapping[str, object],
) -> str:
    """Pack runs into shards and submit them; return what was submitted, in words.

    Args:
        given: KEY VALUE settings of all runs.
        options: for SLURM.
        costs: what runs are expected to take.
        shard_minutes: the length of a shard, about.
        jobs: shards side by side, at most.
        per_gpu: runs side by side on a GPU.
        code: as `snapshot.check_committed`.

    Raises:
        UsageError: SLURM refuses; nothing that it took is lost.
    """
    side_by_side = max(options.n_gpus, 1) * (per_gpu if options.n_gpus else 1)
    shards = pack(runs, costs.seconds, 60 * shard_minutes * side_by_side)
    longest = costs.total(shards[0], side_by_side) / 60
    batch = Batch.create(
        shards, environment, given,
        code=code, array_size=slurm.array_limit(), per_gpu=per_gpu,
        command=shlex.join(["python", *sys.argv]),
    )  # fmt: skip
    # Expectations may be wrong by half; a shard that is cut off goes on all the same.
    limit = round(2 * max(longest, shard_minutes))
    try:
        numbers = slurm.submit(batch, options, jobs, max(limit, 15))
    except UsageError as error:
        if "submitted before" not in str(error):
            shutil.rmtree(batch.folder, ignore_errors=True)
        raise
    return (
        f"submitted: runs {len(runs)}, shards {len(shards)} of {max(longest, 1):.0f} min at most, "
        f"job {', '.join(numbers)}; commit {commit_text(code) or 'unknown'}; "
        f"files in {batch.folder}"
    )


def lock(environment: Environment) -> FolderLock:
    """Return the lock of those who submit: two at once would both submit the same runs."""
    return FolderLock(Path(environment.output) / FOLDER)
