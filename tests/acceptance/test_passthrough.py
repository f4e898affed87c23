"""What is passed through, on real sockets at both ends: bytes as they were written, headers only where they may go, nothing held back."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.acceptance.conftest import Process, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIG = """
model_list:
  - {{model_name: alias, litellm_params: {{model: "openai/real/name", api_base: "{url}", api_key: sk-operator}}}}
  - {{model_name: "*", litellm_params: {{model: "openai/*", api_base: "{url}", api_key: caller}}}}
passthrough: [{{path: /v1/audio/transcriptions, methods: [POST], model: alias}}]
bounds: {{body_mb: 32}}
"""
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]
Head = list[tuple[str, str]]


@dataclass
class Upstream:
    """A server that keeps what it was sent, byte for byte, and answers with the bytes it was told."""

    url: str = ""
    answer: bytes | Answering = OK
    target: str = ""
    headers: Head = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    calls: int = 0
    connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = field(default_factory=dict[Any, Any])

    async def aclose(self) -> None:
        for writer in self.connections.values():
            writer.close()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = writer
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                pairs = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:] if line)]
                length = next((int(value) for name, value in pairs if name.lower() == "content-length"), 0)
                body = await reader.readexactly(length)
                self.target, self.headers, self.body, self.calls = lines[0], pairs, body, self.calls + 1
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                else:
                    await self.answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.connections.pop(task)

    @property
    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers}

    def header(self, name: str) -> str | None:
        found = [value for given, value in self.headers if given.lower() == name]
        assert len(found) <= 1, found
        return found[0] if found else None


@dataclass
class Scene:
    served: Served
    upstream: Upstream

    async def send(self, path: str, body: bytes = b"", method: str = "POST", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request over a socket of its own; the answer as it came, its transfer coding taken off."""
        port = int(self.served.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        given = {"host": "x", "connection": "close", "content-length": str(len(body)), "content-type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + body)
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *others = head.decode("latin-1").split("\r\n")
        told = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        return int(first.split()[1]), told, unchunked(rest) if told.get("transfer-encoding") == "chunked" else rest


def unchunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return b"".join(parts)


def answer_of(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    given = {"content-type": "application/json", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{n}: {v}\r\n" for n, v in given.items()).encode() + b"\r\n" + body


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing_scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Scene]:
    folder = tmp_path_factory.mktemp("passthrough")
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**26)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(upstream.aclose)
        stack.callback(server.close)
        upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        file = folder / "proxy.yaml"
        file.write_text(CONFIG.format(url=upstream.url))
        process = await asyncio.to_thread(Process.start, folder, "--config", str(file))
        stack.callback(process.kill)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=process.url, timeout=20.0))
        yield Scene(Served(process, client), upstream)


@pytest_asyncio.fixture(loop_scope="session")
async def scene(standing_scene: Scene) -> AsyncGenerator[Scene]:
    standing_scene.upstream.answer = OK
    yield standing_scene
    assert await standing_scene.served.metric("lesson_proxy_faults_total") == 0


BODIES = {
    "/v1/chat/completions": b'\n{ "messages" :[{"role":"user","content":"\\u00e9 \\ud83d \xc3\xa9"}],"model": "%s" ,"x":1e2, "x": 1.50}',
    "/v1/responses": b'{"input":"\\ud83d", "model" : "%s","text":{},\t"odd":[ ],"big":123456789012345678901234567890}',
    "/v1/completions": b'{"prompt":["a" , "b"],"model":"%s","suffix":null}  ',
    "/v1/embeddings": b'{"model":"%s","input":[[1,2],[3]],"unknown":{"model":"%s"}}',
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_goes_up_byte_for_byte_but_for_an_aliass_name(scene: Scene, path: str) -> None:
    """With and without `/v1`; nested keys of the same name are left alone."""
    for asked in (path, path.removeprefix("/v1")):
        for given, sent in ((b"gpt-x", b"gpt-x"), (b"alias", b"real/name")):
            body = BODIES[path].replace(b"%s", given)
            status, _, _ = await scene.send(asked, body, authorization="Bearer sk-caller")
            assert status == 200
            assert scene.upstream.body == BODIES[path].replace(b"%s", sent, 1).replace(b"%s", given)
            assert scene.upstream.target == f"POST {path} HTTP/1.1"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("200 OK", b' {"a":1.50,\n"b":"\\ud83d"}\n'),
        ("201 Created", b"{}"),
        ("400 Bad Request", b'{"error" : {"message":"m","type":"t","param":null,"code":"c"},"more":[ ]}'),
        ("404 Not Found", b'{"error":{"message":"m","type":"t","param":"p","code":null}}'),
        ("418 I'm a teapot", b'{"error":{"message":"m","type":"t","param":"p","code":null}}'),
        ("422 Unprocessable", b'{"error":{"message":"m","type":"t","param":"p","code":null}}'),
        ("500 Oops", b'{"error":{"message":"m","type":"server_error","param":null,"code":null}}'),
    ],
)
@pytest.mark.parametrize("path", BODIES)
async def test_an_answer_comes_down_byte_for_byte_with_its_status(scene: Scene, path: str, status: str, body: bytes) -> None:
    scene.upstream.answer = answer_of(body, status)
    told, headers, got = await scene.send(path, BODIES[path].replace(b"%s", b"alias"))
    assert (told, got) == (int(status[:3]), body)
    assert headers["content-type"] == "application/json"


