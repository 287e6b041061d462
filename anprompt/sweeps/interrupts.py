"""What tells a sweep to end, taken up where no run is half started."""

import contextlib
import signal
import time
from collections.abc import Iterator

_state = {"last": 0.0, "is_held": False, "is_pending": False}


def end_on_signals() -> None:
    """However this process is told to end, the runs are to end with it.

    Also by SIGINT, which what a shell starts in the background ignores. One Ctrl-C may arrive
    several times, from the terminal and from a script: within two seconds they are one.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and (name == "SIGINT" or signal.getsignal(number) != signal.SIG_IGN):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    if time.monotonic() - _state["last"] <= 2:
        return
    _state["last"] = time.monotonic()
    if _state["is_held"]:
        _state["is_pending"] = True
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Take up what tells to end behind the block: a run that starts is known when it is ended.

    Blocking the signals instead would hand the block down to the run.
    """
    _state["is_held"] = True
    try:
        yield
    finally:
        _state["is_held"] = False
        if _state["is_pending"]:
            _state["is_pending"] = False
            raise KeyboardInterrupt
