"""How exactly a window closes: time from the first call's arrival to its batch going out, 200 windows open at once."""

from __future__ import annotations

import asyncio
import time

import uvloop

from bench.harness import conditions, percentile
from proxy.interfaces import Delivery
from proxy.model import Alone, Batch, BatchKey, Caller, CallId, Plan
from proxy.windows.memory import MemoryWindow
from tests.make import make_lesson

WINDOWS, PER_WINDOW, MAX_WAIT_MS, ROUNDS = 200, 3, 100, 10


async def measure() -> list[float]:
    """Return for every call how long beyond its bound it was held, in ms."""
    late_ms: list[float] = []

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        for lesson in batch.lessons:
            delivery.deliver(Alone("measured"), lesson.id)

    window = MemoryWindow(dispatch, max_waiting=10_000, max_windows=1_000)
    plan = Plan(max_wait_s=MAX_WAIT_MS / 1000, max_size=50)

    async def call(key: str, i: int) -> None:
        started = time.perf_counter()
        await window.join(make_lesson(id=CallId(f"{key}-{i}"), key=BatchKey(key), identity_digest=f"{key}-{i}"), plan, Caller("digest"))
        late_ms.append((time.perf_counter() - started) * 1000 - MAX_WAIT_MS)

    for turn in range(ROUNDS):
        await asyncio.gather(*(call(f"key-{turn}-{w}", i) for w in range(WINDOWS) for i in range(PER_WINDOW)))
    await window.aclose()
    return late_ms


def main() -> float:
    """Print the 50th and 99th percentile."""
    late = uvloop.run(measure())
    print(f"windows: {conditions()}; {WINDOWS} windows of {PER_WINDOW} opened at once, {ROUNDS} rounds, bound {MAX_WAIT_MS} ms")
    print(f"held beyond the bound: p50 {percentile(late, 50):.1f} ms, p99 {percentile(late, 99):.1f} ms, most {max(late):.1f} ms")
    return percentile(late, 99)


if __name__ == "__main__":
    main()
