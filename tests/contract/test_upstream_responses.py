"""The Responses API upstream: raw bytes to whoever has it, litellm's translation for whoever has not, one form for the caller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from proxy.errors import BadRequestError
from proxy.model import Call, Caller, CallId, Json, Reply
from proxy.simulated.provider import create_provider
from proxy.upstream.config import Entry, UpstreamConfig
from proxy.upstream.gateway import Gateway
from tests.make import make_responses_body

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute on the instance:DeprecationWarning")

PATH = "/v1/responses"
EVENT = TypeAdapter[Any](ResponseStreamEvent)
WAYS: dict[str, Json] = {"direct": {}, "translated": {"lessons": {"responses": False}}, "by litellm": {"temperature": 0.5}}
"""How an entry makes its calls go."""


@dataclass
class Server:
    """A simulated provider; `without`: it has no `/v1/responses`."""

    base: str = ""
    without: bool = False
    seen: list[tuple[str, bytes]] = field(default_factory=list[Any])
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @web.middleware
    async def watch(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        self.seen.append((request.path, await request.read()))
        if self.without and request.path == PATH:
            return web.json_response({"error": {"message": "Not found", "type": "x", "param": None, "code": None}}, status=404)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            self.left.set()
            raise

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = create_provider()
    application.middlewares.append(server.watch)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


def entry(server: Server, *, name: str = "m", model: str = "openai/m", lessons: Json | None = None, **params: Any) -> Entry:
    return Entry(name, {"model": model, "api_base": server.base, "api_key": "sk-operator", **params}, lessons or {})


@asynccontextmanager
async def opened(*entries: Entry) -> AsyncGenerator[Gateway]:
    gateway = Gateway(UpstreamConfig(entries, num_retries=0))
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.aclose()


def call(**body: Any) -> Call:
    asked = make_responses_body(model="m") | body
    return Call(CallId("1"), PATH, "", {"content-type": "application/json"}, json.dumps(asked).encode(), asked, Caller("digest"))


async def read(reply: Reply) -> bytes:
    if reply.chunks is None:
        return reply.body
    try:
        return b"".join([part async for part in reply.chunks])
    finally:
        await reply.close()


def events(stream: bytes) -> list[Json]:
    blocks = [block for block in stream.decode().split("\n\n") if block]
    pairs = [block.split("\n") for block in blocks]
    told = [json.loads(data.removeprefix("data: ")) for _, data in pairs]
    assert [name.removeprefix("event: ") for name, _ in pairs] == [event["type"] for event in told]
    return told


@pytest.mark.parametrize("way", WAYS)
async def test_a_whole_answer_is_a_response_whichever_way_it_came(server: Server, way: str) -> None:
    async with opened(entry(server, **WAYS[way])) as gateway:
        reply = await gateway.send(call(metadata={"a": "b"}), "m", lesson=True)
    assert reply.status == 200, reply.body
    answer = Response.model_validate_json(reply.body)
    (item,) = answer.output
    assert item.type == "function_call"
    assert json.loads(item.arguments)["title"]
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    told = json.loads(reply.body)
    assert (told["metadata"], told["store"]) == ({"a": "b"}, way != "translated")
    assert server.paths == ["/v1/chat/completions" if way == "translated" else PATH]


@pytest.mark.parametrize("form", ["tool", "text", "schema"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_has_the_whole_sequence_whichever_way_it_came(server: Server, way: str, form: str) -> None:
    body: Json = {"tools": [], "tool_choice": "auto"} if form != "tool" else {}
    if form == "schema":
        body["text"] = {
            "format": {"type": "json_schema", "name": "l", "schema": {"type": "object", "properties": {"title": {"type": "string"}}}}
        }
    async with opened(entry(server, **WAYS[way])) as gateway:
        told = events(await read(await gateway.send(call(stream=True, **body), "m", lesson=False)))
        assert gateway.slots_taken == 0
    for event in told:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    names = [event["type"].removeprefix("response.") for event in told]
    assert names[:3] == ["created", "in_progress", "output_item.added"]
    assert names[-2:] == ["output_item.done", "completed"]
    delta, done = ("function_call_arguments.delta", "arguments") if form == "tool" else ("output_text.delta", "text")
    text = "".join(event["delta"] for event in told if event["type"] == f"response.{delta}")
    (whole,) = [event[done] for event in told if event["type"] == f"response.{delta.removesuffix('delta')}done"]
    assert text == whole
    last = told[-1]["response"]
    assert (last["output"][0]["arguments"] if form == "tool" else last["output"][0]["content"][0]["text"]) == text
    assert last["usage"]["total_tokens"] > 0
    assert "content_part.added" in names or form == "tool"


async def test_a_lone_call_goes_up_and_back_byte_for_byte(server: Server) -> None:
    """But for the model's name nothing is touched, in either direction."""
    raw = b'{"input" : "\\u00e9",\n "model": "alias", "odd": 1e2, "model": "alias", "stream":true}'
    async with opened(entry(server, name="alias", lessons={"responses": True})) as gateway:
        sent = Call(CallId("1"), PATH, "", {}, raw, {"input": "x", "model": "alias", "stream": True}, Caller("digest"))
        stream = await read(await gateway.send(sent, "alias", lesson=True))
    assert server.seen == [(PATH, raw.replace(b'"alias"', b'"m"'))]
    assert events(stream)[-1]["type"] == "response.completed"


