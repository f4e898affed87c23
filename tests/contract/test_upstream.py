"""Upstream against a real server on the loopback, by way of the real litellm and of the direct path."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from proxy.errors import (
    BadRequestError,
    NotFoundError,
    OverloadedError,
    ProxyError,
    UnauthorizedError,
    UpstreamDeniedError,
    UpstreamError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
)
from proxy.model import PAYER, Call, Caller, CallId, Json, Piece, Price, Reply, Secret, Usage
from proxy.upstream.config import Entry, UpstreamConfig, UpstreamConfigError
from proxy.upstream.gateway import Gateway
from proxy.upstream.patience import Patience

# litellm's own, as it reads its pydantic models
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute on the instance:DeprecationWarning")

KEY = "sk-the-operators-own-key"
NOBODY = Caller("digest")
SOMEBODY = Caller("digest", bearer=Secret("sk-the-callers-own"))
MESSAGES = [{"role": "user", "content": "a lesson"}]
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
PROVIDERS = ("openai", "groq", "deepinfra", "hosted_vllm", "mistral")


def chunk(delta: Json, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return _event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "real-name", "choices": choices} | more)


def _event(value: Json) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def call_delta(arguments: str, *, index: int = 0, called: str | None = None) -> Json:
    call: Json = {"index": index, "function": {"arguments": arguments}}
    if called is not None:
        call |= {"id": called, "type": "function"}
        call["function"]["name"] = "f"
    return {"tool_calls": [call]}


USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "completion_tokens_details": {"reasoning_tokens": 2}}
DONE = b"data: [DONE]\n\n"
STREAMS: dict[str, list[bytes]] = {
    "ok": [
        chunk({"role": "assistant", "content": None, **call_delta("", called="t1")}),
        chunk(call_delta('{"a":')),
        chunk(call_delta("1}")),
        chunk({}, "tool_calls"),
        chunk({}, choices=[], usage=USAGE),
        DONE,
    ],
    "parallel": [
        chunk(call_delta("{}", called="t1")),
        chunk(call_delta("[]", called="t2")),
        chunk(call_delta("0", index=1, called="t3")),
        chunk({}, "stop"),
        DONE,
    ],
    "by-turns": [
        chunk(call_delta("{", called="t1")),
        chunk(call_delta("[", index=1, called="t2")),
        chunk(call_delta("}", called="t3")),
        chunk(call_delta("]", index=1, called="t4")),
        chunk({}, "tool_calls"),
        DONE,
    ],
    "odd": [
        chunk(call_delta("{}", called="t1"), model="half \ud83d"),
        chunk({}, "stop", model="half \ud83d"),
        chunk({}, choices=[], usage={"prompt_tokens": 10**30, "completion_tokens": -7, "total_tokens": 0}),
        DONE,
    ],
    "torn": [chunk({"role": "assistant", "content": "\ud83d"}), chunk({"content": "\ude00"}), chunk({}, "stop"), DONE],
    "tool-use-failed-late": [
        b"event: error\n"
        + _event({"error": {"message": "no", "type": "invalid_request_error", "code": "tool_use_failed", "failed_generation": "{}"}})
    ],
    "text": [chunk({"role": "assistant", "content": "he"}), chunk({"content": "llo"}), chunk({}, "stop"), DONE],
    "no-finish": [chunk({"role": "assistant", "content": "he"})],
    "filtered": [chunk({"role": "assistant", "content": "he"}), chunk({}, "content_filter"), DONE],
    "thinking": [chunk({"role": "assistant", "reasoning_content": "hm"}), chunk({"content": "x"}), chunk({}, "stop"), DONE],
    "breaks": [chunk({"role": "assistant", "content": "he"})],
    "says-error": [chunk({"role": "assistant", "content": "he"}), _event({"error": {"message": "boom", "type": "server_error"}})],
}
ERRORS: dict[str, tuple[int, Json]] = {
    "too-large": (413, {"message": "Payload too large", "code": "c"}),
    "tpm": (429, {"message": "Request too large for m on tokens per min (TPM): Limit 5, Requested 6", "code": "rate_limit_exceeded"}),
    "context": (400, {"message": "This model's maximum context length is 5 tokens.", "code": "context_length_exceeded"}),
    "quota": (429, {"message": "You exceeded your current quota", "code": "insufficient_quota", "type": "insufficient_quota"}),
    "tool-use-failed": (400, {"message": "Failed to call a function", "code": "tool_use_failed", "failed_generation": '{"lessons": 1}'}),
}


@dataclass
class Provider:
    """A provider that answers as the model's name says."""

    base: str = ""
    seen: list[tuple[str, dict[str, str], Json]] = field(default_factory=list[Any])
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody hung up on an answer that was still running."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body: Json = json.loads(await request.read())
        self.seen.append((request.path, {k.lower(): v for k, v in request.headers.items()}, body))
        self.arrived.set()
        model = body["model"]
        try:
            if model in ERRORS or model.startswith("status-"):
                return self._refusal(model)
            if model == "hangs":
                await asyncio.sleep(60)
            if not body.get("stream"):
                return web.json_response(self._whole(request.path, body))
            return await self._stream(request, model)
        except asyncio.CancelledError:
            self.left.set()
            raise

    @staticmethod
    def _refusal(model: str) -> web.Response:
        status, error = ERRORS.get(model) or (int(model[7:10]), {"message": f"no, {KEY}", "type": "t", "param": "p", "code": "c"})
        return web.json_response({"error": error}, status=status, headers={"retry-after": "7", "x-request-id": "theirs"})

    @staticmethod
    def _whole(path: str, body: Json) -> Json:
        if path.endswith("embeddings"):
            return {"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "usage": USAGE}
        call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        message: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
        if body["model"] == "text":
            message = {"role": "assistant", "content": "hello"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer: Json = {"id": "c", "object": "chat.completion", "created": 1, "model": "real-name", "choices": choices, "usage": USAGE}
        return answer | {"service_tier": "on_demand"}  # litellm breaks on Groq answers without it

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in STREAMS.get(model, []):
            await response.write(part)
        if model == "breaks" and request.transport is not None:
            await asyncio.sleep(0.05)
            request.transport.abort()
        while model == "endless":
            await response.write(chunk({"role": "assistant", "content": "x"}))
            await asyncio.sleep(0.005)
        return response


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    application = web.Application()
    application.router.add_post("/{path:.*}", provider.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield provider
    await runner.cleanup()


def entry(provider: Provider, name: str, model: str, **params: Any) -> Entry:
    return Entry(name, {"model": model, "api_base": provider.base, "api_key": KEY, **params})


@asynccontextmanager
async def opened(*entries: Entry, **settings: Any) -> AsyncGenerator[Gateway]:
    given: dict[str, Any] = {"num_retries": 0} | settings
    gateway = Gateway(UpstreamConfig(entries, **given))
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.aclose()


def a_call(body: Json, caller: Caller = NOBODY, path: str = "/v1/chat/completions", **headers: str) -> Call:
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Call(CallId("1"), path, "", given, json.dumps(body).encode(), body, caller)


async def pieces(gateway: Gateway, model: str, caller: Caller = NOBODY, **body: Any) -> list[Piece]:
    deployment = await gateway.pick(model, caller)
    async with gateway.stream(deployment, {"messages": MESSAGES, **body}, caller) as stream:
        return [piece async for piece in stream]


async def text_of(reply: Reply) -> bytes:
    if reply.chunks is None:
        return reply.body
    try:
        return b"".join([part async for part in reply.chunks])
    finally:
        await reply.close()


# A batch, streamed


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_batch_streams_its_arguments_with_upstreams_own_usage_and_name(provider: Provider, name: str) -> None:
    """For every provider the pieces, joined, are the arguments; usage and model are what upstream told."""
    async with opened(entry(provider, "alias", f"{name}/ok")) as gateway:
        told = await pieces(gateway, "alias", tools=[TOOL], parallel_tool_calls=False)
    assert "".join(p.text for p in told if p.kind == "arguments") == '{"a":1}'
    assert [p.opens for p in told if p.kind == "arguments"].count(True) == 1
    assert [p.finish_reason for p in told if p.finish_reason] == ["tool_calls"]
    assert [p.usage for p in told if p.usage] == [Usage(prompt=11, completion=7, reasoning=2)]
    assert {p.model for p in told} == {"real-name"}
    path, headers, body = provider.seen[0]
    assert (path, headers["authorization"], body["model"]) == ("/v1/chat/completions", f"Bearer {KEY}", "ok")
    assert body["parallel_tool_calls"] is False
    assert ("stream_options" in body) is (name != "mistral")


async def test_every_tool_call_of_a_parallel_answer_opens_anew(provider: Provider) -> None:
    """A new id or a new index begins a call, even where all carry index 0."""
    async with opened(entry(provider, "alias", "openai/parallel")) as gateway:
        told = await pieces(gateway, "alias")
    assert [(p.text, p.opens) for p in told if p.kind == "arguments"] == [("{}", True), ("[]", True), ("0", True)]


@pytest.mark.parametrize("name", ["openai", "groq"])
async def test_calls_by_turns_are_told_apart_and_odd_words_do_no_harm(provider: Provider, name: str) -> None:
    """Whichever of litellm's drivers brings them: indexes survive; no count or name that an answer could not carry."""
    async with opened(entry(provider, "turns", f"{name}/by-turns"), entry(provider, "odd", f"{name}/odd")) as gateway:
        turns = await pieces(gateway, "turns")
        odd = await pieces(gateway, "odd")
    assert ["".join(p.text for p in turns if p.call == call) for call in (0, 1)] == ["{}", "[]"]
    assert {p.model for p in odd} == {"odd"}
    assert [p.usage for p in odd if p.usage] == [Usage()]


@pytest.mark.parametrize("name", ["openai", "groq"])
async def test_what_is_refused_in_the_middle_of_a_stream_is_salvaged_too(provider: Provider, name: str) -> None:
    """Groq streams its refusal as an event: no status, but the code and the text."""
    async with opened(entry(provider, "alias", f"{name}/tool-use-failed-late")) as gateway:
        with pytest.raises(UpstreamRejectedError) as caught:
            await pieces(gateway, "alias")
    assert (caught.value.code, caught.value.salvage) == ("tool_use_failed", "{}")


async def test_a_character_in_two_deltas_passes_through_litellm(provider: Provider) -> None:
    """Halves of a surrogate pair are no UTF-8; as escapes every client joins them."""
    async with opened(entry(provider, "alias", "openai/torn", temperature=0.5)) as gateway:
        told = await text_of(await gateway.send(a_call({"model": "alias", "messages": MESSAGES, "stream": True}), "alias", lesson=True))
    events = [json.loads(e[6:]) for e in told.split(b"\n\n") if e and b"[DONE]" not in e]
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == "\ud83d\ude00"


async def test_what_upstream_did_not_tell_is_not_invented(provider: Provider) -> None:
    """litellm makes up a finish reason and counts a usage; neither reaches the splitter."""
    async with opened(entry(provider, "cut", "openai/no-finish"), entry(provider, "text", "openai/text")) as gateway:
        cut = await pieces(gateway, "cut")
        text = await pieces(gateway, "text")
    assert [p.text for p in cut if p.text] == ["he"]
    assert not any(p.finish_reason or p.usage for p in cut)
    assert [p.finish_reason for p in text if p.finish_reason] == ["stop"]
    assert not any(p.usage for p in text)


async def test_reasoning_shows_as_a_sign_of_life_and_a_filter_as_a_refusal(provider: Provider) -> None:
    """A delta of thoughts is an empty piece; content_filter is refused."""
    async with opened(entry(provider, "thinks", "openai/thinking"), entry(provider, "filtered", "openai/filtered")) as gateway:
        thoughts = await pieces(gateway, "thinks")
        filtered = await pieces(gateway, "filtered")
    assert [p.text for p in thoughts[:2]] == ["", "x"]
    assert any(p.refused for p in filtered)


async def test_a_provider_that_cannot_stream_answers_in_the_same_pieces(provider: Provider) -> None:
    """An answer that came whole is told like a stream."""
    lessons = {"stream": False}
    async with opened(Entry("alias", {"model": "openai/ok", "api_base": provider.base, "api_key": KEY}, lessons)) as gateway:
        told = await pieces(gateway, "alias")
    assert [(p.kind, p.text, p.opens) for p in told[:1]] == [("arguments", '{"a":1}', True)]
    assert (told[-1].finish_reason, told[-1].usage, told[-1].model) == ("tool_calls", Usage(11, 7, 2), "real-name")
    assert "stream" not in provider.seen[0][2] or provider.seen[0][2]["stream"] is False


@pytest.mark.parametrize("kind", ["openai", "groq"])
@pytest.mark.parametrize("streaming", [True, False])
async def test_leaving_a_batch_ends_it_at_the_provider(provider: Provider, kind: str, streaming: bool) -> None:  # noqa: FBT001
    """Whether it streams already or still waits for its headers, upstream sees the connection close and the slot is free."""
    async with opened(entry(provider, "alias", f"{kind}/{'endless' if streaming else 'hangs'}")) as gateway:
        first = asyncio.Event()

        async def reading() -> None:
            deployment = await gateway.pick("alias", NOBODY)
            async with gateway.stream(deployment, {"messages": MESSAGES}, NOBODY) as stream:
                async for _ in stream:
                    first.set()

        task = asyncio.create_task(reading())
        await asyncio.wait_for((first if streaming else provider.arrived).wait(), 10)
        assert gateway.slots_taken == 1
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait_for(provider.left.wait(), 5)
        assert gateway.slots_taken == 0


@pytest.mark.parametrize("kind", ["openai", "groq"])
@pytest.mark.parametrize(
    ("model", "error", "status"),
    [
        ("status-400", UpstreamRejectedError, 400),
        ("status-404", UpstreamRejectedError, 404),
        ("status-422", UpstreamRejectedError, 422),
        ("status-401", UpstreamDeniedError, 401),
        ("status-403", UpstreamDeniedError, 403),
        ("status-402", UpstreamQuotaError, 402),
        ("status-429", UpstreamRateLimitedError, 429),
        ("status-500", UpstreamUnavailableError, 500),
        ("status-503", UpstreamUnavailableError, 503),
        ("too-large", UpstreamTooLargeError, 413),
        ("tpm", UpstreamTooLargeError, 429),
        ("context", UpstreamTooLargeError, 400),
        ("quota", UpstreamQuotaError, 429),
    ],
)
async def test_each_refusal_becomes_its_own_error(
    provider: Provider, kind: str, model: str, error: type[UpstreamError], status: int
) -> None:
    """The class says what to do, the status is upstream's, and no message holds the operator's key."""
    async with opened(entry(provider, "alias", f"{kind}/{model}")) as gateway:
        with pytest.raises(UpstreamError) as caught:
            await pieces(gateway, "alias")
    assert type(caught.value) is error
    assert caught.value.http_status == status
    assert KEY not in json.dumps(caught.value.body())
    assert caught.value.retry_after_s == (7 if model in ("status-429", "status-500", "status-503") else None)
    assert caught.value.should_retry is (False if error is UpstreamQuotaError else None)
    assert len(provider.seen) == 1


async def test_what_groq_refused_to_hand_over_is_salvaged(provider: Provider) -> None:
    """`failed_generation` is the model's text; the lessons in it may be good."""
    async with opened(entry(provider, "alias", "groq/tool-use-failed")) as gateway:
        with pytest.raises(UpstreamRejectedError) as caught:
            await pieces(gateway, "alias")
    assert caught.value.salvage == '{"lessons": 1}'
    assert caught.value.code == "tool_use_failed"


@pytest.mark.parametrize(("model", "text"), [("breaks", "he"), ("says-error", "he")])
async def test_what_came_before_a_break_is_handed_over(provider: Provider, model: str, text: str) -> None:
    """A stream that breaks gives its pieces first, then UpstreamUnavailableError."""
    told: list[Piece] = []
    async with opened(entry(provider, "alias", f"openai/{model}")) as gateway:
        deployment = await gateway.pick("alias", NOBODY)
        with pytest.raises(UpstreamUnavailableError):  # noqa: PT012 - what came before the break is the point
            async with gateway.stream(deployment, {"messages": MESSAGES}, NOBODY) as stream:
                async for piece in stream:
                    told.append(piece)  # noqa: PERF401 - as above
    assert "".join(p.text for p in told) == text


async def test_silence_and_closed_ports_have_errors_of_their_own(provider: Provider) -> None:
    """No answer in time is UpstreamTimeoutError, no listener UpstreamUnavailableError, both on the direct path too."""
    nowhere = Entry("nowhere", {"model": "openai/ok", "api_base": "http://127.0.0.1:1/v1", "api_key": KEY})
    async with opened(entry(provider, "slow", "openai/hangs"), nowhere, timeout_s=0.3) as gateway:
        for alias, error in (("slow", UpstreamTimeoutError), ("nowhere", UpstreamUnavailableError)):
            with pytest.raises(UpstreamUnavailableError) as merged:
                await pieces(gateway, alias)
            with pytest.raises(UpstreamUnavailableError) as alone:
                await gateway.send(a_call({"model": alias, "messages": MESSAGES}), alias, lesson=False)
            assert type(merged.value) is type(alone.value) is error
        assert gateway.slots_taken == 0


# What a caller wrote reaches litellm


async def test_a_caller_cannot_redirect_the_operators_key(provider: Provider) -> None:
    """An address, key or mock in a body is a field for the provider, never an argument of litellm's."""
    hostile: Json = {"api_base": "http://127.0.0.1:1", "base_url": "http://127.0.0.1:1", "api_key": "x", "mock_response": "mock"}
    hostile |= {"custom_llm_provider": "azure", "fallbacks": ["b"], "metadata": {"model_group": "b"}, "num_retries": 9}
    translated = entry(provider, "translated", "openai/ok", temperature=0.5)
    balanced = [entry(provider, "group", "openai/ok"), entry(provider, "group", "hosted_vllm/ok")]
    async with opened(translated, *balanced) as gateway:
        for alias in ("translated", "group"):
            await pieces(gateway, alias, **hostile)
            reply = await gateway.send(a_call({"model": alias, "messages": MESSAGES, **hostile}), alias, lesson=False)
            assert reply.status == 200
    assert len(provider.seen) == 4
    assert {headers["authorization"] for _, headers, _ in provider.seen} == {f"Bearer {KEY}"}
    assert all(body["api_base"] == "http://127.0.0.1:1" for _, _, body in provider.seen)


async def test_litellm_keeps_silent(provider: Provider, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Not a word of a prompt or a key reaches a log or a stream, whatever goes wrong."""
    with caplog.at_level(logging.DEBUG):
        async with opened(entry(provider, "alias", "openai/status-500"), entry(provider, "ok", "openai/ok", temperature=1)) as gateway:
            with pytest.raises(UpstreamUnavailableError):
                await pieces(gateway, "alias")
            await gateway.send(a_call({"model": "ok", "messages": MESSAGES}), "ok", lesson=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert "a lesson" not in caplog.text
    assert KEY not in caplog.text


# Lone calls


async def test_a_lone_call_goes_up_and_back_byte_for_byte(provider: Provider) -> None:
    """But for the model's name nothing is touched, in either direction."""
    raw = b'{"messages" :[ {"role":"user","content":"\\u00e9"}],\n "model": "alias", "odd": 1e2, "stream":true}'
    async with opened(entry(provider, "alias", "openai/text")) as gateway:
        call = Call(CallId("1"), "/v1/chat/completions", "", {}, raw, json.loads(raw), NOBODY)
        reply = await gateway.send(call, "alias", lesson=True)
        assert await text_of(reply) == b"".join(STREAMS["text"])
    assert (reply.status, dict(reply.headers)["content-type"]) == (200, "text/event-stream")
    assert provider.seen[0][2] == json.loads(raw) | {"model": "text"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_translated_answer_is_openais_own_form(provider: Provider, stream: bool) -> None:  # noqa: FBT001
    """Ids, objects, integer usage; a usage event without choices only where it was asked for; an end."""
    body: Json = {"model": "alias", "messages": MESSAGES, "tools": [TOOL], "stream": stream}
    async with opened(entry(provider, "alias", "openai/ok", temperature=0.5)) as gateway:
        plain = await text_of(await gateway.send(a_call(body), "alias", lesson=True))
        asked = await text_of(await gateway.send(a_call(body | {"stream_options": {"include_usage": True}}), "alias", lesson=True))
    if not stream:
        answer = json.loads(plain)
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'
        assert {k: answer["usage"][k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")} == dict(list(USAGE.items())[:3])
        return
    events = [json.loads(e[6:]) for e in plain.split(b"\n\n") if e and b"[DONE]" not in e]
    assert plain.endswith(b"data: [DONE]\n\n")
    assert all(e["choices"] and "usage" not in e for e in events)
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert {e["model"] for e in events} == {"real-name"}
    last = json.loads(asked.split(b"\n\n")[-3][6:])
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 18)


async def test_other_paths_go_where_they_can(provider: Provider) -> None:
    """Embeddings go both ways; what litellm has no function for is 404, a body that it would stumble over 400."""
    async with opened(entry(provider, "direct", "openai/text"), entry(provider, "long", "openai/text", temperature=1)) as gateway:
        for alias in ("direct", "long"):
            reply = await gateway.send(a_call({"model": alias, "input": "x"}, path="/v1/embeddings"), alias, lesson=False)
            assert json.loads(reply.body)["data"][0]["embedding"] == [0.5]
        assert (await gateway.send(a_call({"model": "direct"}, path="/v1/files"), "direct", lesson=False)).status == 200
        with pytest.raises(NotFoundError):
            await gateway.send(a_call({"model": "long"}, path="/v1/files"), "long", lesson=False)
        bodies: list[Json] = [{}, {"messages": "x"}, {"messages": ["x"]}, {"messages": [{}]}]
        for bad in bodies:
            with pytest.raises(BadRequestError):
                await gateway.send(a_call({"model": "long", **bad}), "long", lesson=False)
    assert [path for path, _, _ in provider.seen] == ["/v1/embeddings", "/v1/embeddings", "/v1/files"]


@pytest.mark.parametrize("params", [{}, {"temperature": 0.5}])
@pytest.mark.parametrize(("model", "stream"), [("status-401", False), ("status-429", True), ("status-400", False), ("status-503", True)])
async def test_upstreams_refusals_come_back_as_replies(provider: Provider, params: Json, model: str, stream: bool) -> None:  # noqa: FBT001
    """On both ways: upstream's status, an error object, retry-after, and never a trace of the operator's key."""
    async with opened(entry(provider, "alias", f"openai/{model}", **params)) as gateway:
        reply = await gateway.send(a_call({"model": "alias", "messages": MESSAGES, "stream": stream}), "alias", lesson=False)
        assert gateway.slots_taken == 0
    assert reply.status == int(model[7:])
    assert KEY.encode() not in reply.body
    assert json.loads(reply.body)["error"]["message"]
    if model in ("status-429", "status-503"):
        assert dict(reply.headers)["retry-after"] == "7"
    if model == "status-401":
        assert json.loads(reply.body)["error"]["code"] == "upstream_denied"


@pytest.mark.parametrize("kind", ["openai", "groq"])
async def test_a_groups_refusal_is_told_in_upstreams_words(provider: Provider, kind: str) -> None:
    """litellm's own additions are cut off, the error object keeps its fields."""
    async with opened(entry(provider, "group", f"{kind}/status-400"), entry(provider, "group", f"{kind}/status-400")) as gateway:
        reply = await gateway.send(a_call({"model": "group", "messages": MESSAGES}), "group", lesson=False)
    assert json.loads(reply.body) == {"error": {"message": "no, ***", "type": "t", "param": "p", "code": "c"}}


@pytest.mark.parametrize("params", [{}, {"temperature": 0.5}])
async def test_only_lessons_are_sent_again(provider: Provider, params: Json) -> None:
    """A lesson as often as `num_retries` says, whatever was no lesson once, on both ways."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    config = UpstreamConfig((entry(provider, "alias", "openai/status-429", **params),))
    gateway = Gateway(config, patience=Patience(1, sleep=sleep))
    await gateway.open()
    try:
        for lesson in (True, False):
            reply = await gateway.send(a_call({"model": "alias", "messages": MESSAGES}), "alias", lesson=lesson)
            assert reply.status == 429
    finally:
        await gateway.aclose()
    assert len(provider.seen) == 3
    assert len(pauses) == 1
    assert 7 <= pauses[0] < 9


@pytest.mark.parametrize("model", ["breaks", "no-finish"])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.5}])
async def test_a_broken_stream_ends_with_an_error_event(provider: Provider, params: Json, model: str) -> None:
    """A clean end would be taken as complete, whether the connection broke or upstream just stopped."""
    async with opened(entry(provider, "alias", f"openai/{model}", **params)) as gateway:
        reply = await gateway.send(a_call({"model": "alias", "messages": MESSAGES, "stream": True}), "alias", lesson=False)
        events = (await text_of(reply)).split(b"\n\n")
        assert gateway.slots_taken == 0
    assert b'"he"' in events[0]
    assert json.loads(events[-2][6:])["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("params", [{}, {"temperature": 0.5}])
async def test_leaving_a_lone_stream_ends_it_at_the_provider(provider: Provider, params: Json) -> None:
    """Closing the reply closes the call upstream and frees the slot."""
    async with opened(entry(provider, "alias", "openai/endless", **params)) as gateway:
        reply = await gateway.send(a_call({"model": "alias", "messages": MESSAGES, "stream": True}), "alias", lesson=False)
        assert reply.chunks is not None
        assert b'"x"' in await anext(reply.chunks)
        assert gateway.slots_taken == 1
        await reply.close()
        await asyncio.wait_for(provider.left.wait(), 5)
        assert gateway.slots_taken == 0


async def test_a_full_house_says_so_at_once(provider: Provider) -> None:
    """One call more than there are slots gets 503 with retry-after, on every way; nobody queues."""
    async with opened(entry(provider, "alias", "openai/endless"), entry(provider, "long", "openai/ok", temperature=1), slots=1) as gateway:
        reply = await gateway.send(a_call({"model": "alias", "messages": MESSAGES, "stream": True}), "alias", lesson=False)
        for alias in ("alias", "long"):
            with pytest.raises(OverloadedError) as full:
                await gateway.send(a_call({"model": alias, "messages": MESSAGES}), alias, lesson=False)
            assert full.value.retry_after_s == 1
        with pytest.raises(OverloadedError):
            await pieces(gateway, "long")
        await reply.close()


# Whose key, which deployment


async def test_the_callers_own_key_goes_upstream_and_is_needed(provider: Provider) -> None:
    """With `api_key: caller` the bearer goes on every way; without one the call is refused here, in OpenAI's form."""
    own = Entry("*", {"model": "openai/*", "api_base": provider.base, "api_key": "caller"})
    async with opened(own) as gateway:
        await pieces(gateway, "ok", SOMEBODY)
        refused = await gateway.send(a_call({"model": "status-401", "messages": MESSAGES}, SOMEBODY), "status-401", lesson=False)
        with pytest.raises(UpstreamDeniedError) as denied:
            await pieces(gateway, "status-401", SOMEBODY)
        for attempt in (gateway.pick("ok", NOBODY), gateway.send(a_call({"model": "ok", "messages": MESSAGES}), "ok", lesson=False)):
            with pytest.raises(UnauthorizedError):
                await attempt
    assert {headers["authorization"] for _, headers, _ in provider.seen} == {"Bearer sk-the-callers-own"}
    assert json.loads(refused.body)["error"]["code"] == "c"
    assert "no, " in denied.value.message


async def test_one_bad_key_does_not_stop_the_next_call(provider: Provider) -> None:
    """A lone deployment is never cooled down, not even where fallbacks bring the Router in."""
    entries = (
        entry(provider, "lone", "openai/status-401"),
        entry(provider, "falls", "openai/status-401"),
        entry(provider, "to", "openai/ok"),
    )
    async with opened(*entries, router_settings={"fallbacks": [{"falls": ["to"]}]}) as gateway:
        for _ in range(3):
            for alias in ("lone", "falls"):
                with pytest.raises(UpstreamDeniedError):
                    await pieces(gateway, alias)
            reply = await gateway.send(a_call({"model": "falls", "messages": MESSAGES}), "falls", lesson=False)
            assert (reply.status, json.loads(reply.body)["model"]) == (200, "real-name")
    assert [body["model"] for _, _, body in provider.seen].count("status-401") == 9


async def test_a_group_rests_a_deployment_that_refuses(provider: Provider) -> None:
    """After a 429 the picked deployment cools down; with all of them resting `pick` says so, with a time."""
    entries = (entry(provider, "group", "openai/status-429"), entry(provider, "group", "groq/status-429"))
    picked: list[str] = []
    async with opened(*entries, router_settings={"cooldown_time": 30}) as gateway:
        for _ in entries:
            deployment = await gateway.pick("group", NOBODY)
            picked.append(deployment.id)
            with pytest.raises(UpstreamRateLimitedError):
                async with gateway.stream(deployment, {"messages": MESSAGES}, NOBODY):
                    pass
            for _ in range(50):  # litellm tells its listeners in a task of their own
                await asyncio.sleep(0.01)
        with pytest.raises(UpstreamRateLimitedError) as resting:
            await gateway.pick("group", NOBODY)
        with pytest.raises(UpstreamRateLimitedError):
            await gateway.send(a_call({"model": "group", "messages": MESSAGES}), "group", lesson=False)
        assert len(provider.seen) == 2
    assert sorted(picked) == ["group#0", "group#1"]
    assert resting.value.upstream_status is None
    assert 0 < (resting.value.retry_after_s or 0) <= 30


async def test_a_pattern_may_have_several_deployments(provider: Provider) -> None:
    """They are balanced, and a batch goes to the picked one under the name that the star stands for."""
    async with opened(entry(provider, "o/*", "openai/*"), entry(provider, "o/*", "groq/x/*")) as gateway:
        picked = {d.id: d for d in [await gateway.pick("o/ok", NOBODY) for _ in range(60)]}
        assert sorted(picked) == ["o/*#0", "o/*#1"]
        for deployment in (picked["o/*#0"], picked["o/*#1"]):
            async with gateway.stream(deployment, {"messages": MESSAGES}, NOBODY) as stream:
                async for _ in stream:
                    pass
        reply = await gateway.send(a_call({"model": "o/ok", "messages": MESSAGES}), "o/ok", lesson=False)
    assert reply.status == 200
    assert [body["model"] for _, _, body in provider.seen][:2] == ["ok", "x/ok"]


@pytest.mark.parametrize("kind", ["one", "group", "caller"])
async def test_a_batch_says_who_pays_where_its_callers_do(provider: Provider, kind: str) -> None:
    """The callers' organization and project go up with their own key alone, what they ask for in any case."""
    own: dict[str, Any] = {"api_key": "caller"} if kind == "caller" else {}
    entries = [entry(provider, "alias", "openai/ok", extra_headers={"x-entry": "own"}, **own)] * (2 if kind == "group" else 1)
    account = (("openai-organization", "org-1"), ("openai-project", "proj-1"), ("openai-beta", "b=1"))
    async with opened(*entries) as gateway:
        await pieces(gateway, "alias", Caller("digest", bearer=Secret("sk-c"), account=account), tools=[TOOL])
    _, headers, _ = provider.seen[0]
    paying = {name: value for name, value in headers.items() if name in PAYER}
    assert paying == ({"openai-organization": "org-1", "openai-project": "proj-1"} if kind == "caller" else {})
    assert (headers["openai-beta"], headers["x-entry"]) == ("b=1", "own")


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_batch_carries_what_its_calls_would_alone(provider: Provider, name: str) -> None:
    """litellm's tables of who takes which field refuse none, nor of a lone call in a group: on the direct path their provider decides."""
    asked: Json = {"reasoning_effort": "low", "verbosity": "low", "service_tier": "flex", "temperature": 0.5, "prompt_cache_key": "k"}
    asked |= {"thinking": {"type": "disabled"}, "frequency_penalty": 0.1, "top_k": 7, "of_tomorrow": [1]}
    async with opened(entry(provider, "alias", f"{name}/ok")) as gateway:
        await pieces(gateway, "alias", tools=[TOOL], **asked)
    group = entry(provider, "group", f"{name}/ok")
    async with opened(group, group) as gateway:
        reply = await gateway.send(a_call({"model": "group", "messages": MESSAGES, **asked}), "group", lesson=True)
    assert reply.status == 200, reply.body
    for _, _, body in provider.seen:
        assert {field: body.get(field) for field in asked} == asked


async def test_a_batch_goes_to_exactly_the_picked_deployment_once(provider: Provider) -> None:
    """No retry, no fallback, no other member of the group."""
    entries = (entry(provider, "g", "openai/status-500"), entry(provider, "g", "openai/ok"), entry(provider, "b", "openai/ok"))
    async with opened(*entries, num_retries=3, router_settings={"fallbacks": [{"g": ["b"]}]}) as gateway:
        bad = next(d for d in [await gateway.pick("g", NOBODY) for _ in range(50)] if d.id == "g#0")
        with pytest.raises(UpstreamUnavailableError):
            async with gateway.stream(bad, {"messages": MESSAGES}, NOBODY):
                pass
    assert [body["model"] for _, _, body in provider.seen] == ["status-500"]


async def test_models_limits_and_names(provider: Provider) -> None:
    """Patterns answer to what they match and are not listed; limits come from litellm's table or the operator."""
    entries = (
        Entry("mini", {"model": "openai/gpt-4o-mini", "api_key": KEY}),
        Entry("told", {"model": "openai/own", "api_base": provider.base, "api_key": KEY}, {"max_output_tokens": 99}, owned_by="me"),
        Entry("o/*", {"model": "openai/*", "api_base": provider.base, "api_key": KEY}),
    )
    async with opened(*entries) as gateway:
        assert [(m["id"], m["owned_by"]) for m in gateway.models()] == [("mini", "openai"), ("told", "me")]
        assert all(m["object"] == "model" and isinstance(m["created"], int) for m in gateway.models())
        assert gateway.max_output_tokens("mini") == 16384
        assert gateway.max_output_tokens("told") == 99
        assert gateway.max_output_tokens("o/unheard-of") is None
        assert [gateway.knows(n) for n in ("mini", "o/x", "x", "o/" + "x" * 300)] == [True, True, False, False]
        with pytest.raises(NotFoundError) as unknown:
            await gateway.pick("x", NOBODY)
        assert unknown.value.code == "model_not_found"
        assert (await gateway.pick("mini", NOBODY)).capability.force == "name"
        assert (await gateway.pick("told", NOBODY)).capability.force == "required"


async def test_prices_come_with_the_deployment(provider: Provider) -> None:
    """From litellm's own map, the operator's `model_info`, or LiteLLM's place in `litellm_params`; a name alone is no price."""
    told = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    entries = (
        Entry("mini", {"model": "openai/gpt-4o-mini", "api_key": KEY}),
        Entry("told", {"model": "openai/gpt-4o-mini", "api_base": provider.base, "api_key": KEY}, prices=told),
        Entry("params", {"model": "openai/own", "api_base": provider.base, "api_key": KEY, **told}),
        Entry("own", {"model": "openai/gpt-4o-mini", "api_base": provider.base, "api_key": KEY}),
    )
    async with opened(*entries) as gateway:
        found = {name: (await gateway.pick(name, NOBODY)).price for name in ("mini", "told", "params", "own")}
    mini = found.pop("mini")
    assert mini
    assert 0 < mini.input_usd < mini.output_usd < 1e-4
    assert found == {"told": Price(1e-6, 2e-6), "params": Price(1e-6, 2e-6), "own": None}


async def test_a_configuration_that_cannot_work_does_not_start() -> None:
    """Unknown settings and unknown providers are named."""
    for config, word in (
        (UpstreamConfig((Entry("a", {"model": "openai/x"}),), router_settings={"no_such_thing": 1}), "no_such_thing"),
        (UpstreamConfig((Entry("a", {"model": "nobody-makes-this"}),)), "nobody-makes-this"),
        (
            UpstreamConfig(
                (Entry("a", {"model": "openai/x"}), Entry("a", {"model": "openai/y"})),
                router_settings={"routing_strategy": "latency-based-routing", "routing_strategy_args": {"ttl": "soon"}},
            ),
            "router_settings: litellm.Router can't be built",
        ),
    ):
        gateway = Gateway(config)
        with pytest.raises(UpstreamConfigError, match=word):
            await gateway.open()


async def test_closing_one_gateway_leaves_the_others_calls_alone(provider: Provider) -> None:
    """A reload closes the old gateway while the new one works: litellm's clients are shared between them."""
    async with opened(entry(provider, "alias", "openai/endless")) as old, opened(entry(provider, "alias", "openai/endless")) as new:
        deployment = await new.pick("alias", NOBODY)
        async with new.stream(deployment, {"messages": MESSAGES}, NOBODY) as stream:
            await anext(stream)
            await old.aclose()
            for _ in range(20):
                await anext(stream)


def test_every_error_here_is_one_that_callers_can_be_shown() -> None:
    """Nothing but `proxy.errors` leaves this room."""
    assert issubclass(UpstreamError, ProxyError)
