"""Files and folders that several processes use at once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UsageError
from common.files import atomic_write
from common.lock import LOCK, FolderLock

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds


def start(code: str, *arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)


HOLD = """
import os, sys, time
from common.lock import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
if sys.argv[2] == "fork" and os.fork() == 0:  # as a data loader's worker
    print("held", os.getppid(), flush=True)
    time.sleep(600)
if sys.argv[2] == "plain":
    print("held", os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that lock a folder; they and their children end with the test."""
    processes = []

    def hold(folder: Path, how: str = "plain") -> subprocess.Popen:
        process = start(HOLD, folder, how, start_new_session=True)
        processes.append(process)
        assert process.stdout.readline() == f"held {process.pid}\n"
        return process

    yield hold
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # ended by the test
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_second_process_is_refused_until_the_first_ends(holder, tmp_path):
    folder = tmp_path / "new" / "run"
    process = holder(folder)
    assert [path.name for path in folder.iterdir()] == [LOCK]
    before = (folder / LOCK).read_bytes()
    for create in (True, False):
        with pytest.raises(UsageError, match="in use by another process") as raised:
            FolderLock(folder).acquire(create)
        assert f"{folder} is in use" in str(raised.value)
        assert f"process {process.pid} on" in str(raised.value)
    assert (folder / LOCK).read_bytes() == before

    process.kill()
    process.wait()
    with FolderLock(folder) as lock:
        lock.acquire()
        lock.acquire()  # held already
        assert f"process {os.getpid()} on" in (folder / LOCK).read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")
def test_a_worker_left_behind_does_not_keep_the_lock(holder, tmp_path):
    process = holder(tmp_path, "fork")
    process.kill()
    process.wait()
    with FolderLock(tmp_path) as lock:
        lock.acquire()


def test_release_lets_the_next_process_in(holder, tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
    holder(tmp_path)
    with pytest.raises(UsageError, match="in use"):
        lock.acquire()


def test_without_create_nothing_is_created(tmp_path):
    FolderLock(tmp_path / "run").acquire(create=False)
    FolderLock(tmp_path).acquire(create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to"):
        FolderLock(tmp_path / "file" / "run").acquire()


def test_file_systems_without_locks_are_used_without(tmp_path, monkeypatch, capsys):
    import errno

    import common.lock

    def unsupported(descriptor):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(common.lock, "_lock", unsupported)
    with FolderLock(tmp_path) as lock:
        lock.acquire()
    assert "no locks here" in capsys.readouterr().out


WRITE = """
import sys, time
from pathlib import Path
from common.files import write_json
path, name, together = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
(together / name).touch()
while len(list(together.iterdir())) < 3:
    time.sleep(0.01)
for _ in range(60):
    write_json([name] * 2000, str(path))
"""


def test_several_writers_of_one_file(tmp_path):
    path, together = tmp_path / "out" / "file.json", tmp_path / "together"
    together.mkdir()
    writers = [start(WRITE, path, name, together) for name in "abc"]
    for writer in writers:
        writer.communicate(timeout=PATIENCE)
        assert writer.returncode == 0
    content = json.loads(path.read_text())
    assert len(content) == 2000 and len(set(content)) == 1
    assert os.listdir(path.parent) == [path.name]


def test_writers_at_once_within_one_process(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write("first")
        second.write("second")
    assert path.read_text() == "first"  # it finished last
    assert os.listdir(tmp_path) == [path.name]
