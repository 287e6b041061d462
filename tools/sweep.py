"""Run a protocol's script over methods, data sets, shots and seeds; one line a run, with time left.

    python tools/sweep.py base2new --methods zsclip,coop,anprompt --datasets shapes --seeds 1,2,3
    python tools/sweep.py crossdata --methods all --source caltech101 --targets eurosat,dtd
    python tools/sweep.py domaingen --methods coop,anprompt
    python tools/sweep.py fewshot --methods coop --datasets eurosat --shots 1,4,16

Runs go seed by seed, so that a sweep cut short still compares methods; a test waits for its
training. Finished runs are skipped, interrupted ones taken up again (train.py sees to that): the
same command goes on. A run that fails does not stop the others. Each prints to OUTPUT/logs. The
environment means what it means to the scripts: DATA, OUTPUT, BACKBONE, SHOTS, SOURCE, CFG.

Without a GPU, runs go side by side on one thread each (unless OMP_NUM_THREADS says otherwise):
results do not depend on --jobs.
"""

import argparse
import contextlib
import fcntl
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
DATASETS = [
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101",
    "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101",
]  # fmt: skip
IMAGENET_VARIANTS = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
# The script that runs a protocol. Domain generalisation is cross-dataset with other targets, and
# they share their trainings.
SCRIPTS = {
    "base2new": "base2new",
    "crossdata": "crossdata",
    "domaingen": "crossdata",
    "fewshot": "fewshot",
}
FINISHED = "Finished already"  # train.py's word for a run that it skips
ACCURACY = re.compile(r"accuracy:? ([\d.]+)%")
POLL_SECONDS = 0.1
STOP_SECONDS = 15  # how long an interrupted run may take to end


@dataclass(frozen=True)
class Job:
    """One call of a protocol's script.

    ``part`` is "train" or "test" ("train" where the protocol has one part). ``source`` is the data
    set trained on where it is not ``dataset``.
    """

    script: str
    method: str
    part: str
    dataset: str
    seed: str
    shots: str = "16"
    source: str = ""

    def __str__(self) -> str:
        data = f"{self.source} to {self.dataset}" if self.source else self.dataset
        shots = "" if self.shots == "16" else f" {self.shots} shots"
        part = "" if self.script == "fewshot" else f" {self.part}"
        return f"{self.method} {data}{shots} seed {self.seed}{part}"

    @property
    def arguments(self) -> list[str]:
        """Of the script."""
        if self.script == "fewshot":
            return [self.method, self.dataset, self.shots, self.seed]
        return [self.method, self.part, self.dataset, self.seed]

    @property
    def training(self) -> "Job | None":
        """The job that must be done before; None where nothing is read."""
        if self.part == "train" or not learns(self.method):
            return None
        return replace(self, part="train", dataset=self.source or self.dataset, source="")


@dataclass
class Clock:
    """Estimates the time left from how long like jobs took."""

    taken: list[tuple[Job, float]] = field(default_factory=list)

    def left(self, jobs: list[Job]) -> float | None:
        """Seconds for ``jobs``, one after the other; None while nothing has been measured."""
        return sum(self._expected(job) for job in jobs) if self.taken else None

    def _expected(self, job: Job) -> float:
        kin = [
            [t for done, t in self.taken if (done.method, done.part) == (job.method, job.part)],
            [t for done, t in self.taken if done.part == job.part],
            [t for _, t in self.taken],
        ]
        return fmean(next(times for times in kin if times))


def plan(
    protocol: str,
    methods: list[str],
    datasets: list[str],
    seeds: list[str],
    shots: list[str] | None = None,
    source: str = "imagenet",
) -> list[Job]:
    """All jobs in the order they start.

    A method that learns nothing runs for the first seed and the first number of shots only.

    Args:
        datasets: trained and tested on; of crossdata and domaingen the targets, among which the
            source is left out, being tested when training ends.
    """
    shots = shots or ["16"]
    jobs = []
    for seed, shot in itertools.product(seeds, shots):
        is_first = (seed, shot) == (seeds[0], shots[0])
        of_these = [method for method in methods if is_first or learns(method)]
        jobs.extend(_plan_seed(SCRIPTS[protocol], of_these, datasets, seed, shot, source))
    return jobs


