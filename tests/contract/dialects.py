"""Callers of lessons before the whole proxy, with real litellm behind it and one dialect of the simulated provider behind that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import orjson

from proxy.app import Proxy
from proxy.model import Json
from proxy.observe.events import BatchFinished
from proxy.settings import parse
from proxy.simulated import Provider
from tests.unit.asgi import Exchange, ask

Deployed = tuple[str, str, Json]
"""litellm's name of a model, the dialect of the provider behind it, and what is said of the model."""

LESSON: Json = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 3, "maxLength": 90},
        "content": {"type": "string", "minLength": 40},
        "difficulty": {"enum": ["easy", "medium", "hard"]},
        "questions": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"$ref": "#/$defs/Question"}},
        "hint": {"type": ["string", "null"]},
    },
    "required": ["title", "content", "difficulty", "questions", "hint"],
    "additionalProperties": False,
    "$defs": {
        "Question": {
            "type": "object",
            "properties": {"prompt": {"type": "string"}, "correct": {"type": "integer", "minimum": 0, "maximum": 3}},
            "required": ["prompt", "correct"],
            "additionalProperties": False,
        }
    },
}
"""With bounds that some refuse, references that some don't know, and nothing left open that strict modes forbid."""
FITS = jsonschema_rs.validator_for(LESSON, offline=True)
PATIENT: Json = {"window": {"hinted_max_wait_ms": 20_000}}
"""Announced calls that come late on a busy machine are still one batch."""
SHAPES = ("tool", "json_schema", "json_object", "text")
SYSTEM = "You are a patient teacher. Write one short lesson for the learner."
_FORM = 'Answer as a JSON object: {"title": string, "content": string, "difficulty": "easy" | "medium" | "hard"}.'


def body_of(shape: str, learner: str, **more: Any) -> Json:
    """Build one caller's request."""
    system = f"{SYSTEM} {_FORM}" if shape == "json_object" else SYSTEM
    text = f"Subject: Algebra 1\nTopic: Linear equations\nDifficulty: hard\nWrite the lesson for {learner} of grade nine."
    body: Json = {"model": "m", "user": "u-1", "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}
    strict = {"strict": True} if more.pop("strict", False) else {}
    match shape:
        case "tool":
            body["tools"] = [{"type": "function", "function": {"name": "create_lesson", "parameters": LESSON, **strict}}]
            body["tool_choice"] = {"type": "function", "function": {"name": "create_lesson"}}
        case "json_schema":
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "lesson", "schema": LESSON, **strict}}
        case "json_object":
            body["response_format"] = {"type": "json_object"}
        case _:
            pass
    return body | more


@dataclass
class Scene:
    """A proxy at work, what it tells, and the providers behind it."""

    proxy: Proxy
    providers: list[Provider]
    events: list[object] = field(default_factory=list[object])

    async def lessons(self, shape: str, count: int = 3, **more: Any) -> list[Exchange]:
        """Ask for so many lessons at once; they are announced, so nobody waits for a window."""
        headers = [("x-lesson-expect", str(count)), ("content-type", "application/json")]
        bodies = [body_of(shape, learner, **more) for learner in learners(count)]
        return list(await asyncio.gather(*(ask(self.proxy.edge, body=body, headers=headers) for body in bodies)))

    @property
    def batches(self) -> list[BatchFinished]:
        """Return the batches that have ended."""
        return [event for event in self.events if isinstance(event, BatchFinished)]

    @property
    def upstream_bodies(self) -> list[Json]:
        """Return the bodies that the providers were sent."""
        return [request.body for provider in self.providers for request in provider.stats.recorded]


def learners(count: int) -> list[str]:
    return [f"learner-{i}x" for i in range(count)]


@asynccontextmanager
async def scene(
    *deployments: Deployed, content_words: int = 90, tokens_per_second: float | None = None, **sections: Any
) -> AsyncGenerator[Scene]:
    """Serve the alias `m` from deployments."""
    events: list[object] = []
    async with AsyncExitStack() as stack:
        providers = [
            await stack.enter_async_context(
                Provider.running(dialect=dialect, record=50, content_words=content_words, tokens_per_second=tokens_per_second)
            )
            for _, dialect, _ in deployments
        ]
        entries = [_entry(deployment, provider) for deployment, provider in zip(deployments, providers, strict=True)]
        settings = parse({"model_list": entries, "lessons": PATIENT} | sections, env={})
        proxy = await stack.enter_async_context(Proxy.running(settings, [events.append]))
        proxy.ready()
        yield Scene(proxy, providers, events)


def _entry(deployment: Deployed, provider: Provider) -> Json:
    model, dialect, lessons = deployment
    base = provider.origin if dialect in ("anthropic", "gemini") else provider.url
    params = {"model": model, "api_base": base, "api_key": "sk-of-the-operator"}
    return {"model_name": "m", "litellm_params": params, "model_info": {"lessons": lessons}}


def content_of(exchange: Exchange, shape: str) -> Any:
    """Return what the caller gets, from JSON or from a stream: arguments or content, parsed unless it is text."""
    message = _streamed(exchange) if exchange.body.startswith(b"data:") else exchange.json["choices"][0]["message"]
    if shape == "tool":
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "create_lesson"
        return orjson.loads(call["function"]["arguments"])
    assert not message.get("tool_calls")
    return message["content"] if shape == "text" else orjson.loads(message["content"])


def _streamed(exchange: Exchange) -> Json:
    calls: list[Json] = []
    content = ""
    for line in exchange.body.split(b"\n\n"):
        if not line.startswith(b"data: {"):
            continue
        event: Json = orjson.loads(line[6:])
        assert "error" not in event, event
        for choice in event["choices"]:
            content += choice["delta"].get("content") or ""
            for piece in choice["delta"].get("tool_calls") or ():
                if piece.get("id"):
                    calls.append({"function": {"name": piece["function"]["name"], "arguments": ""}})
                calls[piece["index"]]["function"]["arguments"] += piece["function"].get("arguments") or ""
    return {"tool_calls": calls, "content": content}


def check_own(exchange: Exchange, shape: str, learner: str) -> None:
    """The caller has a lesson in its own form, and its own one."""
    assert exchange.status == 200, exchange.body
    content = content_of(exchange, shape)
    if shape in ("tool", "json_schema"):
        assert FITS.is_valid(content), content
    text = content if isinstance(content, str) else orjson.dumps(content).decode()
    assert learner in text
    assert not [other for other in learners(9) if other != learner and other in text]
