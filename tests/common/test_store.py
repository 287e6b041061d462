"""Kept bytes: bounded, checked, shared by processes; and the command that shows them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anprompt.__main__ import main
from anprompt.commands.cache import parse_size
from common.errors import UsageError
from common.store import Store, feature_store

KEYS = [f"{i:064x}" for i in range(20)]
SIZE = 32 + 100  # of a piece of 100 bytes with its digest


def piece(number):
    return bytes([number]) * 100


def aged(store, *numbers):
    """Make pieces look as if they had been used long ago, in this order."""
    for age, number in enumerate(numbers):
        os.utime(store.folder / f"{KEYS[number]}.kept", (1000 + age, 1000 + age))


def test_what_was_put_is_there_for_others(tmp_path):
    assert Store(tmp_path).put(KEYS[0], piece(0))
    other = Store(tmp_path)
    assert other.has(KEYS[0]) and other.get(KEYS[0]) == piece(0)
    assert not other.has(KEYS[1]) and other.get(KEYS[1]) is None
    assert other.figures() == (1, SIZE)
    assert other.clear() == 1 and other.figures() == (0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: b"",
        lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
    ],
)
def test_damage_is_noticed_and_removed(tmp_path, damage):
    store = Store(tmp_path)
    store.put(KEYS[0], piece(0))
    file = tmp_path / f"{KEYS[0]}.kept"
    file.write_bytes(damage(file.read_bytes()))
    assert store.get(KEYS[0]) is None and not store.has(KEYS[0])
    assert store.put(KEYS[0], piece(0)) and store.get(KEYS[0]) == piece(0)


def test_a_piece_under_another_key_does_not_count(tmp_path):
    store = Store(tmp_path)
    store.put(KEYS[0], piece(0))
    os.replace(tmp_path / f"{KEYS[0]}.kept", tmp_path / f"{KEYS[1]}.kept")
    assert store.get(KEYS[1]) is None


def test_the_longest_unused_goes_first(tmp_path):
    Store(tmp_path).set_limit(10 * SIZE)
    first = Store(tmp_path)
    for number in range(10):
        first.put(KEYS[number], piece(number))
    aged(first, *range(10))
    second = Store(tmp_path)
    assert second.get(KEYS[0]) == piece(0)  # used now
    assert second.put(KEYS[10], piece(10))
    assert second.figures()[1] <= 10 * SIZE
    assert second.has(KEYS[0]) and second.has(KEYS[10])
    assert not second.has(KEYS[1]) and second.has(KEYS[9])


def test_a_pass_over_more_than_fits_keeps_what_it_has(tmp_path):
    Store(tmp_path).set_limit(4 * SIZE)
    store = Store(tmp_path)
    kept = [store.put(KEYS[number], piece(number)) for number in range(10)]
    assert kept == [True] * 4 + [False] * 6
    assert [store.has(KEYS[number]) for number in range(5)] == [True] * 4 + [False]
    store.set_limit(2 * SIZE)
    assert Store(tmp_path).limit == 2 * SIZE


def test_a_lower_limit_removes_and_zero_keeps_nothing(tmp_path):
    store = Store(tmp_path)
    for number in range(5):
        store.put(KEYS[number], piece(number))
    aged(store, 3, 0, 1, 2, 4)
    Store(tmp_path).set_limit(2 * SIZE)
    assert store.figures()[1] <= 2 * SIZE and store.has(KEYS[4]) and not store.has(KEYS[3])
    other = Store(tmp_path)
    other.set_limit(0)
    assert other.figures() == (0, 0) and not other.put(KEYS[0], piece(0))


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "below")
    assert not store.put(KEYS[0], piece(0)) and store.get(KEYS[0]) is None
    assert store.figures() == (0, 0) and store.clear() == 0
    with pytest.raises(UsageError, match="cannot be written to"):
        store.set_limit(1)


def test_a_folder_that_cannot_be_searched_has_nothing(tmp_path):
    store = Store(tmp_path / ("x" * 300))
    assert not store.put(KEYS[0], piece(0)) and not store.has(KEYS[0])
    assert store.get(KEYS[0]) is None


def test_processes_write_and_clear_at_once(tmp_path):
    program = (
        "import sys\n"
        "from common.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "for turn in range(60):\n"
        "    key = f'{turn % 7:064x}'\n"
        "    store.put(key, bytes([turn % 7]) * 100)\n"
        "    found = store.get(key)\n"
        "    assert found in (None, bytes([turn % 7]) * 100)\n"
        "    turn % 20 or Store(sys.argv[1]).clear()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, tmp_path]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    store = Store(tmp_path)
    assert all(store.get(key) in (None, piece(i)) for i, key in enumerate(KEYS))


def test_command_shows_bounds_and_clears(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path))
    feature_store().put(KEYS[0], piece(0))
    assert main(["cache"]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path}/features: 1 pieces, 132 bytes of at most 2.1 GB\n"
    )
    assert main(["cache", "--limit", "1.5 GB", "--clear"]) == 0
    assert capsys.readouterr().out == (
        f"Removed 1 pieces.\n{tmp_path}/features: 0 pieces, 0 bytes of at most 1.5 GB\n"
    )
    for wrong in ("much", "-1", "5 elephants", "", "1e9", "9" * 30):
        assert main(["cache", f"--limit={wrong}"]) == 2
        assert "takes a size such as 500MB" in capsys.readouterr().err
    (tmp_path / "features" / "limit").write_text("plenty")
    assert main(["cache"]) == 2
    assert "says no number of bytes" in capsys.readouterr().err
    assert main(["cache", "--limit", "0"]) == 0


def test_nothing_is_cleared_where_the_limit_cannot_be_read(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path))
    feature_store().put(KEYS[0], piece(0))
    (tmp_path / "features" / "limit").write_text("plenty")
    assert main(["cache", "--clear"]) == 2
    assert "Removed" not in capsys.readouterr().out and feature_store().has(KEYS[0])


def test_what_cannot_be_removed_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path))
    for number in (0, 1):
        feature_store().put(KEYS[number], piece(number))
    unlink = Path.unlink

    def refuse(path, *args, **kwargs):
        if path.name.startswith(KEYS[0]):
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert main(["cache", "--clear"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert "1 pieces were removed, others cannot be (Read-only file system)" in printed.err
    assert feature_store().has(KEYS[0]) and not feature_store().has(KEYS[1])


def test_a_folder_of_a_piece_s_name_is_none(tmp_path):
    (tmp_path / f"{KEYS[0]}.kept").mkdir()
    store = Store(tmp_path)
    assert store.figures() == (0, 0) and store.clear() == 0


def test_sizes():
    assert parse_size("2 GiB") == 2 * 2**30
    assert parse_size("0") == 0 and parse_size("12kb") == 12000 and parse_size("2TB") == 2 * 10**12
