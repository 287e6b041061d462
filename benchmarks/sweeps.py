"""How long a sweep plans, and how busy it keeps its GPUs: fake runs that sleep, of known length.

The runs are started, watched and followed by others as real ones are; tests wait for trainings.

    python -m benchmarks.sweeps
    python -m benchmarks.sweeps --runs 200 --gpus 4 --mean-seconds 4
"""

import contextlib
import io
import random
import tempfile
import time
from collections.abc import Sequence

from anprompt.protocols.environment import Environment
from anprompt.protocols.methods import all_methods, find_method
from anprompt.protocols.plan import DATASETS, RunSpec, plan
from anprompt.sweeps.costs import Costs
from anprompt.sweeps.finished import find_finished
from anprompt.sweeps.scheduler import Slot, Sweep
from anprompt.sweeps.shards import pack
from benchmarks import measure
from common.cli import CommandParser

LENGTHS: dict[RunSpec, float] = {}
"""Seconds of the fake runs."""


class Asleep(Environment):
    """An environment whose runs sleep."""

    def command(self, run: RunSpec, options: Sequence[str] = ()) -> list[str]:
        return ["sleep", f"{LENGTHS[run]:.3f}"]


class Known:
    """Expectations that are wrong by up to a half either way, as real ones may be."""

    n_known = 0

    def __init__(self, draw: random.Random):
        self.wrong = {run: draw.uniform(0.67, 1.5) for run in LENGTHS}

    def seconds(self, run: RunSpec) -> float:
        return LENGTHS[run] * self.wrong[run]

    def learn(self, run: RunSpec, seconds: float) -> None:
        """Nothing is learnt: the expectations stay as wrong as they are."""


def busy_share(runs: int, gpus: int, mean: float) -> float:
    """Return the share of their time that GPUs are in use while fake runs go through a sweep.

    Args:
        mean: seconds of a run; they are between 0 and twice that.
    """
    draw = random.Random(1)
    methods = [find_method(name) for name in ("coop", "maple", "anprompt")]
    chosen = plan("base2new", methods, DATASETS, range(1, runs))[:runs]
    LENGTHS.update({run: draw.uniform(0.02, 2) * mean for run in chosen})
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(io.StringIO()):
        sweep = Sweep(
            chosen, Asleep(output), slots=[Slot(f"GPU {i}") for i in range(gpus)],
            costs=Known(draw), longest_first=True,  # type: ignore[arg-type]
        )  # fmt: skip
        began = time.perf_counter()
        assert sweep.go() == 0
        took = time.perf_counter() - began
    return sum(LENGTHS[run] for run in chosen) / (gpus * took)


def planning(runs: int) -> dict[str, float]:
    """Return the processor seconds that planning takes, by what is done."""
    began = time.process_time()
    seconds = {}
    methods = all_methods()
    n_seeds = runs // (2 * len(DATASETS) * sum(method.learns for method in methods)) + 1
    planned = plan("base2new", methods, DATASETS, range(1, n_seeds + 1))[:runs]
    seconds["list"] = time.process_time() - began
    with tempfile.TemporaryDirectory() as output:
        find_finished(planned, Environment(output))
    seconds["find the finished"] = time.process_time() - began - seconds["list"]
    began = time.process_time()
    pack(planned, Costs("gpu").seconds, 3600)
    seconds["pack into shards"] = time.process_time() - began
    assert len(planned) == runs
    return seconds


def main(arguments: list[str] | None = None) -> None:
    parser = CommandParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planned", type=int, default=10_000, help="runs that are planned")
    parser.add_argument("--runs", type=int, default=200, help="fake runs (default 200)")
    parser.add_argument("--gpus", type=int, default=4, help="places for them (default 4)")
    parser.add_argument("--mean-seconds", type=float, default=2.0, help="of a fake run")
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args(arguments)
    parts = planning(args.planned)
    rows = [{"what": f"{args.planned} runs: {name}", "figure": f"{seconds:.2f} s"}
            for name, seconds in {**parts, "all": sum(parts.values())}.items()]  # fmt: skip
    share = busy_share(args.runs, args.gpus, args.mean_seconds)
    what = f"{args.gpus} GPUs busy, {args.runs} runs of {args.mean_seconds:g} s on average"
    rows.append({"what": what, "figure": f"{100 * share:.1f}%"})
    measure.report(rows, {}, args.json)


if __name__ == "__main__":
    main()
