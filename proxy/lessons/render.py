"""Writes one caller's lesson as a chat completion of its own, JSON or SSE; it knows nothing of the batch behind it."""

from __future__ import annotations

from hashlib import blake2b
from typing import assert_never

import orjson

from proxy.lessons.spent import UsageCorrector, correct_usage_json, read_usage_json
from proxy.model import CallId, Completed, Json, Lesson, Usage

__all__ = ["UsageCorrector", "correct_usage_json", "finish_reason", "read_usage_json", "render_json", "render_sse", "usage_object"]

DONE = b"data: [DONE]\n\n"


def render_json(lesson: Lesson, completed: Completed, created: int) -> bytes:
    """Return the body of a `chat.completion`; `created` in seconds since 1970."""
    message: Json = {"role": "assistant", "content": None, "refusal": None} | _answer(lesson, completed)
    choice: Json = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(lesson)}
    head = _head("chat.completion", completed, created)
    return orjson.dumps(head | {"choices": [choice], "usage": usage_object(completed.usage)})


def render_sse(lesson: Lesson, completed: Completed, created: int) -> bytes:
    """Return the whole stream of `chat.completion.chunk`s: who speaks, the lesson in one piece, why it ended, `[DONE]`.

    With `include_usage` a last chunk carries the usage, and every other says `usage: null`.
    """
    head = _head("chat.completion.chunk", completed, created)
    silent: Json = {"usage": None} if lesson.include_usage else {}
    chunks = [
        head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]} | silent
        for delta, reason in [*((delta, None) for delta in _deltas(lesson, completed)), ({}, finish_reason(lesson))]
    ]
    if lesson.include_usage:
        chunks.append(head | {"choices": [], "usage": usage_object(completed.usage)})
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + DONE


def finish_reason(lesson: Lesson) -> str:
    """Return why the answer ended, as the caller's own way of asking would have had it."""
    match lesson.force:
        case "required" | "auto":
            return "tool_calls"
        case "name" | None:
            return "stop"
        case _:
            assert_never(lesson.force)


def usage_object(usage: Usage) -> Json:
    """Return OpenAI's `usage`; details stand only where there are such tokens."""
    counts: Json = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if usage.cached:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    if usage.reasoning:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return counts


def _head(kind: str, completed: Completed, created: int) -> Json:
    return {"id": f"chatcmpl-{_mark(completed.id)}", "object": kind, "created": created, "model": completed.model}


def _mark(call: CallId) -> str:
    """Derive what the answer's ids end with: equal for the same call, and of a length that every client takes."""
    return blake2b(call.encode(), digest_size=12).hexdigest()


def _answer(lesson: Lesson, completed: Completed) -> Json:
    if lesson.shape == "tool":
        return {"tool_calls": [_tool_call(lesson, completed, completed.content)]}
    return {"content": completed.content}


def _tool_call(lesson: Lesson, completed: Completed, arguments: str) -> Json:
    function: Json = {"name": lesson.schema_name, "arguments": arguments}
    return {"id": f"call_{_mark(completed.id)}", "type": "function", "function": function}


def _deltas(lesson: Lesson, completed: Completed) -> list[Json]:
    first: Json = {"role": "assistant", "content": None, "refusal": None}
    if lesson.shape != "tool":
        return [first | {"content": ""}, {"content": completed.content}]
    opening: Json = {"index": 0} | _tool_call(lesson, completed, "")
    arguments: Json = {"index": 0, "function": {"arguments": completed.content}}
    return [first | {"tool_calls": [opening]}, {"tool_calls": [arguments]}]
