"""Running many runs side by side: a process and a log each, one line when it ends."""

import os
import queue
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.runs.folder import RESULTS, read_results
from anprompt.sweeps.finished import accuracy_of_finished
from anprompt.sweeps.processes import Process, stop
from anprompt.sweeps.work import WorkQueue

LOOK_SECONDS = 0.5  # between looks at what runs, and at runs that another process has
SAY_SECONDS = 300  # between lines about what runs where there is no terminal
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\]")


@dataclass(frozen=True)
class Slot:
    """A place where one run goes at a time.

    Attributes:
        name: what lines call it; "" for a CPU.
        environment: variables that its runs get.
    """

    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass
class Clock:
    """Estimates the time left from the duration of similar runs."""

    taken: list[tuple[RunSpec, float]] = field(default_factory=list)

    def left(self, runs: Sequence[RunSpec]) -> float | None:
        """Return seconds for ``runs``, one after the other; None while nothing was measured."""
        return sum(map(self._expected, runs)) if self.taken else None

    def _expected(self, run: RunSpec) -> float:
        similar = [
            [t for r, t in self.taken if (r.method, r.stage) == (run.method, run.stage)],
            [t for r, t in self.taken if r.stage == run.stage],
            [t for _, t in self.taken],
        ]
        return fmean(next(times for times in similar if times))


