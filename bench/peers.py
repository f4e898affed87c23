"""The proxy beside other gateways, all before the same instant upstream: calls a second, time added to a call, CPU a call and an event.

One core for all servers, one for load and upstream; the servers take turns in one run. A gateway that runs already takes part as
`PEER=name=http://127.0.0.1:PORT` (several: spaces between); it must send `bench-model` on to the upstream's address, which is
fixed then; its CPU is not known, nor which core it has.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import uvloop

from bench.gateways import GATEWAYS, Gateway
from bench.harness import (
    CLIENT_CORE,
    REQUEST_BYTES,
    Process,
    chunked_answer,
    conditions,
    free_port,
    http_answer,
    instant_upstream,
    load,
    model_at,
    percentile,
    proxy,
    request_bytes,
    running,
)
from bench.passthrough import EVENTS, chat_answer, chat_body, stream_events

ROUNDS, CONNECTIONS = 5, 32
SECONDS = 1.5
"""About so long a server is loaded in a round, however fast it is."""
FEWEST, MOST = 2 * CONNECTIONS, 4000
ONE_BY_ONE = 300
STREAMS = 8
UPSTREAM_PORT = 4998
"""Where gateways that run already find the upstream."""
LITELLM_AIM = 40
OURS = "lesson-proxy"


@dataclass
class Server:
    """One of those compared, and what each of its rounds gave."""

    name: str
    port: int
    process: Process | None = None
    """None: started by somebody else."""
    pace: float = 0.0
    """Calls a second when it was warmed up."""
    calls_per_s: list[float] = field(default_factory=list[float])
    cpu_us: list[float] = field(default_factory=list[float])
    p50_ms: list[float] = field(default_factory=list[float])
    event_us: list[float] = field(default_factory=list[float])

    def cpu_s(self) -> float:
        return self.process.cpu_s() if self.process else math.nan


async def warm_up(server: Server) -> bool:
    """Learn a server's pace; False: it does not answer, and is left out."""
    try:
        for request, calls in ((ASK, FEWEST), (ASK_STREAM, STREAMS), (ASK, FEWEST)):
            seconds, _ = await load(server.port, request, connections=min(calls, CONNECTIONS), calls=calls)
            server.pace = calls / seconds
    except (OSError, RuntimeError) as error:
        if server.name.startswith(OURS):
            raise
        print(f"*** {server.name} is left out: it answered {str(error).splitlines()[0]}", file=sys.stderr)
        return False
    return True


async def play_round(server: Server) -> None:
    calls = round(min(MOST, max(FEWEST, server.pace * SECONDS)))
    before = server.cpu_s()
    seconds, _ = await load(server.port, ASK, connections=CONNECTIONS, calls=calls)
    server.calls_per_s.append(calls / seconds)
    server.cpu_us.append((server.cpu_s() - before) / calls * 1e6)
    server.p50_ms.append(await one_by_one(server.port, round(min(ONE_BY_ONE, calls))))
    before = server.cpu_s()
    await load(server.port, ASK_STREAM, connections=STREAMS, calls=STREAMS)
    server.event_us.append((server.cpu_s() - before) / STREAMS / EVENTS * 1e6)


async def one_by_one(port: int, calls: int) -> float:
    _, latencies = await load(port, ASK, connections=1, calls=calls)
    return percentile(latencies, 50) * 1000


ASK, ASK_STREAM = request_bytes(chat_body()), request_bytes(chat_body(stream=True))


