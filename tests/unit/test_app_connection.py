"""A connection before its request is whole: bounded in size and time, and refused in OpenAI's form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import orjson
import pytest
import uvicorn

from proxy.access.keys import Access
from proxy.app import connection
from proxy.app.connection import Connection
from proxy.model import Call, Reply
from proxy.routes import body
from tests.unit.asgi import CHAT, HELLO, OK, House, Stream

GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"


@asynccontextmanager
async def served(house: House, *, keep_alive_s: int = 5) -> AsyncGenerator[int]:
    """Run an edge behind a real server; yield its port."""
    config = uvicorn.Config(house.edge, port=0, http=Connection, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    config.timeout_keep_alive = keep_alive_s
    server = uvicorn.Server(config)
    task = asyncio.get_running_loop().create_task(server._serve())
    async with asyncio.timeout(5):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def said(port: int, *parts: bytes) -> bytes:
    """Send the parts and return all that comes before the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def refused(told: bytes) -> tuple[int, str]:
    """Return status and code of an answer that must be OpenAI's error and the connection's last."""
    head, _, content = told.partition(b"\r\n\r\n")
    error = orjson.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert b"connection: close" in head.lower()
    assert b"x-request-id: " in head.lower()
    return int(head[9:12]), error["code"]


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n", GET + b"a: b\x00c\r\n\r\n"],
)
async def test_what_is_no_http_is_told_so_in_openais_form(sent: bytes) -> None:
    async with served(House()) as port:
        assert refused(await said(port, sent)) == (400, "invalid_http")


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes, though the connection be reset behind it: the server ends one that is still being written to."""
    parts: list[bytes] = []
    try:
        while part := await reader.read(65_536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


async def flooded(port: int, begin: bytes, piece: bytes) -> bytes:
    """Send the piece again and again, and return what comes before the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begin)
    told = asyncio.ensure_future(everything(reader))
    async with asyncio.timeout(5):
        while not told.done():
            try:
                writer.write(piece)
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0.001)
        writer.close()
        return await told


@pytest.mark.parametrize("flood", [b"x-a: " + b"v" * 500 + b"\r\n", b"v" * 500])
async def test_a_head_without_end_is_cut_off(flood: bytes) -> None:
    """Many headers, or one that never ends."""
    async with served(House()) as port:
        assert refused(await flooded(port, GET + b"x-long: ", flood)) == (431, "headers_too_large")


async def test_a_head_that_does_not_come_whole_ends_its_connection_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_S", 0.1)
    async with served(House()) as port:
        assert refused(await said(port, GET)) == (408, "request_timeout")
        assert await said(port) == b""
        assert b"200 OK" in await said(port, GET + b"connection: close\r\n\r\n")


async def test_a_connection_is_used_again_and_its_next_head_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_S", 0.1)
    async with served(House()) as port:
        told = await said(port, GET + b"\r\n" + GET + b"\r\n" + GET)
        assert told.count(b"200 OK") == 2
        assert refused(told[told.rindex(b"HTTP/1.1") :]) == (408, "request_timeout")


async def test_a_body_that_does_not_come_whole_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_WHOLE_S", 0.1)
    house = House()
    async with served(house) as port:
        told = await said(port, b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n", orjson.dumps(HELLO)[:9])
        assert refused(told) == (408, "request_timeout")
    assert house.calls == []


async def test_caller_that_sent_ahead_and_left_ends_what_runs_for_it(caplog: pytest.LogCaptureFixture) -> None:
    """Two requests on one connection, the second sent before the first was answered: both end when it closes, and nothing failed."""
    running, ended = asyncio.Event(), asyncio.Event()

    async def answer(call: Call) -> Reply:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    house = House(reply=answer)
    async with served(house) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = orjson.dumps(HELLO)
        request = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        writer.write(request + request)
        async with asyncio.timeout(5):
            await running.wait()
            writer.close()
            await ended.wait()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


POST = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\n"
BODY = orjson.dumps(HELLO)
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def whole(content: bytes = BODY, headers: bytes = b"") -> bytes:
    return POST + headers + b"content-length: %d\r\n\r\n" % len(content) + content


LAST = whole(headers=b"connection: close\r\n")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([whole(headers=OFFER), LAST], id="in one piece"),
        pytest.param([whole(headers=OFFER) + LAST], id="two requests in one piece"),
        pytest.param([whole(headers=OFFER)[:-30], whole()[-30:], LAST], id="body in two pieces"),
        pytest.param([whole(headers=OFFER)[: -len(BODY)], BODY, LAST], id="body by itself"),
        pytest.param([POST + OFFER + CHUNKED[len(POST) :] + chunk(BODY[:9]), chunk(BODY[9:]) + chunk(b""), LAST], id="chunked"),
    ],
)
async def test_an_offer_of_another_protocol_is_declined_and_the_request_answered(parts: list[bytes]) -> None:
    """As Java's client sends at its first call; the parser alone would drop the body, and take it for the next request."""
    house = House()
    async with served(house) as port:
        told = await said(port, *parts)
    assert told.count(b"200 OK") == 2
    assert [call.raw for call in house.calls] == [BODY, BODY]
    assert all("upgrade" not in call.headers for call in house.calls)


