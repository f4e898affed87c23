"""Requests kept in files, as the calls that they would be: a body alone, or `{"path", "headers", "body"}`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import orjson

from proxy.access.keys import CREDENTIALS, Access
from proxy.errors import ProxyError
from proxy.model import Call, CallId, Json
from proxy.routes.body import parse_object
from proxy.routes.paths import normalise

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"

# digests only tell keys apart here, and stay the same from run to run
_ACCESS: Final = Access(digest_key=b"explain")


class UnreadableError(Exception):
    """A file holds no request; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One file and the call in it."""

    name: str
    call: Call = field(repr=False)


def read_all(names: list[str]) -> list[Recorded]:
    """Read every file (`-`: standard input, once); raises UnreadableError."""
    if names.count("-") > 1:
        raise UnreadableError("-: standard input can be read once")
    return [Recorded(name, call_of(name, _object(name, _content(name)), CallId(f"file-{index}"))) for index, name in enumerate(names)]


def _content(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from None


def call_of(name: str, whole: Json, call: CallId) -> Call:
    """Return the call that an object (a body, or path, headers and body) would be; raises UnreadableError, which names it `name`."""
    body: Any = whole["body"] if _is_wrapped(whole) else whole
    if not isinstance(body, dict):
        raise UnreadableError(f"{name}: `body` must be a JSON object")
    body = cast("Json", body)
    headers = _headers(name, whole.get("headers") if body is not whole else None)
    path, _, query = _path(name, whole.get("path") if body is not whole else None, body).partition("?")
    caller = _ACCESS.identify(headers)
    for credential in CREDENTIALS:
        headers.pop(credential, None)
    return Call(call, _normalised(path), query, headers, orjson.dumps(body), body, caller)


def _object(name: str, content: bytes) -> Json:
    try:
        whole: Any = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        whole = _leniently(content)
        if whole is None:
            raise UnreadableError(f"{name}: not JSON (line {error.lineno}, column {error.colno})") from None
    if not isinstance(whole, dict):
        raise UnreadableError(f"{name}: must be a JSON object")
    return cast("Json", whole)


def _leniently(content: bytes) -> Json | None:
    """Return what the proxy itself would still read: a byte order mark, as editors leave it, or half an emoji."""
    try:
        return parse_object(content)
    except ProxyError:
        return None


def _is_wrapped(whole: Json) -> bool:
    return "body" in whole and "messages" not in whole and "input" not in whole


def _path(name: str, path: Any, body: Json) -> str:
    if path is None:
        return RESPONSES if "input" in body and "messages" not in body else CHAT
    if not isinstance(path, str):
        raise UnreadableError(f"{name}: `path` must be a string")
    return path


def _normalised(path: str) -> str:
    """Return the path as the proxy matches it: one form, with `/v1`."""
    clean = normalise(path) or path
    return clean if clean == "/v1" or clean.startswith("/v1/") else f"/v1{clean}"


def _headers(name: str, headers: Any) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise UnreadableError(f"{name}: `headers` must be a JSON object of strings")
    given = cast("Mapping[str, Any]", headers)
    return {header.lower(): value if isinstance(value, str) else str(value) for header, value in given.items()}
