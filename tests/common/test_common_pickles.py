"""Pickles that would take all memory are refused before they are read."""

import io
import pickle
import struct

import pytest

from common.pickles import check_pickle

BOMBS = {
    "a place in the memory of objects": b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".",
    "the same as text": b"]p4294967295\n.",
    "bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "an integer": b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"1.",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_what_its_size_does_not_explain_is_refused(bomb):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        check_pickle(bomb)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_python_writes_is_let_through(protocol):
    value = {"a": [1, 2.5, "x" * 3000, b"y" * 300, (None, True)] * 3, "b": set(range(500))}
    content = pickle.dumps(value, protocol)
    check_pickle(content)
    assert pickle.load(io.BytesIO(content)) == value
