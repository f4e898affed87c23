"""A text as words, whatever its script; it knows nothing of what they mean."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from proxy.lessons.labels import visible

STOP = "."
"""Stands among the words where a sentence ends."""
# vowel signs and accents are no letters to Python, but parts of words all the same
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0963\u0966-\u0df3"  # India's scripts, letters and all
)
_WORD = re.compile(rf"[\w{_MARKS}]+|\.")
_STOPS = re.compile(r"\.{2,}")
_ASCII_STOPS = re.compile(rb"\.{2,}")
_SENTENCE_ENDS = "!?;。！？；।۔؟"  # noqa: RUF001 - other scripts' punctuation ends sentences too
# a long run of accents costs normalising time squared
_RUN = re.compile(r"([^\w\s]{4})[^\w\s]+")
_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]"


def _ascii_table() -> bytes:
    table = bytearray(b" " * 256)
    for code in range(128):
        character = chr(code)
        if character.isalnum():
            table[code] = ord(character.lower())
        elif character in ".!?;":
            table[code] = ord(STOP)
    return bytes(table)


_ASCII = _ascii_table()


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; `.` stands where a sentence ends."""
    if text.isascii():
        flat = text.encode("ascii").translate(_ASCII)
        if b".." in flat:
            flat = _ASCII_STOPS.sub(b".", flat)
        return flat.replace(b".", b" . ").decode("ascii").split()
    seen = visible(text).casefold()
    if not unicodedata.is_normalized("NFC", seen):
        seen = unicodedata.normalize("NFC", _RUN.sub(r"\1", seen))
    for mark in _SENTENCE_ENDS:
        seen = seen.replace(mark, STOP)
    return _WORD.findall(_STOPS.sub(STOP, seen).replace("_", " "))


def is_unspaced(text: str) -> bool:
    """Tell whether a text has a script that writes no spaces, so that one word of it may be a whole sentence."""
    return not text.isascii() and _unspaced().search(text) is not None


@cache
def _unspaced() -> re.Pattern[str]:
    # wide ranges are dear to compile: where all texts are English, nobody needs them
    return re.compile(_UNSPACED)