async def test_many_offers_at_once_are_declined_one_after_the_other() -> None:
    async with served(House()) as port:
        told = await said(port, (GET + OFFER + b"\r\n") * 1_200 + GET + b"connection: close\r\n\r\n")
    assert told.count(b"200 OK") == 1_201


async def test_trailers_are_no_headers() -> None:
    """Else whoever may not set a header could send it behind the body, past the gateway that takes it away."""
    house = House()
    async with served(house) as port:
        told = await said(port, CHUNKED + chunk(BODY) + b"0\r\nx-user-id: another\r\nauthorization: Bearer k\r\n\r\n", LAST)
    assert told.count(b"200 OK") == 2
    assert "x-user-id" not in house.calls[0].headers
    assert house.calls[0].caller.key_digest == ""


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param((b"0\r\n", b"x-a: " + b"v" * 500 + b"\r\n"), id="many trailers"),
        pytest.param((b"0\r\nx-a: ", b"v" * 500), id="an endless trailer"),
        pytest.param((b"5;a=", b"v" * 500), id="an endless extension"),
    ],
)
async def test_what_comes_beside_a_body_is_cut_off(flood: tuple[bytes, bytes]) -> None:
    begin, piece = flood
    async with served(House()) as port:
        told = await flooded(port, CHUNKED + chunk(BODY) + begin, piece)
    assert refused(told) == (431, "headers_too_large")


async def test_a_long_body_in_many_pieces_is_not_cut_off() -> None:
    house = House(max_body_bytes=500_000)
    long = orjson.dumps(HELLO | {"x": "v" * 300_000})
    async with served(house) as port:
        told = await said(port, CHUNKED, *(chunk(long[i : i + 3_000]) for i in range(0, len(long), 3_000)), chunk(b""), LAST)
    assert told.count(b"200 OK") == 2
    assert house.calls[0].raw == long


@pytest.mark.parametrize("size", [b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n"])
async def test_a_broken_chunk_is_told_and_never_called_upstream(size: bytes) -> None:
    house = House()
    async with served(house) as port:
        assert refused(await said(port, CHUNKED + chunk(BODY[:9]), size)) == (400, "invalid_http")
    assert house.calls == []


async def test_garbage_behind_a_request_is_not_answered_in_its_place() -> None:
    """What stands behind a request that is still being answered must not be taken for its answer."""
    held = asyncio.Event()

    async def answer(_call: object) -> Reply:
        await held.wait()
        return OK

    async with served(House(answer)) as port:
        assert await said(port, whole() + b"\x00garbage\r\n\r\n") == b""


async def test_a_body_that_nobody_reads_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal came before the body: who goes on sending it slowly holds the connection no longer than others."""
    monkeypatch.setattr(connection, "_BODY_S", 0.2)
    async with served(House(access=Access(digest_key=b"k" * 32, keys=[]))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"content-length: 999\r\n\r\n")
        assert b"401 Unauthorized" in await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(5):
            ended = asyncio.ensure_future(everything(reader))
            while not ended.done():
                writer.write(b"x")
                await asyncio.sleep(0.02)
            assert b"HTTP/1.1" not in await ended
        writer.close()


async def test_a_body_that_stops_before_it_is_read_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_BODY_S", 0.1)
    async with served(House()) as port:
        assert refused(await said(port, CHUNKED + chunk(BODY[:9]))) == (408, "request_timeout")


async def test_line_breaks_between_requests_keep_no_connection() -> None:
    async with served(House(), keep_alive_s=1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\r\n")
        async with asyncio.timeout(5):
            assert b"HTTP/1.1" not in await reader.read()
        writer.close()


async def test_an_answer_that_is_not_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a stream and never reads would hold a call upstream for ever."""
    monkeypatch.setattr(connection, "_UNREAD_S", 0.2)
    stream = Stream([b"data: " + b"x" * 100_000 + b"\n\n"] * 500)
    house = House(stream.reply())
    async with served(house) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(whole())
        async with asyncio.timeout(5):
            while not stream.closed:  # noqa: ASYNC110 - counts have no event
                await asyncio.sleep(0.02)
        assert reader.exception() is None
        writer.close()


async def test_an_answer_that_is_taken_slowly_is_given_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_UNREAD_S", 0.5)
    stream = Stream([b"data: " + b"x" * 100_000 + b"\n\n"] * 60)
    async with served(House(stream.reply())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(LAST)
        got = 0
        async with asyncio.timeout(10):
            while piece := await reader.read(100_000):
                got += len(piece)
                await asyncio.sleep(0.01)
        assert got > 60 * 100_000
        writer.close()
