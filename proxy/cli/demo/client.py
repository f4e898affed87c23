"""Sends the demo's calls over HTTP and notes what came back; it knows no proxy but by its address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import orjson

from proxy.cli.demo.traffic import Ask
from proxy.model import Json

_CALL_TIMEOUT_S = 25.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call got."""

    lesson: bool
    problem: str | None
    """None: a whole answer of the asked form."""
    seconds: float = 0.0
    wait_ms: int | None = None
    batch_id: str | None = None
    batch_size: int = 1
    prompt_tokens: int = 0
    """As the caller was told."""


async def send_all(asks: Sequence[Ask], address: str, headers: dict[str, str], done: Callable[[], None]) -> list[Answer]:
    """Send every call at its time and return the answers in the same order; `done` is called after each."""
    timeout = aiohttp.ClientTimeout(total=_CALL_TIMEOUT_S)
    # every user's app has connections of its own
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(address, timeout=timeout, connector=connector, headers=headers) as session:

        async def one(ask: Ask) -> Answer:
            await asyncio.sleep(ask.after_s)
            answer = await _send(ask, session)
            done()
            return answer

        return await asyncio.gather(*(one(ask) for ask in asks))


async def _send(ask: Ask, session: aiohttp.ClientSession) -> Answer:
    started = time.perf_counter()
    try:
        async with session.post("/v1/chat/completions", json=ask.body) as response:
            text = await response.read()
            headers = response.headers
            problem, usage = (f"status {response.status}", {}) if response.status != 200 else _read(ask, text)  # noqa: PLR2004 - HTTP's
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(ask.lesson, type(error).__name__)
    wait = headers.get("x-lesson-wait-ms")
    return Answer(
        ask.lesson,
        problem,
        time.perf_counter() - started,
        int(wait) if wait is not None else None,
        headers.get("x-lesson-batch-id") if headers.get("x-lesson-merged") == "true" else None,
        int(headers.get("x-lesson-batch-size", "1")),
        int(usage.get("prompt_tokens", 0)),
    )


def _read(ask: Ask, text: bytes) -> tuple[str | None, Json]:
    """Return what is wrong with an answer (None: nothing) and its usage."""
    try:
        content, usage = _streamed(text) if ask.stream else _whole(text)
        if ask.lesson:
            lesson: Json = orjson.loads(content)
            return (None if lesson.get("title") and lesson.get("content") else "a lesson without title or content"), usage
    except (ValueError, LookupError, TypeError) as error:
        return f"not of the asked form ({type(error).__name__})", {}
    return (None if content else "an empty answer"), usage


def _whole(text: bytes) -> tuple[str, Json]:
    answer = orjson.loads(text)
    message = answer["choices"][0]["message"]
    calls = message.get("tool_calls")
    return (calls[0]["function"]["arguments"] if calls else message["content"]), answer["usage"]


def _streamed(text: bytes) -> tuple[str, Json]:
    """Join the pieces of a stream; ValueError where it broke off."""
    events = [line.removeprefix(b"data: ") for line in text.splitlines() if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        raise ValueError("the stream broke off")
    content, usage = "", cast("Json", {})
    for event in events[:-1]:
        chunk: Any = orjson.loads(event)
        if "error" in chunk:
            raise ValueError("an error within the stream")
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            content += _piece(choice["delta"])
    return content, usage


def _piece(delta: Json) -> str:
    calls: list[Json] = delta.get("tool_calls") or []
    return "".join(call["function"].get("arguments") or "" for call in calls) or delta.get("content") or ""
