"""Running jobs side by side: a process and a log each, one line when it ends."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from anprompt.protocols import plan as planning
from anprompt.protocols.plan import Job
from anprompt.sweeps.finished import accuracy_of_finished, train_command

FINISHED = "Finished already"  # train.py's word for a run that it skips
ACCURACY = re.compile(r"accuracy:? ([\d.]+)%")
POLL_SECONDS = 0.1
STOP_SECONDS = 15  # how long an interrupted run may take to end


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


class Run:
    """A job's process, in a session of its own, with a log that only one process may write to.

    The log's lock is the run's: it is held until the last process of the run has ended, so a sweep
    beside this one, or a run that outlived a sweep that was killed, is waited for.
    """

    def __init__(self, job: Job, log: Path, command: list[str], environment: dict[str, str]):
        """Start the job.

        Raises:
            BlockingIOError: a process is running it already.
        """
        self.job, self.log = job, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._start = file.tell()
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
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
        self.looked_at: set[Job] = set()  # whether they are finished
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

    def show(self) -> int:
        """Print what is finished and the commands of the others; the exit status of ``go``."""
        for job in self.jobs:
            command, environment = self._how(job)
            accuracy = accuracy_of_finished(command, environment)
            if accuracy is not None:
                self._note_done(job, f"{accuracy:5.1f}%  earlier")
                continue
            try:
                print(f"{job}:\n    {train_command(command, environment)}", flush=True)
            except ValueError as error:
                self._note_failure(job, str(error))
        print(f"{len(self.done)} of {len(self.jobs)} runs are done; nothing was started.")
        return 1 if self.failed else 0

    def _start_what_can(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.at_once:
                return
            training = self.training[job]
            if training in self.failed:
                self.waiting.remove(job)
                self._note_failure(job, "its training failed")
            elif training in self.done or training not in self.training:
                self._start(job)

    def _start(self, job: Job) -> None:
        """Start a job, or find it finished; it stays where it is if another process has it."""
        command, environment = self._how(job)
        if job not in self.looked_at:
            self.looked_at.add(job)
            accuracy = accuracy_of_finished(command, environment)
            if accuracy is not None:
                self.waiting.remove(job)
                self._note_done(job, f"{accuracy:5.1f}%  earlier")
                return
        log = self.output / "logs" / f"{job.script} {job}.log".replace(" ", "_")
        try:
            self.running.append(Run(job, log, command, environment))
        except BlockingIOError:  # tried again at the next look
            self._note_elsewhere(job)
        else:
            self.waiting.remove(job)

    def _how(self, job: Job) -> tuple[list[str], dict[str, str]]:
        """The command of a job and its environment."""
        environment = {**os.environ, "OUTPUT": str(self.output), "SHOTS": job.shots}
        if job.source:
            environment["SOURCE"] = job.source
        if job.method in self.configs:
            environment["CFG"] = self.configs[job.method]
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        script = planning.ROOT / "scripts" / f"{job.script}.sh"
        return ["bash", str(script), *job.arguments, "--", *self.options], environment

    def _finish(self, run: Run) -> None:
        status, printed = run.process.returncode, run.printed()
        took = time.monotonic() - run.began
        if status:
            self._note_failure(run.job, f"status {status}, see {run.log}")
            lines = printed.strip().splitlines()[-5:]
            print("\n".join(f"    {line}" for line in lines), flush=True)
            return
        accuracy = ACCURACY.findall(printed)
        result = f"{float(accuracy[-1]):5.1f}%" if accuracy else "     -"
        if FINISHED in printed:
            duration = "earlier"
        else:
            duration = minutes(took)
            self.clock.taken.append((run.job, took))
        self._note_done(run.job, f"{result}  {duration:>7}")

    def _note_done(self, job: Job, how: str) -> None:
        self.done.add(job)
        left = self.clock.left([*self.waiting, *(run.job for run in self.running)])
        rest = f", about {minutes(left / self.at_once)} left" if left else ""
        self._line(job, f"{how}  (elapsed {minutes(time.monotonic() - self.began)}{rest})")

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
