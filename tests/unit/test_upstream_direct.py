"""The direct path against a server on the loopback: bytes up, bytes back, and nothing of ours or of others' between."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web

from proxy.errors import NotFoundError, UpstreamUnavailableError
from proxy.model import Call, Caller, CallId, Reply, Secret
from proxy.upstream import answers
from proxy.upstream.address import Address
from proxy.upstream.direct import Direct
from proxy.upstream.slots import Slots

KEY = "sk-operator"
CHAT = "/v1/chat/completions"
EVENT = b'data: {"choices":[]}\n\n'
RESPONSE_PIECE = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","delta":"\\"response.completed\\"","sequence_number":7}\n\n'
)


@dataclass
class Server:
    base: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list[Any])
    peers: set[Any] = field(default_factory=set[Any])
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.requests.append((request.method, request.raw_path, headers, await request.read()))
        self.peers.add((request.transport or pytest.fail("gone")).get_extra_info("peername"))
        kind = request.headers.get("user-agent", "json")
        given = getattr(self, f"_{kind}")
        return await given(request)

    async def _json(self, _: web.Request) -> web.StreamResponse:
        theirs = {
            "x-request-id": "r",
            "x-ratelimit-remaining-tokens": "5",
            "openai-organization": "org",
            "set-cookie": "a=b",
            "server": "s",
        }
        return web.Response(body=b'{"ok" : 1}', content_type="application/json", headers=theirs)

    async def _gzip(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(b"{}"), content_type="application/json", headers={"content-encoding": "gzip"})

    async def _redirect(self, _: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{self.base}/elsewhere")

    async def _echo(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": f"what is {KEY}?"}}, status=400)

    async def _denied(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "Incorrect API key provided: sk-op***or"}}, status=401)

    async def _file(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x00\x01" * 10, content_type="application/octet-stream")

    async def _empty(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def _slowly(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await self.go.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async def _halfway(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT + b'data: {"choi')
        await asyncio.sleep(0.05)
        (request.transport or pytest.fail("gone")).abort()
        return response

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        return response

    async def _response_cut(self, request: web.Request) -> web.StreamResponse:
        return await self._pieces(request, [RESPONSE_PIECE])

    async def _response_whole(self, request: web.Request) -> web.StreamResponse:
        last = (
            b'event: response.completed\ndata: {"type":"response.comp',
            b'leted","response":{"output":"',
            *[b"x" * 70_000] * 6,
            b'"}}\n\n',
        )
        return await self._pieces(request, [RESPONSE_PIECE, *last])

    async def _response_error(self, request: web.Request) -> web.StreamResponse:
        return await self._pieces(request, [RESPONSE_PIECE, b'event: error\ndata: {"type": "error","code":null}\n\n'])

    @staticmethod
    async def _pieces(request: web.Request, pieces: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)
        return response

    async def _finished(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n')
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@dataclass
class Way:
    direct: Direct
    slots: Slots
    base: str

    async def send(self, call: Call, *, plain: bool = False, callers: bool = False) -> Reply:
        headers: dict[str, str] = {} if callers else {"authorization": f"Bearer {KEY}"}
        address = Address(self.base + "/openai/v1", "m", None if callers else KEY, headers, callers_key=callers)
        return await self.direct.send(call, call.raw, address, self.slots.take(), plain=plain)


@pytest.fixture
async def way(server: Server) -> AsyncIterator[Way]:
    direct = Direct(connections=8, timeout_s=5)
    direct.open()
    slots = Slots(8)
    yield Way(direct, slots, server.base)
    assert slots.taken == 0
    await direct.aclose()


def call(kind: str = "json", raw: bytes = b"{}", path: str = CHAT, query: str = "", method: str = "POST", **headers: str) -> Call:
    given = {"user-agent": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    body: Any = {"stream": True} if kind in ("slowly", "halfway", "cut", "finished") else {}
    return Call(CallId("1"), path, query, given, raw, body, Caller("d", bearer=Secret("sk-caller")), method)


def given(call: Call, headers: dict[str, str]) -> Call:
    return replace(call, headers={**call.headers, **{name.replace("_", "-"): value for name, value in headers.items()}})


async def read(reply: Reply) -> list[bytes]:
    assert reply.chunks is not None
    parts = [part async for part in reply.chunks]
    await reply.close()
    return parts


async def test_only_named_headers_go_up(server: Server, way: Way) -> None:
    """Ours, the connection's, cookies and the caller's credential stay, with whom it would bill; the operator's key goes."""
    ours = {"x_lesson_merge": "off", "x_user_id": "u", "x_stainless_retry_count": "1", "cookie": "c", "authorization": "Bearer sk-caller"}
    hop = {
        "connection": "close",
        "te": "trailers",
        "proxy_authorization": "x",
        "x_forwarded_for": "1.2.3.4",
        "host": "evil",
        "content_length": "1",
    }
    theirs = {
        "openai_organization": "o",
        "openai_project": "p",
        "openai_beta": "b",
        "accept": "a/b",
        "content_type": "application/json; x=1",
    }
    await way.send(given(call(accept_encoding="gzip"), ours | hop | theirs))
    method, path, headers, raw = server.requests[0]
    assert (method, path, raw) == ("POST", "/openai/v1/chat/completions", b"{}")
    assert headers == {
        "host": way.base.removeprefix("http://"),
        "user-agent": "json",
        "openai-beta": "b",
        "accept": "a/b",
        "accept-encoding": "gzip",
        "content-type": "application/json; x=1",
        "content-length": "2",
        "authorization": f"Bearer {KEY}",
    }
    await way.send(given(call(), theirs), callers=True)
    assert {"openai-organization": "o", "openai-project": "p", "openai-beta": "b"}.items() <= server.requests[1][2].items()


