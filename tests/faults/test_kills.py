"""A few killed trainings end as undisturbed ones do; ANPROMPT_KILLS=100 tries that many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUNS = int(os.environ.get("ANPROMPT_KILLS", "4"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="trainings are forked")
def test_killed_trainings_end_bit_for_bit_as_undisturbed_ones(tmp_path):
    program = [sys.executable, str(ROOT / "tests/faults/kills.py"), "--runs", str(RUNS)]
    done = subprocess.run([*program, "--work", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["runs"] == counts["identical"] == RUNS
    assert counts["deaths"] > 0
