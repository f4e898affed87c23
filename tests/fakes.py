"""Stand-ins for the house's edges that play a script: real values in, real outcomes out, and nothing is patched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.model import Call, Caller, CallId, Capability, Deployment, Held, Json, Lesson, Outcome, Piece, Plan, Price, Reply, Usage

Script = Sequence[Piece | BaseException | float]
"""What one merged call brings: pieces, an error to raise, or seconds to wait."""


class WordTokens:
    """Counts words: exact and easy to reckon by hand in a test."""

    def count(self, text: str) -> int:
        return len(text.split())


@dataclass
class FakeUpstream:
    """Plays one script a merged call, made from the body that it was sent; remembers what it was asked."""

    scripts: list[Script | Callable[[Json], Script]] = field(default_factory=list[Any])
    replies: list[Reply | BaseException] = field(default_factory=list[Any])
    capability: Capability = field(default_factory=Capability)
    output_limit: int | None = None
    price: Price | None = None
    picks: list[BaseException] = field(default_factory=list[BaseException])
    bodies: list[Json] = field(default_factory=list[Json])
    sent: list[tuple[Call, str, bool]] = field(default_factory=list[tuple[Call, str, bool]])
    open_streams: int = 0
    closed_streams: int = 0

    def knows(self, model: str) -> bool:
        return True

    def models(self) -> tuple[Json, ...]:
        return ()

    def max_output_tokens(self, model: str) -> int | None:
        return self.output_limit

    async def pick(self, model: str, caller: Caller) -> Deployment:
        if self.picks:
            raise self.picks.pop(0)
        return Deployment("deployment-0", f"upstream/{model}", "fake", self.capability, self.price)

    def stream(self, deployment: Deployment, body: Json, caller: Caller) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        self.bodies.append(body)
        script = self.scripts.pop(0)
        return self._played(script(body) if callable(script) else script)

    @asynccontextmanager
    async def _played(self, script: Script) -> AsyncGenerator[AsyncIterator[Piece]]:
        async def pieces() -> AsyncIterator[Piece]:
            for step in script:
                match step:
                    case Piece():
                        yield step
                    case BaseException():
                        raise step
                    case _:
                        await asyncio.sleep(step)

        self.open_streams += 1
        try:
            yield pieces()
        finally:
            self.open_streams -= 1
            self.closed_streams += 1

    async def send(self, call: Call, model: str, *, lesson: bool) -> Reply:
        self.sent.append((call, model, lesson))
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


@dataclass
class FakeDelivery:
    """Keeps the outcomes; `left` are the callers that don't wait."""

    left: set[CallId] = field(default_factory=set[CallId])
    outcomes: dict[CallId, Outcome] = field(default_factory=dict[CallId, Outcome])
    on_deliver: Callable[[], None] | None = None

    def deliver(self, outcome: Outcome, call: CallId) -> bool:
        if not self.waiting(call):
            return False
        self.outcomes[call] = outcome
        if self.on_deliver:
            self.on_deliver()
        return True

    def waiting(self, call: CallId) -> bool:
        return call not in self.left and call not in self.outcomes


@dataclass
class FakeWindow:
    """Gives each call the next outcome."""

    outcomes: list[Outcome | BaseException]
    plans: list[Plan] = field(default_factory=list[Plan])

    async def join(self, lesson: Lesson, plan: Plan, caller: Caller) -> Held:
        self.plans.append(plan)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return Held(outcome, wait_s=0.05)

    async def drain(self) -> None: ...

    async def settled(self) -> None: ...

    async def aclose(self) -> None: ...


def keys_of(body: Json) -> list[str]:
    """Read the keys that a merged body asks for, as a model would: from its schema."""
    schema = body["tools"][0]["function"]["parameters"] if body.get("tools") else body["response_format"]["json_schema"]["schema"]
    lessons = schema["properties"]["lessons"]
    return lessons["required"] if lessons["type"] == "object" else lessons["items"]["properties"]["key"]["enum"]


def lesson_text(marker: str) -> Json:
    """Build a lesson that fits tests.make.LESSON_SCHEMA; `marker` tells whose it is."""
    return {"title": f"Lesson {marker}", "content": f"This is what {marker} is about."}


def answer(body: Json, *, only: Sequence[int] | None = None, usage: Usage | None = Usage(100, 40), cut: int = 7) -> list[Piece]:  # noqa: B008
    """Answer a merged body as an honest upstream streams it: `only` some of the entries, then finish and usage."""
    keys = keys_of(body)
    chosen = range(len(keys)) if only is None else only
    text = orjson.dumps({"lessons": {keys[i]: lesson_text(f"entry-{i}") for i in chosen}}).decode()
    pieces = [Piece("arguments", text[at : at + cut], opens=at == 0, model="upstream-model") for at in range(0, len(text), cut)]
    return [*pieces, Piece(finish_reason="tool_calls"), *([Piece(usage=usage)] if usage else [])]
