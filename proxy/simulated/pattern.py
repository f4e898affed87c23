"""Writes a string that a regular expression of a schema accepts, for the plain ones that schemas use.

Literals, classes, escapes, groups, alternatives, anchors and quantifiers are followed; look-around, back references and
Unicode properties are not: then a few usual values are tried, and None says that none fits.
"""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass

_CLASSES = {"d": string.digits, "w": string.ascii_lowercase + string.digits + "_", "s": " "}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_ANY = string.ascii_lowercase
_EVERY = string.ascii_lowercase + string.ascii_uppercase + string.digits + "_-. "
_MORE_TRIES = (0, 1, 2, 4, 8, 16, 32, 64, 128)
_LONGEST_PATTERN = 500
_LONGEST_REPEAT = 2_000
_LONGEST_CHECKED = 64
_DEEPEST = 12
_USUAL = (
    "lesson",
    "Lesson",
    "lesson-1",
    "LESSON",
    "A1",
    "1",
    "12",
    "1.5",
    "2024-01-15",
    "12:30",
    "#a1b2c3",
    "https://example.com/a",
    "a b c",
)


class _UnreadableError(Exception):
    """The pattern uses what is not followed here."""


@dataclass(slots=True)
class _Reader:
    """Walks over the pattern once and writes as it goes; `more` says how generously open quantifiers repeat."""

    pattern: str
    chance: random.Random
    more: int
    at: int = 0
    depth: int = 0

    def _peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise _UnreadableError
        self.at += 1
        return char

    def alternatives(self) -> str:
        """Write one of `a|b|c`."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _UnreadableError
        choices = [self._sequence()]
        while self._peek() == "|":
            self.at += 1
            choices.append(self._sequence())
        self.depth -= 1
        return self.chance.choice(choices)

    def _sequence(self) -> str:
        written: list[str] = []
        while self._peek() not in {"", "|", ")"}:
            start = self.at
            piece = self._atom()
            least, most = self._quantifier()
            end, count = self.at, min(most, least + self.more)
            if count > _LONGEST_REPEAT:
                raise _UnreadableError
            pieces = [piece] if count else []
            for _ in range(count - 1):
                self.at = start
                pieces.append(self._atom())
            self.at = end
            written += pieces
        return "".join(written)

    def _quantifier(self) -> tuple[int, int]:
        """Read `*`, `+`, `?`, `{m,n}` or nothing; returns the least and the most repeats."""
        bounds = {"*": (0, _LONGEST_REPEAT), "+": (1, _LONGEST_REPEAT), "?": (0, 1)}.get(self._peek(), (1, 1))
        if counted := re.compile(r"\{(\d{1,6})(,?)(\d{0,6})\}").match(self.pattern, self.at):
            least, comma, most = counted.groups()
            bounds = (int(least), int(most) if most else _LONGEST_REPEAT if comma else int(least))
            self.at = counted.end()
        elif self._peek() in {"*", "+", "?"}:
            self.at += 1
        else:
            return bounds
        self.at += self._peek() == "?"
        return bounds

    def _atom(self) -> str:
        match self._take():
            case "^" | "$":
                return ""
            case ".":
                return self.chance.choice(_ANY)
            case "(":
                return self._group()
            case "[":
                return self.chance.choice(self._set())
            case "\\":
                return self.chance.choice(self._escape())
            case "*" | "+" | "?" | "{":
                raise _UnreadableError
            case char:
                return char

    def _group(self) -> str:
        if self.pattern.startswith("?:", self.at):
            self.at += 2
        elif self._peek() == "?":
            raise _UnreadableError
        inner = self.alternatives()
        if self._take() != ")":
            raise _UnreadableError
        return inner

    def _escape(self) -> str:
        char = self._take()
        if char.isdigit() or char in "bBpPkuxDWS":
            raise _UnreadableError
        return _CLASSES.get(char) or _ESCAPES.get(char, char)

    def _set(self) -> str:
        """Read a class such as `[a-z0-9_]` from behind its bracket; returns the characters that are allowed."""
        negated = self._peek() == "^"
        self.at += negated
        chars = ""
        while (char := self._take()) != "]":
            low = self._escape() if char == "\\" else char
            if len(low) == 1 and self._peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in {"", "]"}:
                self.at += 1
                high = self._take()
                chars += "".join(map(chr, range(ord(low), min(ord(high), ord(low) + 128) + 1)))
            else:
                chars += low
        allowed = "".join(c for c in _EVERY if c not in chars) if negated else chars
        if not allowed:
            raise _UnreadableError
        return allowed


def matching(pattern: str, chance: random.Random, least: int, most: int) -> str | None:
    """Return a string of `least` to `most` characters that `pattern` accepts, or None."""
    if len(pattern) <= _LONGEST_PATTERN:
        # how open quantifiers share a wanted length is not known, so a few ways are tried
        for more in sorted({*_MORE_TRIES, least, max(0, least - 1), least // 2, least // 3}):
            try:
                reader = _Reader(pattern, chance, more)
                written = reader.alternatives()
            except _UnreadableError:
                break
            if reader.at == len(pattern) and least <= len(written) <= most and _accepts(pattern, written):
                return written
    return next((value for value in _USUAL if least <= len(value) <= most and _accepts(pattern, value)), None)


def _accepts(pattern: str, value: str) -> bool:
    """Check short strings alone: a hostile pattern takes time that grows with the string."""
    if len(value) > _LONGEST_CHECKED:
        return True
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return False
