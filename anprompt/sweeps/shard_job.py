"""What a node runs of a sweep: a shard, its runs one after another."""

import os
import sys
from pathlib import Path
from typing import Any

from anprompt.sweeps import snapshot
from anprompt.sweeps.batches import Batch, State
from anprompt.sweeps.costs import Costs
from anprompt.sweeps.devices import slots, visible_gpus
from anprompt.sweeps.finished import find_finished
from anprompt.sweeps.scheduler import Sweep
from common import paths
from common.errors import UsageError, one_line


def run_shard(folder: str, number: str) -> int:
    """Run what is left of a shard; return the exit status, 1 if any run failed.

    Runs go one after another; a node's GPUs, where the shard has several, take one each. Exit codes
    go to the shard's file. Started again, by SLURM or submitit, it goes on with the run that was
    under way, which train.py takes up from its last epoch; what had failed stays so.

    Args:
        folder: the batch's (`anprompt.sweeps.batches`).
        number: the shard's, in decimal.
    """
    try:
        return _run(Path(folder), int(number))
    except (UsageError, OSError) as error:  # the batch's file, the folder, a full disk
        print(f"shard {number}: error: {one_line(error)}", file=sys.stderr, flush=True)
        sys.exit(2)


def _run(folder: Path, number: int) -> int:
    batch = Batch.read(folder)
    copy = Path(batch.content["snapshot"])
    if copy.resolve() != paths.ROOT:
        raise UsageError(f"runs the code of {paths.ROOT}, not of {copy}")
    os.chdir(batch.content["cwd"])
    state = State(batch, number)
    keys = batch.keys(number)
    if edited := snapshot.changed(batch.content["files"]):
        why = f"{', '.join(edited)} changed since this was submitted: submit it again"
        for key in keys:
            state.note(key, 2, why)
        raise UsageError(why)
    environment, options = batch.environment, batch.content["options"]
    key_of = dict(zip(batch.runs(number), keys, strict=True))
    left = [run for run, key in key_of.items() if state.of(key) != "failed"]
    has_gpu = bool(visible_gpus())
    places, about = slots(None if has_gpu else 1, per_gpu=batch.content["per_gpu"])
    print(f"{len(left)} runs, {about}, on {os.uname().nodename}", flush=True)
    return Sweep(
        left, environment, options,
        finished=find_finished(left, environment, options), slots=places,
        costs=Costs("gpu" if has_gpu else "cpu", options),
        note=lambda run, status, why: state.note(key_of[run], status, why),
    ).go()  # fmt: skip


def _again(folder: str, number: str) -> Any:
    """Return what submitit submits when a shard reaches its time limit or has to make room."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(run_shard, folder, number)


run_shard.checkpoint = _again  # type: ignore[attr-defined]
