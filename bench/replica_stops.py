"""What a Redis that stops adds to a lesson call: two real proxies, HTTP, and a Redis that is killed or halted under them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from bench.batches import lesson_body
from bench.harness import conditions, free_port, model_at, percentile, proxy, running
from bench.lesson_prompt import SYSTEM
from tests.redis_server import RedisServer

ROUNDS, WINDOW_MS, GAP_S = 4, 100, 0.04
LONE_PER_S, PAIRS_PER_S = 20, 15
BEFORE_S, STOPPED_S, AFTER_S = 2.0, 3.0, 11.0
"""The last: a Redis that fails again within 10 s is asked less and less often, and each round is to be a first one."""
AROUND_S = 0.2
"""Who comes so soon after the stop may be the one who finds out."""
TOKENS_PER_S, UNDER_WAY, UNDER_WAY_S = 100, 8, 0.6
PHASES = ("before", "around the stop", "while it is gone", "when it is back")

_users = itertools.count()


@dataclass(frozen=True)
class Answer:
    kind: str
    """`lone`, or of a pair the `first`, which leads, or the `second`, at the other proxy."""
    sent: float
    took_ms: float
    way: str
    """`merged`, or why not."""


@dataclass
class Stage:
    """Two proxies, their Redis, and who calls."""

    session: aiohttp.ClientSession
    urls: Sequence[str]
    redis: RedisServer
    stops: int = 0

    async def ask(self, kind: str, url: str, user: str, i: int, *, slow: bool = False) -> Answer:
        """Ask for one lesson."""
        sent = time.monotonic()
        body = orjson.loads(lesson_body(i, user=user))
        body["model"] = "slow-model" if slow else "bench-model"
        # so long a text saves something; a site of its own for each stop: what a stop costs one is no reason for the next to rest
        body["messages"][0]["content"] = f"{SYSTEM} {self.stops}"
        async with self.session.post(url + "/v1/chat/completions", json=body) as r:
            await r.read()
            assert r.status == 200
            merged = r.headers["x-lesson-merged"] == "true"
            return Answer(kind, sent, (time.monotonic() - sent) * 1000, "merged" if merged else r.headers["x-lesson-reason"])

    async def pair(self, leads: int, *, slow: bool = False) -> list[Answer]:
        """Ask for two lessons of one learner, at different proxies."""
        user = f"learner-{next(_users)}"

        async def second() -> Answer:
            await asyncio.sleep(GAP_S)
            return await self.ask("second", self.urls[1 - leads], user, 1, slow=slow)

        return list(await asyncio.gather(self.ask("first", self.urls[leads], user, 0, slow=slow), second()))

    async def lone(self, at: int) -> list[Answer]:
        """Ask for a lesson that has no companion."""
        return [await self.ask("lone", self.urls[at], f"learner-{next(_users)}", 0)]

    async def sharing(self) -> None:
        """Return when both proxies have found the Redis, for the next stop."""
        self.stops += 1
        for url in self.urls:
            while True:
                async with self.session.get(url + "/metrics") as r:
                    if "\nlesson_proxy_sharing 1" in await r.text():
                        break
                await asyncio.sleep(0.05)

    async def stop(self, how: str) -> None:
        """Stop the Redis, and let it come back."""
        if how == "killed":
            await asyncio.to_thread(self.redis.kill)
            await asyncio.sleep(STOPPED_S)
            self.redis = await asyncio.to_thread(RedisServer.start, self.redis.folder, port=self.redis.port)
        else:
            self.redis.pause()
            await asyncio.sleep(STOPPED_S)
            self.redis.go_on()


async def come(ask: Callable[[int], Awaitable[list[Answer]]], per_s: float, until: asyncio.Event) -> list[Answer]:
    """Let calls come evenly, at both proxies in turn, whatever becomes of those before."""
    tasks: list[asyncio.Future[list[Answer]]] = []
    for number in itertools.count():
        if until.is_set():
            return [answer for answers in await asyncio.gather(*tasks) for answer in answers]
        tasks.append(asyncio.ensure_future(ask(number % 2)))
        await asyncio.sleep(1 / per_s)
    return []


async def one_stop(stage: Stage, how: str) -> list[tuple[str, Answer]]:
    """Stop the Redis once under traffic; returns the answers by phase."""
    await stage.sharing()
    over = asyncio.Event()
    traffic = [asyncio.ensure_future(come(stage.lone, LONE_PER_S, over)), asyncio.ensure_future(come(stage.pair, PAIRS_PER_S, over))]
    await asyncio.sleep(BEFORE_S)
    stopped = time.monotonic()
    await stage.stop(how)
    back = time.monotonic()
    await asyncio.sleep(AFTER_S)
    over.set()

    def phase(answer: Answer) -> str:
        if answer.sent + answer.took_ms / 1000 <= stopped:
            return PHASES[0]
        return PHASES[1 if answer.sent < stopped + AROUND_S else 2 if answer.sent < back else 3]

    return [(phase(answer), answer) for answers in await asyncio.gather(*traffic) for answer in answers]


async def under_way(stage: Stage, how: str | None) -> list[Answer]:
    """Let pairs' batches be under way upstream while the Redis stops; None: it doesn't."""
    await stage.sharing()
    pairs = [asyncio.ensure_future(stage.pair(i % 2, slow=True)) for i in range(UNDER_WAY)]
    await asyncio.sleep(UNDER_WAY_S)
    if how:
        await stage.stop(how)
    answers = [answer for pair in await asyncio.gather(*pairs) for answer in pair]
    await asyncio.sleep(AFTER_S if how else 0)
    return answers


def told(how: str, answers: list[tuple[str, Answer]]) -> None:
    """Print what each phase added to the calls of each kind."""
    for kind in ("lone", "first", "second"):
        usual = statistics.median(a.took_ms for phase, a in answers if (phase, a.kind) == (PHASES[0], kind))
        for phase in PHASES:
            these = [a for p, a in answers if (p, a.kind) == (phase, kind)]
            added = [a.took_ms - usual for a in these]
            ways = ", ".join(f"{way} {n}" for way, n in Counter(a.way for a in these).most_common())
            print(f"{how:6}  {kind:6}  {phase:16}  {len(these):5d}  {percentile(added, 99):7.0f} ms  {max(added):7.0f} ms  {ways}")


def told_under_way(usual: list[Answer], answers: dict[str, list[Answer]]) -> None:
    """Print what a stop adds to calls whose batch is being written."""
    for how, these in answers.items():
        for kind in ("first", "second"):
            without = statistics.median(a.took_ms for a in usual if a.kind == kind)
            added = [a.took_ms - without for a in these if a.kind == kind]
            ways = ", ".join(f"{way} {n}" for way, n in Counter(a.way for a in these if a.kind == kind).most_common())
            print(
                f"{how:6}  {kind:6}  {len(added)} calls, usually {without / 1000:.1f} s: "
                f"adds {statistics.median(added):.0f} ms, at most {max(added):.0f} ms  {ways}"
            )


async def measure(urls: Sequence[str], redis: RedisServer) -> None:
    """Stop it again and again, in both ways in turn."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        stage = Stage(session, urls, redis)
        try:
            await asyncio.gather(*(stage.pair(i % 2, slow=slow) for i in range(8) for slow in (False, True)))
            answers: dict[str, list[tuple[str, Answer]]] = {"killed": [], "halted": []}
            for _ in range(ROUNDS):
                for how in answers:
                    answers[how] += await one_stop(stage, how)
            print("Redis   call    sent              calls  added p99     at most    went")
            for how, so_far in answers.items():
                told(how, so_far)
            usual = await under_way(stage, None)
            print(f"pairs whose batch is under way upstream when Redis goes, for {STOPPED_S:g} s:")
            told_under_way(usual, {how: await under_way(stage, how) for how in answers})
        finally:
            stage.redis.kill()


