"""Counts and cuts text in tokens, with a real vocabulary where one lies on this machine; knows nothing of requests.

The vocabulary is `cl100k_base` as the litellm package carries it in a file; the package is looked up, never imported.
Where the file is absent, a token is taken to be four characters, which is right within some 15 % for English prose.
"""

from __future__ import annotations

import base64
import binascii
import functools
import importlib.util
from pathlib import Path
from typing import Protocol

import tiktoken

CHARS_PER_TOKEN = 4
_REMEMBERED_TEXTS = 512
_REMEMBERED_CHARS = 16_000
_VOCABULARY = "litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
_WORDS = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"""
    r"""| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)


class Tokenizer(Protocol):
    """Counts tokens and cuts after a number of them."""

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        ...

    def cut(self, text: str, limit: int) -> str:
        """Return the longest beginning of `text` that has no more than `limit` tokens."""
        ...


class Estimate:
    """Four characters a token."""

    def count(self, text: str) -> int:
        """Return the estimated number of tokens, rounded up."""
        return -(-len(text) // CHARS_PER_TOKEN)

    def cut(self, text: str, limit: int) -> str:
        """Cut after `limit` times four characters."""
        return text[: limit * CHARS_PER_TOKEN]


class Vocabulary:
    """A byte-pair vocabulary read from a file; raises OSError or ValueError where it is not one."""

    def __init__(self, file: Path) -> None:
        lines = (line.split() for line in file.read_bytes().splitlines() if line)
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        self._encoding = tiktoken.Encoding("simulated", pat_str=_WORDS, mergeable_ranks=ranks, special_tokens={})
        # system texts and tools come again and again; long texts are not kept, so that the memory stays bounded
        self._remembered = functools.lru_cache(maxsize=_REMEMBERED_TEXTS)(self._encode_count)

    def _encode_count(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        return self._remembered(text) if len(text) <= _REMEMBERED_CHARS else self._encode_count(text)

    def cut(self, text: str, limit: int) -> str:
        """Cut between tokens; a character that a cut would split is left out."""
        if len(text) <= limit:
            return text
        tokens = self._encoding.encode_ordinary(text)
        return text if len(tokens) <= limit else self._encoding.decode_bytes(tokens[:limit]).decode("utf-8", "ignore")


@functools.cache
def tokenizer() -> Tokenizer:
    """Return this process's tokenizer; the first call reads the vocabulary (0.15 s)."""
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        return Estimate()
    try:
        return Vocabulary(Path(package.origin).parent / _VOCABULARY)
    except (OSError, ValueError, binascii.Error):
        return Estimate()
