"""CLIP as prompt learners need it: OpenAI's names and conventions, no method, no data set.

``clip.model`` is the network, ``clip.text`` encodes texts that share their beginning,
``clip.edits`` changes token sequences between blocks, ``clip.loading`` finds weights by name or
path, and ``clip.clip`` has the functions of OpenAI's package.
"""

from .clip import available_models, build_model, load, tokenize
from .loading import load_model

__all__ = ["available_models", "build_model", "load", "load_model", "tokenize"]
