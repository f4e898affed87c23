"""The line between a replica and Redis does to bytes what a scenario asks for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest

from tests.chaos.line import Line

PATIENCE_S = 10.0


class Far:
    """What stands at the line's other end: it remembers what it read, and answers each piece with itself."""

    def __init__(self) -> None:
        self.read = b""
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            self.read += data
            writer.write(data)
        writer.close()

    async def has_read(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.read != data:  # noqa: ASYNC110 - bytes arrive by themselves
                await asyncio.sleep(0.005)


@pytest.fixture
async def far() -> AsyncGenerator[Far]:
    end = Far()
    server = await asyncio.start_server(end, "127.0.0.1", 0)
    end.port = server.sockets[0].getsockname()[1]
    yield end
    server.close()


@pytest.fixture
async def line(far: Far) -> AsyncGenerator[Line]:
    async with Line.running(far.port, random.Random(1)) as running:
        yield running


async def answer(line: Line, word: bytes) -> bytes:
    """Say a word on a connection of its own, and return the answer, or what is there of it when the line is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(word)
            return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_a_line_that_is_well_carries_both_ways(line: Line) -> None:
    assert await answer(line, b"hello") == b"hello"


async def test_a_line_that_is_cut_lets_nobody_in_until_it_is_healed(line: Line) -> None:
    line.cut()
    assert await answer(line, b"hello") == b""
    line.heal()
    assert await answer(line, b"hello") == b"hello"


async def test_what_a_stalled_line_holds_arrives_when_it_heals_though_its_sender_is_gone(line: Line, far: Far) -> None:
    line.stall()
    _, writer = await asyncio.open_connection("127.0.0.1", line.port)
    writer.write(b"late")
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.05)
    assert far.read == b""
    line.heal()
    await far.has_read(b"late")


async def test_what_a_line_swallows_never_arrives_and_its_connection_is_not_used_again(line: Line, far: Far) -> None:
    line.swallow(("back",))
    answering = asyncio.create_task(answer(line, b"lost"))
    await far.has_read(b"lost")
    await asyncio.sleep(0.05)
    assert not answering.done()
    line.heal()
    assert await answering == b""
    assert await answer(line, b"hello") == b"hello"


async def test_a_slow_line_takes_its_time(line: Line) -> None:
    line.slow(0.05, 0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await answer(line, b"hello") == b"hello"
    assert loop.time() - began >= 0.1
