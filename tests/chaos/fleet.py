"""Several proxies, a Redis and the provider behind them: real processes, and a line of its own from each proxy to Redis."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from proxy.simulated import Provider
from tests.acceptance.conftest import Process
from tests.chaos.judging import GRACE_S, HINTED_S, STORE_S, TOGETHER, WINDOW_S, Life
from tests.chaos.line import Line
from tests.redis_server import RedisServer

_CONFIG = f"""
model_list: [{{{{model_name: "*", litellm_params: {{{{model: "openai/*", api_base: "{{provider}}", api_key: sk-operator}}}}}}}}]
# a lesson that is asked for again is asked for again by the window, and by nobody else
router_settings: {{{{num_retries: 0}}}}
lessons:
  window: {{{{policy: fixed, max_wait_ms: {WINDOW_S * 1000:.0f}, hinted_max_wait_ms: {HINTED_S * 1000:.0f}, max_size: {TOGETHER}}}}}
redis: {{{{url: "redis://127.0.0.1:{{port}}/0", secret: the-secret-of-this-fleet, timeout_ms: {STORE_S * 1000:.0f}}}}}
drain_grace_seconds: {GRACE_S}
drain_seconds: 20
"""
_TOKENS_PER_SECOND = 200.0
_CHARS_AN_EVENT = 48
_RECORDED = 100_000
_SETTLED_S = 12.0
"""How long after its last call a fleet may hold anything; woken sleepers have a lease to offer what they have."""
_SHARING_S = 25.0
"""How long Redis may be back before everybody shares again: a replica asks a Redis that often fails less and less often."""
_POLL_S = 0.1
_AT_REST = {
    "open_windows": 0, "waiting_calls": 0, "running_batches": 0, "upstream_slots_taken": 0, "faults_total": 0, "listener_failures": 0,
    "calls_in_flight": 1,
}  # fmt: skip
"""The most that each may be; the call that asks for the figures is in flight itself."""
T = TypeVar("T")


@dataclass(eq=False)
class Replica:
    """One proxy: its process, its line to Redis, and what was done to it."""

    process: Process
    line: Line
    life: Life = field(default_factory=Life)
    balanced: bool = True
    """Whether new calls are sent to it."""
    _frozen_at: float | None = None

    @property
    def url(self) -> str:
        return self.process.url

    def kill(self) -> None:
        """End it without a word."""
        self.life.killed, self.balanced = True, False
        self.process.kill()

    def freeze(self) -> None:
        """Stop it in its tracks; its balancer notices."""
        self.balanced, self._frozen_at = False, time.monotonic()
        self.process.popen.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on where it was."""
        if self._frozen_at is not None:
            self.life.frozen_s += time.monotonic() - self._frozen_at
            self.balanced, self._frozen_at = True, None
            self.process.popen.send_signal(signal.SIGCONT)

    def drain(self) -> None:
        """Ask it to stop. Its balancer goes on for a while: who sets `balanced` says how long."""
        self.life.shut_at = time.monotonic() + GRACE_S
        self.process.popen.send_signal(signal.SIGTERM)


