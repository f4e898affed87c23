"""Single JSON values as a model writes them: read over piece by piece, decoded strictly; it knows no keys and no lessons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

_TOKENS = re.compile(r'\\(?:.|\Z)|["{}\[\]]', re.DOTALL)
_SCALAR = re.compile(r"[-+.\w]*")
_LONGEST_ESCAPE = len(r"\ud83d\ude00")


@dataclass(slots=True)
class Capture:
    """A value or name being read: `parts` hold it from its first character on, however the text is cut."""

    kind: Literal["name", "string", "container", "scalar"]
    parts: list[str] = field(default_factory=list[str])
    closed: bool = False
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False

    @property
    def text(self) -> str:
        """Return what has been read of it."""
        return "".join(self.parts)

    def begin(self, text: str, at: int) -> int:
        """Take the first character; return where to read on."""
        self.parts.append(text[at])
        self._in_string = self.kind in ("name", "string")
        self._depth = 1 if self.kind == "container" else 0
        return at + 1

    def read(self, text: str, at: int) -> int:
        """Read on from `at`; return the end of the value (`closed`) or of the text."""
        if self.kind == "scalar":
            return self._read_scalar(text, at)
        if at == 0 and not self._escaped and _TOKENS.search(text) is None:  # most deltas: words of a lesson
            self.parts.append(text)
            return len(text)
        return self._read_over(text, at)

    def _read_over(self, text: str, at: int) -> int:
        start = at
        if self._escaped:
            self._escaped = False
            at += 1
        in_string, depth = self._in_string, self._depth
        for token in _TOKENS.finditer(text, at):
            char = token[0]
            if char == '"':
                in_string = not in_string
            elif char[0] == "\\":
                self._escaped = len(char) == 1
                continue
            elif not in_string:
                depth += 1 if char in "{[" else -1
            if not in_string and depth == 0:
                self.closed = True
                self.parts.append(text[start : token.end()])
                return token.end()
        self._in_string, self._depth = in_string, depth
        self.parts.append(text[start:] if start else text)
        return len(text)

    def _read_scalar(self, text: str, at: int) -> int:
        match = _SCALAR.match(text, at)
        end = match.end() if match else at
        self.parts.append(text[at:end])
        self.closed = end < len(text)
        return end


def decode(text: str) -> Any:
    """Parse strict JSON; raises ValueError for anything else (NaN, lone surrogates, depth over 1,024, …)."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        mended = mend(text)
        if mended == text:
            raise
        return orjson.loads(mended)


def mend(text: str) -> str:
    """Join surrogate halves that came in two deltas into their character; half a pair stays as it is."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return text


def unquoted(literal: str) -> str:
    """Decode a string literal; what isn't one decodes to nothing."""
    try:
        value = decode(literal)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def unquoted_so_far(literal: str) -> str:
    """Decode a string literal whose end is missing, less an escape that may be torn."""
    torn = literal.rfind("\\", max(1, len(literal) - _LONGEST_ESCAPE))
    return unquoted(literal + '"') or (unquoted(literal[:torn].rstrip("\\") + '"') if torn > 0 else "")


def joined(members: list[tuple[str, str]]) -> str:
    """Write an object of these names and JSON texts; each value stays the model's own text."""
    return "{" + ",".join(f"{_quoted(name)}:{text}" for name, text in members) + "}"


def _quoted(name: str) -> str:
    try:
        return orjson.dumps(name).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair: whoever takes the object refuses it
        return f'"{name}"'
