"""A passed-through call, everything on, beside a bare Starlette + aiohttp forwarder: calls a second, and CPU a streamed event.

One server core, one core for load and upstream; the two servers take turns in one run, so that only their ratio is read.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass
from typing import Any

import orjson
import psutil
import uvloop

from bench.harness import (
    CLIENT_CORE,
    PART_GAP_S,
    REQUEST_BYTES,
    Process,
    chunked_answer,
    conditions,
    free_port,
    http_answer,
    instant_upstream,
    load,
    model_at,
    percentile,
    proxy,
    request_bytes,
    running,
)

ROUNDS, CALLS, CONNECTIONS = 7, 4000, 32
EVENTS = 200


@dataclass(frozen=True)
class Round:
    calls_per_s: float
    p50_ms: float
    cpu_us: float
    """CPU of the server process a call."""


def chat_body(*, stream: bool = False) -> bytes:
    """Build a chat call of 4 kB that is no lesson."""

    def body(text: str) -> bytes:
        messages = [{"role": "system", "content": "You answer questions about the school's timetable."}, {"role": "user", "content": text}]
        return orjson.dumps({"model": "bench-model", "messages": messages, "temperature": 0.3, "stream": stream})

    text = "When does the bus leave after the last lesson on Friday? " * 100
    return body(text[: REQUEST_BYTES - len(body(""))])


def chat_answer() -> bytes:
    """Build a small chat answer."""
    return orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "bench-model",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "At ten past four. " * 30}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 900, "completion_tokens": 150, "total_tokens": 1050},
        }
    )


def stream_events() -> list[bytes]:
    """Build a stream of chunks, an event each."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench-model"}
    deltas: list[dict[str, Any]] = [{"index": 0, "delta": {"content": f"word{i} "}, "finish_reason": None} for i in range(EVENTS - 2)]
    choices: list[dict[str, Any]] = [*deltas, {"index": 0, "delta": {}, "finish_reason": "stop"}]
    return [b"data: " + orjson.dumps(chunk | {"choices": [c]}) + b"\n\n" for c in choices] + [b"data: [DONE]\n\n"]


async def measure(server: Process, request: bytes, *, calls: int, connections: int) -> Round:
    """Load one server once."""
    before = server.cpu_s()
    seconds, latencies = await load(server.port, request, connections=connections, calls=calls)
    return Round(calls / seconds, percentile(latencies, 50) * 1000, (server.cpu_s() - before) / calls * 1e6)


async def compare(answer: list[bytes], request: bytes, *, calls: int, connections: int) -> tuple[list[Round], list[Round]]:
    """Let proxy and forwarder take turns; returns the rounds of each."""
    async with instant_upstream(answer) as upstream:
        port = free_port()
        with (
            proxy({"model_list": [model_at(upstream)]}) as ours,
            running([sys.executable, "-m", "bench.forwarder", upstream, str(port)], port) as bare,
        ):
            rounds: tuple[list[Round], list[Round]] = ([], [])
            for server in (ours, bare):
                await measure(server, request, calls=max(calls // 4, 8), connections=connections)
            for _ in range(ROUNDS):
                for kept, server in zip(rounds, (ours, bare), strict=True):
                    kept.append(await measure(server, request, calls=calls, connections=connections))
            return rounds


def told(name: str, ours: list[Round], bare: list[Round]) -> dict[str, float]:
    """Print one comparison and return its figures."""
    ratios = [o.calls_per_s / b.calls_per_s for o, b in zip(ours, bare, strict=True)]
    figures = {
        "ratio": statistics.median(ratios),
        "calls_per_s": statistics.median(o.calls_per_s for o in ours),
        "bare_calls_per_s": statistics.median(b.calls_per_s for b in bare),
        "cpu_us": statistics.median(o.cpu_us for o in ours),
        "bare_cpu_us": statistics.median(b.cpu_us for b in bare),
    }
    print(
        f"{name}: {figures['calls_per_s']:.0f} calls/s beside {figures['bare_calls_per_s']:.0f} bare = {figures['ratio']:.2f} "
        f"(lowest round {min(ratios):.2f}); CPU {figures['cpu_us']:.0f} µs beside {figures['bare_cpu_us']:.0f} µs a call"
    )
    return figures


def told_events(ours: list[Round], bare: list[Round]) -> dict[str, float]:
    """Print what a streamed event costs and return the figures; the pace is upstream's."""
    event_us, bare_us = (statistics.median(r.cpu_us for r in rounds) / EVENTS for rounds in (ours, bare))
    print(f"SSE, {EVENTS} events a call, 8 connections: CPU {event_us:.0f} µs beside {bare_us:.0f} µs an event")
    return {"cpu_us": event_us, "bare_cpu_us": bare_us}


def main() -> dict[str, dict[str, float]]:
    """Print both comparisons with their conditions."""
    if (os.cpu_count() or 1) > 1:
        psutil.Process().cpu_affinity([CLIENT_CORE])
    print(
        f"passthrough: {conditions()}; {ROUNDS} interleaved rounds, medians; instant upstream, {REQUEST_BYTES} B requests, "
        f"every streamed event by itself, {PART_GAP_S * 1000:g} ms after the one before"
    )
    answer, request = [http_answer(chat_answer())], request_bytes(chat_body())
    json_rounds = uvloop.run(compare(answer, request, calls=CALLS, connections=CONNECTIONS))
    figures = {"json": told(f"JSON, {CONNECTIONS} connections", *json_rounds)}
    ours, bare = (statistics.median(r.p50_ms for r in rounds) for rounds in uvloop.run(compare(answer, request, calls=400, connections=1)))
    print(f"one connection: p50 {ours:.2f} ms beside {bare:.2f} ms bare")
    streamed = uvloop.run(compare(chunked_answer(stream_events()), request_bytes(chat_body(stream=True)), calls=32, connections=8))
    figures["stream"] = told_events(*streamed)
    return figures


if __name__ == "__main__":
    main()
