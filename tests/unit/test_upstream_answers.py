"""What comes back from servers that lie, fail or babble: a sound answer or an error in OpenAI's form, never a word of the key."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import UpstreamUnavailableError
from proxy.model import Call, Caller, CallId, Reply
from proxy.upstream.address import Address
from proxy.upstream.direct import Direct
from proxy.upstream.slots import Slots

KEY = "sk-operators-own"
WHOLE = {"message": "m", "type": "t", "param": None, "code": "c"}


def wire(status: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def error(**detail: Any) -> bytes:
    return json.dumps({"error": detail}).encode()


@asynccontextmanager
async def saying(answer: bytes, requests: list[bytes]) -> AsyncGenerator[str]:
    """Run a server that answers each request with these bytes and ends the connection; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await server.wait_closed()


async def ask(answer: bytes, *, takes: str | None = None, requests: list[bytes] | None = None) -> Reply:
    """Send a call without a body to a server that answers so, with the operator's key."""
    headers = {"accept-encoding": takes} if takes else {}
    call = Call(CallId("1"), "/v1/models", "", headers, b"", {}, Caller("d"), "GET")
    slots, direct = Slots(1), Direct(connections=1, timeout_s=5)
    direct.open()
    try:
        async with saying(answer, requests if requests is not None else []) as base:
            address = Address(base, "m", KEY, {"authorization": f"Bearer {KEY}"})
            return await direct.send(call, b"", address, slots.take(), plain=False)
    finally:
        await direct.aclose()
        assert slots.taken == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (wire("502 X", b"<html>nginx</html>", kind="text/html"), "status 502"),
        (wire("500 X", b""), "status 500"),
        (wire("500 X", b"the disk is full", kind="text/plain"), "the disk is full"),
        (wire("400 X", b'{"error": "in one string"}'), "in one string"),
        (wire("400 X", b'[{"error": {"message": "in a list", "code": 400}}]'), "in a list"),
        (wire("400 X", b'{"object": "error", "message": "beside it", "code": 400}'), "beside it"),
        (wire("400 X", error(message="two keys", type="t")), "two keys"),
        (wire("422 X", b'{"detail": [{"loc": ["body"]}]}'), "status 422"),
        (wire("400 X", b"[" * 5000), "[["),
        (wire("400 X", b'{"error": {"message": "\xff\xfe"}}'), "error"),
        (wire("400 X", gzip.compress(error(message="packed"), mtime=0), "content-encoding: gzip"), "packed"),
        (wire("400 X", error(message="not packed"), "content-encoding: gzip"), "status 400"),
        (wire("400 X", b"no brotli", "content-encoding: br"), "status 400"),
        (wire("400 X", gzip.compress(b"0" * 50_000_000, mtime=0), "content-encoding: gzip"), "status 400"),
        (wire("400 X", gzip.compress(error(message="cut"))[:-9], "content-encoding: gzip"), "status 400"),
        (wire("500 X", b"e" * 5_000_000, kind="text/plain"), "status 500"),
    ],
)
async def test_every_error_is_openais_form_with_its_status(answer: bytes, message: str) -> None:
    reply = await ask(answer)
    assert reply.status == int(answer[9:12])
    told = json.loads(reply.body)["error"]
    assert told.keys() >= {"message", "type", "param", "code"}
    assert message in told["message"]
    assert len(reply.body) < 10_000
    headers = dict(reply.headers)
    assert (headers["content-type"], headers.get("content-encoding")) == ("application/json", None)


async def test_an_error_that_clients_can_read_comes_back_byte_for_byte() -> None:
    body = b'{ "error":  ' + json.dumps(WHOLE | {"failed_generation": "x"}).encode() + b"}"
    assert (await ask(wire("400 X", body))).body == body


async def test_what_an_incomplete_error_says_besides_is_kept() -> None:
    body = json.loads((await ask(wire("400 X", b'{"detail": "why", "error": {"message": "m", "hint": "h"}}'))).body)
    assert (body["detail"], body["error"]["hint"], body["error"]["message"]) == ("why", "h", "m")


async def test_no_error_shows_the_key_packed_or_not() -> None:
    body = error(**WHOLE | {"message": f"what is {KEY}?"})
    for answer in (wire("400 X", body), wire("400 X", gzip.compress(body), "content-encoding: gzip")):
        assert json.loads((await ask(answer, takes="gzip")).body)["error"]["message"] == "what is ***?"


@pytest.mark.parametrize("status", ["101 X", "600 X", "999 X"])
async def test_a_status_that_no_server_can_pass_on_is_an_error_of_upstreams(status: str) -> None:
    with pytest.raises(UpstreamUnavailableError, match=status[:3]):
        await ask(wire(status, b"{}"))


async def test_interim_answers_are_skipped() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    assert (await ask(early + wire("200 OK", b"{}"))).body == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01 no HTTP\r\n\r\n",
        b"",
        wire("200 OK", b"{}").replace(b"length: 2", b"length: 20"),
        wire("200 OK", b"{}").replace(b"length: 2", b"length: -2"),
        wire("200 OK", b"{}", "openai-version: a\rx-injected: b"),
        wire("200 OK", b"{}", *(f"x-{n}: {'v' * 1000}" for n in range(2000))),
    ],
)
async def test_what_is_no_answer_is_said_to_be_none(answer: bytes) -> None:
    with pytest.raises(UpstreamUnavailableError):
        await ask(answer)


async def test_no_control_character_comes_back_in_a_header() -> None:
    """The server would refuse to write it, and the caller would get nothing."""
    reply = await ask(wire("200 OK", b"{}", "openai-version: a\x0bb", "openai-processing-ms: 5", "retry-after: 1\r\n x-injected: yes"))
    headers = dict(reply.headers)
    assert (headers.get("openai-version"), headers["openai-processing-ms"]) == (None, "5")
    assert not any(character in value for value in headers.values() for character in "\r\n\x0b")


@pytest.mark.parametrize(
    ("takes", "asked"),
    [("gzip, deflate, br, zstd", True), ("br", False), ("gzip;q=0, br", False), ("br, GZIP;q=0.5", True), (None, False)],
)
async def test_upstream_is_asked_for_no_packing_but_the_one_that_errors_can_be_read_in(takes: str | None, *, asked: bool) -> None:
    requests: list[bytes] = []
    await ask(wire("200 OK", b"{}"), takes=takes, requests=requests)
    assert (b"accept-encoding: gzip\r\n" in requests[0].lower()) is asked
    assert b"br" not in requests[0]
