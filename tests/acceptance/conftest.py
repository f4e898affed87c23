"""A real proxy in a process of its own, on a port of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import pytest_asyncio

from proxy.simulated import Provider

_START_S = 60.0
_WAIT_S = 15.0
_POLL_S = 0.02

STANDING = """
model_list:
  - {model_name: named, litellm_params: {model: simulated/named}}
  - {model_name: "*", litellm_params: {model: "simulated/*"}}
lessons: {window: {max_wait_ms: 600, policy: fixed}}
bounds: {body_mb: 0.5}
"""


@dataclass
class Process:
    """A running `lesson-proxy serve`; its two outputs are files."""

    popen: subprocess.Popen[bytes]
    out: Path
    err: Path
    url: str = ""

    @classmethod
    def start(cls, folder: Path, *options: str) -> Process:
        """Start one, and return when it says where it listens."""
        out, err = folder / "out", folder / "err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            command = [sys.executable, "-m", "proxy", "serve", "--port", "0", *options]
            process = cls(subprocess.Popen(command, stdout=out_file, stderr=err_file, env={**os.environ}), out, err)
        deadline = time.monotonic() + _START_S
        while "listens on" not in out.read_text():
            if process.popen.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the proxy did not start:\n{err.read_text()}")
            time.sleep(_POLL_S)
        process.url = out.read_text().split()[-1]
        return process

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of its log so far; each must be JSON."""
        return [orjson.loads(line) for line in self.err.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait()


@dataclass
class Served:
    """A running proxy as one test's event loop sees it."""

    process: Process
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return self.process.url

    async def logged(self, action: str, *, saying: str = "", **fields: object) -> dict[str, Any]:
        """Return the first log line with these fields, and `saying` somewhere in it, once it is there."""
        wanted = {"action": action, **fields}
        async with asyncio.timeout(_WAIT_S):
            while True:
                for line in self.process.log():
                    if wanted.items() <= line.items() and saying in repr(line):
                        return line
                await asyncio.sleep(_POLL_S)

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples; 0.0 where there is none."""
        text = (await self.client.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((name + " ", name + "{")))

    async def until(self, name: str, value: float) -> None:
        """Return when a metric has this value."""
        async with asyncio.timeout(_WAIT_S):
            while await self.metric(name) != value:  # noqa: ASYNC110 - another process's state can only be asked for
                await asyncio.sleep(_POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.popen.send_signal(number)

    async def ended(self) -> int:
        """Return the exit code, once the process has ended."""
        return await asyncio.to_thread(self.process.popen.wait, _WAIT_S)


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncGenerator[Serve]:
    """Start proxies: `await serve("--config", path)`; each is ended with the test."""
    running: list[Served] = []
    numbers = count()

    async def start(*options: str) -> Served:
        folder = tmp_path / f"proxy-{next(numbers)}"
        folder.mkdir()
        process = await asyncio.to_thread(Process.start, folder, *options)
        served = Served(process, httpx.AsyncClient(base_url=process.url, timeout=20.0))
        running.append(served)
        return served

    yield start
    for served in running:
        await served.client.aclose()
        served.process.kill()


@pytest.fixture(scope="session")
def standing_process(tmp_path_factory: pytest.TempPathFactory) -> Generator[Process]:
    """One process for every test that neither configures nor ends it."""
    folder = tmp_path_factory.mktemp("standing")
    file = folder / "proxy.yaml"
    file.write_text(STANDING)
    process = Process.start(folder, "--config", str(file))
    yield process
    process.kill()


@pytest.fixture
async def standing(standing_process: Process) -> AsyncGenerator[Served]:
    """The process that stands for all tests, with a client of this test's own."""
    async with httpx.AsyncClient(base_url=standing_process.url, timeout=20.0) as client:
        yield Served(standing_process, client)


FAILING = """
model_list:
  - {{model_name: "slow*", litellm_params: {{model: "openai/slow*", api_base: "{slow}", api_key: {key}}}}}
  - {{model_name: "mortal*", litellm_params: {{model: "openai/mortal*", api_base: "{mortal}", api_key: {key}}}}}
  - {{model_name: "*", litellm_params: {{model: "openai/*", api_base: "{prompt}", api_key: {key}}}}}
router_settings: {{num_retries: 1, timeout: 1.0}}
lessons:
  window: {{max_wait_ms: 5000, max_size: 3, policy: fixed}}
  merge: {{first_token_seconds: 1.0, idle_seconds: 0.7}}
  checks: {{content: {{min_words: 20}}}}
"""
OPERATORS_KEY = "sk-of-the-operator"
_TOKENS_PER_SECOND = 800.0


@dataclass
class Failing:
    """A proxy before providers that fail as the model's name says: `slow…` writes slowly, `mortal…` can be killed."""

    served: Served
    provider: Provider
    slow: Provider
    mortal: asyncio.subprocess.Process


async def _ended(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_failing(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Failing]:
    """One such proxy for all tests; the providers run in the session's event loop, the mortal one in a process."""
    folder = tmp_path_factory.mktemp("failing")
    command = [sys.executable, "-m", "proxy", "simulate", "--port", "0", "--tokens-per-second", str(_TOKENS_PER_SECOND)]
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(Provider.running(record=100))
        slow = await stack.enter_async_context(Provider.running(tokens_per_second=_TOKENS_PER_SECOND))
        mortal = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        stack.push_async_callback(_ended, mortal)
        assert mortal.stdout is not None
        line = await mortal.stdout.readline()
        file = folder / "proxy.yaml"
        urls = {"prompt": provider.url, "slow": slow.url, "mortal": line.decode().split()[2]}
        file.write_text(FAILING.format(key=OPERATORS_KEY, **urls))
        process = await asyncio.to_thread(Process.start, folder, "--config", str(file))
        stack.callback(process.kill)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=process.url, timeout=20.0))
        yield Failing(Served(process, client), provider, slow, mortal)


@pytest_asyncio.fixture(loop_scope="session")
async def failing(standing_failing: Failing) -> AsyncGenerator[Failing]:
    """The standing one, with counts that begin anew; whatever a test does to it, nothing is left over and nothing is our fault."""
    standing_failing.provider.stats.reset()
    standing_failing.slow.stats.reset()
    yield standing_failing
    served = standing_failing.served
    await served.until("lesson_proxy_upstream_slots_taken", 0)
    assert await served.metric("lesson_proxy_faults_total") == 0
    told = repr(served.process.log())
    assert OPERATORS_KEY not in told
    assert "Linear equations" not in told
