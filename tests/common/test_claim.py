"""Folders on shared disks: machines that do not see each other's locks.

A machine is a process with a host name of its own, in which the operating system's locks exclude
nobody.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import claim
from common.claim import Claim, holder_elsewhere
from common.files import remove_abandoned
from common.lock import CLAIM, LOCK, FolderLock

ROOT = Path(__file__).resolve().parents[2]
MACHINE = """
import errno, platform, sys
platform.node = lambda: sys.argv[1]
from common import claim, lock
claim.BEAT_SECONDS, claim.SILENCE_SECONDS, claim.LOOK_SECONDS = 0.1, float(sys.argv[3]), 0.05
def no_lock(descriptor):
    if sys.argv[4] == "none":
        raise OSError(errno.ENOLCK, "no locks available")
lock._lock = no_lock
held = lock.FolderLock(sys.argv[2])
try:
    held.acquire()
except ValueError as error:
    sys.exit(str(error))
print("held", flush=True)
try:
    sys.stdin.read()
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
held.release()
"""


def machine(
    name: str, folder: Path, silence: float = 60, locks: str = "of its own"
) -> subprocess.Popen:
    """Start a machine that takes a folder and holds it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", MACHINE, name, str(folder), str(silence), locks],
        text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def says(process: subprocess.Popen, expected: str) -> None:
    """Wait for a line."""
    assert process.stdout is not None
    for line in process.stdout:
        if expected in line:
            return
    raise AssertionError(process.communicate()[1])


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, error = process.communicate("", timeout=60)
    return process.returncode, error.strip()


def test_a_second_machine_is_refused_while_the_first_lives(tmp_path):
    first = machine("node-a", tmp_path)
    says(first, "held")
    second = machine("node-b", tmp_path)
    status, error = end(second)
    assert status == 1
    assert error == (
        f"{tmp_path} is in use by another process (process {first.pid} on node-a); wait for it, "
        "or name another folder"
    )
    assert "node-a" in holder_elsewhere(tmp_path / f"{LOCK}{CLAIM}")
    assert end(first) == (0, "")
    assert holder_elsewhere(tmp_path / f"{LOCK}{CLAIM}") == ""
    assert end(machine("node-b", tmp_path)) == (0, "")


def test_where_a_file_system_has_no_locks_processes_of_one_machine_are_kept_apart(tmp_path):
    first = machine("node-a", tmp_path, locks="none")
    says(first, "held")
    status, error = end(machine("node-a", tmp_path, locks="none"))
    assert status == 1 and f"in use by another process (process {first.pid} on node-a)" in error
    assert end(first) == (0, "")


def test_the_folder_of_a_machine_that_died_is_taken_once_it_is_silent(tmp_path):
    first = machine("node-a", tmp_path)
    says(first, "held")
    first.send_signal(signal.SIGKILL)
    first.wait()
    later = time.time() + 60  # the second is not to find it silent already, however late it starts
    os.utime(tmp_path / f"{LOCK}{CLAIM}", (later, later))
    second = machine("node-b", tmp_path, silence=1)
    says(second, "waiting to see whether process")
    says(second, "held")
    assert end(second) == (0, "")


def test_of_many_machines_at_once_one_has_the_folder(tmp_path):
    for left in ("", "process 1 on node-z (node-z gone)\n"):
        if left:
            (tmp_path / f"{LOCK}{CLAIM}").write_text(left)
            os.utime(tmp_path / f"{LOCK}{CLAIM}", (1, 1))
        machines = [machine(f"node-{number}", tmp_path) for number in range(4)]
        deadline = time.monotonic() + 60
        while sum(process.poll() is None for process in machines) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (winner,) = [process for process in machines if process.poll() is None]
        says(winner, "held")
        assert end(winner) == (0, "")
        assert [process.returncode for process in machines].count(1) == 3
        for process in machines:
            process.communicate()


def test_who_has_lost_its_folder_ends(tmp_path):
    """A machine that slept, or was cut off, for longer than others waited."""
    first = machine("node-a", tmp_path)
    says(first, "held")
    (tmp_path / f"{LOCK}{CLAIM}").write_text("process 5 on node-b (node-b 77)\n")
    says(first, "was taken by another process: ending")
    says(first, "interrupted")
    assert first.wait(timeout=60) == 130
    first.communicate()
    assert (tmp_path / f"{LOCK}{CLAIM}").read_text().startswith("process 5 on node-b")


def test_what_a_killed_process_of_this_machine_left_is_taken_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "LOOK_SECONDS", None)  # waiting would fail
    (tmp_path / f"{LOCK}{CLAIM}").write_text(f"process 1 on here ({claim._machine()})\n")
    with FolderLock(tmp_path) as lock:
        lock.acquire()
        assert str(os.getpid()) in (tmp_path / f"{LOCK}{CLAIM}").read_text()
    assert not (tmp_path / f"{LOCK}{CLAIM}").exists()


@pytest.mark.parametrize("content", ["", "\0garbage", "process 1 on there (there 5)\n"])
@pytest.mark.parametrize("touched", [0.0, 4e9])
def test_a_claim_that_nobody_touches_is_no_obstacle(content, touched, tmp_path, monkeypatch):
    """Of a full disk, damaged, or restored from a copy with a time to come."""
    monkeypatch.setattr(claim, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(claim, "LOOK_SECONDS", 0.01)
    path = tmp_path / f"{LOCK}{CLAIM}"
    path.write_text(content)
    os.utime(path, (touched, touched))
    held = Claim(path)
    held.take()
    assert path.read_text() == held.text
    held.give_back()
    assert os.listdir(tmp_path) == []


def test_who_dies_while_it_takes_over_leaves_what_the_next_removes(tmp_path):
    (tmp_path / CLAIM).write_text(f"process 1 on here ({claim._machine()})\n")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom common.claim import Claim\n"
        "os.remove = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Claim(Path(sys.argv[1])).take()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / CLAIM)], cwd=ROOT, env=env)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1  # set aside, not removed
    assert remove_abandoned(tmp_path, is_held=True) == 1 and not list(tmp_path.iterdir())


def test_a_claim_that_somebody_removed_is_made_again(tmp_path):
    held = Claim(tmp_path / "claim")
    held.take()
    os.remove(held.path)
    assert held.beat() and held.path.read_text() == held.text
    held.path.write_text("another's")
    assert not held.beat()
    held.give_back()
    assert held.path.read_text() == "another's"


def test_a_full_disk_leaves_no_claim(tmp_path, monkeypatch):
    def fail(descriptor, *_, **__):
        os.close(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(OSError, match="No space.*claim"):
        Claim(tmp_path / "claim")._create()
    assert os.listdir(tmp_path) == []
