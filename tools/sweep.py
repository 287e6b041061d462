"""Run a protocol's script over methods, data sets and seeds; one line a run, with time left.

    python tools/sweep.py base2new --methods zsclip,coop,anprompt --datasets shapes --seeds 1,2,3

Runs go seed by seed, so that a sweep cut short still compares methods. Finished runs are skipped,
interrupted ones taken up again (train.py sees to that): the same command goes on. A run prints to
OUTPUT/logs. The environment means what it means to the scripts: DATA, OUTPUT, BACKBONE, SHOTS.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"base2new": ("train", "test")}  # a protocol is scripts/<name>.sh METHOD PART DATASET SEED
FINISHED = "Finished already"  # train.py's word for a run that it skips
ACCURACY = re.compile(r"accuracy:? ([\d.]+)%")


@dataclass(frozen=True)
class Job:
    """One call of a protocol's script."""

    protocol: str
    method: str
    part: str
    dataset: str
    seed: str

    def __str__(self) -> str:
        return f"{self.method} {self.dataset} seed {self.seed} {self.part}"


@dataclass
class Clock:
    """Estimates the time left from how long like jobs took."""

    taken: list[tuple[Job, float]] = field(default_factory=list)

    def left(self, jobs: list[Job]) -> float | None:
        """Seconds for ``jobs``; None while nothing has been measured."""
        return sum(self._expected(job) for job in jobs) if self.taken else None

    def _expected(self, job: Job) -> float:
        kin = [
            [t for done, t in self.taken if (done.method, done.part) == (job.method, job.part)],
            [t for done, t in self.taken if done.part == job.part],
            [t for _, t in self.taken],
        ]
        return fmean(next(times for times in kin if times))


def plan(protocol: str, methods: list[str], datasets: list[str], seeds: list[str]) -> Iterator[Job]:
    """All jobs in the order they run. A method that learns nothing runs for the first seed only."""
    for seed in seeds:
        for dataset in datasets:
            for method in methods:
                if seed == seeds[0] or learns(method):
                    for part in PARTS[protocol]:
                        yield Job(protocol, method, part, dataset, seed)


def learns(method: str) -> bool:
    """Whether a method trains, as its settings.sh says.

    Raises:
        ValueError: no such method.
    """
    settings = ROOT / "scripts" / method / "settings.sh"
    if not settings.is_file():
        known = ", ".join(
            sorted(path.parent.name for path in settings.parent.parent.glob("*/settings.sh"))
        )
        raise ValueError(f"no method {method!r}; there are: {known}")
    return "LEARNS=no" not in settings.read_text(encoding="utf-8").split()


def run(job: Job, log: Path, environment: dict[str, str], options: list[str]) -> tuple[int, str]:
    """Run a job; its exit status and what it printed, which goes to ``log`` as well."""
    script = ROOT / "scripts" / f"{job.protocol}.sh"
    command = ["bash", str(script), job.method, job.part, job.dataset, job.seed, "--", *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    with open(log, "ab") as file:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        ).returncode
    with open(log, "rb") as file:
        file.seek(start)
        return status, file.read().decode("utf-8", errors="replace")


def minutes(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minute, second = divmod(round(seconds), 60)
    hour, minute = divmod(minute, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def sweep(jobs: list[Job], output: Path, configs: dict[str, str], options: list[str]) -> int:
    """Run ``jobs`` one after the other, stopping at the first that fails; returns its status."""
    clock = Clock()
    began = time.monotonic()
    width = max(len(str(job)) for job in jobs)
    for number, job in enumerate(jobs, start=1):
        print(
            f"[{number:>{len(str(len(jobs)))}}/{len(jobs)}] {str(job):<{width}}",
            end="  ",
            flush=True,
        )
        environment = {**os.environ, "OUTPUT": str(output)}
        if job.method in configs:
            environment["CFG"] = configs[job.method]
        log = output / "logs" / f"{str(job).replace(' ', '_')}.log"
        start = time.monotonic()
        status, printed = run(job, log, environment, options)
        now = time.monotonic()
        if status:
            print(f"failed (status {status}); its last lines, all of it in {log}:")
            print("\n".join(f"    {line}" for line in printed.strip().splitlines()[-5:]))
            return status
        accuracy = ACCURACY.findall(printed)
        result = f"{float(accuracy[-1]):5.1f}%" if accuracy else "     -"
        if FINISHED in printed:
            took = "earlier"
        else:
            took = minutes(now - start)
            clock.taken.append((job, now - start))
        left = clock.left(jobs[number:])
        rest = f", about {minutes(left)} left" if left else ""
        print(f"{result}  {took:>7}  (elapsed {minutes(now - began)}{rest})", flush=True)
    return 0


def _list(text: str) -> list[str]:
    return [item for item in re.split(r"[,\s]+", text) if item]


def _config(text: str) -> tuple[str, str]:
    method, _, config = text.partition("=")
    if not config:
        raise argparse.ArgumentTypeError(f"{text!r}: expected METHOD=CONFIG")
    return method, config


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("protocol", choices=list(PARTS))
    parser.add_argument("--methods", type=_list, required=True, help="folders of scripts/: a,b,c")
    parser.add_argument("--datasets", type=_list, required=True, help="files of configs/datasets/")
    parser.add_argument("--seeds", type=_list, default=["1", "2", "3"])
    parser.add_argument(
        "--cfg", type=_config, action="append", default=[], metavar="METHOD=CONFIG",
        help="another file of configs/trainers/ than the method's default (repeatable)",
    )  # fmt: skip
    parser.epilog = "KEY VALUE settings for all runs stand at the end, after --"
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:end])
    output = Path(os.environ.get("OUTPUT") or ROOT / "output")
    try:
        jobs = list(plan(args.protocol, args.methods, args.datasets, args.seeds))
    except ValueError as error:
        print(f"sweep.py: error: {error}", file=sys.stderr)
        return 2
    try:
        return sweep(jobs, output, dict(args.cfg), argv[end + 1 :])
    except KeyboardInterrupt:
        print("\nsweep.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
