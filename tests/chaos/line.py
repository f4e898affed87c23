"""A TCP line on the loopback that can be cut, stalled, slowed or made to swallow what is sent, and healed.

Each direction is treated by itself. What a stalled line holds is delivered when it heals, even where its sender has hung
up since: so the other side reads late what was given up long ago. A connection that has swallowed something is never
used again: it is cut when the line heals.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

_AT_ONCE = 65_536
Direction = Literal["there", "back"]
BOTH: tuple[Direction, ...] = ("there", "back")


@dataclass(slots=True)
class _Way:
    """One direction."""

    passing: asyncio.Event
    delay_s: tuple[float, float] = (0.0, 0.0)
    swallows: bool = False


@dataclass(slots=True, eq=False)
class _Connection:
    here: asyncio.StreamWriter
    there: asyncio.StreamWriter
    damaged: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def abort(self) -> None:
        self.here.transport.abort()
        self.there.transport.abort()
        for task in self.tasks:
            task.cancel()


class Line:
    """Leads from a port of its own to `target`, another port of the loopback."""

    def __init__(self, target: int, rng: random.Random) -> None:
        self.target = target
        self.port = 0
        self._rng = rng
        self._refuses = False
        self._ways: dict[Direction, _Way] = {direction: _Way(asyncio.Event()) for direction in BOTH}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.heal()

    @classmethod
    @asynccontextmanager
    async def running(cls, target: int, rng: random.Random) -> AsyncGenerator[Line]:
        """Open one; leaving the context closes it and every connection."""
        line = cls(target, rng)
        server = await asyncio.start_server(line._accepted, "127.0.0.1", 0)
        line.port = server.sockets[0].getsockname()[1]
        try:
            yield line
        finally:
            server.close()
            line._hang_up(line._connections)
            tasks = list(line._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection, and let none in until it heals."""
        self._refuses = True
        self._hang_up(self._connections)

    def stall(self, directions: Iterable[Direction] = BOTH) -> None:
        """Hold what is sent, until it heals."""
        for direction in directions:
            self._ways[direction].passing.clear()

    def swallow(self, directions: Iterable[Direction] = BOTH) -> None:
        """Lose what is sent, without a word to either side."""
        for direction in directions:
            self._ways[direction].swallows = True

    def slow(self, least_s: float, most_s: float, directions: Iterable[Direction] = BOTH) -> None:
        """Let everything take its time."""
        for direction in directions:
            self._ways[direction].delay_s = (least_s, most_s)

    def heal(self) -> None:
        """Work as a line should."""
        self._refuses = False
        self._hang_up([connection for connection in self._connections if connection.damaged])
        for way in self._ways.values():
            way.delay_s, way.swallows = (0.0, 0.0), False
            way.passing.set()

    def lead_to(self, target: int) -> None:
        """Lead elsewhere: what is connected is cut."""
        self.target = target
        self._hang_up(self._connections)

    def _hang_up(self, connections: Iterable[_Connection]) -> None:
        for connection in list(connections):
            connection.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, target_writer)
        self._connections.add(connection)
        pumps = [self._pump(connection, "there", reader, target_writer), self._pump(connection, "back", target_reader, writer)]
        connection.tasks = {asyncio.create_task(pump) for pump in pumps}
        try:
            # a side that has hung up does not stop what is on its way to the other
            await asyncio.wait(connection.tasks)
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump(self, connection: _Connection, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        way = self._ways[direction]
        with suppress(OSError):
            while data := await source.read(_AT_ONCE):
                await asyncio.sleep(self._rng.uniform(*way.delay_s))
                await way.passing.wait()
                if way.swallows:
                    connection.damaged = True
                    continue
                sink.write(data)
                await sink.drain()
            sink.write_eof()
