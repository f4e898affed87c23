"""`serve --workers`: several processes at one address, as whoever starts and stops them meets them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from proxy.simulated import Provider
from tests.acceptance.conftest import Serve, Served
from tests.acceptance.learners import Got, ask, call
from tests.redis_server import RedisServer

CONFIG = """
model_list: [{{model_name: "*", litellm_params: {{model: "openai/*", api_base: "{provider}", api_key: sk-operator}}}}]
lessons: {{window: {{max_wait_ms: 8000, hinted_max_wait_ms: 8000, max_size: 3}}}}
redis: {{url: "{redis}", secret: the-secret-of-these-workers, timeout_ms: 500}}
drain_grace_seconds: 0.5
drain_seconds: 6
"""


@dataclass
class Crew:
    served: Served
    provider: Provider
    file: Path

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.served.process.popen.pid).children()

    async def at(self, worker: psutil.Process) -> httpx.AsyncClient:
        """A connection that this worker has accepted."""
        async with asyncio.timeout(20):
            while True:
                client = httpx.AsyncClient(base_url=self.served.url, timeout=20.0)
                answer = await client.get("/health/live")
                port: int = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
                if any(connection.raddr and connection.raddr.port == port for connection in worker.net_connections()):
                    return client
                await client.aclose()


Start = Callable[..., Awaitable[Crew]]


@pytest.fixture
async def crew(serve: Serve, tmp_path: Path) -> AsyncGenerator[Start]:
    redis = await asyncio.to_thread(RedisServer.start, tmp_path / "redis")
    try:
        async with Provider.running(record=100) as provider:

            async def start() -> Crew:
                file = tmp_path / "proxy.yaml"
                file.write_text(CONFIG.format(provider=provider.url, redis=redis.url))
                return Crew(await serve("--config", str(file), "--workers", "2"), provider, file)

            yield start
    finally:
        redis.kill()


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when processes of which one can only ask have come so far; a worker's start takes seconds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.05)


async def spread(clients: list[httpx.AsyncClient]) -> list[Got]:
    hint = {"x-lesson-expect": "3"}
    return await asyncio.gather(*(call(clients[i % len(clients)], i, ask("m", i), **hint) for i in range(3)))


def merged(answers: list[Got]) -> None:
    for got in answers:
        got.check_own()
    assert [got.way for got in answers] == ["merged"] * 3


async def test_workers_share_an_address_windows_and_metrics_and_are_started_anew(crew: Start) -> None:
    running = await crew()
    served = running.served
    # 1. two workers; calls that reach different ones become one batch
    first, second = running.workers()
    clients = [await running.at(first), await running.at(second)]
    merged(await spread(clients))
    assert running.provider.stats.batches == 1
    # 2. whichever is asked, it tells the metrics of both, each family once
    for client in clients:
        text = (await client.get("/metrics")).text
        assert text.count("# TYPE lesson_proxy_calls_total counter") == 1
        assert {f'worker="{number}"' in text for number in (1, 2)} == {True}
    assert await served.metric("lesson_proxy_batches_total") == 1
    assert await served.metric("lesson_proxy_batch_lessons_completed_total") == 3
    # 3. one is killed: another takes its place, and the address answers all the while
    await clients[0].aclose()
    first.kill()
    await served.logged("state", state="worker_lost", saying="ended with 137")
    async with httpx.AsyncClient(base_url=served.url, timeout=20.0) as fresh:
        assert (await fresh.get("/health/ready")).status_code == 200
    await eventually(lambda: len({line["detail"] for line in served.process.log() if line.get("state") == "worker_lost"}) == 1)
    await eventually(lambda: sum(line.get("state") == "ready" for line in served.process.log()) == 3)
    (third,) = [worker for worker in running.workers() if worker.pid != second.pid]
    clients[0] = await running.at(third)
    merged(await spread(clients))
    # 4. a reload reaches all
    running.file.write_text(running.file.read_text() + "identity: {when_missing: never}\n")
    served.signal(signal.SIGHUP)
    await eventually(lambda: sum(line.get("state") == "reloaded" for line in served.process.log()) == 2)
    # 5. a stop reaches all: who waits is answered, and the exit code says that everybody was
    waiting = asyncio.create_task(call(clients[1], 0, ask("m", 0), **{"x-lesson-expect": "3"}))
    await served.until("lesson_proxy_waiting_calls", 1)
    for client in clients[:1]:
        await client.aclose()
    pids = [worker.pid for worker in running.workers()]
    served.signal(signal.SIGTERM)
    got = await waiting
    got.check_own()
    assert await served.ended() == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    await clients[1].aclose()


async def test_workers_whose_starter_is_killed_end_by_themselves(crew: Start) -> None:
    running = await crew()
    workers = running.workers()
    running.served.signal(signal.SIGKILL)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, workers, 20)
    assert len(gone) == 2
    assert alive == []


async def test_what_no_worker_can_start_with_is_told_and_ends_all(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text("model_list: [{model_name: a, litellm_params: {model: simulated/a}}]\n")
    with pytest.raises(AssertionError, match=r"--workers: more than one process needs `redis.url`"):
        await serve("--config", str(file), "--workers", "2")
