"""Two proxies and one Redis, each in a process of its own: their callers' lessons meet, and nothing is lost when parts die."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from proxy.simulated import Provider
from tests.acceptance.conftest import Serve, Served
from tests.acceptance.learners import WORDS, Got, ask, call
from tests.redis_server import RedisServer

SECRET = "the-secret-of-these-two-processes"
CONFIG = """
model_list:
  - {{model_name: "own*", litellm_params: {{model: "openai/own*", api_base: "{provider}", api_key: caller}}}}
  - {{model_name: "slow*", litellm_params: {{model: "openai/slow*", api_base: "{slow}", api_key: sk-operator}}}}
  - {{model_name: "*", litellm_params: {{model: "openai/*", api_base: "{provider}", api_key: sk-operator}}}}
lessons: {{window: {{max_wait_ms: {wait_ms}, hinted_max_wait_ms: {wait_ms}, max_size: 3}}}}
redis: {{url: "{redis}", secret: {secret}, timeout_ms: 500}}
drain_grace_seconds: 0.5
drain_seconds: 6
"""


@dataclass
class Pair:
    """Two proxies that share their windows, and who answers them."""

    first: Served
    second: Served
    redis: RedisServer
    provider: Provider
    file: Path

    async def spread(self, model: str = "m", *, stream: bool = False, leader: int = 0) -> list[Got]:
        """Send a group's three calls: the first to one proxy, which leads, the others to the other."""
        proxies = [self.first, self.second] if leader == 0 else [self.second, self.first]
        opened = await proxies[0].metric("lesson_proxy_waiting_calls")
        # announced, so that what was learned of how soon companions come does not matter
        key = {"authorization": "Bearer sk-callers-own", "x-lesson-expect": "3"}
        calls = [asyncio.create_task(call(proxies[0].client, 0, ask(model, 0, stream=stream), **key))]
        await proxies[0].until("lesson_proxy_waiting_calls", opened + 1)
        calls += [asyncio.create_task(call(proxies[1].client, i, ask(model, i, stream=stream), **key)) for i in (1, 2)]
        return await asyncio.gather(*calls)


Pairs = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def pair(serve: Serve, tmp_path: Path) -> AsyncGenerator[Pairs]:
    """Start two proxies and a Redis: `await pair(wait_ms=...)`."""
    redis = await asyncio.to_thread(RedisServer.start, tmp_path / "redis")
    try:
        async with Provider.running(record=100) as provider, Provider.running(tokens_per_second=300) as slow:

            async def start(*, wait_ms: int) -> Pair:
                file = tmp_path / "proxy.yaml"
                file.write_text(CONFIG.format(provider=provider.url, slow=slow.url, redis=redis.url, secret=SECRET, wait_ms=wait_ms))
                first, second = await asyncio.gather(*(serve("--config", str(file)) for _ in range(2)))
                for served in (first, second):
                    await served.logged("state", state="sharing")
                return Pair(first, second, redis, provider, file)

            yield start
    finally:
        redis.kill()


def merged(answers: list[Got]) -> None:
    for got in answers:
        got.check_own()
    assert [got.way for got in answers] == ["merged"] * 3
    assert len({got.headers["x-lesson-batch-id"] for got in answers}) == 1