class Sweep:
    """Runs what is not finished, one run a slot, and says how it went.

    Args:
        runs: in the order in which they start.
        environment: where data and results are.
        options: KEY VALUE settings for all runs.
        slots: where runs go side by side.
        seconds: what a run is expected to take; then the longest start first.
    """

    def __init__(
        self,
        runs: Sequence[RunSpec],
        environment: Environment,
        options: Sequence[str] = (),
        slots: Sequence[Slot] = (Slot(),),
        seconds: Callable[[RunSpec], float] | None = None,
    ):
        self.runs, self.environment, self.options = list(runs), environment, list(options)
        self.seconds = seconds
        self.free = list(reversed(slots))
        self.n_slots = len(slots)
        self.running: dict[Process, tuple[Slot, object]] = {}  # and the results before
        self.ended: queue.Queue[Process] = queue.Queue()
        self.done: set[RunSpec] = set()
        self.failed: dict[RunSpec, str] = {}  # and why
        self.elsewhere: set[RunSpec] = set()  # found running in another process
        self.clock = Clock()
        self.began = self.said = time.monotonic()
        self.width = max(map(len, map(str, self.runs)), default=0)
        self.is_terminal = sys.stdout.isatty()
        self.waiting = WorkQueue([])

    def go(self) -> int:
        """Run all runs; return the exit status, 1 if any failed."""
        try:
            self._note_finished()
            waiting = [run for run in self.runs if run not in self.done]
            self.waiting = WorkQueue(waiting, self.seconds)
            while self.waiting or self.running:
                blocked = self._start_what_can()
                self._show_running()
                self._wait()
                for run in blocked:
                    self.waiting.put_back(run)
        except KeyboardInterrupt:
            stop(list(self.running))
            print(f"\nInterrupted; {len(self.done)} of {len(self.runs)} runs are done.", flush=True)
            raise
        if not self.failed:
            return 0
        print(f"{len(self.failed)} of {len(self.runs)} runs failed:")
        for run, reason in self.failed.items():
            print(f"    {run}: {reason}")
        return 1

    def show(self) -> int:
        """Print what is finished and the commands of the others; return the exit status."""
        self._note_finished()
        for run in self.runs:
            if run not in self.done:
                print(
                    f"{run}:\n    {shlex.join(self.environment.command(run, self.options))}",
                    flush=True,
                )
        print(f"{len(self.done)} of {len(self.runs)} runs are done; nothing was started.")
        return 0

    def log(self, run: RunSpec) -> Path:
        """Return the file that a run prints to."""
        return Path(self.environment.output) / "logs" / log_name(run)

    def _note_finished(self) -> None:
        """Find what is finished; a test is only where its training, if it is to run, is as well."""
        planned = set(self.runs)
        for run in self.runs:
            needs = run.needs
            if needs in planned and needs not in self.done:
                continue
            accuracy = accuracy_of_finished(self.environment.argv(run, self.options))
            if accuracy is not None:
                self._note_done(run, f"{accuracy:5.1f}%  earlier")

    def _start_what_can(self) -> list[RunSpec]:
        """Fill the free slots; return runs that another process has."""
        blocked: list[RunSpec] = []
        while self.free and (run := self.waiting.take()) is not None:
            slot = self.free[-1]
            version = self._results_version(run)
            try:
                command = self.environment.command(run, self.options)
                process = Process(run, self.log(run), command, {**os.environ, **slot.environment})
            except BlockingIOError:
                blocked.append(run)
                self._note_elsewhere(run)
                continue
            self.running[process] = self.free.pop(), version
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return blocked

    def _watch(self, process: Process) -> None:
        process.wait()
        self.ended.put(process)

    def _wait(self) -> None:
        """Wait for the end of a run, or a little while."""
        try:
            self._finish(self.ended.get(timeout=LOOK_SECONDS))
            while True:
                self._finish(self.ended.get_nowait())
        except queue.Empty:
            pass

    def _finish(self, process: Process) -> None:
        run, status = process.run, process.wait()
        slot, version = self.running.pop(process)
        self.free.append(slot)
        if status:
            self._note_failure(run, f"status {status}, see {process.log}")
            lines = process.printed().strip().splitlines()[-5:]
            print("\n".join(f"    {line}" for line in lines), flush=True)
            return
        took = time.monotonic() - process.began
        try:
            results = read_results(run.folder(self.environment.output))
        except ValueError:
            results = None
        result = f"{results['accuracy']:5.1f}%" if results else "     -"
        if version is not None and version == self._results_version(run):
            duration = "earlier"
        else:
            duration = minutes(took)
            self.clock.taken.append((run, took))
        self.waiting.done(run)
        self._note_done(run, f"{result}  {duration:>7}")

    def _results_version(self, run: RunSpec) -> object:
        """Return what changes when a run's results are written; None where there are none."""
        try:
            stat = os.stat(Path(run.folder(self.environment.output)) / RESULTS)
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _note_done(self, run: RunSpec, how: str) -> None:
        self.done.add(run)
        left = self.clock.left([*self.waiting, *(process.run for process in self.running)])
        rest = f", about {minutes(left / self.n_slots)} left" if left else ""
        self._line(run, f"{how}  (elapsed {minutes(time.monotonic() - self.began)}{rest})")

    def _note_failure(self, run: RunSpec, reason: str) -> None:
        self.failed[run] = reason
        self._line(run, f"failed: {reason}")
        for test in self.waiting.failed(run):
            self._note_failure(test, "its training failed")

    def _note_elsewhere(self, run: RunSpec) -> None:
        if run not in self.elsewhere:
            self.elsewhere.add(run)
            self._clear_line()
            print(f"{run} is running already, from elsewhere; waiting for its end", flush=True)

    def _clear_line(self) -> None:
        if self.is_terminal:
            print("\r\033[K", end="")

    def _line(self, run: RunSpec, text: str) -> None:
        self._clear_line()
        number, total = len(self.done) + len(self.failed), len(self.runs)
        print(f"[{number:>{len(str(total))}}/{total}] {str(run):<{self.width}}  {text}", flush=True)
        self.said = time.monotonic()

    def _show_running(self) -> None:
        """Say what runs: on a terminal in a line that stays, elsewhere now and then."""
        now = time.monotonic()
        if not self.running or not (self.is_terminal or now - self.said > SAY_SECONDS):
            return
        self.said = now
        names = "; ".join(
            f"{process.run} {epoch_of(process)}{minutes(now - process.began)}"
            for process in self.running
        )
        if self.is_terminal:
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
            print(f"\r\033[K{f'running: {names}'[: columns - 1]}", end="", flush=True)
        else:
            print(f"running: {names}", flush=True)


def epoch_of(process: Process) -> str:
    """Return the epoch that a training has come to, as ``3/50 ``; "" where it says none."""
    epochs = EPOCH.findall(process.printed(last=4096))
    return "{}/{} ".format(*epochs[-1]) if epochs else ""


def log_name(run: RunSpec) -> str:
    """Return the name of a run's log: its protocol and what lines call it."""
    return f"{run.protocol} {run}.log".replace(" ", "_")


def minutes(seconds: float) -> str:
    """Return seconds as m:ss, or h:mm:ss."""
    minute, second = divmod(round(seconds), 60)
    hour, minute = divmod(minute, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"
