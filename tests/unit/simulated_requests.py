"""Request bodies and a small client for the tests of the simulated provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import aiohttp

from proxy.simulated import Choices, Provider

Json = dict[str, Any]

KEYS: tuple[str, ...] = ("bj", "xk", "qw")
LEVELS: dict[str, str] = dict(zip(KEYS, ("hard", "easy", "intro"), strict=True))
LESSON: Json = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "content": {"type": "string"},
        "difficulty": {"enum": ["intro", "easy", "hard"]},
        "minutes": {"type": "integer", "minimum": 5, "maximum": 60},
    },
    "required": ["title", "content", "difficulty", "minutes"],
    "additionalProperties": False,
}
SINGLE_TEXT = "Subject: Algebra 1\nTopic: Linear equations\nDifficulty: easy\nFor learner-7."
BATCH_TEXT = "Subject: Algebra 1\nOne lesson each:\n" + "\n".join(
    f"{key}: for learner-{key}, Difficulty level {LEVELS[key]}" for key in KEYS
)


def named_tool(name: str, parameters: Json) -> Json:
    return {
        "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
        "tool_choice": {"type": "function", "function": {"name": name}},
    }


def single(model: str = "lesson-model", **more: Any) -> Json:
    """One lesson by a forced tool."""
    return {"model": model, "messages": [{"role": "user", "content": SINGLE_TEXT}], **named_tool("create_lesson", LESSON), **more}


def batch_schema() -> Json:
    inner = {"type": "object", "properties": {key: {"$ref": "#/$defs/lesson"} for key in KEYS}, "required": list(KEYS)}
    return {"$defs": {"lesson": LESSON}, "type": "object", "properties": {"lessons": inner}, "required": ["lessons"]}


def array_schema() -> Json:
    item = {"type": "object", "properties": {"key": {"enum": list(KEYS)}, "lesson": LESSON}, "required": ["key", "lesson"]}
    return {"type": "object", "properties": {"lessons": {"type": "array", "items": item, "minItems": 3}}, "required": ["lessons"]}


def batch(model: str = "lesson-model", schema: Json | None = None, **more: Any) -> Json:
    """Three lessons in one call."""
    tool = named_tool("create_lesson_batch", schema or batch_schema())
    return {"model": model, "messages": [{"role": "user", "content": BATCH_TEXT}], **tool, **more}


@dataclass
class Said:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Json:
        return self.json["error"]

    @property
    def choice(self) -> Json:
        return self.json["choices"][0]

    @property
    def arguments(self) -> str:
        return self.choice["message"]["tool_calls"][0]["function"]["arguments"]

    @property
    def content(self) -> str:
        return self.choice["message"]["content"]

    @property
    def events(self) -> list[Any]:
        """What the events of a stream hold, without its [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def done(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n")

    @property
    def pieces(self) -> list[str]:
        """The pieces of text or arguments of a stream."""
        return [piece for event in self.events for choice in event.get("choices", []) if (piece := _piece(choice["delta"]))]

    @property
    def finishes(self) -> list[str]:
        return [choice["finish_reason"] for event in self.events for choice in event.get("choices", []) if choice["finish_reason"]]


def _piece(delta: Json) -> str:
    calls: list[Json] = delta.get("tool_calls") or []
    return (delta.get("content") or "") + "".join(call["function"].get("arguments", "") for call in calls)


@dataclass
class Client:
    """Speaks to a provider over a real socket."""

    provider: Provider
    session: aiohttp.ClientSession

    async def chat(self, body: Json | bytes, **headers: str) -> Said:
        return await self.send("POST", "/v1/chat/completions", body, **headers)

    async def send(self, method: str, path: str, body: Json | bytes | None = None, **headers: str) -> Said:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        url = f"{self.provider.origin}{path}"
        async with self.session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            return Said(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read())


@asynccontextmanager
async def talking(**choices: Unpack[Choices]) -> AsyncGenerator[Client]:
    """A provider that is being served, and a client of it."""
    async with Provider.running(**choices) as provider, aiohttp.ClientSession() as session:
        yield Client(provider, session)


async def open_requests(client: Client, wanted: int) -> None:
    """Wait until so many requests are open in the provider."""
    async with asyncio.timeout(5):
        while client.provider.stats.open_requests != wanted:  # noqa: ASYNC110 - counts tell nobody that they change
            await asyncio.sleep(0)
