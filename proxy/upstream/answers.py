"""What upstream answered, as a Reply: which headers come back, how much is read, and every refusal in OpenAI's form.

It knows neither litellm nor how the call was sent.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any, cast

import aiohttp
import orjson

from proxy.errors import UpstreamUnavailableError
from proxy.model import PAYER, Reply
from proxy.upstream.address import Address
from proxy.upstream.copied import ENDINGS, CopiedStream
from proxy.upstream.foreign import DENIED, Said, error_object, from_answer, scrub
from proxy.upstream.slots import Slot

LONGEST_BODY = 64 * 1024 * 1024
_LONGEST_ERROR = 256 * 1024
"""What is longer is a page or a dump, and no error that a caller could read."""

_RETURNED = frozenset({"content-type", "content-encoding", "content-disposition", "retry-after", "retry-after-ms", "x-should-retry"})
_RETURNED_FAMILIES = ("x-ratelimit-", "openai-")
_OF_THE_BODY = frozenset({"content-type", "content-encoding", "content-disposition"})
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may hold; a folded line comes out of the parser with its line break."""
_STREAMED = "text/event-stream"
_JSON = "application/json"
_KEYS = frozenset({"message", "type", "param", "code"})
_GZIP_OR_ZLIB = 47
"""zlib's window bits for either header."""


async def reply_to(response: aiohttp.ClientResponse, path: str, address: Address, slot: Slot) -> Reply:
    """Return the answer to a call of `path`; raises UpstreamUnavailableError for what is no answer at all.

    `slot` goes with the answer where it is streamed (`Reply.chunks`).
    """
    status = response.status
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own numbers
        raise UpstreamUnavailableError(f"The provider answered with a redirect ({status}); its address is not set right.")
    if not 200 <= status < 600:  # noqa: PLR2004
        raise UpstreamUnavailableError(f"The provider answered with status {status}, which is none of HTTP's.")
    if status >= 400:  # noqa: PLR2004
        return await _refusal(response, address)
    headers = _returned(response.headers, address)
    if (kind := response.headers.get("content-type", "")) and not kind.startswith(_JSON):
        # nothing can be appended to a compressed stream
        events = kind.startswith(_STREAMED) and "content-encoding" not in response.headers
        copied = CopiedStream(response, slot, events=events, ending=ENDINGS.get(path) if events else None)
        return Reply(status, headers, chunks=copied, close=copied.close)
    body = await _read(response, LONGEST_BODY)
    if body is None:
        raise UpstreamUnavailableError("The provider's answer is larger than the proxy takes.")
    return Reply(status, headers, body)


def _returned(headers: Mapping[str, str], address: Address) -> tuple[tuple[str, str], ...]:
    kept: list[tuple[str, str]] = []
    for name, value in headers.items():
        lowered = name.lower()
        if _CONTROL.search(value):
            continue
        if lowered in PAYER and not address.callers_key:
            # its owner may see the account
            continue
        if lowered in _RETURNED or lowered.startswith(_RETURNED_FAMILIES):
            kept.append((lowered, value))
        elif lowered == "x-request-id":
            # the name is ours; upstream's id still helps whoever asks the provider
            kept.append(("x-upstream-request-id", value))
    return tuple(kept)


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Return the body; None where it is longer than `most` bytes: the rest is not read."""
    length = response.content_length
    if length is not None:
        return await response.read() if length <= most else None
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > most:
            return None
        parts.append(chunk)
    return b"".join(parts)


async def _refusal(response: aiohttp.ClientResponse, address: Address) -> Reply:
    """Return an error of upstream in OpenAI's form and without a trace of the operator's key."""
    status = response.status
    body = _unpacked(await _read(response, _LONGEST_ERROR) or b"", response.headers.get("content-encoding", ""))
    if status in (401, 403) and not address.callers_key:
        error = {"message": DENIED, "type": "invalid_request_error", "param": None, "code": "upstream_denied"}
        return Reply(status, (("content-type", _JSON),), orjson.dumps({"error": error}))
    if address.key and address.key.encode() in body:
        body = scrub(body.decode("utf-8", "replace"), (address.key,)).encode()
    headers = tuple(pair for pair in _returned(response.headers, address) if pair[0] not in _OF_THE_BODY)
    kind = response.headers.get("content-type", "")
    told = Said(status, {} if "html" in kind else error_object(body), {name.lower(): value for name, value in response.headers.items()})
    return Reply(status, (("content-type", _JSON), *headers), _in_openais_form(body, told))


def _unpacked(body: bytes, coding: str) -> bytes:
    """Return an error's text; empty where it can't be read: packed in another way than was asked for, or broken, or endless."""
    if coding.strip().lower() in ("", "identity"):
        return body
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        text = unpacker.decompress(body, _LONGEST_ERROR)
    except zlib.error:
        return b""
    return text if unpacker.eof else b""


def _in_openais_form(body: bytes, said: Said) -> bytes:
    """Return `body` as it is where it has what clients read; else completed, or where it says nothing in words of our own."""
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    whole = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
    error: Any = whole.get("error")
    known = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    if known.keys() >= _KEYS:
        return body
    # whose words these are was settled before: nothing is left to cut out
    return orjson.dumps(whole | {"error": known | from_answer(said, secrets=None).body()["error"]})
