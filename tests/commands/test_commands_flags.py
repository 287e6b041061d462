"""A misspelt flag is answered in one line, exit status 2, by every command."""

import subprocess
import sys
from pathlib import Path

import pytest

import parse_test_res
import train
from anprompt.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"run"}))
def test_a_misspelt_flag(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--no-such-flag"])
    printed = capsys.readouterr()
    assert end.value.code == 2 and not printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith(f"anprompt {command}: error: ") and "--help" in line


def test_run_has_words_and_no_flags(capsys):
    assert main(["run", "--no-such-flag"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("anprompt run: error: ") and "no-such-flag" in line


@pytest.mark.parametrize("module", [train, parse_test_res])
def test_a_misspelt_flag_of_a_script(module, capsys):
    with pytest.raises(SystemExit) as end:
        module.main(["--no-such-flag"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and "error: " in line and "--help" in line


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help(command, capsys):
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as end:
        assert end.code == 0
    printed = capsys.readouterr()
    assert f"anprompt {command}" in printed.out and not printed.err


def test_commands_are_listed_and_misspelt_ones_answered(capsys):
    assert main(["--help"]) == 0
    assert all(f"  {name} " in capsys.readouterr().out for name in ["sweep"])
    assert main(["sweeep"]) == 2
    assert "did you mean sweep?" in capsys.readouterr().err


def test_as_a_program():
    ran = subprocess.run(
        [sys.executable, "-m", "anprompt", "sweep", "--no-such-flag"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 2 and not ran.stdout
    assert ran.stderr.startswith("anprompt sweep: error: ")
