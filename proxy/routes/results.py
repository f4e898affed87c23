"""What one call with several lessons is told of each: an object of its own, alike whether all come at once or one by one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from proxy.errors import BadRequestError, ProxyError, UpstreamUnavailableError
from proxy.lessons.render import DONE
from proxy.model import Json, Reply, Unbatchable
from proxy.routes.body import parse_object
from proxy.routes.replies import json_bytes, refusal, retry_after
from proxy.together import Judged, Outcome

_REFUSED = 400
_FACTS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "x-lesson-merged": ("merged", "true".__eq__),
    "x-lesson-reason": ("reason", str),
    "x-lesson-batch-id": ("batch_id", str),
    "x-lesson-batch-size": ("batch_size", int),
    "x-lesson-wait-ms": ("wait_ms", int),
    "x-lesson-input-tokens-saved": ("input_tokens_saved", int),
}
"""What a single call is told in headers, by header: under which name, and as what."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def result(judged: Judged, outcome: Outcome) -> Json:
    """Return `success`, `response` or `error` (with `status` and `retry_after`, in seconds), `usage`, and under `lesson` what was done."""
    reply = refusal(outcome) if isinstance(outcome, ProxyError) else outcome
    body = _object(reply)
    if body is None:
        reply = refusal(UpstreamUnavailableError("The provider's answer is no JSON object."), reply.headers)
        body = parse_object(reply.body)
    lesson = _facts(judged, reply)
    if reply.status < _REFUSED:
        return {"success": True, "response": body, "usage": body.get("usage"), "lesson": lesson}
    seconds = retry_after(reply.status, reply.headers)
    told = {"status": reply.status, "retry_after": None if seconds is None else int(seconds)}
    return {"success": False, "error": body.get("error"), **told, "usage": None, "lesson": lesson}


async def events(judged: Sequence[Judged], answers: AsyncGenerator[tuple[int, Outcome]]) -> AsyncGenerator[bytes]:
    """Yield an event a finished lesson, with its place as `index`, then one with the totals, then `[DONE]`."""
    results: list[Json] = []
    async with aclosing(answers):
        async for index, outcome in answers:
            told = result(judged[index], outcome)
            results.append({"usage": told["usage"], "success": told["success"], "lesson": told["lesson"]})
            yield _event({"index": index, **told})
    yield _event({"totals": totals(results)})
    yield DONE


def totals(results: Sequence[Json]) -> Json:
    """Return the counts of all results together."""
    facts = [told["lesson"] for told in results]
    succeeded = sum(told["success"] for told in results)
    return {
        "requests": len(results),
        "succeeded": succeeded,
        "failed": len(results) - succeeded,
        "merged": sum(fact["merged"] for fact in facts),
        "batches": len({fact["batch_id"] for fact in facts} - {None}),
        "input_tokens_saved": sum(fact["input_tokens_saved"] or 0 for fact in facts),
        "usage": {name: sum(_count(told["usage"], name) for told in results) for name in _COUNTS},
    }


def _object(reply: Reply) -> Json | None:
    """Return the answer's object; None where it is none, or an error without its object."""
    try:
        body = parse_object(reply.body)
    except BadRequestError:
        return None
    return body if reply.status < _REFUSED or isinstance(body.get("error"), dict) else None


def _facts(judged: Judged, reply: Reply) -> Json:
    """Return what happened to the call; its own id is in every line of the log about it."""
    facts: Json = {"request_id": judged.call.id, "merged": False, **{name: None for name, _ in _FACTS.values() if name != "merged"}}
    if isinstance(judged.verdict, Unbatchable):
        facts["reason"] = judged.verdict.reason
    for header, value in reply.headers:
        if header in _FACTS:
            name, read = _FACTS[header]
            facts[name] = read(value)
    return facts


def _count(usage: Any, name: str) -> int:
    count = cast("Json", usage).get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else 0


def _event(content: Json) -> bytes:
    return b"data: " + json_bytes(content) + b"\n\n"