async def test_headers_go_up_by_a_list(scene: Scene) -> None:
    """Neither ours nor the connection's, no client's own marks, no cookie, and a credential only where it belongs."""
    mine = {"x-lesson-merge": "off", "x-lesson-subject": "S", "x-lesson-topic": "T", "x-user-id": "u", "x-lesson-expect": "2"}
    mine |= {"x-lesson-group": "g", "x-lesson-max-wait-ms": "5", "x-stainless-lang": "python", "x-stainless-retry-count": "1"}
    mine |= {
        "te": "trailers",
        "keep-alive": "1",
        "proxy-authorization": "Basic x",
        "cookie": "a=b",
        "forwarded": "for=1",
        "x-api-key": "sk-c",
    }
    mine |= {"x-forwarded-for": "1.2.3.4", "accept": "application/json", "user-agent": "app/1", "openai-beta": "b=1", "openai-project": "p"}
    payer = {"openai-project", "openai-organization"}
    for model, credential, paying in (("alias", "Bearer sk-operator", set[str]()), ("gpt-x", "Bearer sk-caller", payer)):
        body = BODIES["/v1/responses"].replace(b"%s", model.encode())
        await scene.send("/v1/responses", body, authorization="Bearer sk-caller", openai_organization="org", **mine)
        kept = {"content-type", "accept", "user-agent", "openai-beta"} | paying
        assert scene.upstream.names == kept | {"host", "content-length", "authorization"}
        assert scene.upstream.header("authorization") == credential
        assert scene.upstream.header("user-agent") == "app/1"


async def test_headers_come_down_by_a_list(scene: Scene) -> None:
    theirs = {"retry-after": "7", "x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-tokens": "6m0s", "openai-processing-ms": "12"}
    theirs |= {"openai-version": "2020-10-01", "openai-model": "m", "x-should-retry": "false"}
    hidden = {"set-cookie": "a=b", "server": "s", "via": "v", "cf-ray": "r", "openai-organization": "org", "x-request-id": "theirs"}
    scene.upstream.answer = answer_of(b"{}", **theirs, **hidden)
    _, operators, _ = await scene.send("/v1/responses", BODIES["/v1/responses"].replace(b"%s", b"alias"))
    assert theirs.items() <= operators.items()
    assert not {"set-cookie", "server", "via", "cf-ray", "openai-organization"} & operators.keys()
    assert operators["x-request-id"] != "theirs"
    assert operators["x-upstream-request-id"] == "theirs"
    _, callers, _ = await scene.send("/v1/responses", BODIES["/v1/responses"].replace(b"%s", b"gpt-x"), authorization="Bearer sk-c")
    assert callers["openai-organization"] == "org"


async def test_packed_answers_stay_packed_for_whoever_takes_them(scene: Scene) -> None:
    packed = gzip.compress(b'{"a":1}' * 100)
    scene.upstream.answer = answer_of(packed, content_encoding="gzip")
    _, headers, got = await scene.send("/v1/embeddings", BODIES["/v1/embeddings"].replace(b"%s", b"alias"), accept_encoding="br, gzip")
    assert (headers["content-encoding"], got) == ("gzip", packed)
    assert scene.upstream.header("accept-encoding") == "gzip"
    scene.upstream.answer = OK
    await scene.send("/v1/embeddings", BODIES["/v1/embeddings"].replace(b"%s", b"alias"))
    assert scene.upstream.header("accept-encoding") is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_packed_requests_are_read_and_go_up_plain(scene: Scene, coding: str) -> None:
    """Their model must be known here; few providers read packed bodies."""
    body = BODIES["/v1/responses"].replace(b"%s", b"alias")
    sent = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    status, _, _ = await scene.send("/v1/responses", sent, content_encoding=coding)
    assert status == 200
    assert scene.upstream.body == body.replace(b'"alias"', b'"real/name"')
    assert "content-encoding" not in scene.upstream.names


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_an_image_of_20_megabytes_goes_up_and_back(scene: Scene, path: str) -> None:
    image = (b"A" * 2**20) * 20
    url = b'"data:image/png;base64,' + image + b'"'
    if path.endswith("responses"):
        body = b'{"model":"alias","input":[{"role":"user","content":[{"type":"input_image","image_url":' + url + b"}]}]}"
    else:
        body = b'{"model":"alias","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":' + url + b"}}]}]}"
    scene.upstream.answer = answer_of(b'{"b":"' + image + b'"}')
    status, _, got = await scene.send(path, body)
    assert status == 200
    assert scene.upstream.body == body.replace(b'"alias"', b'"real/name"')
    assert len(got) == len(image) + 8