async def test_calls_at_two_processes_share_batches_with_redis_and_each_process_has_its_own_without(pair: Pairs) -> None:
    two = await pair(wait_ms=5000)
    # 1. whoever leads, whoever pays, whatever form the answers have: one call upstream, each prompt in it once
    for stream in (False, True):
        merged(await two.spread("m", stream=stream))
        merged(await two.spread("own-m", stream=stream, leader=1))
    assert (two.provider.stats.requests, two.provider.stats.batches) == (4, 4)
    told = [orjson.dumps(request.body["messages"]).decode() for request in two.provider.stats.recorded]
    assert [sum(text.count(word) for text in told) for word in WORDS] == [4, 4, 4]
    # 2. it is told: what was led, what joined elsewhere; nothing of secrets and addresses
    assert await two.first.metric("lesson_proxy_windows_led_total") == 2
    assert await two.first.metric("lesson_proxy_lessons_led_for_others_total") == 4
    assert await two.first.metric("lesson_proxy_calls_joined_elsewhere_total") == 4
    assert await two.first.metric("lesson_proxy_calls_taken_back_total") == 0
    assert await two.first.metric("lesson_proxy_store_seconds_count") > 0
    for served in (two.first, two.second):
        log = served.process.err.read_text()
        assert not [word for word in (SECRET, str(two.redis.port), "sk-operator", "Linear equations") if word in log]
        assert await served.metric("lesson_proxy_faults_total") == 0
    # 3. Redis is killed: whoever notices is answered, then each process merges its own, and is ready all the time
    two.redis.kill()
    (await call(two.second.client, 0, ask("m", 0, user="learner-2"), **{"x-lesson-max-wait-ms": "50"})).check_own()
    await two.second.logged("state", state="sharing_lost")
    assert (await two.second.client.get("/health/ready")).status_code == 200
    merged(await asyncio.gather(*(call(two.second.client, i, ask("m", i), **{"x-lesson-expect": "3"}) for i in range(3))))
    # 4. it is back: they share again
    redis = await asyncio.to_thread(two.redis.again)
    try:
        (await call(two.first.client, 0, ask("m", 0, user="learner-2"), **{"x-lesson-max-wait-ms": "50"})).check_own()
        for served in (two.first, two.second):
            await served.until("lesson_proxy_sharing", 1)
        merged(await two.spread())
        # 5. one has another configuration: they share nothing until both have it
        two.file.write_text(two.file.read_text() + "identity: {when_missing: never}\n")
        two.first.signal(signal.SIGHUP)
        await two.first.logged("state", state="reloaded")
        quick = {"x-lesson-max-wait-ms": "300"}
        answers = await asyncio.gather(*(call(served.client, i, ask("m", i), **quick) for i, served in enumerate((two.first, two.second))))
        for got in answers:
            got.check_own()
        assert [got.way for got in answers] == ["alone", "alone"]
        two.second.signal(signal.SIGHUP)
        await two.second.logged("state", state="reloaded")
        for served in (two.first, two.second):
            await served.until("lesson_proxy_sharing", 1)
        merged(await two.spread())
    finally:
        redis.kill()


async def test_when_the_leader_is_killed_the_other_answers_its_callers(pair: Pairs) -> None:
    two = await pair(wait_ms=1500)
    lost = asyncio.create_task(call(two.first.client, 0, ask("m", 0)))
    await two.first.until("lesson_proxy_waiting_calls", 1)
    staying = asyncio.create_task(call(two.second.client, 1, ask("m", 1)))
    await two.second.until("lesson_proxy_waiting_calls", 1)
    two.first.signal(signal.SIGKILL)
    got = await staying
    got.check_own()
    assert got.way == "taken_back:unclaimed"
    assert isinstance((await asyncio.gather(lost, return_exceptions=True))[0], httpx.HTTPError)
    assert await two.second.metric("lesson_proxy_calls_taken_back_total") == 1


async def test_a_process_that_stops_leaves_nobody_waiting(pair: Pairs) -> None:
    two = await pair(wait_ms=20_000)
    led = asyncio.create_task(call(two.first.client, 0, ask("m", 0)))
    await two.first.until("lesson_proxy_waiting_calls", 1)
    guest = asyncio.create_task(call(two.second.client, 1, ask("m", 1)))
    await two.second.until("lesson_proxy_waiting_calls", 1)
    two.second.signal(signal.SIGTERM)
    got = await guest
    got.check_own()
    assert got.way == "taken_back:draining"
    assert await two.second.ended() == 0
    two.first.signal(signal.SIGTERM)
    got = await led
    got.check_own()
    assert got.way == "alone"
    assert await two.first.ended() == 0


async def test_a_leader_that_stops_finishes_what_it_writes_for_others(pair: Pairs) -> None:
    """Its own caller has its lesson long before the others have theirs, and no lesson is written twice."""
    two = await pair(wait_ms=5000)
    calls = asyncio.create_task(two.spread("slow-m"))
    await two.first.until("lesson_proxy_running_batches", 1)
    two.first.signal(signal.SIGTERM)
    merged(await calls)
    assert await two.first.ended() == 0