async def test_a_server_without_the_api_is_asked_for_it_once(server: Server) -> None:
    """Its 404 says that it has not; from then on its chat API is asked."""
    server.without = True
    async with opened(entry(server), entry(server, name="known", lessons={"responses": True})) as gateway:
        for _ in range(2):
            assert (await gateway.send(call(), "m", lesson=True)).status == 200
        assert server.paths == [PATH, "/v1/chat/completions", "/v1/chat/completions"]
        assert (await gateway.send(call(model="known"), "known", lesson=True)).status == 404


@pytest.mark.parametrize("body", [{"previous_response_id": "resp_1"}, {"model": "m+no_such"}], ids=repr)
async def test_a_404_of_another_kind_is_the_callers(server: Server, body: Json) -> None:
    """What was not stored and models that aren't there say nothing of the API."""
    server.without = "previous_response_id" in body
    async with opened(entry(server), entry(server, name="m+no_such", model="openai/m+no_such")) as gateway:
        assert (await gateway.send(call(**body), body.get("model", "m"), lesson=False)).status == 404
        server.without = False
        await gateway.send(call(), "m", lesson=False)
    assert server.paths == [PATH, PATH]


@pytest.mark.parametrize("model", ["cerebras/m", "mistral/m", "hosted_vllm/m"])
async def test_other_providers_translate_too(server: Server, model: str) -> None:
    async with opened(entry(server, model=model, lessons={"responses": False})) as gateway:
        reply = await gateway.send(call(max_output_tokens=400), "m", lesson=False)
        assert Response.model_validate_json(reply.body).output[0].type == "function_call"
        told = events(await read(await gateway.send(call(stream=True), "m", lesson=False)))
    assert told[-1]["type"] == "response.completed"
    assert set(server.paths) == {"/v1/chat/completions"}
    asked = json.loads(server.seen[0][1])
    assert asked.get("max_tokens", asked.get("max_completion_tokens")) == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs"]}]}, "tools"),
        ({"tools": [{"type": "mcp", "server_url": "litellm_proxy"}]}, "tools"),
        ({"input": ["x"]}, "input"),
    ],
    ids=repr,
)
async def test_what_no_translation_can_do_is_refused_not_dropped(server: Server, body: Json, param: str) -> None:
    async with opened(entry(server, lessons={"responses": False})) as gateway:
        with pytest.raises(BadRequestError) as refused:
            await gateway.send(call(**body), "m", lesson=False)
        assert gateway.slots_taken == 0
    assert refused.value.param == param
    assert server.seen == []


async def test_a_callers_tool_makes_litellm_call_nobody(server: Server) -> None:
    """Its own handler of such servers would ask them from here; to a provider that has tools of its own they go as they are."""
    tool = {"type": "mcp", "server_label": "x", "server_url": "litellm_proxy", "require_approval": "never"}
    async with opened(entry(server, **WAYS["by litellm"])) as gateway:
        assert (await gateway.send(call(tools=[tool]), "m", lesson=False)).status == 400
    ((path, body),) = server.seen
    assert (path, json.loads(body)["tools"]) == (PATH, [tool])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("400", 400), ("503", 503)])
async def test_upstreams_refusals_come_back_as_replies(server: Server, way: str, fault: str, status: int) -> None:
    async with opened(entry(server, model=f"openai/m+{fault}@all", **WAYS[way])) as gateway:
        reply = await gateway.send(call(stream=True), "m", lesson=False)
    assert reply.status == status
    assert set(json.loads(reply.body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ["broken", "stream_error", "half"])
async def test_a_stream_that_is_not_whole_says_so(server: Server, way: str, fault: str) -> None:
    async with opened(entry(server, model=f"openai/m+{fault}@all", **WAYS[way])) as gateway:
        told = events(await read(await gateway.send(call(stream=True), "m", lesson=False)))
        assert gateway.slots_taken == 0
    assert told[-1]["type"] == "error"
    assert told[-1]["message"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))


@pytest.mark.parametrize("way", WAYS)
async def test_leaving_a_lone_stream_ends_it_at_the_provider(server: Server, way: str) -> None:
    async with opened(entry(server, model="openai/m+stall@all", **WAYS[way])) as gateway:
        reply = await gateway.send(call(stream=True), "m", lesson=False)
        assert reply.chunks is not None
        await anext(reply.chunks)
        assert gateway.slots_taken == 1
        await reply.close()
        await asyncio.wait_for(server.left.wait(), 5)
        assert gateway.slots_taken == 0


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_a_group_answers_too(server: Server, *, stream: bool) -> None:
    """litellm.Router balances; a member without the API makes the group's calls chat calls."""
    for lessons, path in (({"responses": True}, PATH), ({"responses": False}, "/v1/chat/completions")):
        server.seen.clear()
        async with opened(entry(server, lessons=lessons), entry(server, model="openai/n", lessons=lessons)) as gateway:
            text = await read(await gateway.send(call(stream=stream), "m", lesson=True))
        answer = events(text)[-1]["response"] if stream else json.loads(text)
        assert answer["output"][0]["type"] == "function_call"
        assert server.paths == [path]
