"""The short way: one caller's request as raw bytes to an OpenAI-compatible provider, its answer as raw bytes back.

It knows no litellm and parses nothing on the way: this is the path that everything takes which isn't merged.
"""

from __future__ import annotations

import io
import re

import aiohttp
from yarl import URL

from proxy.errors import NotFoundError
from proxy.model import ACCOUNT, PAYER, Call, Reply
from proxy.upstream.address import Address
from proxy.upstream.answers import reply_to
from proxy.upstream.copied import BREAKS, no_answer
from proxy.upstream.slots import Slot

CONNECT_S = 10.0
_KEEPALIVE_S = 30.0
_COPIED_AT_ONCE = 1024 * 1024
"""aiohttp wants larger bodies as a file, to yield the loop between writes."""
_URLS = 1024

_SENT = ("content-type", "accept", *ACCOUNT, "user-agent")
"""Request headers that go upstream; everything else is ours, the connection's or a secret."""
_SENT_WITH_OUR_KEY = tuple(name for name in _SENT if name not in PAYER)
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
"""An `accept-encoding` that takes gzip."""


class Direct:
    """One pooled session; `open` before use, `aclose` after."""

    def __init__(self, *, connections: int, timeout_s: float | None) -> None:
        self._connections = connections
        self._whole = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S, sock_read=timeout_s)
        self._streamed = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=timeout_s)
        self._urls: dict[tuple[str, str], URL] = {}
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Make the session; inside a running loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=300, keepalive_timeout=_KEEPALIVE_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "Accept", "User-Agent", "Content-Type"),
        )

    async def aclose(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, call: Call, body: bytes, address: Address, slot: Slot, *, plain: bool) -> Reply:
        """Send `body` in place of the call's own; `plain` asks for an answer that isn't compressed.

        The slot is given back when the answer is whole or closed. Raises UpstreamUnavailableError (UpstreamTimeoutError
        among it) where there is no answer; an answer of any status is a Reply.
        """
        if self._session is None:
            raise RuntimeError("the session is not open")
        streams = call.body.get("stream") is True
        handed_over = False
        try:
            response = await self._session.request(
                call.method,
                self._url(address.base, call),
                data=_data(body),
                headers=_headers(call, address, plain=plain or streams),
                allow_redirects=False,
                proxy=address.proxy,
                timeout=self._streamed if streams else self._whole,
            )
            try:
                reply = await reply_to(response, call.path, address, slot)
                handed_over = reply.chunks is not None
            finally:
                if not handed_over:
                    # a no-op where the body was read to its end; else the connection is of no more use
                    response.close()
        except BREAKS as error:
            raise no_answer(error) from error
        finally:
            if not handed_over:
                slot.release()
        return reply

    def _url(self, base: str, call: Call) -> URL:
        if call.query:
            return URL(f"{base}{_suffix(call.path)}?{call.query}", encoded=True)
        found = self._urls.get((base, call.path))
        if found is None:
            found = URL(base + _suffix(call.path), encoded=True)
            if len(self._urls) >= _URLS:
                self._urls.clear()
            self._urls[base, call.path] = found
        return found


def _suffix(path: str) -> str:
    """Return the path below the base, which ends where `/v1` does."""
    lowered = path.lower()
    if ".." in path or "\\" in path or "%2e" in lowered or "%2f" in lowered or "?" in path or "#" in path:
        # the address decides what the key opens: nothing may climb out of it
        raise NotFoundError(f"No such path: {path}")
    return path.removeprefix("/v1")


def _data(body: bytes) -> bytes | io.BytesIO | None:
    if len(body) > _COPIED_AT_ONCE:
        return io.BytesIO(body)
    return body or None


def _headers(call: Call, address: Address, *, plain: bool) -> dict[str, str]:
    given = call.headers
    names = _SENT if address.callers_key else _SENT_WITH_OUR_KEY
    headers = {name: value for name in names if (value := given.get(name)) is not None}
    if not plain and _GZIP.search(given.get("accept-encoding", "")):
        # and no other: an error must be readable here, for it may hold a key
        headers["accept-encoding"] = "gzip"
    if call.raw and "content-type" not in headers:
        headers["content-type"] = "application/json"
    headers.update(address.headers)
    if address.callers_key and call.caller.bearer is not None:
        headers["authorization"] = f"Bearer {call.caller.bearer.value}"
    return headers
