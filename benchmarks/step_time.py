"""Seconds and memory of a training step: this project's path, the plain path, upstream's code.

The steps take turns in one run on one set of parameters, so ratios mean something where times do
not; before that, losses and gradients of the first two are compared. Peak memory is a process of
its own per path.

    python benchmarks/step_time.py --trainer CoOp --classes 50 --batch 4 --rounds 5
    python benchmarks/step_time.py --trainer MMRL --classes 50 --upstream PATH/TO/MMRL
"""

import sys
from pathlib import Path
from typing import Any

if str(Path(__file__).resolve().parent.parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import clock, measure, workload  # noqa: E402
from benchmarks.upstream import UpstreamSteps  # noqa: E402


def step_seconds(trainer: Any, batch: dict, path: str, device: str) -> float:
    with measure.on_path(path, trainer):
        return clock.seconds(lambda: trainer.forward_backward(batch), device)


def step_memory_mb(work: workload.Workload, folder: Path, path: str) -> float:
    """Peak memory of a process that builds the trainer and takes one step (MiB)."""
    trainer = workload.build(work, folder)
    step_seconds(trainer, workload.make_batch(work), path, work.device)
    return clock.peak_memory_mb(work.device)


def measure_steps(
    work: workload.Workload,
    folder: Path,
    rounds: int,
    paths: tuple[str, ...] = measure.PATHS,
    upstream: str | None = None,
    memory: bool = True,
) -> dict[str, Any]:
    """One case: ``rows`` for the table, ``seconds`` of all steps and ``difference`` of the paths.

    Without ``plain`` among the paths nothing is compared.
    """
    peaks = {}
    if memory:
        for path in paths:
            peaks[path] = measure.in_own_process(step_memory_mb, work, folder, path)
    trainer, batch = workload.build(work, folder), workload.make_batch(work)

    apart = None
    results = {}
    for path in paths:  # the first step of a process is slower, too
        with measure.on_path(path, trainer):
            results[path] = workload.loss_and_gradients(trainer, batch)
    if len(results) == 2:
        apart = workload.difference(results["fast"], results["plain"])

    def on(path: str):
        return lambda: step_seconds(trainer, batch, path, work.device)

    actions = {path: on(path) for path in paths}
    with UpstreamSteps(upstream, work, folder) as theirs:
        if theirs is not None:
            theirs.step()
            actions["upstream"] = theirs.step
        times = measure.interleaved(actions, rounds, str(work))
        if theirs is not None and memory:
            peaks["upstream"] = theirs.peak_memory_mb()
    rows = [_row(work, path, times, peaks) for path in actions]
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
        "memory times fast": peaks[path] / peaks["fast"] if "fast" in peaks else None,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed, per path")
    parser.add_argument("--upstream", help="a checkout of CoOp, MaPLe's or MMRL's repository")
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
