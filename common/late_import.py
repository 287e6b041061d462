"""Import slow libraries where they are needed, without changing what random numbers follow."""

import importlib
import random
from types import ModuleType


def import_late(name: str) -> ModuleType:
    """Import a module in the middle of a run, and put python's random state back.

    Importing some libraries draws random numbers (scikit-learn does, through rich). A training that
    is resumed behind such a draw would go on with other numbers than one that was not killed.
    """
    state = random.getstate()
    try:
        return importlib.import_module(name)
    finally:
        random.setstate(state)