def _plan_seed(
    script: str, methods: list[str], datasets: list[str], seed: str, shots: str, source: str
) -> Iterator[Job]:
    if script == "crossdata":
        for method in methods:
            yield Job(script, method, "train", source, seed, shots)
            for target in datasets:
                if target != source:
                    yield Job(script, method, "test", target, seed, shots, source)
        return
    for dataset in datasets:
        for method in methods:
            yield Job(script, method, "train", dataset, seed, shots)
            if script == "base2new":
                yield Job(script, method, "test", dataset, seed, shots)


def all_methods() -> list[str]:
    """The method folders of scripts/, those that learn nothing (and take least time) first."""
    names = [path.parent.name for path in (ROOT / "scripts").glob("*/settings.sh")]
    return sorted(names, key=lambda name: (learns(name), name))


def learns(method: str) -> bool:
    """Whether a method trains, as its settings.sh says."""
    settings = ROOT / "scripts" / method / "settings.sh"
    return "LEARNS=no" not in settings.read_text(encoding="utf-8").split()


def check_names(kind: str, names: list[str], known: list[str]) -> None:
    """Raise ValueError unless all names are known, saying which are nearest or which there are."""
    if not names:
        raise ValueError(f"no {kind} named; there are: {', '.join(known)}")
    for name in names:
        if name not in known:
            near = get_close_matches(name, known)
            hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
            raise ValueError(f"no {kind} {name!r}; {hint}")


def check_numbers(option: str, numbers: list[str], least: int) -> None:
    """Raise ValueError unless all are whole numbers and not too small."""
    for number in numbers or [""]:
        if not number.isdecimal() or int(number) < least:
            raise ValueError(f"{option} {number!r}: expected whole numbers from {least}, as 1,2,3")


class Run:
    """A job's process, in a session of its own, with a log that only one process may write to.

    The log's lock is the run's: it is held until the last process of the run has ended, so a sweep
    beside this one, or a run that outlived a sweep that was killed, is waited for.
    """

    def __init__(self, job: Job, log: Path, environment: dict[str, str], options: list[str]):
        """Start the job.

        Raises:
            BlockingIOError: a process is running it already.
        """
        self.job, self.log = job, log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = ["bash", str(ROOT / "scripts" / f"{job.script}.sh"), *job.arguments]
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._start = file.tell()
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                [*command, "--", *options],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def printed(self) -> str:
        with open(self.log, "rb") as file:
            file.seek(self._start)
            return file.read().decode("utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the script and to what it started."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, number)


def stop(runs: list[Run]) -> None:
    """End runs as Ctrl-C would; by force those that take too long."""
    for run in runs:
        run.signal(signal.SIGINT)
    try:
        deadline = time.monotonic() + STOP_SECONDS
        for run in runs:
            run.process.wait(max(deadline - time.monotonic(), 0))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    for run in runs:
        run.signal(signal.SIGKILL)  # also what outlived its script
        run.process.wait()


