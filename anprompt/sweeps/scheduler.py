"""Running many runs side by side: a process and a log each, one line when it ends."""

import os
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anprompt.protocols.environment import BUNDLED, Environment
from anprompt.protocols.plan import RunSpec
from anprompt.runs.recorded import RESULTS, read_results
from anprompt.sweeps.costs import Costs, side_by_side
from anprompt.sweeps.interrupts import held
from anprompt.sweeps.processes import Process, is_on_another_machine, stop
from anprompt.sweeps.work import WorkQueue

LOOK_SECONDS = 0.5  # between looks at what runs, and at runs that another process has
ROOM = 1 << 20  # bytes that must be free on a disk that is not called full
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


class Sweep:
    """Runs what is not finished, one run a slot, and says how it went.

    Args:
        runs: in the order in which they start.
        environment: where data and results are.
        options: KEY VALUE settings for all runs.
        finished: the results of those that are.
        slots: where runs go side by side.
        costs: what runs are expected to take; those that end are noted there.
        longest_first: whether long runs start before short ones, rather than in the order given.
        note: told when a run starts (status None) and ends, and what its status is; why says more.
    """

    def __init__(
        self,
        runs: Sequence[RunSpec],
        environment: Environment,
        options: Sequence[str] = (),
        *,
        finished: Mapping[RunSpec, Mapping[str, Any]] | None = None,
        slots: Sequence[Slot] = (Slot(),),
        costs: Costs | None = None,
        longest_first: bool = False,
        note: Callable[[RunSpec, int | None, str], None] = lambda run, status, why: None,
    ):
        self.runs, self.environment, self.options = list(runs), environment, list(options)
        self.finished = finished or {}
        self.costs = costs or Costs(options=options)
        self.note = note
        missing = [run for run in self.runs if run not in self.finished]
        self.waiting = WorkQueue(missing, self.costs.seconds if longest_first else None)
        self.free = list(reversed(slots))
        self.n_slots = len(slots)
        self.running: dict[Process, tuple[Slot, object]] = {}  # with its results before
        self.ended: queue.Queue[Process] = queue.Queue()
        self.done: set[RunSpec] = set()
        self.failed: dict[RunSpec, str] = {}  # and why
        self.elsewhere: set[RunSpec] = set()  # found running in another process
        self.began = self.said = time.monotonic()
        self.width = max(map(len, map(str, self.runs)), default=0)
        self.is_terminal = sys.stdout.isatty()

    def go(self) -> int:
        """Run all runs; return the exit status, 1 if any failed."""
        for run, results in self.finished.items():
            self.done.add(run)
            self._line(run, f"{results['accuracy']:5.1f}%  earlier")
        try:
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
        except BaseException:  # a full disk, a closed pipe: no run goes on unseen
            stop(list(self.running))
            raise
        if not self.failed:
            return 0
        print(f"{len(self.failed)} of {len(self.runs)} runs failed:")
        for run, reason in self.failed.items():
            print(f"    {run}: {reason}")
        return 1

    def _start_what_can(self) -> list[RunSpec]:
        """Fill the free slots; return runs that another process has."""
        blocked: list[RunSpec] = []
        while self.free and (run := self.waiting.take()) is not None:
            if is_on_another_machine(run, self.environment):
                blocked.append(run)
                self._note_elsewhere(run)
                continue
            slot = self.free[-1]
            version = self._results_version(run)
            command = self.environment.command(run, self.options)
            variables = {**os.environ, **slot.environment}
            try:
                with held():
                    process = Process(run, log_file(run, self.environment), command, variables)
                    self.running[process] = self.free.pop(), version
            except BlockingIOError:
                blocked.append(run)
                self._note_elsewhere(run)
                continue
            self.note(run, None, "")
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
        if status and is_on_another_machine(run, self.environment):
            # Two machines began it, and this one was later.
            self._note_elsewhere(run)
            self.waiting.put_back(run)
            return
        if status:
            full = "; the disk of OUTPUT is full" if self._is_disk_full() else ""
            self._note_failure(run, status, f"status {status}, see {process.log}{full}")
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
            self.costs.learn(run, took)
        self.waiting.done(run)
        self.note(run, 0, "")
        self._note_done(run, f"{result}  {duration:>7}")

    def _is_disk_full(self) -> bool:
        """Return whether logs may lack the reason of a failure, as there was no room for it."""
        try:
            return shutil.disk_usage(self.environment.output).free < ROOM
        except OSError:
            return False

    def _results_version(self, run: RunSpec) -> object:
        """Return what changes when a run's results are written; None where there are none."""
        try:
            stat = os.stat(Path(run.folder(self.environment.output)) / RESULTS)
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _note_done(self, run: RunSpec, how: str) -> None:
        self.done.add(run)
        left = self._seconds_left() if self.costs.n_known else 0.0
        rest = f", about {minutes(left)} left" if left else ""
        self._line(run, f"{how}  (elapsed {minutes(time.monotonic() - self.began)}{rest})")

    def _seconds_left(self) -> float:
        """Return what the runs that wait and the rest of those that run are expected to take."""
        now = time.monotonic()
        seconds = [self.costs.seconds(run) for run in self.waiting]
        seconds += [
            max(self.costs.seconds(process.run) - (now - process.began), 1.0)
            for process in self.running
        ]
        return side_by_side(seconds, self.n_slots)

    def _note_failure(self, run: RunSpec, status: int, reason: str) -> None:
        self.failed[run] = reason
        self.note(run, status, reason)
        self._line(run, f"failed: {reason}")
        for test in self.waiting.failed(run):
            self._note_failure(test, status, "its training failed")

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
            f"{process.run} {epoch_in(process.printed(last=4096))}{minutes(now - process.began)}"
            for process in self.running
        )
        if self.is_terminal:
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
            print(f"\r\033[K{f'running: {names}'[: columns - 1]}", end="", flush=True)
        else:
            print(f"running: {names}", flush=True)


def epoch_in(printed: str) -> str:
    """Return the last epoch that a training printed, as ``3/50 ``; "" where it printed none."""
    epochs = EPOCH.findall(printed)
    return "{}/{} ".format(*epochs[-1]) if epochs else ""


def log_file(run: RunSpec, environment: Environment) -> Path:
    """Return the file that a run of a sweep prints to."""
    backbone = "" if run.backbone == BUNDLED else f" {run.backbone}"
    name = re.sub(r"[^\w.+-]+", "_", f"{run.protocol} {run}{backbone}.log")
    return Path(environment.output) / "logs" / name


def minutes(seconds: float) -> str:
    """Return seconds as m:ss, or h:mm:ss."""
    minute, second = divmod(round(seconds), 60)
    hour, minute = divmod(minute, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"
