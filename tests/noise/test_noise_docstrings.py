import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["noise.seeding", "noise.text"])
def test_examples_in_docstrings_are_true(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
