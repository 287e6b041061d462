"""Who has a folder, across machines: a file that its process touches while it lives.

Locks of the operating system hold between processes of one machine. On shared disks (NFS) they may
or may not hold between machines, and nothing says which. A claim needs neither: creating a file
that must not exist is atomic there too, and what lives touches it. Times are those of the file
server: clocks of machines may differ.
"""

import _thread
import contextlib
import functools
import os
import platform
import re
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .files import temporary_name

BEAT_SECONDS = 15.0  # between touches
SILENCE_SECONDS = 120.0  # without one its process counts as dead; NFS may show times a minute late
LOOK_SECONDS = 1.0

_beating: set["Claim"] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class _Seen:
    """A claim as it is found: what it says and when it was touched."""

    text: str
    touched: float

    @property
    def is_of_this_machine(self) -> bool:
        return self.text.split(" (")[-1].rstrip(")\n") == _machine()

    @property
    def holder(self) -> str:
        """The process and its machine, in words."""
        match = re.match(r"process \d+ on [^\n(]{1,200}", self.text)
        return match[0].strip() if match else "an unknown process"


class Claim:
    """A file that says which process has a folder, on which machine.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.text = f"process {os.getpid()} on {platform.node()} ({_machine()})\n"
        self._owner = os.getpid()

    def take(self, *, has_lock: bool = True) -> None:
        """Create the file.

        What a process of this machine left is replaced at once, what one of another machine left
        once it has been silent for long enough: that is waited for, and said.

        Args:
            has_lock: the caller holds a lock that keeps processes of this machine apart; otherwise
                they are taken for those of another.

        Raises:
            UsageError: another process has the folder and lives.
            OSError: the file cannot be written.
        """
        first: _Seen | None = None
        began = time.monotonic()
        while not self._create():
            seen = _look(self.path)
            if seen is None:
                continue
            if first is not None and seen != first:  # it was touched, or taken by another
                raise UsageError(
                    f"{self.path.parent} is in use by another process ({seen.holder}); wait for "
                    "it, or name another folder"
                )
            waited = time.monotonic() - began
            is_left = has_lock and seen.is_of_this_machine
            if is_left or waited > SILENCE_SECONDS or _is_silent(self.path, seen):
                self._set_aside(seen)
                first = None
                continue
            if first is None:
                first = seen
                print(f"{self.path.parent}: waiting to see whether {seen.holder} lives", flush=True)
            time.sleep(LOOK_SECONDS)
        with _lock:
            _beating.add(self)
        _start_beating()

    def give_back(self) -> None:
        """Remove the file; does nothing where it is not this process's."""
        with _lock:
            _beating.discard(self)  # a beat that is under way has ended
        if self._owner == os.getpid() and (seen := _look(self.path)) and seen.text == self.text:
            with contextlib.suppress(OSError):
                os.remove(self.path)

    def beat(self) -> bool:
        """Touch the file; return False where another process has taken it."""
        seen = _look(self.path)
        if seen is None:  # somebody has removed it
            return self._create()
        if seen.text != self.text:
            return not seen.text  # being written
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return True

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(self.text)
        except OSError as error:  # a full disk
            os.remove(self.path)
            error.filename = str(self.path)
            raise
        return True

    def _set_aside(self, seen: _Seen) -> None:
        """Remove a claim of the dead, unless another process was faster and this is its new one."""
        if _look(self.path) != seen:  # another process was faster
            return
        aside = temporary_name(self.path)  # goes with the abandoned files if this is killed
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            moved = _look(Path(aside))
            if moved is not None and moved.text != seen.text:
                with contextlib.suppress(OSError):
                    os.link(aside, self.path)
            os.remove(aside)


def holder_elsewhere(path: Path) -> str:
    """Return which process of another machine has a claim and has not been silent; "" for none."""
    seen = _look(path)
    if seen is None or seen.is_of_this_machine or _is_silent(path, seen):
        return ""
    return seen.holder


def _look(path: Path) -> _Seen | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # opening asks the server
            return _Seen(file.read(1000), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return None


def _is_silent(path: Path, seen: _Seen) -> bool:
    now = time.time()
    # What may not be written to is only looked at: this machine's clock will do.
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=path.parent) as file:
        file.write(b".")
        file.flush()
        now = os.fstat(file.fileno()).st_mtime
    return now - seen.touched > SILENCE_SECONDS


@functools.cache
def _machine() -> str:
    """Return what tells this machine, since it was started, from others of its name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "-"
    return f"{platform.node()} {boot}"


def _start_beating() -> None:
    for thread in threading.enumerate():
        if thread.name == "claims":
            return
    threading.Thread(target=_beat, name="claims", daemon=True).start()


def _beat() -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        with _lock:
            claims = list(_beating)
        for claim in claims:
            try:
                with _lock:  # not between `give_back` and the file's removal, nor after it
                    is_ours = claim not in _beating or claim.beat()
            except OSError:  # the server is away: nobody else can claim the folder either
                continue
            if not is_ours and claim in _beating:
                print(f"{claim.path.parent} was taken by another process: ending", flush=True)
                _interrupt_main()
                return


def _interrupt_main() -> None:
    """Do what Ctrl-C does, also where the main thread waits for a file."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
