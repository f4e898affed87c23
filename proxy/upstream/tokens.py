"""Counts tokens offline with the tables that litellm's wheel carries; it knows no model: one table serves as the estimate for all.

The tokenizer's own regex overflows its stack on long runs of one character (and panics past `except Exception`), so no
more than a piece of a text reaches it at once; what is larger than `_WHOLE` is counted by sample, so that the time is bounded.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Literal

import tiktoken

Encoding = Literal["cl100k_base", "o200k_base"]

_PIECE = 4_096
_WHOLE = 256 * 1024
"""Characters; a text up to here is counted wholly (30 ms at worst)."""


@cache
def _table(name: Encoding) -> tiktoken.Encoding:
    # found without importing litellm: the tables are wanted where it is not
    spec = importlib.util.find_spec("litellm")
    if spec is not None and spec.submodule_search_locations:
        tables = Path(spec.submodule_search_locations[0], "litellm_core_utils", "tokenizers")
        # tiktoken takes the folder from nowhere else; without it, it would download
        os.environ["TIKTOKEN_CACHE_DIR"] = str(tables)  # noqa: TID251
    return tiktoken.get_encoding(name)


def _count(table: tiktoken.Encoding, piece: str) -> int:
    return len(table.encode_ordinary(piece))


class TiktokenTokens:
    """`interfaces.Tokens`: any text has a count. The table is read at the first count or by `warm` (0.2 to 0.5 s)."""

    def __init__(self, encoding: Encoding = "cl100k_base") -> None:
        self._encoding: Encoding = encoding

    def warm(self) -> None:
        """Read the table now."""
        _table(self._encoding)

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`; special tokens count as the text that they are."""
        table = _table(self._encoding)
        size = len(text)
        if size <= _PIECE:
            return _count(table, text)
        if size <= _WHOLE:
            return sum(_count(table, text[at : at + _PIECE]) for at in range(0, size, _PIECE))
        pieces = _WHOLE // _PIECE
        step = (size - _PIECE) / (pieces - 1)
        sampled = sum(_count(table, text[(at := int(i * step)) : at + _PIECE]) for i in range(pieces))
        return round(sampled * size / (pieces * _PIECE))
