"""One caller's connection: uvicorn's, with bounds on what is no body, and refusals in OpenAI's form; it knows no path.

uvicorn bounds neither the size nor the time of what comes before and behind a body, nor the time in which an answer is
taken: one socket could fill the memory, many could hold every file descriptor or every slot upstream.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.errors import BadRequestError, HeadTooLargeError, ProxyError, RequestTimeoutError
from proxy.routes.exchange import LINE, Line

_LONGEST_HEAD = 64 * 1024
_HEAD_S = 60.0
"""Seconds for a request's head, and for the first byte of a connection."""
_BODY_S = 150.0
"""Seconds for the rest, also of what nobody reads; longer than those who read a body wait for it."""
_UNREAD_S = 120.0
"""Seconds in which a caller must take something of its answer, where the line is full."""
_NO_HTTP = "Invalid HTTP request received."


class Connection(HttpToolsProtocol):
    """Reads requests and writes answers; `uvicorn.Config(http=Connection)`."""

    parser: Any
    """httptools' own, untyped; None once the connection is lost."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._whole = True
        """Nothing of a request is outstanding."""
        self._moved = False
        """A request began with what came last, or a body grew."""
        self._loose_bytes = 0
        """Since then: of a head, of chunks' extensions, of trailers."""
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: list[tuple[Line, RequestResponseCycle]] = []
        """Requests that may be: one, but for clients that send ahead."""
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] - as uvicorn narrows it
        """Begin; the first byte is waited for, but not for ever."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(_HEAD_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and tell those whose caller has gone."""
        self._stop_timer()
        self._taken()
        super().connection_lost(exc)
        under_way, self._under_way = self._under_way, []
        for line, cycle in under_way:
            if not cycle.response_complete:
                # uvicorn marks the last one alone, and would take what ends another for its failure to answer
                cycle.disconnected = True
                cycle.message_event.set()
            line.lost()

    def pause_writing(self) -> None:
        """Wait for the caller to take of its answer, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(_UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the caller has taken of its answer."""
        self._taken()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came; a request that is not whole by then is measured and timed."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response(_NO_HTTP)
        if not self._whole:
            self._measure(len(data))
        elif self.cycle is not None and self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison] - uvicorn's own None
            self._wait_idle()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._in_head, self._whole, self._moved = True, False, True

    def on_headers_complete(self) -> None:
        """Note that its head is whole."""
        self._in_head = False
        self._stop_timer()
        if self.parser.should_upgrade():
            # the parser takes what follows for another protocol's: the head is read once more, see `_decline`
            return
        line = Line()
        self.scope.setdefault("state", {})[LINE] = line
        if self._under_way:
            self._under_way = [pair for pair in self._under_way if not pair[1].response_complete]
        super().on_headers_complete()
        self._under_way.append((line, self.cycle))
        # trailers come through the same door, and are no headers: whoever strips these in front of us does not see them
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Note that the body grows."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        if self.parser.should_upgrade():
            return
        self._whole = True
        self._stop_timer()
        super().on_message_complete()
        if self._under_way:
            self._under_way[-1][0].whole = True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(BadRequestError(msg, code="invalid_http"))

    def _decline(self, rest: memoryview) -> None:
        """Read a request again without its offer of another protocol, as HTTP lets us; Java's client offers one at every first call."""
        try:
            while self.parser.get_method() != b"CONNECT":
                self.parser.feed_data(self._head_without_offer())
                try:
                    self.parser.feed_data(rest)
                except httptools.HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
                else:
                    return
            self.send_400_response(_NO_HTTP)
        except httptools.HttpParserError:
            self.send_400_response(_NO_HTTP)

    def _head_without_offer(self) -> bytes:
        start = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([start, *kept, b"", b""])

    def _measure(self, size: int) -> None:
        if self.transport.is_closing():
            return
        self._loose_bytes = 0 if self._moved else self._loose_bytes + size
        self._moved = False
        if self._loose_bytes > _LONGEST_HEAD:
            self._refuse(HeadTooLargeError(f"The request's headers are larger than {_LONGEST_HEAD // 1024} kB."))
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD_S if self._in_head else _BODY_S, self._too_slow)

    def _wait_idle(self) -> None:
        """Wait for the next request, but not for ever: a line break between requests is none."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(RequestTimeoutError(f"The request's headers did not come whole within {_HEAD_S:g} seconds."))
        elif not self._whole and not self.cycle.response_complete:
            self._refuse(RequestTimeoutError(f"The request did not come whole within {_BODY_S:g} seconds."))
        else:
            self.transport.close()

    def _refuse(self, error: ProxyError) -> None:
        """Answer what is no whole request, and end the connection; an answer under way is not written into."""
        self._stop_timer()
        if self._unanswered():
            body = orjson.dumps(error.body())
            head = f"HTTP/1.1 {error.http_status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}x-request-id: {secrets.token_hex(8)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _unanswered(self) -> bool:
        """Tell whether the next bytes of an answer would be read as that of the request that is being parsed."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison] - uvicorn's own None
            return True
        return not (self._in_head or self._whole or self.pipeline or cycle.response_started)

    def _taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
