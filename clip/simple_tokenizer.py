"""CLIP's byte-pair tokeniser: open_clip's, with OpenAI's spelling of the special tokens.

References:
    [0] Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016,
        https://arxiv.org/abs/1508.07909
"""

from __future__ import annotations

import copy
import importlib.util
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from common.errors import UsageError

START, END = "<|startoftext|>", "<|endoftext|>"


@lru_cache
def _open_clips() -> ModuleType:
    """Import open_clip's tokeniser without the package around it.

    ``import open_clip`` brings torchvision and timm: 2 seconds, for one file that needs neither.
    """
    if "open_clip.tokenizer" in sys.modules:
        return sys.modules["open_clip.tokenizer"]
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            "CLIP's tokeniser comes with open_clip_torch, which is not installed: "
            "pip install open_clip_torch"
        )
    file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("_open_clip_tokenizer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SimpleTokenizer:
    """OpenAI's tokeniser interface: ``encode``, ``decode``, ``encoder``, ``decoder``.

    >>> tokenizer = SimpleTokenizer()
    >>> tokenizer.encode("a photo of a cat")
    [320, 1125, 539, 320, 2368]
    >>> tokenizer.decode([320, 2368])
    'a cat '
    """

    def __init__(self) -> None:
        module = _open_clips()
        tokenizer = copy.copy(module._tokenizer)
        theirs = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
        ids = dict(zip((START, END), tokenizer.all_special_ids, strict=True))
        self.encoder = {
            symbol: number for symbol, number in tokenizer.encoder.items() if symbol not in theirs
        } | ids
        self.decoder = {number: symbol for symbol, number in self.encoder.items()}
        tokenizer.encoder, tokenizer.decoder = self.encoder, self.decoder
        tokenizer.cache = {special: special for special in ids}
        pattern = tokenizer.pat.pattern.replace("|".join(theirs), "|".join(map(re.escape, ids)))
        tokenizer.pat = module.re.compile(pattern, tokenizer.pat.flags)
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Text -> token ids, without start and end token."""
        return self._tokenizer.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Token ids -> text, a space after each word."""
        return self._tokenizer.decode([int(token) for token in tokens])
