"""scripts/anprompt/reproduce.sh: sweep, then table; with a stand-in for Python."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands for python: notes the tools that are called; the sweep ends as asked, or waits to be told.
STAND_IN = """#!/usr/bin/env bash
case "$1" in
  */tools/*) echo "$(basename "$1") ${*:2} | $OUTPUT $BACKBONE" >> "$CALLS" ;;
esac
case "$1" in
  */sweep.py)
    trap 'echo stopped >> "$CALLS"; exit 130' TERM
    if [ -n "${HANG:-}" ]; then for _ in {1..600}; do sleep 0.1; done; fi
    exit "${STATUS:-0}" ;;
esac
"""


def heed_interrupts() -> None:
    """A job in the background of a shell ignores SIGINT, and so do its children: as in CI."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path):
    """Starts reproduce.sh; ``.noted()`` is what was called so far."""
    python = tmp_path / "env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def go(*arguments: str, **environment: str) -> subprocess.Popen:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = subprocess.Popen(
            ["bash", str(ROOT / "scripts/anprompt/reproduce.sh"), *arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**kept, "CALLS": str(calls), "VIRTUAL_ENV": str(tmp_path / "env"), "OUTPUT": "out",
                 **environment},
            preexec_fn=heed_interrupts,
        )  # fmt: skip
        process.noted = lambda: calls.read_text().splitlines()
        return process

    return go


def test_runs_what_is_missing_then_makes_the_table(start):
    given = ["--methods", "coop", "--seeds", "1", "--", "OPTIM.MAX_EPOCH", "1"]
    process = start("crossdata", *given, BACKBONE="ViT-B/16")
    assert process.wait(60) == 0
    assert process.noted() == [
        f"sweep.py crossdata {' '.join(given)} | out ViT-B/16",
        "results.py out --protocol crossdata --output out/crossdata.md | out ViT-B/16",
    ]


@pytest.mark.parametrize("status, tools", [(1, 2), (2, 1), (130, 1)])
def test_failed_runs_leave_gaps_and_an_interruption_leaves_no_table(status, tools, start):
    process = start("fewshot", STATUS=str(status))
    assert process.wait(60) == status
    assert len(process.noted()) == tools


def test_a_dry_run_makes_no_table(start):
    process = start("base2new", DRY_RUN="1")
    assert process.wait(60) == 0
    assert process.noted() == ["sweep.py base2new | out small"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_script_ends_the_sweep(number, start):
    process = start("base2new", HANG="1")
    deadline = time.monotonic() + 60
    while not process.noted() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert process.noted()[1:] == ["stopped"]
