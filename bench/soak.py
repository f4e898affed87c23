"""2,000 callers waiting in one process, three times over: is anybody lost, and does memory stay?"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import uvloop

from bench.batches import lesson_body
from bench.harness import Process, conditions, free_port, model_at, proxy, running

CALLERS, CYCLES, PER_USER = 2000, 3, 5


async def ask(session: aiohttp.ClientSession, url: str, user: str, i: int) -> tuple[int, str]:
    """Ask for one lesson."""
    async with session.post(
        url + "/v1/chat/completions", data=lesson_body(i, user=user), headers={"content-type": "application/json"}
    ) as r:
        await r.read()
        return r.status, r.headers.get("x-lesson-merged", "")


async def cycle(server: Process, number: int) -> tuple[int, int, float]:
    """Let all callers in at once; returns how many were answered, how many from a batch, and seconds."""
    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        users = CALLERS // PER_USER
        calls = [ask(session, server.url, f"user-{number}-{u}", i) for u in range(users) for i in range(PER_USER)]
        answers = await asyncio.wait_for(asyncio.gather(*calls), 240)
    return sum(s == 200 for s, _ in answers), sum(m == "true" for _, m in answers), time.perf_counter() - started


def main() -> list[float]:
    """Print each cycle's answers and the process's memory after it."""
    print(f"soak: {conditions()}; {CALLERS} callers at once, {PER_USER} a user, window 1 s, simulated provider without delay")
    port = free_port()
    rss: list[float] = []
    with running([sys.executable, "-m", "proxy", "simulate", "--port", str(port)], port, health="/health", core=None) as provider:
        config = {
            "model_list": [model_at(provider.url)],
            "lessons": {"window": {"max_wait_ms": 1000, "max_size": PER_USER}},
            "bounds": {"upstream_slots": CALLERS},
        }
        with proxy(config, core=None) as server:
            uvloop.run(cycle(server, -1))  # caches and pools fill once
            for number in range(CYCLES):
                answered, merged, seconds = uvloop.run(cycle(server, number))
                rss.append(server.rss_mib())
                print(
                    f"cycle {number + 1}: {answered} of {CALLERS} answered, {merged} from batches, {seconds:.1f} s, RSS {rss[-1]:.0f} MiB"
                )
    print(f"RSS after the last cycle is {rss[-1] / rss[0] - 1:+.1%} of that after the first")
    return rss


if __name__ == "__main__":
    main()
