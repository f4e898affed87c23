"""Writes one caller's lesson as a response of its own, JSON or SSE, in the words of the Responses API; it knows nothing of the batch."""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

from proxy.lessons.forms.continuing import answer_id, mark
from proxy.model import Completed, Json, Lesson, Usage

_CUT_OFF = re.compile(rb'"status"\s*:\s*"incomplete"')
_ECHOED: Json = {
    # what OpenAI says where the caller left it open, in its order
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
_REASONING: Json = {"effort": None, "summary": None}
_TEXT: Json = {"format": {"type": "text"}}


def render_json(body: Json, lesson: Lesson, completed: Completed, created: int) -> bytes:
    """Return a `response`; `body` is the caller's own, `created` in seconds since 1970."""
    return orjson.dumps(_Answer(body, lesson, completed, created).whole())


def render_sse(body: Json, lesson: Lesson, completed: Completed, created: int) -> bytes:
    """Return the whole stream of events: the response as it begins, its one item piece by piece, and the response as it ended."""
    answer = _Answer(body, lesson, completed, created)
    events: list[Json] = [
        {"type": "response.created", "response": answer.begun()},
        {"type": "response.in_progress", "response": answer.begun()},
        {"type": "response.output_item.added", "output_index": 0, "item": answer.opened_item()},
        *(_call_events(answer) if lesson.shape == "tool" else _text_events(answer)),
        {"type": "response.output_item.done", "output_index": 0, "item": answer.item()},
        {"type": "response.completed", "response": answer.whole()},
    ]
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event | {"sequence_number": number}))
        for number, event in enumerate(events)
    )


def was_cut_off(answer: bytes) -> bool:
    """Tell whether a JSON answer ended at its token limit. Inside a string the quotes would be escaped."""
    return _CUT_OFF.search(answer) is not None


def usage_object(usage: Usage) -> Json:
    """Return the API's `usage`, whose details always stand."""
    return {
        "input_tokens": usage.prompt,
        # the official client's newest model wants both; what was written to a cache is not told by every provider
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


class _Answer:
    """One answer and its parts, as far as they are written."""

    def __init__(self, body: Json, lesson: Lesson, completed: Completed, created: int) -> None:
        self.text = completed.content
        self._lesson = lesson
        self._completed = completed
        self._created = created
        self._body = body
        self.item_id = answer_id("fc" if lesson.shape == "tool" else "msg", lesson.site, completed.id)

    def begun(self) -> Json:
        return self._response("in_progress", [], None)

    def whole(self) -> Json:
        return self._response("completed", [self.item()], usage_object(self._completed.usage))

    def _response(self, status: str, output: list[Json], usage: Json | None) -> Json:
        done = self._completed
        return {
            "id": answer_id("resp", self._lesson.site, done.id),
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "completed_at": self._created if usage else None,
            "error": None,
            "incomplete_details": None,
            "model": done.model,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "usage": usage,
            **_echoed(self._body),
        }

    def opened_item(self) -> Json:
        """Return the item before anything of it is written."""
        emptied: Json = {"arguments": ""} if self._lesson.shape == "tool" else {"content": []}
        return self.item() | {"status": "in_progress"} | emptied

    def item(self) -> Json:
        if self._lesson.shape != "tool":
            content = [text_part(self.text)]
            return {"id": self.item_id, "type": "message", "status": "completed", "role": "assistant", "content": content}
        called: Json = {"call_id": f"call_{mark(self._completed.id)}", "name": self._lesson.schema_name, "arguments": self.text}
        return {"id": self.item_id, "type": "function_call", "status": "completed", **called}


def text_part(text: str) -> Json:
    """Return the one part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _echoed(body: Json) -> Json:
    """Return what the caller asked for, as OpenAI says it back."""
    echoed = {name: usual if body.get(name) is None else body[name] for name, usual in _ECHOED.items()}
    return echoed | {"reasoning": _filled(_REASONING, body.get("reasoning")), "text": _filled(_TEXT, body.get("text"))}


def _filled(usual: Json, given: Any) -> Json:
    known = cast("Json", given) if isinstance(given, dict) else {}
    return usual | {name: value for name, value in known.items() if value is not None}


def _text_events(answer: _Answer) -> list[Json]:
    at: Json = {"item_id": answer.item_id, "output_index": 0, "content_index": 0}
    return [
        {"type": "response.content_part.added", **at, "part": text_part("")},
        {"type": "response.output_text.delta", **at, "delta": answer.text, "logprobs": []},
        {"type": "response.output_text.done", **at, "text": answer.text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": text_part(answer.text)},
    ]


def _call_events(answer: _Answer) -> list[Json]:
    at: Json = {"item_id": answer.item_id, "output_index": 0}
    return [
        {"type": "response.function_call_arguments.delta", **at, "delta": answer.text},
        {"type": "response.function_call_arguments.done", **at, "arguments": answer.text, "name": answer.item()["name"]},
    ]