class Sweep:
    """Runs jobs, up to ``at_once`` side by side, and says how they went.

    Args:
        output: folder of the results.
        configs: configuration by method, where it is not the method's default.
        options: KEY VALUE settings for all runs.
        threads: of each run; None leaves it to PyTorch.
    """

    def __init__(
        self,
        jobs: list[Job],
        output: Path,
        configs: dict[str, str],
        options: list[str],
        at_once: int = 1,
        threads: int | None = None,
    ):
        self.jobs, self.output, self.configs, self.options = jobs, output, configs, options
        self.at_once, self.threads = at_once, threads
        self.training = {job: job.training for job in jobs}
        self.waiting = list(jobs)
        self.running: list[Run] = []
        self.done: set[Job] = set()
        self.failed: dict[Job, str] = {}  # and why
        self.elsewhere: set[Job] = set()  # found running in another process
        self.clock = Clock()
        self.began = time.monotonic()
        self.width = max(len(str(job)) for job in jobs)
        self.shows_running = sys.stdout.isatty()

    def go(self) -> int:
        """Run all jobs; the exit status, 1 if any failed."""
        try:
            while self.waiting or self.running:
                self._start_what_can()
                self._show_running()
                time.sleep(POLL_SECONDS)
                for run in [run for run in self.running if run.process.poll() is not None]:
                    self.running.remove(run)
                    self._finish(run)
        except KeyboardInterrupt:
            stop(self.running)
            print(f"\nInterrupted; {len(self.done)} of {len(self.jobs)} runs are done.", flush=True)
            raise
        if not self.failed:
            return 0
        print(f"{len(self.failed)} of {len(self.jobs)} runs failed:")
        for job, reason in self.failed.items():
            print(f"    {job}: {reason}")
        return 1

    def _start_what_can(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.at_once:
                return
            training = self.training[job]
            if training in self.failed:
                self.waiting.remove(job)
                self._note_failure(job, "its training failed")
            elif training in self.done or training not in self.training:
                try:
                    self.running.append(Run(job, *self._how(job)))
                except BlockingIOError:  # tried again at the next look
                    self._note_elsewhere(job)
                    continue
                self.waiting.remove(job)

    def _how(self, job: Job) -> tuple[Path, dict[str, str], list[str]]:
        environment = {**os.environ, "OUTPUT": str(self.output), "SHOTS": job.shots}
        if job.source:
            environment["SOURCE"] = job.source
        if job.method in self.configs:
            environment["CFG"] = self.configs[job.method]
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        log = self.output / "logs" / f"{job.script} {job}.log".replace(" ", "_")
        return log, environment, self.options

    def _finish(self, run: Run) -> None:
        status, printed = run.process.returncode, run.printed()
        took = time.monotonic() - run.began
        if status:
            self._note_failure(run.job, f"status {status}, see {run.log}")
            lines = printed.strip().splitlines()[-5:]
            print("\n".join(f"    {line}" for line in lines), flush=True)
            return
        self.done.add(run.job)
        accuracy = ACCURACY.findall(printed)
        result = f"{float(accuracy[-1]):5.1f}%" if accuracy else "     -"
        if FINISHED in printed:
            duration = "earlier"
        else:
            duration = minutes(took)
            self.clock.taken.append((run.job, took))
        left = self.clock.left([*self.waiting, *(other.job for other in self.running)])
        rest = f", about {minutes(left / self.at_once)} left" if left else ""
        elapsed = minutes(time.monotonic() - self.began)
        self._line(run.job, f"{result}  {duration:>7}  (elapsed {elapsed}{rest})")

    def _note_failure(self, job: Job, reason: str) -> None:
        self.failed[job] = reason
        self._line(job, f"failed: {reason}")

    def _note_elsewhere(self, job: Job) -> None:
        if job not in self.elsewhere:
            self.elsewhere.add(job)
            self._clear_line()
            print(f"{job} is running already, from elsewhere; waiting for its end", flush=True)

    def _clear_line(self) -> None:
        if self.shows_running:
            print("\r\033[K", end="")

    def _line(self, job: Job, text: str) -> None:
        self._clear_line()
        number = len(self.done) + len(self.failed)
        total = len(self.jobs)
        print(f"[{number:>{len(str(total))}}/{total}] {str(job):<{self.width}}  {text}", flush=True)

    def _show_running(self) -> None:
        if self.shows_running and self.running:
            now = time.monotonic()
            names = "; ".join(f"{run.job} {minutes(now - run.began)}" for run in self.running)
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
            print(f"\r\033[K{f'running: {names}'[: columns - 1]}", end="", flush=True)


def minutes(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minute, second = divmod(round(seconds), 60)
    hour, minute = divmod(minute, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def share_machine(jobs: int | None) -> tuple[int, int | None]:
    """How many runs go side by side, and threads of each (None: PyTorch's choice).

    A GPU takes one run at a time unless told otherwise. A CPU takes runs on one thread each: more
    of them get done than one after the other on all cores, and results are the same bit for bit
    whatever ``jobs`` is.
    """
    import torch

    if torch.cuda.is_available():
        return jobs or 1, None
    threads = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(threads) if threads.isdecimal() and int(threads) > 0 else 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return jobs or max(1, min(cores // threads, 4)), threads


def _list(text: str) -> list[str]:
    return list(dict.fromkeys(item for item in re.split(r"[,\s]+", text) if item))


def _config(text: str) -> tuple[str, str]:
    method, _, config = text.partition("=")
    if not config:
        raise argparse.ArgumentTypeError(f"{text!r}: expected METHOD=CONFIG")
    return method, config


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("protocol", choices=list(SCRIPTS))
    parser.add_argument(
        "--methods", type=_list, default=["all"], metavar="A,B",
        help="folders of scripts/, or all (default)",
    )  # fmt: skip
    parser.add_argument(
        "--datasets", "--targets", type=_list, metavar="A,B",
        help="files of configs/datasets/ (default: CoOp's eleven); of crossdata and domaingen "
        "those tested on (default: the eleven but the source; the four ImageNet variants)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=_list, default=["1", "2", "3"], metavar="1,2")
    parser.add_argument(
        "--shots", type=_list, metavar="1,2",
        help="images per class (default: $SHOTS or 16; of fewshot 1,2,4,8,16)",
    )  # fmt: skip
    parser.add_argument(
        "--source", default=os.environ.get("SOURCE") or "imagenet", metavar="NAME",
        help="crossdata, domaingen: the data set trained on (default: $SOURCE or imagenet)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs side by side (default: 1 on a GPU; else one a core, at most 4)",
    )  # fmt: skip
    parser.add_argument(
        "--cfg", type=_config, action="append", default=[], metavar="METHOD=CONFIG",
        help="another file of configs/trainers/ than the method's default (repeatable)",
    )  # fmt: skip
    parser.epilog = "KEY VALUE settings for all runs stand at the end, after --"
    return parser


def jobs_for(args: argparse.Namespace) -> list[Job]:
    """What the command line asks for.

    Raises:
        ValueError: a name that does not exist, a number that is none, or no folder of data sets.
    """
    known = all_methods()
    methods = known if args.methods == ["all"] else args.methods
    check_names("method", methods, known)
    if args.shots is None:
        several = ["1", "2", "4", "8", "16"] if args.protocol == "fewshot" else ["16"]
        args.shots = _list(os.environ.get("SHOTS", "")) or several
    check_numbers("--shots", args.shots, least=1)
    check_numbers("--seeds", args.seeds, least=0)
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: expected 1 or more")
    if args.datasets is None:
        args.datasets = IMAGENET_VARIANTS if args.protocol == "domaingen" else DATASETS
    read = list(args.datasets)
    if SCRIPTS[args.protocol] == "crossdata":
        read.append(args.source)
    check_names("data set", read, [p.stem for p in (ROOT / "configs/datasets").glob("*.yaml")])
    if read != ["shapes"] and not os.environ.get("DATA"):
        raise ValueError("DATA is not set: it names the folder that holds the data sets")
    return plan(args.protocol, methods, args.datasets, args.seeds, args.shots, args.source)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    args = make_parser().parse_args(argv[:end])
    try:
        jobs = jobs_for(args)
    except ValueError as error:
        print(f"sweep.py: error: {error}", file=sys.stderr)
        return 2
    output = Path(os.environ.get("OUTPUT") or ROOT / "output")
    at_once, threads = share_machine(args.jobs)
    each = f", {threads} thread{'s' if threads > 1 else ''} each" if threads else ""
    print(f"{len(jobs)} runs, {at_once} at a time{each}; logs in {output / 'logs'}", flush=True)
    try:
        return Sweep(jobs, output, dict(args.cfg), argv[end + 1 :], at_once, threads).go()
    except KeyboardInterrupt:
        print("sweep.py: the same command goes on from here", file=sys.stderr)
        return 130


def end_on_signals() -> None:
    """However this process is told to end, the runs are to end with it.

    Also by SIGINT, which what a shell starts in the background ignores. One Ctrl-C may arrive
    several times, from the terminal and from a script: within two seconds they are one.
    """
    last = 0.0

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
