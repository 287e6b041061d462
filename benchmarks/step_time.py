"""Seconds and memory of a training step: this project's path, the plain path, upstream's code.

The steps take turns in one run on one set of parameters, so ratios mean something where times do
not; before that, losses and gradients of the first two are compared. Peak memory is a process of
its own per path.

    python -m benchmarks.step_time --trainer CoOp --classes 50 --batch 4 --rounds 5
    python -m benchmarks.step_time --trainer MMRL --classes 50 --upstream PATH/TO/MMRL
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import clock, measure, workload
from benchmarks.upstream import UpstreamSteps


def step_seconds(trainer: Any, batch: dict, path: str, work: workload.Workload) -> float:
    with measure.on_path(path, trainer):
        return clock.seconds(lambda: trainer.forward_backward(batch), work.device, work.cpu_time)


def single_step(work: workload.Workload, folder: Path, path: str) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a process that builds the trainer and takes one step."""
    trainer = workload.build(work, folder)
    seconds = step_seconds(trainer, workload.make_batch(work), path, work)
    return seconds, clock.peak_memory_mb(work.device)


def measure_steps(
    work: workload.Workload,
    folder: Path,
    rounds: int,
    paths: tuple[str, ...] = measure.PATHS,
    upstream: str | None = None,
    memory: bool = True,
) -> dict[str, Any]:
    """One case: ``rows`` for the table, ``seconds`` of all steps and ``difference`` of the paths.

    Without ``plain`` among the paths nothing is compared. With no rounds, which saves time where a
    step takes minutes, the only steps are those that the memory is measured of.
    """
    peaks, times, apart = {}, {}, None
    if memory or not rounds:
        for path in paths:
            first, peaks[path] = measure.in_own_process(single_step, work, folder, path)
            times[path] = [first]
            print(f"{work} {path}: {first:.3f} s", file=sys.stderr, flush=True)
    actions = {}
    if rounds:
        trainer, batch = workload.build(work, folder), workload.make_batch(work)
        results = {}
        for path in paths:  # the first step of a process is slower, too
            with measure.on_path(path, trainer):
                results[path] = workload.loss_and_gradients(trainer, batch)
            actions[path] = partial(step_seconds, trainer, batch, path, work)
        if len(results) == 2:
            apart = workload.difference(results["fast"], results["plain"])

    with UpstreamSteps(upstream, work, folder) as theirs:
        if theirs is not None:
            times["upstream"] = [theirs.step()]
            actions["upstream"] = theirs.step
        if rounds:
            times = measure.interleaved(actions, rounds, str(work))
        if theirs is not None:
            peaks["upstream"] = theirs.peak_memory_mb()
    rows = [_row(work, path, times, peaks) for path in times]
    return {"workload": work.as_dict(), "rows": rows, "seconds": times, "difference": apart}


def _row(work: workload.Workload, path: str, times: dict, peaks: dict) -> dict[str, Any]:
    middle, fast = measure.median(times[path]), measure.median(times["fast"])
    return {
        "trainer": work.trainer,
        "classes": work.classes,
        "batch": work.batch,
        "path": path,
        "s/step": middle,
        "times fast": middle / fast,
        "peak MiB": peaks.get(path),
        "memory times fast": peaks[path] / peaks["fast"]
        if "fast" in peaks and path in peaks
        else None,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="timed steps per path; 0: a first step each"
    )
    parser.add_argument("--upstream", help="a checkout of the method's own repository")
    parser.add_argument("--skip-plain", action="store_true", help="leave the plain path out")
    parser.add_argument("--skip-memory", action="store_true", help="leave peak memory out")
    args = parser.parse_args(arguments)
    work = measure.workload(args)
    with measure.scratch(args.scratch) as folder:
        result = measure_steps(
            work,
            folder,
            args.rounds,
            measure.PATHS[:1] if args.skip_plain else measure.PATHS,
            args.upstream,
            not args.skip_memory,
        )
    if result["difference"]:
        loss, gradients = result["difference"]
        print(
            f"plain against fast, relative difference: loss {loss:.1e}, gradients {gradients:.1e}"
        )
    measure.report(result.pop("rows"), result, args.json)


if __name__ == "__main__":
    main()
