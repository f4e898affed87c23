"""The first byte of a passed-through stream, everything on, beside the same call sent to upstream directly.

Head and first event leave upstream at once and together, so that nothing which the proxy does can hide behind upstream's
own time. Direct and through the proxy take turns in one run. The load is light and its connections start spread over a stream's
length: calls that queue behind one another would tell of the load, not of the proxy.
"""

from __future__ import annotations

import asyncio
import os
import statistics

import psutil
import uvloop

from bench.harness import (
    CLIENT_CORE,
    PART_GAP_S,
    REQUEST_BYTES,
    chunked_answer,
    conditions,
    instant_upstream,
    load,
    model_at,
    percentile,
    proxy,
    request_bytes,
)
from bench.passthrough import chat_body, stream_events

ROUNDS, EVENTS = 7, 10
CALLS = {1: 150, 8: 600}
"""Calls a round, by how many connections are open."""


def first_event_with_head() -> list[bytes]:
    """Build a streamed answer whose head and first event are one write."""
    head, first, *others = chunked_answer(stream_events()[-EVENTS:])
    return [head + first, *others]


async def asked(port: int, request: bytes, *, connections: int, calls: int) -> list[float]:
    """Return each call's seconds to its first byte; the connections start evenly spread over the length of a stream."""

    async def one(number: int) -> list[float]:
        await asyncio.sleep(number * EVENTS * PART_GAP_S / connections)
        _, latencies = await load(port, request, connections=1, calls=calls // connections, until="first byte")
        return latencies

    return [latency for latencies in await asyncio.gather(*map(one, range(connections))) for latency in latencies]


async def measure(connections: int, *, rounds: int, calls: int) -> tuple[list[list[float]], list[list[float]]]:
    """Return the seconds to the first byte, a list a round: through the proxy, and directly."""
    request = request_bytes(chat_body(stream=True))
    async with instant_upstream(first_event_with_head()) as upstream:
        with proxy({"model_list": [model_at(upstream)]}) as ours:
            ports = ours.port, int(upstream.rpartition(":")[2])
            kept: tuple[list[list[float]], list[list[float]]] = ([], [])
            for port in ports:
                await asked(port, request, connections=connections, calls=calls // 3)
            for _ in range(rounds):
                for of_server, port in zip(kept, ports, strict=True):
                    of_server.append(await asked(port, request, connections=connections, calls=calls))
            return kept


def told(connections: int, ours: list[list[float]], direct: list[list[float]]) -> dict[str, float]:
    """Print one comparison and return its figures; a percentile is of a round, and the median of the rounds stands."""
    figures: dict[str, float] = {}
    for p in (50, 99):
        pairs = [(percentile(o, p) * 1000, percentile(d, p) * 1000) for o, d in zip(ours, direct, strict=True)]
        figures[f"p{p}_ms"] = statistics.median(o for o, _ in pairs)
        figures[f"direct_p{p}_ms"] = statistics.median(d for _, d in pairs)
        figures[f"added_p{p}_ms"] = statistics.median(o - d for o, d in pairs)
    cells = [
        f"p{p} {figures[f'p{p}_ms']:.2f} ms, direct {figures[f'direct_p{p}_ms']:.2f}, added {figures[f'added_p{p}_ms']:.2f}"
        for p in (50, 99)
    ]
    print(f"{connections} connection{'s' * (connections > 1)}: {'; '.join(cells)}")
    return figures


def main() -> dict[int, dict[str, float]]:
    """Print the comparison for each number of connections, with the conditions."""
    if (os.cpu_count() or 1) > 1:
        psutil.Process().cpu_affinity([CLIENT_CORE])
    print(
        f"first byte of a stream: {conditions()}; {ROUNDS} interleaved rounds, medians of their percentiles; instant upstream, "
        f"{REQUEST_BYTES} B requests, {EVENTS} events {PART_GAP_S * 1000:g} ms apart, the first with the head, to the body's first byte"
    )
    return {n: told(n, *uvloop.run(measure(n, rounds=ROUNDS, calls=calls))) for n, calls in CALLS.items()}


if __name__ == "__main__":
    main()
