"""Files and folders that several processes use at once."""

import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UsageError
from common.files import atomic_write, file_digest, remove_abandoned, temporary_name
from common.late_import import import_late
from common.lock import CLAIM, LOCK, FolderLock

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds


def start(code: str, *arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)


HOLD = """
import os, sys, time
from common.late_import import import_late
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
def holder():
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
    assert {path.name for path in folder.iterdir()} == {LOCK, LOCK + CLAIM}
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
        assert lock.is_exclusive
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


DIES = """
import os, signal, sys
from common.files import atomic_write, temporary_name
os.makedirs(temporary_name(sys.argv[1] + "/folder") + "/inner")
with atomic_write(sys.argv[1] + "/file.txt") as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    dead = start(DIES, tmp_path)
    dead.communicate(timeout=PATIENCE)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and all(name.endswith(".tmp") for name in left)
    own = Path(temporary_name(tmp_path / "own"))
    of_another = Path(temporary_name(tmp_path / "theirs").replace(f"-{os.getpid()}-", "-1-"))
    elsewhere = tmp_path / f"a.000000-{dead.pid}-abcdef.tmp"  # of another machine
    unnamed = tmp_path / "model.pth.tar-1.0123abcd.tmp"  # of an earlier version
    unrelated = tmp_path / "notes.tmp"
    for path in (own, of_another, elsewhere, unnamed, unrelated):
        path.touch()
    assert remove_abandoned(tmp_path) == 2
    assert {*tmp_path.iterdir()} == {own, of_another, elsewhere, unnamed, unrelated}
    assert remove_abandoned(tmp_path, is_held=True) == 2
    assert {*tmp_path.iterdir()} == {own, of_another, unrelated}
    assert remove_abandoned(tmp_path / "nowhere") == 0


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="a.json") as caught, atomic_write(path) as file:
        file.write("half of the new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="a.json"), atomic_write(path / "b"):
        pass


def test_a_late_import_changes_no_random_numbers(tmp_path, monkeypatch):
    (tmp_path / "draws_when_imported.py").write_text("import random\nDRAWN = random.random()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    random.seed(3)
    expected = random.Random(3).random()
    assert expected == import_late("draws_when_imported").DRAWN
    assert random.random() == expected


def test_digest_of_a_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(3_000_000))
    assert file_digest(path) == hashlib.sha256(bytes(3_000_000)).hexdigest()[:16]
