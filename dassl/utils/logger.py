"""Standard output, copied to a log file."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import IO, TextIO

from .tools import mkdir_if_missing

__all__ = ["Logger", "setup_logger"]


class Logger:
    """A text stream that writes to the console and to a file.

    The file is written line by line, so that a killed process leaves all lines it printed. A
    console that goes away (a closed pipe or terminal) is done without: the run goes on.

    Args:
        fpath: the log file; None writes to the console only, until `open` names one.
        append: continue an existing file instead of replacing it.
        keeps: remember what is written while there is no file, for `open`.
        shows: write to the console as well; `show` always does.
    """

    def __init__(
        self,
        fpath: str | None = None,
        append: bool = False,
        *,
        keeps: bool = False,
        shows: bool = True,
    ):
        # A logger on top of a logger would write every line to the older file too.
        self.console: TextIO = sys.stdout.console if isinstance(sys.stdout, Logger) else sys.stdout
        self.file: IO[str] | None = None
        self._kept: list[str] | None = [] if keeps else None
        self._shows = shows
        if fpath is not None:
            self.open(fpath, append)

    def open(self, fpath: str, append: bool = False) -> None:
        """Write to a file from now on, first what was kept for it.

        Raises:
            OSError: it cannot be written.
        """
        mkdir_if_missing(os.path.dirname(fpath))
        mode = "a" if append else "w"
        self.file = open(  # noqa: SIM115
            fpath, mode, buffering=1, encoding="utf-8", errors="backslashreplace"
        )
        kept, self._kept = self._kept, None
        with self._named():
            self.file.write("".join(kept or ()))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say in errors of the system which file it is."""
        try:
            yield
        except OSError as error:
            if self.file is not None:
                error.filename = error.filename or self.file.name
            raise

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, msg: str) -> int:
        """Write ``msg`` to both.

        Raises:
            OSError: the file cannot be written (a full disk).
        """
        if self.file is not None:
            with self._named():
                self.file.write(msg)
        elif self._kept is not None:
            self._kept.append(msg)
        if self._shows:
            self.show(msg)
        return len(msg)

    def show(self, msg: str) -> None:
        """Write ``msg`` to the console only, if it is still there; lines appear at once."""
        try:
            self.console.write(msg)
            if msg.endswith("\n"):
                self.console.flush()
        except UnicodeEncodeError:
            encoding = self.console.encoding or "ascii"
            self.console.write(msg.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: a stream that was closed
            self._shows = False

    def flush(self) -> None:
        """Flush both."""
        try:
            self.console.flush()
        except (OSError, ValueError):
            self._shows = False
        if self.file is not None:
            with self._named():
                self.file.flush()

    def close(self) -> None:
        """Close the file. The console belongs to the process and stays open."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk, which writing has told already
                self.file.close()
            self.file = None

    def isatty(self) -> bool:
        """Return whether the console is a terminal."""
        return self.console.isatty()

    def fileno(self) -> int:
        """Return the console's file descriptor."""
        return self.console.fileno()

    @property
    def encoding(self) -> str:
        """The console's encoding."""
        return self.console.encoding


def setup_logger(output: str | None = None, append: bool = False) -> None:
    """Copy everything printed from now on to a log file.

    Args:
        output: a folder (the file is ``log.txt`` in it), or a path ending in .txt or .log. None
            does nothing.
        append: if the log exists, continue it. By default it is left alone, and the new one gets
            the date and time added to its name.
    """
    if output is None:
        return
    fpath = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(fpath) and not append:
        fpath += time.strftime("-%Y-%m-%d-%H-%M-%S")
    current = sys.stdout
    if isinstance(current, Logger) and current.file is None:
        current.open(fpath, append)
    else:
        sys.stdout = Logger(fpath, append=append)