async def test_a_body_without_a_kind_is_json(server: Server, way: Way) -> None:
    """Multipart and others keep theirs."""
    await way.send(call())
    await way.send(call(content_type="multipart/form-data; boundary=x"))
    assert [headers["content-type"] for _, _, headers, _ in server.requests] == ["application/json", "multipart/form-data; boundary=x"]


async def test_only_named_headers_come_back(way: Way) -> None:
    """No cookie, no server, no account of the operator's; upstream's request id under another name."""
    reply = await way.send(call())
    assert reply.body == b'{"ok" : 1}'
    assert dict(reply.headers) == {"content-type": "application/json", "x-ratelimit-remaining-tokens": "5", "x-upstream-request-id": "r"}
    assert dict((await way.send(call(), callers=True)).headers)["openai-organization"] == "org"


async def test_the_callers_credential_goes_where_the_entry_says_so(server: Server, way: Way) -> None:
    """And there alone."""
    await way.send(call(), callers=True)
    assert server.requests[0][2]["authorization"] == "Bearer sk-caller"


async def test_query_method_and_empty_bodies_go_as_they_came(server: Server, way: Way) -> None:
    """A GET has no body; a query isn't written anew."""
    await way.send(call(raw=b"", path="/v1/batches/b_1", query="after=a%2Fb&limit=5", method="GET"))
    method, path, headers, raw = server.requests[0]
    assert (method, path, raw) == ("GET", "/openai/v1/batches/b_1?after=a%2Fb&limit=5", b"")
    assert "content-length" not in headers
    assert (await way.send(call("empty"))).status == 204


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/a/%2e%2E/b", "/v1/a%2fb", "/v1/a\\b", "/v1/a?b", "/v1/a#b"])
async def test_no_path_climbs_out_of_the_base(server: Server, way: Way, path: str) -> None:
    """The key opens what lies below the address, nothing beside it."""
    with pytest.raises(NotFoundError):
        await way.send(call(path=path))
    with pytest.raises(NotFoundError):
        await way.send(call(path=path, query="x=1"))
    assert server.requests == []


async def test_compressed_answers_pass_through_unless_plain_is_wanted(server: Server, way: Way) -> None:
    """Bytes and content-encoding as upstream sent them; streams and lessons ask for none."""
    reply = await way.send(call("gzip", accept_encoding="gzip"))
    assert gzip.decompress(reply.body) == b"{}"
    assert dict(reply.headers)["content-encoding"] == "gzip"
    await way.send(call(accept_encoding="gzip"), plain=True)
    await read(await way.send(call("finished", accept_encoding="gzip")))
    assert [headers.get("accept-encoding") for _, _, headers, _ in server.requests] == ["gzip", None, None]


