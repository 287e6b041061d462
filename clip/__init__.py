"""CLIP as prompt learners need it: OpenAI's names and conventions, no method, no data set.

``clip.model`` is the network, ``clip.text`` encodes texts that share their beginning,
``clip.edits`` changes token sequences between blocks, ``clip.weights`` finds weights by name or
path, and ``clip.clip`` has the functions of OpenAI's package.

Importing the package is cheap: PyTorch is imported with the first name that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import model as model
    from . import simple_tokenizer as simple_tokenizer
    from .clip import _MODELS as _MODELS
    from .clip import _download as _download
    from .clip import available_models, build_model, load, load_model, tokenize
    from .weights.names import preprocessing

__all__ = [
    "available_models",
    "build_model",
    "load",
    "load_model",
    "preprocessing",
    "tokenize",
]

_FUNCTIONS = {*__all__, "_MODELS", "_download"}
_MODULES = {"clip", "model", "simple_tokenizer"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = ".weights.names" if name == "preprocessing" else ".clip"
    return getattr(importlib.import_module(home, __name__), name)
