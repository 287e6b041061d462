"""CLIP's byte-pair tokeniser, on the vocabulary file that open_clip_torch carries.

Only that file is read: importing open_clip itself takes seconds, and class names are tokenised by
every command. Tests compare the ids with ``open_clip.tokenize`` over free-form text.

References:
    [0] Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016,
        https://arxiv.org/abs/1508.07909
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import ftfy
import regex

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48894  # of the file's 262,145 lines; with 512 byte symbols and 2 specials: 49,408 tokens
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
# Specials, English contractions, letters, single digits, runs of anything else that is not space.
WORDS = regex.compile(
    rf"{regex.escape(START)}|{regex.escape(END)}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}"
    r"|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def default_bpe() -> str:
    """Path of the vocabulary file inside the installed open_clip_torch (which is not imported)."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"CLIP's vocabulary {VOCABULARY_FILE} comes with open_clip_torch, which is not "
            "installed: pip install open_clip_torch"
        )
    return str(Path(spec.submodule_search_locations[0]) / VOCABULARY_FILE)


@lru_cache
def bytes_to_unicode() -> dict[int, str]:
    """Every byte as one visible character: Latin-1's printable ones stand for themselves, the
    rest for the code points from 256 on. The order is the vocabulary's.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + position) for position, byte in enumerate(hidden)
    }


@lru_cache
def _read_merges(path: str) -> list[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        next(lines)  # a version comment
        merges = [tuple(line.split()) for _, line in zip(range(MERGES), lines, strict=False)]
    if len(merges) != MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{path}: not CLIP's vocabulary file ({len(merges)} merges read)")
    return merges


def clean(text: str) -> str:
    """Mended encoding, no HTML escapes, single spaces, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class SimpleTokenizer:
    """OpenAI's tokeniser interface: ``encode``, ``decode``, ``encoder``, ``decoder``.

    >>> tokenizer = SimpleTokenizer()
    >>> tokenizer.encode("a photo of a cat")
    [320, 1125, 539, 320, 2368]
    >>> tokenizer.decode([320, 2368])
    'a cat '
    """

    def __init__(self, bpe_path: str | None = None):
        merges = _read_merges(bpe_path or default_bpe())
        self.byte_encoder = bytes_to_unicode()
        self.byte_decoder = {char: byte for byte, char in self.byte_encoder.items()}
        symbols = list(self.byte_encoder.values())
        symbols += [symbol + WORD_END for symbol in symbols]
        symbols += ["".join(merge) for merge in merges]
        symbols += [START, END]
        self.encoder = {symbol: number for number, symbol in enumerate(symbols)}
        self.decoder = dict(enumerate(symbols))
        self.bpe_ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.cache = {START: START, END: END}

    def bpe(self, token: str) -> str:
        """One word, as characters of ``byte_encoder``, into its symbols, joined by spaces."""
        if token not in self.cache:
            self.cache[token] = " ".join(self._merge([*token[:-1], token[-1] + WORD_END]))
        return self.cache[token]

    def _merge(self, symbols: list[str]) -> list[str]:
        """Join the pair that was learned first, wherever it stands, until no pair is known."""
        while len(symbols) > 1:
            known = [p for p in zip(symbols, symbols[1:], strict=False) if p in self.bpe_ranks]
            if not known:
                break
            best = min(known, key=self.bpe_ranks.__getitem__)
            joined: list[str] = []
            position = 0
            while position < len(symbols):
                if tuple(symbols[position : position + 2]) == best:
                    joined.append(best[0] + best[1])
                    position += 2
                else:
                    joined.append(symbols[position])
                    position += 1
            symbols = joined
        return symbols

    def encode(self, text: str) -> list[int]:
        """Text -> token ids, without start and end token."""
        ids = []
        for word in WORDS.findall(clean(text)):
            token = "".join(self.byte_encoder[byte] for byte in word.encode("utf-8"))
            ids += [self.encoder[symbol] for symbol in self.bpe(token).split(" ")]
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Token ids -> text, a space after each word."""
        text = "".join(self.decoder[int(token)] for token in tokens)
        data = bytes(self.byte_decoder[char] for char in text)
        return data.decode("utf-8", errors="replace").replace(WORD_END, " ")
