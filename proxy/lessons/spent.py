"""The usage that a lone answer reports: read, and for a resent caller corrected by what it spent in its batch.

It knows chat completions and responses, JSON and SSE, and changes no other byte of them; whatever looks otherwise goes
through as it came. Nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import orjson

from proxy.model import LARGEST_COUNT, Json, Usage

MAX_LINE = 4_000_000
"""Bytes of one SSE line that are held back to be read; a longer one goes through unread."""

_TOKENS = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)
_VALUE = re.compile(rb"\s*:\s*(?=\{)")


def correct_usage_json(body: bytes, spent: Usage) -> bytes:
    """Return the answer (or one chunk of a stream) with `spent` added to its `usage`; unchanged where it tells none."""
    span = _usage_span(body)
    if span is None:
        return body
    start, end = span
    try:
        counts = _added(orjson.loads(body[start:end]), spent)
        return body if counts is None else body[:start] + orjson.dumps(counts) + body[end:]
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # read back deeper than it is written
        return body


def read_usage_json(body: bytes) -> Usage | None:
    """Return the usage that an answer tells; None where it tells none, or not in whole numbers of zero or more."""
    span = _usage_span(body)
    try:
        usage = orjson.loads(body[slice(*span)]) if span else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(usage, dict):
        return None
    counts = cast("Json", usage)
    names = _names(counts)
    prompt, completion = _count(counts.get(names.prompt)), _count(counts.get(names.completion))
    if prompt is None or completion is None:
        return None
    cached = _detail(counts, f"{names.prompt}_details", "cached_tokens")
    reasoning = _detail(counts, f"{names.completion}_details", "reasoning_tokens")
    return Usage(prompt, completion, min(completion, reasoning), min(prompt, cached))


class UsageCorrector:
    """Does the same to an SSE stream, however it is cut; a line is passed on when its end has come."""

    __slots__ = ("_held", "_held_bytes", "_passing", "_spent")

    def __init__(self, spent: Usage) -> None:
        self._spent = spent
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._passing = False

    def feed(self, data: bytes) -> bytes:
        """Read on; return what can be passed on."""
        end = data.rfind(b"\n") + 1
        if end == 0:
            return self._hold(data)
        lines = (self._release() + data[:end]).splitlines(keepends=True)
        unread = 1 if self._passing else 0
        self._passing = False
        return b"".join([*lines[:unread], *map(self._line, lines[unread:])]) + self._hold(data[end:])

    def finish(self) -> bytes:
        """Return what is still held: a line without an end."""
        return self._line(self._release())

    def _hold(self, data: bytes) -> bytes:
        if self._passing:
            return data
        self._held.append(data)
        self._held_bytes += len(data)
        self._passing = self._held_bytes > MAX_LINE
        return self._release() if self._passing else b""

    def _release(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return data

    def _line(self, line: bytes) -> bytes:
        if b'"usage"' not in line or not line.startswith(b"data:"):
            return line
        return correct_usage_json(line, self._spent)


@dataclass(frozen=True, slots=True)
class _Names:
    """What an API calls its counts; the details stand under the same names with `_details`."""

    prompt: str
    completion: str


_CHAT = _Names("prompt_tokens", "completion_tokens")
_RESPONSES = _Names("input_tokens", "output_tokens")


def _names(counts: Json) -> _Names:
    return _RESPONSES if _RESPONSES.prompt in counts and _CHAT.prompt not in counts else _CHAT


def _usage_span(body: bytes) -> tuple[int, int] | None:
    """Find the object under `usage` at the top level of the first JSON object in `body`, or of the one under its `response`."""
    span = _member(body, b"usage")
    if span is not None or b'"response"' not in body:
        return span
    outer = _member(body, b"response")
    inner = None if outer is None else _member(body[slice(*outer)], b"usage")
    return None if outer is None or inner is None else (outer[0] + inner[0], outer[0] + inner[1])


def _member(body: bytes, wanted: bytes) -> tuple[int, int] | None:
    """Find the object under the wanted name at the top level of the first JSON object in `body`."""
    depth, opened, start = 0, -1, -1
    for token in _TOKENS.finditer(body):
        match token[0]:
            case b'"' if opened < 0:
                opened = token.start()
            case b'"':
                name, opened = body[opened + 1 : token.start()], -1
                if depth == 1 and name == wanted and start < 0 and (value := _VALUE.match(body, token.end())):
                    start = value.end()
            case b"{" | b"[" if opened < 0:
                depth += 1
            case b"}" | b"]" if opened < 0:
                depth -= 1
                if start >= 0 and depth == 1:
                    return start, token.end()
            case _:
                pass
    return None


def _added(usage: Any, spent: Usage) -> Json | None:
    """Return `usage` with `spent` in it; None where its counts are not integers."""
    counts = dict(cast("Json", usage)) if isinstance(usage, dict) else {}
    names = _names(counts)
    prompt, completion = _count(counts.get(names.prompt)), _count(counts.get(names.completion))
    if prompt is None or completion is None:
        return None
    counts |= {names.prompt: prompt + spent.prompt, names.completion: completion + spent.completion}
    total = _count(counts.get("total_tokens"))
    if total is not None:
        counts["total_tokens"] = total + spent.prompt + spent.completion
    _add_detail(counts, f"{names.prompt}_details", "cached_tokens", spent.cached)
    _add_detail(counts, f"{names.completion}_details", "reasoning_tokens", spent.reasoning)
    return counts


def _add_detail(counts: Json, group: str, name: str, tokens: int) -> None:
    details: Any = counts.get(group) or {}
    if tokens and isinstance(details, dict):
        told = cast("Json", details)
        before = _count(told.get(name) or 0)
        counts[group] = told if before is None else told | {name: before + tokens}


def _detail(counts: Json, group: str, name: str) -> int:
    details: Any = counts.get(group)
    return _count(cast("Json", details).get(name)) or 0 if isinstance(details, dict) else 0


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT else None