async def test_a_large_body_goes_up_whole(server: Server, way: Way) -> None:
    """Two megabytes, without a warning."""
    raw = json.dumps({"x": "y" * 2_000_000}).encode()
    await way.send(call(raw=raw))
    assert server.requests[0][3] == raw


async def test_chunks_come_as_upstream_sends_them(server: Server, way: Way) -> None:
    """The first is here while upstream still waits to send the second."""
    reply = await way.send(call("slowly"))
    assert reply.chunks is not None
    assert await anext(reply.chunks) == EVENT
    server.go.set()
    assert [part async for part in reply.chunks] == [b"data: [DONE]\n\n"]


async def test_a_break_within_an_event_ends_with_an_error_event_of_its_own(way: Way) -> None:
    """What stood unfinished is closed before it."""
    parts = b"".join(await read(await way.send(call("halfway"))))
    assert parts.startswith(EVENT + b'data: {"choi\n\ndata: {"error"')
    assert parts.endswith(b"\n\n")


async def test_an_end_without_an_ending_is_a_break(way: Way) -> None:
    """A stream that just stops is told as broken; one with a finish reason and no [DONE] is whole."""
    assert b'"error"' in (await read(await way.send(call("cut"))))[-1]
    assert b'"error"' not in b"".join(await read(await way.send(call("finished"))))
    assert b'"error"' not in b"".join(await read(await way.send(call("cut", path="/v1/audio/speech"))))


async def test_a_response_that_just_stops_is_told_as_broken_in_its_own_words(way: Way) -> None:
    """The API's own event, numbered on; the mark of a regular end may be cut in two and stand far from the stream's end."""
    (*_, last) = await read(await way.send(call("response_cut", path="/v1/responses")))
    name, data = last.strip().split(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert (name, told["type"], told["sequence_number"]) == (b"event: error", "error", 8)
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert (told["code"], told["message"]) == (told["error"]["code"], told["error"]["message"])
    for kind in ("response_whole", "response_error"):
        whole = b"".join(await read(await way.send(call(kind, path="/v1/responses"))))
        assert b"upstream_error" not in whole


async def test_other_kinds_of_answers_are_copied(way: Way) -> None:
    """A file is streamed like events, without a word of ours."""
    assert b"".join(await read(await way.send(call("file")))) == b"\x00\x01" * 10


async def test_connections_are_used_again(server: Server, way: Way) -> None:
    """After a whole answer, JSON or stream, the next call goes over the same connection."""
    for kind in ("json", "finished", "json", "file", "echo"):
        reply = await way.send(call(kind))
        if reply.chunks is not None:
            await read(reply)
    assert len(server.peers) == 1


async def test_a_redirect_takes_the_key_nowhere(server: Server, way: Way) -> None:
    """It is an error of the configuration."""
    with pytest.raises(UpstreamUnavailableError, match="redirect"):
        await way.send(call("redirect"))
    assert len(server.requests) == 1


async def test_no_error_shows_the_operators_key(way: Way) -> None:
    """Echoed, it is cut out; in a 401 not even a part of it stays. The caller's own 401 is the caller's to read."""
    assert KEY.encode() not in (await way.send(call("echo"))).body
    denied = await way.send(call("denied"))
    assert (denied.status, json.loads(denied.body)["error"]["code"]) == (401, "upstream_denied")
    assert b"sk-op***or" not in denied.body
    assert b"sk-op***or" in (await way.send(call("denied"), callers=True)).body


async def test_an_endless_answer_is_given_up(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the bound is kept in memory."""
    monkeypatch.setattr(answers, "LONGEST_BODY", 300_000)
    with pytest.raises(UpstreamUnavailableError, match="larger"):
        await way.send(call("endless"))


async def test_a_caller_that_leaves_before_the_answer_frees_its_slot(server: Server, way: Way) -> None:
    """Cancelled while upstream is silent: the slot and the connection are free."""
    task = asyncio.create_task(way.send(call("slowly")))
    reply = await task
    waiting = asyncio.create_task(read(reply))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await reply.close()
    assert way.slots.taken == 0
