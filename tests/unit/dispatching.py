"""A scene for tests of dispatching: one batch, a scripted upstream, and what becomes of the lessons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.dispatch import Dispatcher
from proxy.model import Alone, Batch, CallId, Failed, Json, Piece, Usage
from proxy.observe.events import BatchFinished
from proxy.sites import Sites
from tests.fakes import FakeDelivery, FakeUpstream, WordTokens, keys_of, lesson_text


@dataclass
class Scene:
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    delivery: FakeDelivery = field(default_factory=FakeDelivery)
    events: list[object] = field(default_factory=list[object])
    slept: list[float] = field(default_factory=list[float])
    on_sleep: Callable[[], None] | None = None
    sites: Sites = field(default_factory=Sites)
    jitter: float = 0.0
    now: float = 0.0

    async def run(self, batch: Batch, *, num_retries: int = 2) -> None:
        await self.made(num_retries)(batch, self.delivery)

    @property
    def dispatcher(self) -> Dispatcher:
        return self.made(num_retries=2)

    def made(self, num_retries: int) -> Dispatcher:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            if self.on_sleep:
                self.on_sleep()

        return Dispatcher(
            upstream=self.upstream,
            sites=self.sites,
            tokens=WordTokens(),
            publish=self.events.append,
            num_retries=num_retries,
            clock=lambda: self.now,
            sleep=sleep,
            jitter=lambda: self.jitter,
        )

    @property
    def finished(self) -> BatchFinished:
        (event,) = [e for e in self.events if isinstance(e, BatchFinished)]
        return event

    def outcome(self, i: int) -> Any:
        return self.delivery.outcomes[CallId(f"call-{i}")]

    def reasons(self) -> list[str]:
        return [o.reason if isinstance(o, Failed | Alone) else type(o).__name__ for o in self.delivery.outcomes.values()]


def prompt_words(body: Json) -> int:
    """Count the words of what a model reads of a body, as the dispatcher's estimate does."""
    texts = [message["content"] for message in body["messages"]]
    texts += [orjson.dumps(body[name]).decode() for name in ("tools", "response_format") if body.get(name)]
    return WordTokens().count("\n".join(texts))


def with_one_invalid(body: Json, usage: Usage) -> list[Piece]:
    """Answer a merged body with the last entry lacking a field."""
    keys = keys_of(body)
    lessons = {key: lesson_text(f"entry-{i}") for i, key in enumerate(keys)}
    lessons[keys[-1]] = {"content": " ".join(lessons[keys[-1]].values())}
    text = orjson.dumps({"lessons": lessons}).decode()
    return [Piece("arguments", text, opens=True), Piece(finish_reason="tool_calls"), Piece(usage=usage)]
