"""Some damaged folders are refused or change nothing; ANPROMPT_DAMAGE=300 tries that many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = int(os.environ.get("ANPROMPT_DAMAGE", "20"))


@pytest.mark.slow
def test_damage_is_refused_or_changes_nothing():
    program = [sys.executable, str(ROOT / "tests/faults/damage.py"), "--attempts", str(ATTEMPTS)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert sum(counts.values()) == ATTEMPTS
    assert set(counts) <= {"refused", "unchanged", "told"} and counts["refused"] > 0
