"""The one boundary of commands: errors, interruptions, streams that fail."""

import errno
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from common import cli
from common.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds


def run(main, capsys):
    status = cli.run(main, "tool", ["argument"])
    return status, capsys.readouterr().err


def raising(error):
    def main(arguments):
        assert arguments == ["argument"]
        raise error

    return main


def test_the_status_is_the_commands(capsys):
    assert run(lambda arguments: 1, capsys) == (1, "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("no such\n  class"), "tool: error: no such class\n"),
        (FileNotFoundError(2, "No such file or directory", "a.json"),
         "tool: error: a.json: No such file or directory\n"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "tool: error: a/b: Not a directory\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"),
         "tool: error: x: No space left on device\n"),
        (UsageError(f"no class {'y' * 5000}"),
         f"tool: error: no class {'y' * 198}...{'y' * 198}\n"),
        (ModuleNotFoundError("No module named 'yacs'", name="yacs"),
         f"tool: error: no package 'yacs' in {sys.executable}; bash scripts/setup.sh makes .venv "
         "with it, then: source .venv/bin/activate\n"),
        (ModuleNotFoundError("No module named 'einops'", name="einops"),
         f"tool: error: no package 'einops' in {sys.executable}; install it there\n"),
        (ModuleNotFoundError("No module named 'torch.not_there'", name="torch.not_there"),
         f"tool: error: no module 'torch.not_there' in the 'torch' of {sys.executable}; see its "
         "version\n"),
        (UsageError("y " * 5000), f"tool: error: {('y ' * 499)}...{' y' * 499}\n"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(error, line, capsys, monkeypatch):
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    assert run(raising(error), capsys) == (2, line)
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(type(error)):
        run(raising(error), capsys)


def test_needed_packages_are_those_of_the_requirements():
    lines = (cli.ROOT / "requirements.txt").read_text("utf-8").splitlines()
    required = {re.split("[>=<# ]", line)[0] for line in lines} - {""}
    installed = metadata.packages_distributions()
    of_needed = {name for module in cli.NEEDED for name in installed[module]}

    def plain(names):
        return {re.sub("[-_.]+", "-", name).lower() for name in names}

    assert plain(of_needed) == plain(required)


@pytest.mark.parametrize("name", ["common.gone", "train", None])
def test_a_module_of_its_own_that_is_missing_is_a_bug(name, capsys):
    with pytest.raises(ModuleNotFoundError):
        run(raising(ModuleNotFoundError("No module", name=name)), capsys)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), RecursionError()])
def test_a_bug_keeps_its_traceback(error, capsys):
    with pytest.raises(type(error)):
        run(raising(error), capsys)


KILLED_READER = """
import os, signal, sys, time
from torch.utils.data import Dataset
from common import cli
from common.image_loader import ImageLoader

class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:  # as the kernel does where memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        return index

def main(argv):
    return sum(len(batch) for batch in ImageLoader(Images(), num_workers=1))

sys.exit(cli.run(main, "train.py", [], interrupted="the same command goes on"))
"""


@pytest.mark.slow
def test_a_reader_of_images_that_is_killed_is_one_line():
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_READER], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "train.py: error: a process that reads images was ended from outside, as when memory runs "
        "out (fewer of them: DATALOADER.NUM_WORKERS); the same command goes on\n"
    )


def test_interrupted(capsys):
    before = signal.getsignal(signal.SIGINT)
    status, err = run(raising(KeyboardInterrupt()), capsys)
    assert (status, err) == (130, "tool: interrupted; the same command goes on from here\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_nobody_listens_to_the_error(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Closed())
    assert cli.run(raising(UsageError("x")), "tool", ["argument"]) == 2


STUBBORN = """
import sys, time
from common import cli

def main(arguments):
    try:
        print("started", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:  # as a library in the middle of being imported may
        print("swallowed", flush=True)
        time.sleep(600)

cli.leave(cli.run(main, "tool", []))
"""


def check_one_line(program, *lines, pause=0.0):
    """Interrupt a program at each line it prints; it ends, and says so once."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for said in lines:
        assert process.stdout.readline() == said
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == "tool: interrupted; the same command goes on from here\n"


def test_a_second_interrupt_ends_the_process_in_one_line():
    check_one_line(STUBBORN, "started\n", "swallowed\n", pause=0.05)


LINGERING = """
import sys, time
from common import cli

class Slow:  # stderr of one who reads slowly, as the second Ctrl-C comes
    def write(self, text):
        print("saying", flush=True)
        time.sleep(0.5)
        return sys.__stderr__.write(text)
    def flush(self):
        sys.__stderr__.flush()

def main(arguments):
    sys.stderr = Slow()
    print("started", flush=True)
    time.sleep(600)

cli.leave(cli.run(main, "tool", []))
"""


def test_an_interruption_is_said_once_however_often_it_comes():
    check_one_line(LINGERING, "started\n", "saying\n")


SPEAKS = """
import sys
from common import cli

def main(arguments):
    print("круг")
    print("квадрат", file=sys.stderr)
    return 0

cli.leave(cli.run(main, "tool", []))
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed):
    done = subprocess.run(
        f'{sys.executable} -c "$CODE" {closed}', shell=True, cwd=ROOT, capture_output=True,
        env={**os.environ, "CODE": SPEAKS, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_streams_of_other_encodings(encoding):
    done = subprocess.run(
        [sys.executable, "-c", SPEAKS], cwd=ROOT, capture_output=True, timeout=PATIENCE,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.decode(encoding).startswith("\\u043a\\u0440")


def test_messages_are_shown_for_a_while(capsys):
    logger = logging.getLogger("noise.for_this_test")
    with cli.shown_messages("noise"):
        logger.info("%s are made", "descriptions")
        logger.debug("details")
        logging.getLogger("somebody.elses").info("theirs")
    logger.info("silent again")
    assert capsys.readouterr().out == "descriptions are made\n"
