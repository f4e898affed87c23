"""A merged call at 60 tokens a second: when each lesson of a batch is back, beside a lone call on the same provider."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

import aiohttp
import orjson
import uvloop

from bench.harness import conditions, free_port, model_at, proxy, running

TOKENS_PER_S, SIZES, ROUNDS = 60, (2, 3, 5), 3
MAX_ADDED_S = 45.0
WINDOW_MS = 100


def lesson_body(i: int, *, user: str) -> bytes:
    """Build one of several requests of a user for a subject and topic."""
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "content": {"type": "string", "minLength": 300, "maxLength": 900}},
        "required": ["title", "content"],
        "additionalProperties": False,
    }
    body = {
        "model": "bench-model",
        "user": user,
        "messages": [
            {"role": "system", "content": "You write short lessons for school children."},
            {"role": "user", "content": f"Create a lesson.\nSubject: Algebra 1\nTopic: Linear equations\nGrade: {7 + i}"},
        ],
        "tools": [{"type": "function", "function": {"name": "create_lesson", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "create_lesson"}},
    }
    return orjson.dumps(body)


async def timed(session: aiohttp.ClientSession, url: str, body: bytes, *, merge: bool) -> tuple[float, str]:
    """Send one call; returns seconds and whether it was merged."""
    started = time.perf_counter()
    headers = {"content-type": "application/json"} | ({} if merge else {"x-lesson-merge": "off"})
    async with session.post(url + "/v1/chat/completions", data=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        await response.read()
        return time.perf_counter() - started, response.headers.get("x-lesson-merged", "")


async def measure(url: str) -> dict[int, dict[str, float]]:
    """Return for each size the lone time, and the first and last of a batch."""
    figures: dict[int, dict[str, float]] = {}
    async with aiohttp.ClientSession() as session:
        await timed(session, url, lesson_body(0, user="warm"), merge=False)
        for size in SIZES:
            lone: list[float] = []
            first: list[float] = []
            last: list[float] = []
            for turn in range(ROUNDS):
                lone.append((await timed(session, url, lesson_body(0, user=f"lone-{size}-{turn}"), merge=False))[0])
                user = f"user-{size}-{turn}"
                times = await asyncio.gather(*(timed(session, url, lesson_body(i, user=user), merge=True) for i in range(size)))
                assert all(merged == "true" for _, merged in times), times
                first.append(min(t for t, _ in times))
                last.append(max(t for t, _ in times))
            figures[size] = {
                "lone_s": statistics.median(lone),
                "first_s": statistics.median(first),
                "last_s": statistics.median(last),
                "first_ratio": statistics.median((f - WINDOW_MS / 1000) / a for f, a in zip(first, lone, strict=True)),
            }
    return figures


def main() -> dict[int, dict[str, float]]:
    """Print the times of each size."""
    print(f"batches: {conditions()}; simulated provider, {TOKENS_PER_S} tokens/s, window {WINDOW_MS} ms, {ROUNDS} rounds, medians")
    port = free_port()
    command = [sys.executable, "-m", "proxy", "simulate", "--port", str(port), "--tokens-per-second", str(TOKENS_PER_S)]
    with running(command, port, health="/health", core=None) as provider:
        config = {"model_list": [model_at(provider.url)], "lessons": {"window": {"max_wait_ms": WINDOW_MS, "max_size": max(SIZES)}}}
        with proxy(config, core=None) as server:
            figures = uvloop.run(measure(server.url))
    for size, f in figures.items():
        print(
            f"{size} lessons: alone {f['lone_s']:.1f} s; in a batch the first after {f['first_s']:.1f} s "
            f"({f['first_ratio']:.2f} of alone, window taken off), the last after {f['last_s']:.1f} s "
            f"(bound: {MAX_ADDED_S:.0f} s more than alone)"
        )
    return figures


if __name__ == "__main__":
    main()
