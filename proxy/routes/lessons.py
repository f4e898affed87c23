"""Several lessons in one call: all that is asked is checked before anything is sent; each item is a chat call of its own.

`POST /v1/lessons/batch` takes chat bodies, `POST /v1/lessons/variants` one and a number. It recognises and merges nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import orjson

from proxy.errors import BadRequestError, NotFoundError
from proxy.lessons.identity import GROUP_HEADER
from proxy.model import Call, Caller, CallId, Json, Lesson, Reply
from proxy.routes.body import parse_object, read_body
from proxy.routes.calls import CHAT, ENDS_HERE, require_chat, require_known, streams
from proxy.routes.exchange import Exchange
from proxy.routes.front import Front
from proxy.routes.replies import EVENTS, json_reply
from proxy.routes.results import events, result
from proxy.together import Judged

MOST_REQUESTS = 100
"""Every answer is kept until the last is there, and any item may have to be sent again: more belong in several calls."""
_NOT_THE_ITEMS = frozenset(
    {*ENDS_HERE, "accept", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding"}
    # twins in one call would be taken for each other's retries
    | {"x-stainless-retry-count"}
)
"""Headers that tell of the call around the items."""


async def batch(exchange: Exchange) -> Reply:
    """Answer every chat body of `requests`, in order."""
    caller, body = await _read(exchange, {"requests", "stream"})
    requests = [_checked(exchange.front, request, f"requests[{index}]") for index, request in enumerate(_requests(body))]
    return await _answer(exchange, await exchange.front.together.judged(_calls(exchange, requests, caller)))


async def variants(exchange: Exchange) -> Reply:
    """Answer one chat body `count` times, with lessons that differ."""
    caller, body = await _read(exchange, {"count", "request", "stream"})
    request, count = _checked(exchange.front, body.get("request"), "request"), _count(body)
    _require_variety(request, count)
    (first,) = _calls(exchange, [request], caller)
    judged = await exchange.front.together.judged([replace(first, id=_id(exchange, index)) for index in range(count)])
    verdict = judged[0].verdict
    _require_within(count, verdict.window.max_size if isinstance(verdict, Lesson) else exchange.front.max_size)
    return await _answer(exchange, judged)


async def _read(exchange: Exchange, known: Collection[str]) -> tuple[Caller, Json]:
    """Return who calls and the call's own body, none of whose names is unknown."""
    headers, front = exchange.headers, exchange.front
    caller = front.access.identify(headers)
    raw = await read_body(exchange.receive, headers, max_bytes=front.max_body_bytes, hold=exchange.hold, here=exchange.body_is_here)
    exchange.departure.watch()
    body = parse_object(raw)
    for name in body:
        if name not in known:
            raise BadRequestError(f"Unknown parameter: {name[:40]!r}.", param=name[:40], code="unknown_parameter")
    exchange.stream = streams(body)
    return caller, body


def _requests(body: Json) -> list[Any]:
    requests: Any = body.get("requests")
    if requests is None:
        raise BadRequestError("Missing required parameter: 'requests'.", param="requests", code="missing_required_parameter")
    if not isinstance(requests, list):
        raise BadRequestError("Invalid type for 'requests': expected an array.", param="requests", code="invalid_type")
    found = cast("list[Any]", requests)
    if len(found) > MOST_REQUESTS:
        raise BadRequestError(f"One call takes {MOST_REQUESTS} requests, not {len(found)}.", param="requests", code="too_many_requests")
    return found


def _checked(front: Front, request: Any, place: str) -> Json:
    """Return a request that could be sent as a call of its own; raises BadRequestError, which names the place."""
    if not isinstance(request, dict):
        raise BadRequestError(f"{place} must be an object: the body of a chat completion.", param=place, code="invalid_type")
    body = cast("Json", request)
    try:
        require_known(front, require_chat(body))
        _require_no_stream(body)
    except (BadRequestError, NotFoundError) as error:
        raise BadRequestError(f"{place}: {error.message}", param=f"{place}.{error.param}", code=error.code) from error
    return body


def _require_no_stream(request: Json) -> None:
    if streams(request):
        raise BadRequestError("a stream is asked of the call as a whole, not of one request.", param="stream", code="invalid_value")


def _count(body: Json) -> int:
    count: Any = body.get("count")
    if count is None:
        raise BadRequestError("Missing required parameter: 'count'.", param="count", code="missing_required_parameter")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BadRequestError("Invalid value for 'count': expected a whole number of 1 or more.", param="count", code="invalid_value")
    _require_within(count, MOST_REQUESTS)
    return count


def _require_within(count: int, most: int) -> None:
    if count > most:
        raise BadRequestError(f"'count' is at most {most} here: so many lessons go together.", param="count", code="invalid_value")


def _require_variety(request: Json, count: int) -> None:
    """Raise BadRequestError where the request itself says that every answer is to be the same."""
    for name, same in (("temperature", request.get("temperature") == 0), ("seed", request.get("seed") is not None)):
        if same and count > 1:
            raise BadRequestError(
                f"request: with this {name!r} every variant would be the same; leave it out.", param=f"request.{name}", code="invalid_value"
            )


def _calls(exchange: Exchange, requests: Sequence[Json], caller: Caller) -> list[Call]:
    headers = {name: value for name, value in exchange.headers.items() if name not in _NOT_THE_ITEMS}
    if not headers.get(GROUP_HEADER, "").strip():
        # the items that name no user are one learner's, and with nobody's of another call
        headers[GROUP_HEADER] = secrets.token_hex(16)
    query = exchange.scope["query_string"].decode("latin-1")
    return [
        Call(_id(exchange, index), CHAT, query, headers, orjson.dumps(request), request, caller) for index, request in enumerate(requests)
    ]


def _id(exchange: Exchange, index: int) -> CallId:
    return CallId(f"{exchange.id}-{index}")


async def _answer(exchange: Exchange, judged: Sequence[Judged]) -> Reply:
    answers = exchange.front.together.answers(judged)
    if exchange.stream:
        return Reply(200, (EVENTS,), chunks=events(judged, answers))
    results: list[Json] = [{}] * len(judged)
    async with aclosing(answers):
        async for index, outcome in answers:
            results[index] = result(judged[index], outcome)
    return json_reply(200, {"results": results})
