"""Request bodies: read, unpacked and parsed, each within a bound; it knows no model and no lesson.

What is forwarded is always the caller's bytes. For judging, a body is read strictly, with two allowances: a byte order
mark, and lone surrogates in strings (half an emoji, as JavaScript's slicing leaves them), which read as U+FFFD. Of doubled
keys the last counts, as with every parser upstream is likely to use. `NaN`, numbers beyond a double, more than 250 levels
of nesting and more than a million values are refused.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import NoReturn, cast

import orjson
from starlette.types import Message, Receive

from proxy.errors import BadRequestError, BodyTooLargeError, RequestTimeoutError
from proxy.model import Json

_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE_S = 120.0
"""Seconds for the largest body over a slow line; who takes longer only holds on to what others need."""
_DEEPEST = 250
"""Levels of nesting: what orjson writes again, with room for the levels that a merged body adds."""
_MOST_VALUES = 1_000_000
"""Counted by commas and brackets, those of texts too. Each takes some 60 bytes once it is parsed and blocks everybody while it is:
30 MB of empty lists took 5 s and 1 GB. The largest that a provider takes is 300,000 tokens to embed."""
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 47}
"""How zlib reads each coding; 47 takes zlib's and gzip's own headers."""
_PLAIN = ("", "identity")


Hold = Callable[[int], None]
"""Told of bytes that are held from now on; raises where there is no room for them."""


class CallerLeftError(Exception):
    """The connection is gone before the request was whole: nobody is there to be answered."""


async def read_body(receive: Receive, headers: Mapping[str, str], *, max_bytes: int, hold: Hold, here: bool = False) -> bytes:
    """Return the request's body, unpacked; `here`: the server has all of it already, so nothing needs to be timed.

    Never holds more than `max_bytes` of it (BodyTooLargeError) nor waits without end (RequestTimeoutError). `hold` is told of
    each piece of a body that came in several, before the next is asked for; what it raises ends the reading.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    raw = await (_read(receive, max_bytes, hold) if here else _read_in_time(receive, max_bytes, hold))
    if len(raw) > max_bytes:
        raise _too_large(max_bytes)
    coding = headers.get("content-encoding")
    if coding is None:
        return raw
    body = _unpack(raw, coding.strip().lower(), max_bytes)
    hold(len(body))
    return body


async def _read_in_time(receive: Receive, max_bytes: int, hold: Hold) -> bytes:
    try:
        async with asyncio.timeout(_WHOLE_S):
            return await _read(receive, max_bytes, hold)
    except TimeoutError as error:
        raise RequestTimeoutError(f"The request body did not come whole within {_WHOLE_S:g} seconds.") from error


async def _read(receive: Receive, max_bytes: int, hold: Hold) -> bytes:
    message = await receive()
    first = _part(message)
    return await _read_on(receive, first, max_bytes, hold) if message.get("more_body", False) else first


async def _read_on(receive: Receive, first: bytes, max_bytes: int, hold: Hold) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        hold(len(parts[-1]))
        if size > max_bytes:
            raise _too_large(max_bytes)
        message = await receive()
        parts.append(_part(message))
        size += len(parts[-1])
        more = message.get("more_body", False)
    return b"".join(parts)


def _part(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise CallerLeftError
    return message.get("body", b"")


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The request body is larger than this proxy takes ({max_bytes / 1_048_576:g} MB).")


def _unpack(raw: bytes, coding: str, max_bytes: int) -> bytes:
    if coding in _PLAIN:
        return raw
    if coding not in _WINDOW_BITS:
        raise BadRequestError(
            f"The content-encoding {coding[:40]!r} is not supported; send the body plain, gzip or deflate.",
            code="unsupported_content_encoding",
        )
    unpacker = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        body = unpacker.decompress(raw, max_bytes + 1)
    except zlib.error as error:
        raise BadRequestError(f"The request body is not {coding}, as its content-encoding says.", code="invalid_encoding") from error
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof:
        raise BadRequestError(f"The {coding} request body is cut off.", code="invalid_encoding")
    return body


def parse_object(raw: bytes) -> Json:
    """Return the body as a JSON object; raises BadRequestError or BodyTooLargeError, whose messages never quote the body."""
    if len(raw) > _MOST_VALUES and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _MOST_VALUES:
        raise BodyTooLargeError(f"The request body holds more values than this proxy takes ({_MOST_VALUES:,}).")
    try:
        body: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        body = _parse_leniently(raw, error)
    if not isinstance(body, dict):
        raise BadRequestError("The request body must be a JSON object.", code="invalid_json")
    if raw.count(b"{") + raw.count(b"[") > _DEEPEST and _depth(cast("object", body)) > _DEEPEST:
        raise _too_deep()
    return cast("Json", body)


def _parse_leniently(raw: bytes, strict: orjson.JSONDecodeError) -> object:
    """Parse once more with the two allowances of the module's docstring."""
    try:
        loose = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
        return orjson.loads(_SURROGATE.sub("\ufffd", json.dumps(loose, ensure_ascii=False, allow_nan=False)))
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        # the strict parser's words say where and what, and hold no text of the body
        raise BadRequestError(f"We could not parse the JSON body of your request: {strict}.", code="invalid_json") from error


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def _too_deep() -> BadRequestError:
    return BadRequestError(f"The request body is nested more than {_DEEPEST} levels deep.", code="invalid_json")


def _depth(value: object) -> int:
    """Return how many objects and lists stand in each other, counting no further than the bound."""
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        level = [inner for outer in level for inner in _nested(outer)]
    return depth


def _nested(value: object) -> list[object]:
    if isinstance(value, dict):
        inner = list(cast("dict[str, object]", value).values())
    else:
        inner = cast("list[object]", value) if isinstance(value, list) else []
    return [each for each in inner if isinstance(each, (dict, list))]
