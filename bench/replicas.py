"""Windows that replicas share through Redis: how many calls, what a lesson costs and waits, who meets, and what a stop adds.

All but the last is the window itself in processes of their own with a real Redis, without HTTP (`replica_process`); what a
Redis that stops adds is measured on real proxies (`replica_stops`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench import replica_stops
from bench.harness import conditions, percentile
from bench.replica_fleet import Call, Fleet, Result, fleet
from bench.replica_process import LESSON_BYTES

MOST, REPLICAS, SEED = 4, 3, 7
ROUNDS, RACE_S, CALLERS = 3, 3.0, 64
RATES = {10: 20.0, 60: 20.0, 300: 10.0}
"""Calls a second, and for how many seconds."""
WINDOW_S, SIZE, LESSON_S = 0.1, 5, 8.0
GROUPS = 600
_LEAD_S = 0.5
"""So long after a job was handed out its first call comes."""

_runs = itertools.count()
Where = Callable[[int, int], int]
"""Which replica gets a learner's call, by the numbers of both."""


def sticky(learner: int, _: int) -> int:
    """Send every call of a learner to the same replica."""
    return learner % REPLICAS


def spread(learner: int, call: int) -> int:
    """Send a learner's calls to different replicas, as far as there are."""
    return (learner + call) % REPLICAS


