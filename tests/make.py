"""Builders of the house's values for tests: every field has a plain default, and a test names only what it is about."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.model import Batch, BatchId, BatchKey, Call, Caller, CallId, Json, Lesson
from proxy.policy import MergePolicy, WindowPolicy

LESSON_SCHEMA: Json = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "content": {"type": "string"}},
    "required": ["title", "content"],
    "additionalProperties": False,
}
"""What the built lessons' callers want, where a test doesn't say."""

SYSTEM_TEXT = "You write short lessons for school children."


def make_caller(**overrides: Any) -> Caller:
    """Build a caller with a key of its own and no credential."""
    values: dict[str, Any] = {"key_digest": "digest-of-a-key"}
    return Caller(**(values | overrides))


def make_user_text(subject: str = "Algebra 1", topic: str = "Linear equations", request: str = "Write the lesson.") -> str:
    """Build a user message as the shipped rules understand it."""
    return f"Subject: {subject}\nTopic: {topic}\n{request}"


def make_body(**overrides: Any) -> Json:
    """Build the body of a chat call that asks for one lesson by a forced `create_lesson` tool."""
    body: Json = {
        "model": "gpt-oss-120b",
        "messages": [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": make_user_text()}],
        "tools": [{"type": "function", "function": {"name": "create_lesson", "parameters": LESSON_SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "create_lesson"}},
    }
    return body | overrides


def make_responses_body(**overrides: Any) -> Json:
    """Build what `make_body` asks for as a body of the Responses API; a field given as `...` is left out."""
    body: Json = {
        "model": "gpt-oss-120b",
        "instructions": SYSTEM_TEXT,
        "input": [{"role": "user", "content": make_user_text()}],
        "tools": [{"type": "function", "name": "create_lesson", "parameters": LESSON_SCHEMA}],
        "tool_choice": {"type": "function", "name": "create_lesson"},
    }
    return {name: value for name, value in (body | overrides).items() if value is not ...}


def make_call(**overrides: Any) -> Call:
    """Build an accepted chat call; `raw` follows `body` unless it is given."""
    body: Json = overrides.get("body", make_body())
    values: dict[str, Any] = {
        "id": CallId("call-0"),
        "path": "/v1/chat/completions",
        "query": "",
        "headers": {"content-type": "application/json"},
        "raw": orjson.dumps(body),
        "body": body,
        "caller": make_caller(),
    }
    return Call(**(values | overrides))


def make_lesson(**overrides: Any) -> Lesson:
    """Build a recognised lesson: a forced tool, JSON answer, no limits; `body` and the other fields don't follow each other."""
    values: dict[str, Any] = {
        "id": CallId("call-0"),
        "body": make_body(),
        "model": "gpt-oss-120b",
        "shape": "tool",
        "rule": "create_lesson tool",
        "mode": "on",
        "subject": "algebra 1",
        "topic": "linear equations",
        "user": "learner-7",
        "scope": "user",
        "key": BatchKey("key-0"),
        "identity_digest": "identity-0",
        "schema": LESSON_SCHEMA,
        "schema_name": "create_lesson",
        "force": "name",
        "token_limit": None,
        "token_limit_field": None,
        "stream": False,
        "include_usage": False,
        "window": WindowPolicy(),
        "merge": MergePolicy(),
        "checks": {},
    }
    return Lesson(**(values | overrides))


def make_text_lesson(**overrides: Any) -> Lesson:
    """Build a lesson whose caller asked for plain text."""
    body = make_body()
    del body["tools"], body["tool_choice"]
    values: dict[str, Any] = {"body": body, "shape": "text", "schema": None, "schema_name": None, "force": None}
    return make_lesson(**(values | overrides))


def make_lessons(n: int, **overrides: Any) -> list[Lesson]:
    """Build `n` lessons `call-0`… that differ in their id and in the request of their user message."""
    return [make_lesson(**({"id": CallId(f"call-{i}"), "body": _numbered_body(i)} | overrides)) for i in range(n)]


def make_batch(n: int = 2, **overrides: Any) -> Batch:
    """Build a sealed batch of `n` lessons of one key; give `lessons=` to choose them."""
    values: dict[str, Any] = {
        "id": BatchId("batch-0"),
        "key": BatchKey("key-0"),
        "lessons": tuple(make_lessons(n)) if "lessons" not in overrides else (),
        "closed_by": "full",
        "caller": make_caller(),
    }
    return Batch(**(values | overrides))


def _numbered_body(i: int) -> Json:
    text = make_user_text(request=f"Write lesson variant {i}.")
    return make_body(messages=[{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": text}])
