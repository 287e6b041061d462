"""One run's process: in a session of its own, with a log that only one process may write to."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from common.claim import holder_elsewhere
from common.lock import CLAIM, LOCK

try:
    import fcntl
except (
    ImportError
):  # Windows: nothing keeps a second sweep from starting the same run; train.py does
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
STOP_SECONDS = 15  # how long an interrupted run may take to end


class Process:
    """A run's process.

    The log's lock is the run's: it is held until the last process of the run has ended, so a sweep
    beside this one, or a run that outlived a sweep that was killed, is waited for.

    Attributes:
        run: what runs.
        log: where it prints.
        began: when it was started, in seconds of ``time.monotonic``.

    Raises:
        BlockingIOError: a process is running it already.
    """

    def __init__(
        self, run: RunSpec, log: Path, command: Sequence[str], environment: Mapping[str, str]
    ):
        self.run, self.log = run, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._start = file.tell()
            self.began = time.monotonic()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        return self._process.wait(timeout)

    def printed(self, last: int | None = None) -> str:
        """Return what it has printed, or the ``last`` bytes of it."""
        with open(self.log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(self._start if last is None else max(self._start, end - last))
            return file.read().decode("utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the process and to what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            elif number == signal.SIGINT:
                self._process.terminate()
            else:
                self._process.kill()


def stop(processes: Sequence[Process]) -> None:
    """End runs as Ctrl-C would; by force those that take too long."""
    for process in processes:
        process.signal(signal.SIGINT)
    try:
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)
    for process in processes:
        process.signal(kill)  # also what outlived it
        process.wait()
    deadline = time.monotonic() + STOP_SECONDS
    while any(is_held(process.log) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)  # until what was killed has let go


def is_held(log: Path) -> bool:
    """Return whether a process of this machine is writing to a run's log."""
    if fcntl is None:
        return False
    with open(log, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_on_another_machine(run: RunSpec, environment: Environment) -> bool:
    """Return whether a process of another machine has a run's folder, and lives."""
    folder = Path(run.folder(environment.output))
    return bool(holder_elsewhere(folder / f"{LOCK}{CLAIM}"))


def tail(log: Path, size: int = 4096) -> str:
    """Return the last bytes of a log as text."""
    with open(log, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
        return file.read().decode("utf-8", errors="replace")


def about_locks() -> str:
    """Return a line for systems without file locks; "" elsewhere."""
    if HAS_LOCKS:
        return ""
    return f"{sys.platform}: no file locks here; do not start two sweeps of the same runs"
