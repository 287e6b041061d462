"""Command lines: one parser, and one place where bad input becomes one line."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from common.errors import UsageError, one_line

TRACEBACK = "ANPROMPT_TRACEBACK"  # set it to see where a message comes from


class CommandParser(argparse.ArgumentParser):
    """argparse, with misspelt flags answered in one line as all bad input is."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the flags are listed; exit status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def run(
    main: Callable[[list[str]], int],
    name: str,
    argv: Sequence[str] | None = None,
    interrupted: str = "the same command goes on from here",
) -> int:
    """Run a command and return its exit status.

    ``UsageError`` and ``OSError`` (a file that is missing, unreadable, in the wrong place; a full
    disk) are bad input: one line on stderr, exit status 2. Ctrl-C is 130. A reader that goes away
    (``| head``) is no error. Anything else is a bug and keeps its traceback. With
    ``ANPROMPT_TRACEBACK=1`` bad input shows its traceback too.

    Args:
        main: takes the arguments, returns the exit status.
        name: what messages begin with.
        argv: the arguments; ``sys.argv[1:]`` where left out.
        interrupted: what Ctrl-C is answered with.
    """
    prepare_streams()
    try:
        status = main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        discard_output()
        return 0
    except (UsageError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130


def prepare_streams() -> None:
    """Make stdout and stderr take any text: what their encoding lacks is written as ``\\xNN``.

    A stream that was closed before the start (``>&-``) is replaced by one that discards.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Point stdout at nothing, so that flushing it at exit does not fail once more."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
