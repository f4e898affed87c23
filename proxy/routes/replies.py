"""Replies on their way out: headers, JSON, server-sent events, and errors in OpenAI's form; it decides no answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import orjson
from starlette.types import Send

from proxy.errors import ProxyError
from proxy.model import Reply
from proxy.upstream.patience import retry_after_s

Header = tuple[str, str]
RawHeader = tuple[bytes, bytes]

JSON: Header = ("content-type", "application/json")
EVENTS: Header = ("content-type", "text/event-stream; charset=utf-8")
_RETRYABLE = (429, 503)
_TOO_SLOW = 408
# what belongs to one connection or is said by this server itself
_OURS = frozenset(("content-length", "transfer-encoding", "connection", "keep-alive", "x-request-id", "date", "server"))


def json_reply(status: int, content: object, headers: tuple[Header, ...] = ()) -> Reply:
    """Return `content` as a JSON answer."""
    return Reply(status, (JSON, *headers), json_bytes(content))


def json_bytes(content: object) -> bytes:
    """Return `content` as JSON; what an upstream said may hold lone surrogates, which only the slow encoder can write."""
    try:
        return orjson.dumps(content)
    except orjson.JSONEncodeError:
        return json.dumps(content).encode()


def refusal(error: ProxyError, headers: tuple[Header, ...] = ()) -> Reply:
    """Return an error as OpenAI clients read it: all four keys, and when to come back."""
    headers += error.headers
    if error.retry_after_s is not None:
        headers += (("retry-after", _whole_seconds(error.retry_after_s)),)
    if error.should_retry is not None:
        headers += (("x-should-retry", "true" if error.should_retry else "false"),)
    return json_reply(error.http_status, error.body(), headers)


def _whole_seconds(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))


def retry_after(status: int, headers: Sequence[Header]) -> str | None:
    """Return when an answer of this status may be asked for again, in whole seconds; None where it doesn't say.

    Whatever upstream said; 1 where it said nothing that can be read.
    """
    if status not in _RETRYABLE:
        return None
    seconds = retry_after_s({name: value for name, value in headers if name == "retry-after"})
    return _whole_seconds(seconds or 0.0)


class Writer:
    """Writes one answer. `closing`: the connection is to end with it."""

    __slots__ = ("_closing", "_events", "_request_id", "_send", "finished", "started")

    def __init__(self, send: Send, request_id: str, *, closing: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._closing = closing
        self._events = False
        self.started = False
        self.finished = False

    async def write(self, reply: Reply) -> None:
        """Write the whole of `reply`."""
        if reply.chunks is None:
            await self._start(reply, [(b"content-length", str(len(reply.body)).encode())])
            await self._body(reply.body, last=True)
            return
        await self._start(reply, [])
        async for chunk in reply.chunks:
            await self._body(chunk, last=False)
        await self._body(b"", last=True)

    async def fail(self, error: ProxyError) -> None:
        """End the answer with an error: as its status where nothing was written yet, else as an event of the stream.

        What is neither is left without its end: the server then cuts the connection, which no client takes as complete.
        """
        if not self.started:
            # what the caller is still sending would be read to its end
            self._closing = self._closing or error.http_status == _TOO_SLOW
            await self.write(refusal(error))
        elif self._events and not self.finished:
            # the blank lines end whatever event was cut in the middle
            await self._body(b"\n\ndata: " + json_bytes(error.body()) + b"\n\n", last=True)

    async def _start(self, reply: Reply, headers: list[RawHeader]) -> None:
        told = [(name, value) for name, value in reply.headers if name not in _OURS]
        if (seconds := retry_after(reply.status, told)) is not None:
            told = [pair for pair in told if pair[0] != "retry-after"] + [("retry-after", seconds)]
        headers += [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in told]
        headers.append((b"x-request-id", self._request_id.encode()))
        if self._closing:
            headers.append((b"connection", b"close"))
        self._events = any(name == "content-type" and value.startswith("text/event-stream") for name, value in told)
        if self._events and not any(name == "cache-control" for name, _ in told):
            headers.append((b"cache-control", b"no-cache"))
        self.started = True
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})

    async def _body(self, body: bytes, *, last: bool) -> None:
        # before the await: once the last byte is with the server, nothing may be written behind it
        self.finished = last
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})