@contextlib.contextmanager
def started(upstream: str, running_already: Sequence[Server]) -> Generator[list[Server]]:
    """Start the proxy and every gateway that is to be had; the others are named and left out."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(proxy({"model_list": [model_at(upstream)]}))
        servers = [Server(f"{OURS} {version(OURS)}", ours.port, ours)]
        for gateway in GATEWAYS:
            process = _started(gateway, upstream, folder, stack)
            if process is None:
                print(f"*** {gateway.name} is left out: it is not installed, or does not start", file=sys.stderr)
            else:
                servers.append(Server(f"{gateway.name} {gateway.version}", process.port, process))
        yield [*servers, *running_already]


def _started(gateway: Gateway, upstream: str, folder: Path, stack: contextlib.ExitStack) -> Process | None:
    if not gateway.program.exists():
        return None
    port = free_port()
    start = gateway.set_up(gateway.program, upstream, port, folder)
    try:
        return stack.enter_context(running(start.command, port, health=gateway.health, env=start.env))
    except SystemExit as told:
        print(told, file=sys.stderr)
        return None


def named_peers(text: str) -> list[Server]:
    """Read `PEER`; only the loopback is loaded."""
    servers: list[Server] = []
    for peer in text.split():
        name, _, url = peer.partition("=")
        address = urlsplit(url)
        if address.hostname not in {"127.0.0.1", "localhost"} or address.port is None:
            raise SystemExit(f"PEER={peer} must be like name=http://127.0.0.1:8080")
        servers.append(Server(name, address.port))
    return servers


async def compare(running_already: Sequence[Server]) -> tuple[list[Server], list[float]]:
    """Let all take turns; returns them, and the p50 of each round's direct calls in milliseconds."""
    direct: list[float] = []
    port = UPSTREAM_PORT if running_already else 0
    async with instant_upstream([http_answer(chat_answer())], streamed=chunked_answer(stream_events()), port=port) as upstream:
        with started(upstream, running_already) as all_servers:
            servers = [server for server in all_servers if await warm_up(server)]
            for _ in range(ROUNDS):
                direct.append(await one_by_one(int(upstream.rpartition(":")[2]), ONE_BY_ONE))
                for server in servers:
                    await play_round(server)
            return servers, direct


def told(servers: Sequence[Server], direct: Sequence[float]) -> None:
    """Print a row a server, and how the aims stand."""
    print(f"{'':24}{'calls/s':>9}{'ours is':>9}{'added p50':>11}{'CPU a call':>12}{'CPU an event':>14}")
    ours = servers[0]
    for server in servers:
        times = _times(ours, server)
        added = statistics.median(p50 - d for p50, d in zip(server.p50_ms, direct, strict=True))
        cpu, event = statistics.median(server.cpu_us), statistics.median(server.event_us)
        rate = statistics.median(server.calls_per_s)
        dear = f"{cpu:9.0f} µs{event:11.0f} µs" if server.process else f"{'-':>12}{'-':>14}"
        print(f"{server.name:24}{rate:9.0f}{times:8.2f}x{added:8.2f} ms{dear}")
    for server in (server for server in servers[1:] if server.process):
        aim, times = (LITELLM_AIM if server.name.startswith("litellm ") else 1), _times(ours, server)
        print(f"aim: at least {aim} times the calls/s of {server.name}: {times:.2f}, {'reached' if times >= aim else 'NOT reached'}")


def _times(ours: Server, other: Server) -> float:
    return statistics.median(mine / its for mine, its in zip(ours.calls_per_s, other.calls_per_s, strict=True))


def main() -> None:
    """Print the comparison with its conditions."""
    running_already = named_peers(os.environ.get("PEER", ""))
    if (os.cpu_count() or 1) > 1:
        psutil.Process().cpu_affinity([CLIENT_CORE])
    print(
        f"peers: {conditions()}; all servers on one core, {ROUNDS} interleaved rounds, medians; instant upstream, "
        f"{REQUEST_BYTES} B requests, {CONNECTIONS} connections; added p50: at 1 connection, over direct; "
        f"CPU an event: {STREAMS} streams of {EVENTS} at once"
    )
    for gateway in GATEWAYS:
        print(f"{gateway.name} {gateway.version}: {gateway.told}")
    told(*uvloop.run(compare(running_already)))


if __name__ == "__main__":
    main()