EVENTS = {
    "/v1/chat/completions": [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b": ping\r\n\r\n", b'data: {"choi', b'ces":[]}\n\n'],
    "/v1/responses": [b'event: response.created\ndata: {"type":"response.created"}\n\n', b"event: x\n", b'data: {"type":"x"}\n\n'],
}
LAST = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/responses": b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
}


@pytest.mark.parametrize("path", EVENTS)
async def test_a_stream_is_handed_on_piece_by_piece(scene: Scene, path: str) -> None:
    """Upstream writes a piece only when the one before has reached the caller: whoever held one back would wait for ever."""
    arrived = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n")
        for piece in (*EVENTS[path], LAST[path]):
            arrived.clear()
            writer.write(piece)
            await writer.drain()
            await asyncio.wait_for(arrived.wait(), 5)
        writer.close()

    scene.upstream.answer = answer
    body = BODIES[path].replace(b"%s", b"alias").replace(b"{", b'{"stream":true,', 1)
    pieces: list[bytes] = []
    async with scene.served.client.stream("POST", path, content=body) as got:
        assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
        async for piece in got.aiter_raw():
            pieces.append(piece)
            arrived.set()
    assert pieces == [*EVENTS[path], LAST[path]]


async def test_other_paths_take_what_they_take(scene: Scene) -> None:
    """A form of several parts by a path that is named, with the operator's key; files by the caller's own."""
    form = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nalias\r\n--b\r\n\r\n' + os.urandom(5000) + b"\r\n--b--\r\n"
    status, _, _ = await scene.send("/v1/audio/transcriptions?x=1", form, content_type="multipart/form-data; boundary=b")
    assert (status, scene.upstream.body) == (200, form)
    assert scene.upstream.target == "POST /v1/audio/transcriptions?x=1 HTTP/1.1"
    assert scene.upstream.header("content-type") == "multipart/form-data; boundary=b"
    assert scene.upstream.header("authorization") == "Bearer sk-operator"
    scene.upstream.answer = answer_of(b"\x00\xff" * 9, content_type="application/octet-stream", content_disposition="attachment")
    status, headers, got = await scene.send("/v1/files/file-1/content?a=%2F", method="GET", authorization="Bearer sk-caller")
    assert (status, got, headers["content-disposition"]) == (200, b"\x00\xff" * 9, "attachment")
    assert scene.upstream.target == "GET /v1/files/file-1/content?a=%2F HTTP/1.1"
    assert scene.upstream.header("authorization") == "Bearer sk-caller"


async def test_stored_responses_are_asked_for_by_the_callers_own_key(scene: Scene) -> None:
    for method, path in (
        ("GET", "/v1/responses/resp_1?include=x"),
        ("DELETE", "/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
    ):
        status, _, _ = await scene.send(path, method=method, authorization="Bearer sk-caller")
        assert status == 200
        assert scene.upstream.target == f"{method} {path if path.startswith('/v1') else '/v1' + path} HTTP/1.1"


async def test_without_a_key_of_its_own_a_call_opens_nothing(scene: Scene) -> None:
    before = scene.upstream.calls
    for path, method in (("/v1/files", "GET"), ("/v1/responses/resp_1", "GET"), ("/v1/organization/users", "POST")):
        status, _, got = await scene.send(path, method=method)
        assert status == 401
        assert set(json.loads(got)["error"]) == {"message", "type", "param", "code"}
    assert scene.upstream.calls == before


async def test_models_come_from_the_configuration(scene: Scene) -> None:
    status, _, got = await scene.send("/v1/models", method="GET")
    told: Any = json.loads(got)
    assert (status, told["object"], [model["id"] for model in told["data"]]) == (200, "list", ["alias"])
    for path in ("/v1/models/alias", "/models/alias"):
        status, _, got = await scene.send(path, method="GET")
        assert (status, json.loads(got)["object"]) == (200, "model")
