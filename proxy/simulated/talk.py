"""Sends the answers to one request over its connection, in time or as its fault says; knows the forms on the wire by their face alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
from aiohttp import web

from proxy.simulated.answer import Answer
from proxy.simulated.asked import Asked
from proxy.simulated.dialects import Dialect
from proxy.simulated.mishaps import JUNK, STOP_IN_THE_MIDDLE, mishap
from proxy.simulated.options import Options
from proxy.simulated.refusals import RefusalError
from proxy.simulated.schema import Json
from proxy.simulated.stats import Stats
from proxy.simulated.wire import Event, Head, Streaming, usage

_CHARS_OF_FAULTS = 8
_CHARS_OF_HUGE = 16_384


class Events(Protocol):
    """Writes the events of one streamed answer."""

    @property
    def end(self) -> bytes:
        """What stands at the end of the whole stream."""
        ...

    @property
    def error(self) -> bytes:
        """What the stream says when the server fails in its middle."""
        ...

    def of(self, choice: int, answer: Answer) -> Iterator[Event]:
        """Yield the events of one choice."""
        ...

    def usage(self) -> bytes:
        """Return the event that holds the usage."""
        ...


class Wire(Protocol):
    """How one endpoint writes its answers."""

    @property
    def prefix(self) -> str:
        """What the ids of its answers begin with."""
        ...

    def completion(self, head: Head, answers: Sequence[Answer], used: Json, dialect: Dialect) -> bytes:
        """Return the JSON of a whole answer."""
        ...

    def events(self, head: Head, streaming: Streaming) -> Events:
        """Return the writer of a streamed answer."""
        ...


@dataclass(frozen=True, slots=True)
class Talk:
    """One request, its answers, and the connection that they go out on."""

    request: web.Request
    asked: Asked
    answers: Sequence[Answer]
    head: Head
    wire: Wire
    options: Options
    stats: Stats
    started: float
    failure: RefusalError | None = None
    """What comes in place of the answer when it is written: an event where it streams."""

    @property
    def _fault(self) -> str:
        return self.asked.fault.name if self.asked.fault else ""

    @property
    def _tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    def _used(self) -> Json:
        if self._fault == "zero_usage":
            return usage(0, 0)
        return usage(self.asked.prompt_tokens, self._tokens, sum(answer.thought_tokens for answer in self.answers))

    async def whole(self) -> web.StreamResponse:
        """Answer with JSON when all tokens have been written."""
        if self._fault == "slow_first":
            await _forever()
        await self.options.until(self.started, self._tokens)
        self.stats.completion_tokens += self._tokens
        if self.failure is not None:
            raise self.failure
        body = self.wire.completion(self.head, self.answers, self._used(), self.asked.dialect)
        match self._fault:
            case "stall":
                await _forever()
            case "broken":
                return await self._broken(body)
            case "half":
                body = body[: len(body) // 2]
            case "garbage":
                body = JUNK
            case "stream_error":
                # without a stream the same failure is a plain error
                mishap("500", first=True)
            case _:
                pass
        return web.Response(body=body, content_type="application/json")

    async def _broken(self, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(self.request)
        await response.write(body[: len(body) // 2])
        self._reset()
        return response

    def _reset(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()

    async def stream(self) -> web.StreamResponse:
        """Answer with events, each when its tokens have been written."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"})
        await response.prepare(self.request)
        if self._fault == "slow_first":
            await _forever()
        include_usage = (self.asked.include_usage or self.asked.dialect.always_usage) and self._fault != "no_usage"
        events = self.wire.events(self.head, Streaming(self._chars(), include_usage, self._used(), self.asked.dialect))
        if self._fault == "garbage":
            await response.write(JUNK)
        elif self.failure is not None:
            await self.options.until(self.started, self._tokens)
            await response.write(b"data: " + orjson.dumps(self.failure.body(self.asked.dialect.errors)) + b"\n\n")
        elif await self._choices(response, events) and include_usage:
            await response.write(events.usage())
        if self._fault not in STOP_IN_THE_MIDDLE | {"garbage"}:
            await response.write(events.end)
        if self._fault != "broken":
            await response.write_eof()
        return response

    def _chars(self) -> int:
        match self._fault:
            case "whole":
                return max(
                    1, *(len(answer.text) for answer in self.answers), *(len(call) for answer in self.answers for call in answer.calls)
                )
            case "huge":
                return _CHARS_OF_HUGE
            case fault if fault in STOP_IN_THE_MIDDLE:
                # small enough that there is a middle
                return min(self.options.chars, _CHARS_OF_FAULTS)
            case _:
                return self.options.chars

    async def _choices(self, response: web.StreamResponse, events: Events) -> bool:
        """Write every choice; returns False where a fault ended the stream."""
        middle = self._tokens / 2 if self._fault in STOP_IN_THE_MIDDLE else float("inf")
        before = 0
        for i, answer in enumerate(self.answers):
            counted = 0
            for event in events.of(i, answer):
                if before + event.tokens > middle:
                    await self._stop(response, events)
                    return False
                await self.options.until(self.started, before + event.tokens)
                await response.write(event.data)
                self.stats.completion_tokens += int(event.tokens) - counted
                counted = int(event.tokens)
            before += answer.tokens
        return True

    async def _stop(self, response: web.StreamResponse, events: Events) -> None:
        match self._fault:
            case "stall":
                await _forever()
            case "broken":
                self._reset()
            case "stream_error":
                await response.write(events.error)
            case _:
                pass


async def _forever() -> None:
    """Wait until the client leaves or the provider stops: both cancel the handler."""
    await asyncio.Event().wait()
