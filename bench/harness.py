"""What the measurements share: processes on a core of their own, an instant upstream, and a load client that costs little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import psutil
import yaml

SERVER_CORE, CLIENT_CORE = 0, 1
REQUEST_BYTES = 4096
PART_GAP_S = 0.002
_STREAMS = re.compile(rb'"stream"\s*:\s*true')


def conditions() -> str:
    """Name what a figure was measured on, without naming the machine."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    return f"Python {sys.version.split()[0]}, {os.cpu_count()} cores ({model}), shared machine"


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Process:
    """A server process of ours, pinned to the servers' core."""

    popen: subprocess.Popen[bytes]
    port: int
    ready_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        times = psutil.Process(self.popen.pid).cpu_times()
        return times.user + times.system

    def rss_mib(self) -> float:
        return psutil.Process(self.popen.pid).memory_info().rss / 2**20


@contextlib.contextmanager
def _pinned(core: int | None) -> Generator[None]:
    """Let processes that are started meanwhile have one core: pinned later, a program's first threads would stay where they are."""
    here = psutil.Process()
    before = here.cpu_affinity() or []
    if core is not None and (os.cpu_count() or 1) > 1:
        here.cpu_affinity([core])
    try:
        yield
    finally:
        here.cpu_affinity(before)


@contextlib.contextmanager
def running(
    command: list[str],
    port: int,
    *,
    health: str = "/health/ready",
    core: int | None = SERVER_CORE,
    env: Mapping[str, str] | None = None,
) -> Generator[Process]:
    """Start a server, wait until it is ready, and end it by its own id."""
    started = time.perf_counter()
    with Path(tempfile.mkstemp(prefix="bench-", suffix=".log")[1]).open("wb") as log, _pinned(core):
        popen = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
    process = Process(popen, port)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(process.url + health, timeout=1):
                    break
            except OSError:
                if popen.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{' '.join(command)} did not start; see {log.name}") from None
                time.sleep(0.02)
        process.ready_s = time.perf_counter() - started
        yield process
    finally:
        popen.terminate()
        try:
            popen.wait(15)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


@contextlib.contextmanager
def proxy(config: dict[str, Any], *, core: int | None = SERVER_CORE) -> Generator[Process]:
    """Run `lesson-proxy serve` with this configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        port = free_port()
        with running([sys.executable, "-m", "proxy", "serve", "--config", file.name, "--port", str(port)], port, core=core) as process:
            yield process


def model_at(url: str, name: str = "bench-model", **lessons: Any) -> dict[str, Any]:
    """Return a `model_list` entry for an OpenAI-compatible address."""
    return {
        "model_name": name,
        "litellm_params": {"model": f"openai/{name}", "api_base": f"{url}/v1", "api_key": "bench"},
        "model_info": {"lessons": lessons},
    }


@dataclass
class InstantUpstream(asyncio.Protocol):
    """Answers every request with the same parts, or streams with others; knows just enough HTTP to find a request's end.

    The first part goes at once, each further one after `gap_s`, so that it arrives by itself as a model's tokens do.
    """

    parts: list[bytes]
    gap_s: float
    streamed: list[bytes] | None = None
    """The parts for requests that ask for a stream; None: the same."""
    buffer: bytearray = field(default_factory=bytearray)
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            streams = self.streamed is not None and _STREAMS.search(self.buffer, end, end + 4 + length)
            del self.buffer[: end + 4 + length]
            self._write(self.streamed if self.streamed and streams else self.parts, 0)

    def _write(self, parts: list[bytes], number: int) -> None:
        assert self.transport
        if self.transport.is_closing():
            return
        self.transport.write(parts[number])
        if number + 1 < len(parts):
            asyncio.get_running_loop().call_later(self.gap_s, self._write, parts, number + 1)


@contextlib.asynccontextmanager
async def instant_upstream(
    parts: list[bytes], *, streamed: list[bytes] | None = None, gap_s: float = PART_GAP_S, port: int = 0
) -> AsyncGenerator[str]:
    """Serve an answer on a port of the loopback, a free one where none is named; yields the address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: InstantUpstream(parts, gap_s, streamed), "127.0.0.1", port)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http_answer(body: bytes, content_type: str = "application/json") -> bytes:
    """Build a whole answer with its length."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (content_type.encode(), len(body), body)


def chunked_answer(events: list[bytes]) -> list[bytes]:
    """Build a streamed answer: its head, a chunk an event, its end."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(e), e) for e in events), b"0\r\n\r\n"]


Until = Literal["end", "first byte"]


class LoadConnection(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered, `calls` times."""

    def __init__(self, request: bytes, calls: int, done: asyncio.Future[None], latencies_s: list[float], until: Until) -> None:
        self._request, self._left, self._done, self._latencies, self._until = request, calls, done, latencies_s, until
        self._tail: bytes = b""
        self._need: int | None = None
        self._chunked = False
        self._asked_s = 0.0
        self._first_s: float | None = None
        """When the first byte of the answer's body came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._tail, self._need, self._chunked, self._first_s = b"", None, False, None
        self._asked_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._need is None and not self._chunked:
            data = self._tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._tail = data
                return
            head = data[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self._fail(RuntimeError(head.decode(errors="replace")))
                return
            self._chunked = b"transfer-encoding: chunked" in head
            at = head.find(b"content-length:")
            self._need = None if self._chunked else int(head[at + 15 :].split(b"\r\n", 1)[0])
            data = data[end + 4 :]
        if data and self._first_s is None:
            self._first_s = time.perf_counter()
        if self._chunked:
            self._tail = (self._tail + data)[-5:]
            finished = self._tail == b"0\r\n\r\n"
        else:
            assert self._need is not None
            self._need -= len(data)
            finished = self._need <= 0
        if finished:
            self._answered()

    def _answered(self) -> None:
        arrived_s = self._first_s if self._until == "first byte" and self._first_s else time.perf_counter()
        self._latencies.append(arrived_s - self._asked_s)
        self._left -= 1
        if self._left > 0:
            self._ask()
        else:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._transport.close()
        if not self._done.done():
            self._done.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("closed early"))


def request_bytes(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    """Build one POST with a bearer."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def load(port: int, request: bytes, *, connections: int, calls: int, until: Until = "end") -> tuple[float, list[float]]:
    """Send `calls` requests over so many connections; returns seconds and each call's latency, to its end or to its body's first byte."""
    loop, latencies = asyncio.get_running_loop(), list[float]()
    started = time.perf_counter()
    waits: list[asyncio.Future[None]] = []
    for i in range(connections):
        done = loop.create_future()
        share = calls // connections + (i < calls % connections)
        await loop.create_connection(lambda d=done, n=share: LoadConnection(request, n, d, latencies, until), "127.0.0.1", port)
        waits.append(done)
    await asyncio.wait_for(asyncio.gather(*waits), 300)
    return time.perf_counter() - started, latencies


def percentile(values: list[float], p: float) -> float:
    """Return the p-th percentile (0 to 100) of unordered values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]
