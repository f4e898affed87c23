"""Several replicas of the bench `replicas` and their Redis, each in a process of its own, as the measuring process sees them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from tests.redis_server import RedisServer

_LINE_BYTES = 2**26


@dataclass(frozen=True)
class Call:
    learner: str
    came: float
    batch: str
    """Empty: it went alone."""
    answered: float
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of one job, all replicas together."""

    calls: list[Call]
    cpu_s: float
    redis_cpu_s: float
    trips: int
    downs: int
    """How often a replica thought that Redis was gone."""
    scripts: int
    """Those that Redis says it ran: commands, and two for each time that a replica has tried whether it is there."""
    join_ms: list[float]
    claim_ms: list[float]
    both_ms: list[float]
    """Of each call that opened a window: its join and the claim."""

    @property
    def taken_back(self) -> int:
        """The number of calls that a shared window did not serve."""
        return sum(call.reason.startswith("taken_back") for call in self.calls)


class Fleet:
    """Replicas that wait for jobs."""

    def __init__(self, redis: RedisServer, replicas: Sequence[Process]) -> None:
        self._redis = redis
        self._replicas = replicas

    async def play(self, jobs: Sequence[dict[str, Any]]) -> Result:
        """Give each of the first replicas its job, and wait for all."""
        self._redis.ask("CONFIG", "RESETSTAT")
        before = self._redis_cpu_s()
        answers = await asyncio.gather(*(_asked(replica, job) for replica, job in zip(self._replicas, jobs, strict=False)))
        return Result(
            calls=[Call(*call) for answer in answers for call in answer["calls"]],
            cpu_s=sum(answer["cpu_s"] for answer in answers),
            redis_cpu_s=self._redis_cpu_s() - before,
            trips=sum(answer["trips"] for answer in answers),
            downs=sum(answer["downs"] for answer in answers),
            scripts=self._scripts(),
            **{name: [ms for answer in answers for ms in answer[name]] for name in ("join_ms", "claim_ms", "both_ms")},
        )

    def _redis_cpu_s(self) -> float:
        times = psutil.Process(self._redis.popen.pid).cpu_times()
        return times.user + times.system

    def _scripts(self) -> int:
        told = self._redis.ask("INFO", "commandstats").decode()
        return sum(int(number) for number in re.findall(r"cmdstat_eval(?:sha)?:calls=(\d+)", told))


async def _asked(replica: Process, job: dict[str, Any]) -> dict[str, Any]:
    assert replica.stdin
    assert replica.stdout
    replica.stdin.write(orjson.dumps(job) + b"\n")
    await replica.stdin.drain()
    return orjson.loads(await replica.stdout.readline())


@contextlib.asynccontextmanager
async def fleet(replicas: int) -> AsyncGenerator[Fleet]:
    """Start a Redis and so many replicas; all are ended afterwards, by their own ids."""
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        redis = await asyncio.to_thread(RedisServer.start, Path(folder))
        started: list[Process] = []
        try:
            secret = secrets.token_hex(16)
            for _ in range(replicas):
                command = [sys.executable, "-m", "bench.replica_process", redis.url, secret]
                started.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES))
            for replica in started:
                assert replica.stdout
                assert await replica.stdout.readline() == b"ready\n"
            yield Fleet(redis, started)
        finally:
            for replica in started:
                with contextlib.suppress(ProcessLookupError):
                    replica.kill()
                await replica.wait()
            redis.kill()
