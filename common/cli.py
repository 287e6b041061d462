"""Command lines: one parser, and one place where bad input becomes one line."""

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from common.errors import DEAD_WORKER, UsageError, one_line
from common.paths import ROOT

TRACEBACK = "ANPROMPT_TRACEBACK"  # set it to see where a message comes from
# What the packages of requirements.txt are imported as.
NEEDED = {
    "PIL", "gdown", "huggingface_hub", "jinja2", "matplotlib", "numpy", "open_clip", "safetensors",
    "scipy", "sklearn", "tabulate", "tensorboard", "threadpoolctl", "torch", "torchvision", "tqdm",
    "yacs", "yaml",
}  # fmt: skip


class CommandParser(argparse.ArgumentParser):
    """argparse, with misspelt flags answered in one line as all bad input is.

    Descriptions keep their lines. A path is never empty: ``"$UNSET"`` would be the current folder.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the flags are listed; exit status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("an empty path; is a variable not set?")
    return Path(text)


def run(
    main: Callable[[list[str]], int],
    name: str,
    argv: Sequence[str] | None = None,
    interrupted: str = "the same command goes on from here",
) -> int:
    """Run a command and return its exit status.

    ``UsageError`` and ``OSError`` (a file that is missing, unreadable, in the wrong place; a full
    disk) are bad input: one line on stderr, exit status 2. Ctrl-C is 130; a second one ends the
    process at once. A reader that goes away (``| head``) is no error. Anything else is a bug and
    keeps its traceback, but for a package that is not installed and for the death of a process that
    reads images. With ``ANPROMPT_TRACEBACK=1`` all that shows its traceback too.

    Args:
        main: takes the arguments, returns the exit status.
        name: what messages begin with.
        argv: the arguments; ``sys.argv[1:]`` where left out.
        interrupted: what Ctrl-C is answered with.
    """
    prepare_streams()
    goodbye = f"{name}: interrupted; {interrupted}"
    with _second_interrupt_ends(goodbye) as ignore_further:
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
            _say(f"{name}: error: {one_line(error)}")
            return 2
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if os.environ.get(TRACEBACK) or not package or _is_own(package):
                raise
            _say(f"{name}: error: {_missing(str(error.name), package)}")
            return 2
        except RuntimeError as error:  # raised wherever the main process is just then
            if os.environ.get(TRACEBACK) or not str(error).startswith(DEAD_WORKER):
                raise
            _say(
                f"{name}: error: a process that reads images was ended from outside, as when "
                f"memory runs out (fewer of them: DATALOADER.NUM_WORKERS); {interrupted}"
            )
            return 2
        except KeyboardInterrupt:
            ignore_further()  # the line is said once
            _say(goodbye)
            return 130


def _is_own(package: str) -> bool:
    return any((ROOT / name).exists() for name in (package, f"{package}.py"))


def _missing(module: str, package: str) -> str:
    """Return what to say of a module that is not there, and what to do."""
    if module != package:
        return f"no module {module!r} in the {package!r} of {sys.executable}; see its version"
    if module in NEEDED:
        fix = "bash scripts/setup.sh makes .venv with it, then: source .venv/bin/activate"
    else:
        fix = "install it there"
    return f"no package {module!r} in {sys.executable}; {fix}"


def _say(line: str) -> None:
    """Print a line on stderr, if anybody listens."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _second_interrupt_ends(goodbye: str) -> Iterator[Callable[[], None]]:
    """Let the first Ctrl-C be a ``KeyboardInterrupt`` and each further one end the process.

    The first may come while a library is imported, which passes it on late or not at all; a second
    one while the first is dealt with would end in a traceback.

    Yields:
        What makes further ones have no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    count = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            os.write(2, f"{goodbye}\n".encode(errors="backslashreplace"))
        os._exit(130)

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield ignore
    finally:
        signal.signal(signal.SIGINT, before)


def leave(status: int) -> NoReturn:
    """End the process with the status of `run`; what is left to do takes no further Ctrl-C."""
    if status == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


class _Printed(logging.Handler):
    """Prints messages on what stdout is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record))


@contextlib.contextmanager
def shown_messages(*packages: str) -> Iterator[None]:
    """Print what packages log (level info and above) as lines on stdout while the block runs."""
    handler = _Printed(logging.INFO)
    loggers = [logging.getLogger(package) for package in packages]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


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
