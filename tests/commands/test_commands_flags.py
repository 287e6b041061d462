"""A misspelt flag is answered in one line, exit status 2, by every command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    path.relative_to(ROOT)
    for folder in (ROOT, ROOT / "tools")
    for path in folder.glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


def test_the_commands_are_found():
    assert {path.name for path in COMMANDS} >= {"train.py", "sweep.py", "results.py", "predict.py"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_misspelt_flag(command):
    ran = subprocess.run(
        [sys.executable, str(ROOT / command), "--no-such-flag"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 2 and not ran.stdout
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"{command.name}: error: ") and "--help" in line