@contextlib.contextmanager
def providers() -> Generator[tuple[str, str]]:
    """Run a provider that answers at once, and one that writes."""
    command = [sys.executable, "-m", "proxy", "simulate", "--port"]
    fast, slow = free_port(), free_port()
    with (
        running([*command, str(fast)], fast, health="/health", core=None) as first,
        running([*command, str(slow), "--tokens-per-second", str(TOKENS_PER_S)], slow, health="/health", core=None) as second,
    ):
        yield first.url, second.url


def main() -> None:
    """Print what each way of stopping adds."""
    print(
        f"\n5. a Redis that stops for {STOPPED_S:g} s under two proxies; {conditions()}; {ROUNDS} stops a kind, window {WINDOW_MS} ms "
        f"(fixed), timeout 50 ms; {LONE_PER_S} lone calls and {PAIRS_PER_S} pairs a second; added to the median of the same kind before"
    )
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder, providers() as (fast, slow):
        redis = RedisServer.start(Path(folder))
        config: dict[str, Any] = {
            "model_list": [model_at(fast), model_at(slow, "slow-model")],
            "lessons": {"window": {"max_wait_ms": WINDOW_MS, "policy": "fixed"}},
            "redis": {"url": redis.url, "secret": secrets.token_hex(32)},
        }
        try:
            with proxy(config, core=None) as first, proxy(config, core=None) as second:
                uvloop.run(measure((first.url, second.url), redis))
        finally:
            redis.kill()


if __name__ == "__main__":
    main()