class Fleet:
    """What is running. Everything that was started is ended with the context of `running`."""

    def __init__(self, folder: Path, provider: Provider, redis: RedisServer, stack: AsyncExitStack) -> None:
        self.provider = provider
        self.redis = redis
        self.replicas: list[Replica] = []
        self.client = httpx.AsyncClient(timeout=5.0, limits=httpx.Limits(max_keepalive_connections=0))
        self._folder = folder
        self._stack = stack
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, replicas: int = 3) -> AsyncGenerator[Fleet]:
        """Start all."""
        async with AsyncExitStack() as stack:
            choices: dict[str, Any] = {"tokens_per_second": _TOKENS_PER_SECOND, "delta_chars": _CHARS_AN_EVENT, "record": _RECORDED}
            provider = await stack.enter_async_context(Provider.running(**choices))
            redis = await _started(lambda: RedisServer.start(folder / "redis"), RedisServer.kill)
            stack.callback(redis.kill)
            fleet = cls(folder, provider, redis, stack)
            stack.push_async_callback(fleet.client.aclose)
            await fleet.grow(replicas)
            yield fleet

    @property
    def balanced(self) -> list[Replica]:
        """Those to which calls are sent."""
        return [replica for replica in self.replicas if replica.balanced]

    async def grow(self, number: int) -> None:
        """Start so many more replicas, side by side."""
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(self._grow())

    async def _grow(self) -> None:
        self._number += 1
        folder = self._folder / f"replica-{self._number}"
        folder.mkdir(parents=True)
        line = await self._stack.enter_async_context(Line.running(self.redis.port, random.Random(self._number)))
        file = folder / "proxy.yaml"
        file.write_text(_CONFIG.format(provider=self.provider.url, port=line.port))
        process = await _started(lambda: Process.start(folder, "--config", str(file)), Process.kill)
        self._stack.callback(process.kill)
        self.replicas.append(Replica(process, line))

    async def new_redis(self, *options: str) -> RedisServer:
        """Start another Redis; nobody is connected to it yet."""
        self._number += 1
        folder = self._folder / f"redis-{self._number}"
        redis = await _started(lambda: RedisServer.start(folder, *options), RedisServer.kill)
        self._stack.callback(redis.kill)
        return redis

    def use(self, redis: RedisServer) -> None:
        """Lead every line to another Redis."""
        self.redis = redis
        for replica in self.replicas:
            replica.line.lead_to(redis.port)

    async def mend(self) -> None:
        """Bring everything back that was taken away, and start new replicas in the dead ones' places."""
        if self.redis.popen.poll() is not None:
            self.use(await self.new_redis())
        self.redis.go_on()
        for replica in self.replicas:
            replica.line.heal()
            replica.wake()
        number = len(self.replicas)
        self.replicas = [replica for replica in self.replicas if replica.process.popen.poll() is None]
        await self.grow(number - len(self.replicas))

    async def line_to(self, port: int) -> Line:
        """Open one more line."""
        return await self._stack.enter_async_context(Line.running(port, random.Random(port)))

    # what is to be seen of the replicas

    async def figures(self, replica: Replica) -> dict[str, float]:
        """Return a replica's metrics, each the sum of its samples."""
        figures: dict[str, float] = {}
        for line in (await self.client.get(f"{replica.url}/metrics")).text.splitlines():
            if line.startswith("lesson_proxy_"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0].removeprefix("lesson_proxy_")
                figures[name] = figures.get(name, 0.0) + float(value)
        return figures

    async def at_rest(self) -> list[str]:
        """Wait until nothing is left of any call; return what is left all the same."""
        return await self._until(_SETTLED_S, self._left_over)

    async def sharing(self) -> list[str]:
        """Wait until every replica shares its windows; return who does not."""
        return await self._until(_SHARING_S, self._not_sharing)

    async def _until(self, patience_s: float, wrong: Callable[[Replica], Any]) -> list[str]:
        deadline = time.monotonic() + patience_s
        while True:
            found = [what for replica in self.replicas for what in await wrong(replica)]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_POLL_S)

    async def _left_over(self, replica: Replica) -> list[str]:
        ready = await self.client.get(f"{replica.url}/health/ready")
        figures = await self.figures(replica)
        left = [f"{replica.url} has {name} {figures[name]}" for name, most in _AT_REST.items() if figures.get(name, 0.0) > most]
        return left + ([f"{replica.url} is not ready: {ready.text}"] if not ready.is_success else [])

    async def _not_sharing(self, replica: Replica) -> list[str]:
        return [] if (await self.figures(replica))["sharing"] else [f"{replica.url} does not share"]


async def _started(start: Callable[[], T], end: Callable[[T], None]) -> T:
    """Start something in a thread; whoever is cancelled meanwhile ends it."""
    thread = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        # Ctrl-C reaches what is being started too: then it ends by itself
        with suppress(AssertionError):
            end(await thread)
        raise
