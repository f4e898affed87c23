"""Puts another model name into a request body in place, every other byte as the caller wrote it; it knows no provider."""

from __future__ import annotations

import re

import orjson

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_ANY_KEY = rb'"(?:m|\\u006d)(?:o|\\u006f)(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006c)"'
"""`"model"` in each of its spellings; letters have no other escape."""
_TOKEN = re.compile(
    rb"(?P<key>" + _ANY_KEY + rb")|(?P<strings>(?:(?!" + _ANY_KEY + rb")" + _STRING + rb"[^\"{}\[\]]*+)++)|(?P<gap>[^\"]++)",
    re.DOTALL | re.IGNORECASE,
)
"""Strings with nothing structural between them count as one token: the engine walks them."""
_VALUE = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+(" + _STRING + rb")", re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*+:")
_KEY = b'"model"'
_ESCAPED_LETTER = re.compile(rb"\\u00[67]", re.IGNORECASE)
_MOST_TOKENS = 50_000
"""25 ms at most; a body of more is left to be written anew."""


def splice_model(raw: bytes, name: str) -> bytes | None:
    """Return `raw` with every top-level `model` string replaced by `name`.

    None where there is none, `raw` is no object, or finding it would take too long.
    `raw` has been parsed before; linear in its size, whatever it holds.
    """
    value = orjson.dumps(name)
    if raw.count(_KEY) == 1 and _ESCAPED_LETTER.search(raw) is None:
        return _splice_only(raw, value)
    return _splice_all(raw, value)


def _splice_only(raw: bytes, value: bytes) -> bytes | None:
    """Replace where `"model"` occurs once: it may still be a nested key or a string, which the depth tells."""
    at = raw.find(_KEY)
    # nothing opens before it but the object itself: the usual case, told without a scan
    if raw.count(b"{", 0, at) != 1 or raw.count(b"[", 0, at) != 0 or raw[at - 1 : at] == b"\\":
        return _splice_all(raw, value)
    found = _VALUE.match(raw, at + len(_KEY))
    if found is None:
        return _splice_all(raw, value)
    start, end = found.span(1)
    return raw[:start] + value + raw[end:]


def _splice_all(raw: bytes, value: bytes) -> bytes | None:
    spans = _top_level_values(raw)
    if not spans:
        return None
    parts: list[bytes] = []
    last = 0
    for start, end in spans:
        parts += (raw[last:start], value)
        last = end
    parts.append(raw[last:])
    return b"".join(parts)


def _top_level_values(raw: bytes) -> list[tuple[int, int]]:
    """Return the spans of the string values of top-level keys `model`; none where the text is no object or too long."""
    spans: list[tuple[int, int]] = []
    depth, at = 0, 0
    for _ in range(_MOST_TOKENS):
        token = _TOKEN.match(raw, at)
        if token is None:
            return spans if at == len(raw) else []
        at = token.end()
        if token.lastgroup == "gap":
            # outside of strings every bracket is structure
            gap = token[0]
            depth += gap.count(b"{") + gap.count(b"[") - gap.count(b"}") - gap.count(b"]")
        elif token.lastgroup == "key" and depth == 1 and _is_model_key(token[0]) and _COLON.match(raw, at):
            value = _VALUE.match(raw, at)
            if value is None:
                return []
            spans.append(value.span(1))
            at = value.end()
    return []


def _is_model_key(text: bytes) -> bool:
    # the pattern takes capitals too, for the digits of escapes
    return text == _KEY or (b"\\" in text and orjson.loads(text) == "model")