async def race(replicas: Fleet, number: int, *, shared: bool) -> Result:
    """Let pairs come as fast as they are answered: both of a pair at one replica, or at two different ones."""
    begins = time.monotonic() + _LEAD_S
    run = next(_runs)
    lanes: list[list[str]] = [[] for _ in range(number)]
    partners = [(i, (i + 1 + lane % (number - 1)) % number) for i in range(number) for lane in range(CALLERS // 2)] if shared else []
    for lane, pair in enumerate(partners):
        for replica in pair:
            lanes[replica].append(f"{run} {lane}")
    job = {"begins": begins, "ends": begins + RACE_S, "window_s": 1.0, "size": 2, "lesson_s": 0.0, "together": 1 if shared else 2}
    own = [[f"{run} {i} {lane}" for lane in range(CALLERS // 2)] for i in range(number)]
    return await replicas.play([job | {"lanes": lanes[i] if shared else own[i]} for i in range(number)])


async def races(replicas: Fleet) -> dict[str, list[Result]]:
    """Let every set-up have its turn in each round; the first round only warms up."""
    kinds = [(number, shared) for shared in (False, True) for number in range(1 + shared, MOST + 1)]
    results: dict[str, list[Result]] = {}
    for turn in range(ROUNDS + 1):
        for number, shared in kinds:
            result = await race(replicas, number, shared=shared)
            if turn:
                results.setdefault(f"{number} {'spread' if shared else 'sticky'}", []).append(result)
    return results


def told_races(results: dict[str, list[Result]]) -> dict[str, float]:
    """Print joins a second, and what one costs; returns joins a second by set-up."""
    print(
        f"\n1. joins a second; pairs, {CALLERS} callers a replica ask again as soon as they are answered; {ROUNDS} rounds of {RACE_S:g} s"
    )
    print("(a join is counted when Redis has answered it; sticky: both of a pair at one replica, spread: at two)")
    print("replicas, a pair's calls  joins/s  to 1 replica  CPU a join: replicas  Redis  taken back")
    rates = {kind: statistics.median(len(r.join_ms) / RACE_S for r in rounds) for kind, rounds in results.items()}
    for kind, rounds in results.items():
        own, redis = (statistics.median(getattr(r, name) / len(r.join_ms) * 1e6 for r in rounds) for name in ("cpu_s", "redis_cpu_s"))
        back, ratio = sum(r.taken_back for r in rounds), rates[kind] / rates["1 sticky"]
        print(f"{kind:24}  {rates[kind]:7.0f}  {ratio:12.2f}  {own:17.0f} µs  {redis:3.0f} µs  {back:10d}")
    print("replicas and Redis share this machine's cores: with more processes than cores the ratio says nothing, only CPU a join does")
    return rates


async def traffic(replicas: Fleet, rate: int, seconds: float, where: Where) -> Result:
    """Let lone calls, pairs and threes come at this rate, companions within half the window."""
    rng, run, begins = random.Random(SEED), next(_runs), time.monotonic() + _LEAD_S
    arrivals: list[list[tuple[float, str]]] = [[] for _ in range(REPLICAS)]
    at = begins
    for learner in range(int(rate * seconds / 2)):
        at += rng.expovariate(rate / 2)
        for call in range(1 + learner // REPLICAS % 3):
            gap = rng.uniform(0, WINDOW_S / 2) if call else 0.0
            arrivals[where(learner, call)].append((at + gap, f"{run} {learner}"))
    return await replicas.play([_job(calls) for calls in arrivals])


def _job(arrivals: list[tuple[float, str]]) -> dict[str, Any]:
    return {"arrivals": arrivals, "window_s": WINDOW_S, "size": SIZE, "lesson_s": LESSON_S}


def told_traffic(results: dict[str, Result]) -> None:
    """Print what a lesson costs Redis, and how long join and claim take."""
    print(
        f"\n2. and 3. one lesson's way to Redis; {REPLICAS} replicas, as many lone calls as pairs as threes, companions within "
        f"{WINDOW_S * 500:g} ms, a batch takes {LESSON_S:g} s upstream"
    )
    print(
        "a round trip is one pipeline of the courier's, with all commands of a turn of the loop; a command is one script that Redis runs;"
    )
    print("a join counts from before its lesson is encrypted to the answer; both: join + claim of the calls that opened a window")
    print("calls/s, a learner's calls  calls  trips and commands a lesson  join p50   p99    claim p50   p99     both p99  taken back")
    for kind, r in results.items():
        per_lesson = f"{r.trips / len(r.calls):5.2f}  {r.scripts / len(r.calls):22.2f}"
        join, claim = (f"{percentile(ms, 50):6.2f} {percentile(ms, 99):7.2f} ms" for ms in (r.join_ms, r.claim_ms))
        print(f"{kind:26}  {len(r.calls):5d}  {per_lesson}  {join}  {claim}  {percentile(r.both_ms, 99):6.2f} ms  {r.taken_back:d}")


async def meetings(replicas: Fleet, size: int) -> tuple[int, int, Result]:
    """Let groups come whose calls are at different replicas; returns how many met, of how many whose gap came out as meant."""
    rng, run, at = random.Random(SEED + size), next(_runs), time.monotonic() + _LEAD_S
    arrivals: list[list[tuple[float, str]]] = [[] for _ in range(REPLICAS)]
    for learner in range(GROUPS):
        at += 0.02
        for call in range(size):
            gap = rng.uniform(0, WINDOW_S / 2) if call else 0.0
            arrivals[spread(learner, call)].append((at + gap, f"{run} {learner}"))
    result = await replicas.play([_job(calls) for calls in arrivals])
    together: dict[str, list[Call]] = {}
    for call in result.calls:
        together.setdefault(call.learner, []).append(call)
    near = [c for c in together.values() if max(x.came for x in c) - min(x.came for x in c) <= WINDOW_S / 2]
    met = sum(len({call.batch for call in calls}) == 1 and calls[0].batch != "" for calls in near)
    return met, len(near), result


def told_meetings(results: dict[int, tuple[int, int, Result]]) -> None:
    """Print who met."""
    print(f"\n4. companions at different replicas, gaps even in 0 to {WINDOW_S * 500:g} ms (half the fixed window), 50 groups a second")
    for size, (met, near, result) in results.items():
        print(
            f"groups of {size}: {met} of {near} met in one batch = {met / near:.2%} (left out: {GROUPS - near} that the load "
            f"generator sent further apart); taken back: {result.taken_back}"
        )


async def measure() -> dict[str, float]:
    """Measure everything on the windows themselves."""
    async with fleet(MOST) as replicas:
        rates = told_races(await races(replicas))
        results: dict[str, Result] = {}
        for rate, seconds in RATES.items():
            for where in (spread, sticky):
                results[f"{rate} {where.__name__}"] = await traffic(replicas, rate, seconds, where)
        told_traffic(results)
        told_meetings({size: await meetings(replicas, size) for size in (2, 3)})
    return rates


def main() -> dict[str, float]:
    """Print all tables with their conditions."""
    print(f"replicas: {conditions()}; one Redis on the loopback, lessons and answers of {LESSON_BYTES} B, timeout 50 ms, nothing pinned")
    rates = asyncio.run(measure())
    replica_stops.main()
    return rates


if __name__ == "__main__":
    main()
