"""Paths seen from a folder, on one drive and on two."""

import ntpath
import os

import pytest

from common.paths import seen_from


@pytest.mark.parametrize(
    ("path", "start", "seen"),
    [
        (r"C:\out\train\seed1", r"C:\out\test\seed1", r"..\..\train\seed1"),
        (r"D:\out\train\seed1", r"C:\out\test\seed1", r"D:\out\train\seed1"),
    ],
)
def test_a_path_on_another_drive_stays_whole(path, start, seen, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        found = seen_from(path, start)
    assert found == seen
    assert ntpath.normpath(ntpath.join(start, found)) == path
