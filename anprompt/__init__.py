"""Runs, protocols, sweeps, tables, the report, evaluation under noise; ``from anprompt import
Predictor`` for trained models.
"""

from typing import Any

__version__ = "0.2.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # late: torch takes seconds to import
        from anprompt.runs.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
