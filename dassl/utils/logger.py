"""Standard output, copied to a log file."""

import os
import sys
import time
from typing import TextIO

from .tools import mkdir_if_missing

__all__ = ["Logger", "setup_logger"]


class Logger:
    """A text stream that writes to the console and to a file.

    The file is written line by line, so that a killed process leaves all lines it printed.

    Args:
        fpath: the log file; None writes to the console only.
        append: continue an existing file instead of replacing it.
    """

    def __init__(self, fpath: str | None = None, append: bool = False):
        # A logger on top of a logger would write every line to the older file too.
        self.console: TextIO = sys.stdout.console if isinstance(sys.stdout, Logger) else sys.stdout
        self.file: TextIO | None = None
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath))
            mode = "a" if append else "w"
            self.file = open(fpath, mode, buffering=1, encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, msg: str) -> int:
        """Write ``msg`` to both."""
        if self.file is not None:
            self.file.write(msg)
        return self.console.write(msg)

    def flush(self) -> None:
        """Flush both."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Close the file. The console belongs to the process and stays open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def isatty(self) -> bool:
        """Whether the console is a terminal."""
        return self.console.isatty()

    def fileno(self) -> int:
        """The console's file descriptor."""
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
    sys.stdout = Logger(fpath, append=append)
