"""uvicorn around the edge, and what the process does on signals; it knows no settings but the times of draining.

First SIGTERM or SIGINT: readiness says no, open windows close at once, and for the grace calls are still served, each
answer ending its connection; then the listener closes, and everybody is answered within the rest of the drain time.
A second one: stop now. SIGHUP: the configuration is read again.
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from proxy.app.connection import Connection
from proxy.app.running import Proxy
from proxy.observe.faults import fault

_CANCELLED_S = 2.0
"""How long calls that were cancelled may take to end."""
_KEEP_ALIVE_S = 75
"""Longer than the 60 seconds for which usual clients and balancers keep an idle connection: they close first, not we."""
_STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0: any that is free."""

    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Draining:
    """The times of a stop, both counted from the first signal."""

    grace_s: float
    drain_s: float


class Server(uvicorn.Server):
    """Runs until it is told to stop."""

    def __init__(self, proxy: Proxy, address: Address, draining: Draining) -> None:
        super().__init__(
            uvicorn.Config(
                proxy.edge,
                host=address.host,
                port=address.port,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # the address of a caller is not looked at, so nobody needs to be trusted about it
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._proxy = proxy
        self.draining = draining
        """May be set anew until the stop begins."""
        self.announce: Callable[[str], None] = _announced
        """Is told where it listens, once it does."""
        self._reload: Callable[[], Awaitable[None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._signal: int | None = None

    @property
    def forced(self) -> int | None:
        """Return the signal that ended the process before everybody was answered; None: none did."""
        return self._signal if self.force_exit else None

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take the signals while the server runs; elsewhere than in the main thread they can't be taken."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for stop in _STOPS:
            loop.add_signal_handler(stop, self.stop, stop)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        try:
            yield
        finally:
            for taken in (*_STOPS, signal.SIGHUP):
                loop.remove_signal_handler(taken)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        where = " and ".join(_url(server_socket) for server in self.servers for server_socket in server.sockets)
        self._proxy.ready(where)
        self.announce(where)

    def on_hangup(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Say what SIGHUP does."""
        self._reload = reload

    def _hung_up(self) -> None:
        if self._reload is not None:
            self._keep(self._reload)

    def stop(self, by: int = signal.SIGTERM) -> None:
        """Begin to stop; called a second time: stop now."""
        if self._signal is None:
            self._signal = by
            self._keep(self._drain)
            return
        self._signal = by
        self.should_exit = self.force_exit = True

    async def _drain(self) -> None:
        await self._proxy.drain(signal.Signals(self._signal or signal.SIGTERM).name)
        draining = self.draining
        self.config.timeout_graceful_shutdown = max(1, math.ceil(draining.drain_s - draining.grace_s))
        await asyncio.sleep(draining.grace_s)
        # the server waits for it as for its own calls: a batch's callers may be other processes'
        batches = asyncio.get_running_loop().create_task(self._proxy.settled())
        self.server_state.tasks.add(batches)
        batches.add_done_callback(self.server_state.tasks.discard)
        self.should_exit = True

    async def end(self) -> None:
        """End what the server leaves behind: its own tasks, and calls whose time was over."""
        left = {*self._tasks, *self.server_state.tasks}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CANCELLED_S)

    def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.get_running_loop().create_task(_awaited(work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._proxy.publish(fault("signal", error))


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announced(where: str) -> None:
    sys.stdout.write(f"lesson-proxy listens on {where}\n")
    sys.stdout.flush()
