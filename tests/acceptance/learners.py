"""Three calls of one learner that belong together, sent over HTTP, and what each of them gets back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from proxy.model import Json
from tests.make import make_user_text

CHAT = "/v1/chat/completions"
WORDS = ("otter-11", "maple-22", "comet-33")
"""What the lessons of a group are about, in the order of its callers."""
LEVELS = ("intro", "easy", "hard")
LESSON: Json = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "content": {"type": "string"}, "level": {"enum": list(LEVELS)}},
    "required": ["title", "content", "level"],
    "additionalProperties": False,
}
TOOL: Json = {
    "tools": [{"type": "function", "function": {"name": "create_lesson", "parameters": LESSON}}],
    "tool_choice": {"type": "function", "function": {"name": "create_lesson"}},
}


def ask(model: str, i: int, *, stream: bool = False, **more: Any) -> Json:
    """Build the body of a group's caller `i`."""
    text = make_user_text(request=f"Level: {LEVELS[i]}\nCreate a lesson about {WORDS[i]}.")
    body: Json = {"model": model, "user": "learner-1", "messages": [{"role": "user", "content": text}], **TOOL}
    return body | ({"stream": True} if stream else {}) | more


@dataclass(frozen=True)
class Got:
    """One caller's answer, read as far as the connection brought it."""

    i: int
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def way(self) -> str:
        """`merged`, or why not."""
        return "merged" if self.headers["x-lesson-merged"] == "true" else self.headers["x-lesson-reason"]

    def events(self) -> list[Any]:
        """The events of a stream; its last must be `[DONE]`, and nowhere else may one stand."""
        blocks = [block for block in self.body.decode().split("\n\n") if block]
        assert all(block.startswith("data: ") for block in blocks), self.body
        assert blocks.count("data: [DONE]") == 1, self.body
        assert blocks.pop() == "data: [DONE]", self.body
        return [orjson.loads(block.removeprefix("data: ")) for block in blocks]

    def lesson(self) -> Json:
        """The lesson of a whole answer."""
        assert self.status == 200, (self.status, self.body)
        if self.headers["content-type"].startswith("text/event-stream"):
            choices = [choice for event in self.events() for choice in event["choices"]]
            assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"], self.body
            calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
            return orjson.loads("".join(call["function"].get("arguments", "") for call in calls))
        (choice,) = orjson.loads(self.body)["choices"]
        assert choice["finish_reason"] == "stop"
        (call,) = choice["message"]["tool_calls"]
        return orjson.loads(call["function"]["arguments"])

    def check_own(self) -> None:
        """The lesson is this caller's, and holds nothing of another's."""
        lesson = self.lesson()
        told = orjson.dumps(lesson).decode()
        assert [word for word in WORDS if word in told] == [WORDS[self.i]]
        assert lesson["level"] == LEVELS[self.i]

    def broken_with(self) -> str | None:
        """The code of the error that a stream ends with, after events that are none; no `[DONE]` may stand in it."""
        blocks = [block for block in self.body.decode().split("\n\n") if block]
        assert "data: [DONE]" not in blocks, self.body
        events = [orjson.loads(block.removeprefix("data: ")) for block in blocks if block.startswith("data: {")]
        assert ["error" in event for event in events] == [False] * (len(events) - 1) + [True], self.body
        assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
        return events[-1]["error"]["code"]

    def error(self) -> Json:
        """The error of an answer that is one, in OpenAI's form."""
        assert self.headers["content-type"] == "application/json", self.body
        error = orjson.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        if self.status in (429, 503):
            assert int(self.headers["retry-after"]) >= 1
        return error


async def call(client: httpx.AsyncClient, i: int, body: Json, **headers: str) -> Got:
    answer = await client.post(CHAT, json=body, headers=headers)
    return Got(i, answer.status_code, answer.headers, answer.content)


async def group(client: httpx.AsyncClient, model: str, *, stream: bool = False) -> list[Got]:
    """Send a group's three calls at once."""
    return await asyncio.gather(*(call(client, i, ask(model, i, stream=stream)) for i in range(3)))
