"""Several workers on one machine: listens once for all of them, starts them, passes signals on, and starts anew who dies.

It answers no call itself and imports nothing of what does. A stop reaches every worker; the exit code is the worst of
theirs. Should this process be killed, the workers read it from their links and stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from proxy.cli import screen
from proxy.observe.events import StateChanged

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 30.0
"""A worker that lived so long is started anew at once."""
_SIGNALLED = 128
"""What a shell adds to a signal's number for a process that was ended by it."""
_BACKLOG = 2048


class _Worker:
    """One place, and the process that has it at present."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.was_ready = False
        """A process in this place was, once."""
        self.pause_s = 0.0

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """Runs `count` workers. `command` gives the words that start one at a post (as JSON); `tell` is told what happens to them."""

    def __init__(
        self, count: int, sockets: Sequence[socket.socket], command: Callable[[str], Sequence[str]], tell: Callable[[object], None]
    ) -> None:
        self._sockets = list(sockets)
        self._command = command
        self._tell = tell
        self._workers = [_Worker(number) for number in range(1, count + 1)]
        self._stopping = asyncio.Event()
        self._failed = 0
        """The exit code of a worker that could not start at all."""
        self._folder = ""

    async def run(self) -> int:
        """Run until a signal ends it, or until no worker can be started; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        where = " and ".join(_url(listening) for listening in self._sockets)
        with tempfile.TemporaryDirectory(prefix="lesson-proxy-") as self._folder:
            keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
            announcing = asyncio.create_task(self._announce(where))
            codes = await asyncio.gather(*keeping)
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
        return self._failed or max(codes)

    async def _announce(self, where: str) -> None:
        for worker in self._workers:
            await worker.ready.wait()
        sys.stdout.write(f"lesson-proxy listens on {where}\n")
        sys.stdout.flush()

    async def _keep(self, worker: _Worker) -> int:
        """Have a worker in this place until all are to stop; return the last one's exit code."""
        while True:
            began = asyncio.get_running_loop().time()
            code = await self._one(worker)
            if self._stopping.is_set():
                return code
            if not worker.was_ready:
                # it has told itself why, and the others would fare no better
                self._failed = code or 1
                self._stop(signal.SIGTERM)
                return code
            lived_s = asyncio.get_running_loop().time() - began
            worker.pause_s = 0.0 if lived_s >= _STEADY_S else min(max(_FIRST_PAUSE_S, worker.pause_s * 2), _LONGEST_PAUSE_S)
            self._tell(StateChanged("worker_lost", f"worker {worker.number} ended with {code}; another starts in {worker.pause_s:g} s"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(worker.pause_s):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return 0

    async def _one(self, worker: _Worker) -> int:
        worker.ready.clear()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                listening = tuple(listening.fileno() for listening in self._sockets)
                post = {"number": worker.number, "listening": listening, "link": theirs.fileno(), "folder": self._folder}
                worker.process = process = await asyncio.create_subprocess_exec(
                    *self._command(json.dumps(post)),
                    pass_fds=(*listening, theirs.fileno()),
                    # a Ctrl-C must come to a worker once, from here
                    start_new_session=True,
                )
            ours.setblocking(False)
            watching = asyncio.create_task(self._watch(worker, ours))
            code = await process.wait()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return code if code >= 0 else _SIGNALLED - code

    async def _watch(self, worker: _Worker, link: socket.socket) -> None:
        """Wait for the one word that a worker says when it is ready; where there is none, it has ended."""
        if await asyncio.get_running_loop().sock_recv(link, 64):
            worker.was_ready = True
            worker.ready.set()

    def _stop(self, number: int) -> None:
        """Pass a stop on. From now on nobody may come in by a queue that no worker will empty."""
        self._stopping.set()
        for listening in self._sockets:
            listening.close()
        for worker in self._workers:
            worker.signal(number)

    def _reload(self) -> None:
        for worker in self._workers:
            # one that is only starting reads the new file anyway, and would not survive the signal
            if worker.ready.is_set():
                worker.signal(signal.SIGHUP)


def run(count: int, address: tuple[str, int], command: Callable[[str], Sequence[str]], tell: Callable[[object], None]) -> int:
    """Listen and run; return the exit code, 1 with a line where nobody can listen there."""
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(listening) for listening in _listening(*address)]
        except OSError as error:
            screen.line(f"can't listen on {address[0]}:{address[1]}: {(error.strerror or str(error)).lower()}", stderr=True, style="red")
            return 1
        return asyncio.run(_supervised(count, sockets, command, tell))


async def _supervised(
    count: int, sockets: Sequence[socket.socket], command: Callable[[str], Sequence[str]], tell: Callable[[object], None]
) -> int:
    return await Supervisor(count, sockets, command, tell).run()


def _listening(host: str, port: int) -> list[socket.socket]:
    """Return a socket for every address that the host stands for, all on one port; raises OSError."""
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, place in socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        try:
            listening = socket.socket(family, kind, protocol)
        except OSError:
            # a kind of address that this machine does not have
            continue
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # any free port is one port for all addresses
        wanted = sockets[0].getsockname()[1] if sockets else port
        listening.bind((place[0], wanted, *place[2:]))
        listening.listen(_BACKLOG)
        sockets.append(listening)
    return sockets


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
