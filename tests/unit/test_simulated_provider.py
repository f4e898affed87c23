"""The provider as a server: time, clients that leave, what it refuses, what it counts, and how it is started and stopped."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from proxy.simulated import Options, Provider
from proxy.simulated.stats import Repeats, Stats
from proxy.simulated.tokens import Estimate, tokenizer
from tests.unit.simulated_requests import SINGLE_TEXT, Client, Json, Said, batch, open_requests, single, talking


@dataclass
class Clock:
    """Time that passes only while the provider sleeps; it can stop after some sleeps, for ever."""

    now: float = 100.0
    sleeps: list[float] = field(default_factory=list[float])
    stops_after: float = math.inf

    async def sleep(self, seconds: float) -> None:
        if len(self.sleeps) >= self.stops_after:
            await asyncio.Event().wait()
        self.sleeps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def time(self) -> float:
        return self.now


async def test_a_stream_and_a_whole_answer_take_first_token_and_writing_time() -> None:
    """A stream writes about a token a time, evenly; JSON comes when all would have been written."""
    for stream in (False, True):
        clock = Clock()
        async with talking(tokens_per_second=50, first_token_s=0.4, clock=clock.time, sleep=clock.sleep) as client:
            said = await client.chat(single(stream=stream, stream_options={"include_usage": True}))
        tokens = (said.events[-1] if stream else said.json)["usage"]["completion_tokens"]
        assert clock.now - 100 == pytest.approx(0.4 + tokens / 50)
        assert clock.sleeps[0] == pytest.approx(0.4 if stream else 0.4 + tokens / 50)
        if stream:
            assert {len(piece) for piece in said.pieces[:-1]} == {4}
            assert len(clock.sleeps) == pytest.approx(len(said.pieces), abs=3)


async def test_without_a_speed_nothing_sleeps() -> None:
    clock = Clock()
    async with talking(clock=clock.time, sleep=clock.sleep) as client:
        await client.chat(single(stream=True))
        await client.chat(single())
    assert clock.sleeps == []


async def test_when_the_client_leaves_a_stream_stops_at_once() -> None:
    """And only what was written by then is counted."""
    clock = Clock(stops_after=20)
    async with talking(tokens_per_second=50, clock=clock.time, sleep=clock.sleep) as client:
        url = f"{client.provider.url}/chat/completions"
        async with client.session.post(url, json=batch(stream=True)) as response:
            await response.content.readexactly(500)
            await open_requests(client, 1)
        await open_requests(client, 0)
        stats = client.provider.stats
        assert (stats.open_streams, stats.left) == (0, 1)
        assert 0 < stats.completion_tokens < 30


async def test_stopping_the_provider_ends_what_hangs() -> None:
    started = time.monotonic()
    async with aiohttp.ClientSession() as session:
        async with Provider.running() as provider:
            client = Client(provider, session)
            call = asyncio.create_task(client.chat(single("m+slow_first")))
            await open_requests(client, 1)
        with pytest.raises(aiohttp.ClientError):
            await call
    assert time.monotonic() - started < 5


HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


REFUSED: list[tuple[Json | bytes, str | None]] = [
    (b"{not json", None),
    (b"[1]", None),
    (b"", None),
    ({"messages": HI}, "model"),
    ({"model": "", "messages": HI}, "model"),
    ({"model": 5, "messages": HI}, "model"),
    ({"model": "m"}, "messages"),
    ({"model": "m", "messages": []}, "messages"),
    ({"model": "m", "messages": "Hi"}, "messages"),
    ({"model": "m", "messages": ["Hi"]}, "messages[0].role"),
    ({"model": "m", "messages": [{"role": "boss", "content": "Hi"}]}, "messages[0].role"),
    ({"model": "m", "messages": [{"role": ["user"], "content": "Hi"}]}, "messages[0].role"),
    ({"model": "m", "messages": [{"role": "user"}]}, "messages[0].content"),
    ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    *(({"model": "m", "messages": HI, "n": n}, "n") for n in (0, -1, 129, "2", True, 1.5)),
    ({"model": "m", "messages": HI, "max_tokens": 0}, "max_tokens"),
    ({"model": "m", "messages": HI, "max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"model": "m", "messages": HI, "tools": {}}, "tools"),
    ({"model": "m", "messages": HI, "tools": [5]}, "tools[0].function.name"),
    ({"model": "m", "messages": HI, "tools": [{"function": {}}]}, "tools[0].function.name"),
    ({"model": "m", "messages": HI, "tool_choice": "auto"}, "tool_choice"),
    ({"model": "m", "messages": HI, "tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
    ({"model": "m", "messages": HI, "tools": [TOOL], "tool_choice": ["f"]}, "tool_choice"),
    ({"model": "m", "messages": HI, "tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
    ({"model": "m", "messages": HI, "tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"model": "m", "messages": HI, "response_format": {"type": "xml"}}, "response_format.type"),
    ({"model": "m", "messages": HI, "response_format": "json"}, "response_format.type"),
    ({"model": "m", "messages": HI, "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (single(tool_choice={"type": "function", "function": {"name": "other"}}), "tool_choice"),
    (single(tool_choice={"type": "function", "function": {"name": [1]}}), "tool_choice"),
    (single(tool_choice={"type": "function"}), "tool_choice"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
async def test_a_body_that_openai_would_refuse_is_refused(body: Json | bytes, param: str | None) -> None:
    async with talking() as client:
        said = await client.chat(body)
        assert client.provider.stats.requests == 0
    assert said.status == 400
    assert said.error["type"] == "invalid_request_error"
    assert said.error["param"] == param
    assert set(said.error) == {"message", "type", "param", "code"}


async def test_unknown_fields_and_nulls_count_as_not_there() -> None:
    body = single(n=None, max_tokens=None, stream=None, stream_options=None, response_format=None, future={"x": 1})
    async with talking() as client:
        assert (await client.chat(body)).status == 200
        plain = {"model": "m", "messages": HI, "tools": None, "tool_choice": None, "response_format": {"type": "text"}}
        assert (await client.chat(plain)).status == 200
        assert (await client.chat({"model": "m", "messages": HI, "tools": [TOOL]})).arguments.startswith("{")


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "prompt": None},
        {"model": "m", "prompt": []},
        {"model": "m", "prompt": [1, 2]},
        {"prompt": "x"},
    ],
)
async def test_a_text_completion_that_is_not_understood_is_refused(body: Json) -> None:
    async with talking() as client:
        assert (await client.send("POST", "/v1/completions", body)).status == 400


async def test_a_body_over_the_bound_is_refused() -> None:
    async with talking() as client:
        data = io.BytesIO(b" " * (33 * 2**20))
        async with client.session.post(f"{client.provider.url}/chat/completions", data=data) as response:
            said = Said(response.status, {}, await response.read())
    assert (said.status, said.error["code"]) == (413, "request_too_large")


async def test_only_the_right_key_is_let_in() -> None:
    async with talking(api_key="right") as client:
        statuses = [
            (await client.chat(single(), **headers)).status
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}, {"Authorization": "Bearer right"})
        ]
        assert (await client.send("GET", "/v1/models")).error["code"] == "invalid_api_key"
        assert (await client.send("GET", "/health")).status == 200
    assert statuses == [401, 401, 401, 200]
    assert "right" not in repr(Options(api_key="right"))


async def test_models_are_listed_and_looked_up() -> None:
    async with talking(models=("gpt-a", "org/b")) as client:
        listed = (await client.send("GET", "/v1/models")).json
        found = [
            (await client.send("GET", f"/v1/models/{name}")).status for name in ("gpt-a", "org/b", "gpt-a+missing", "gpt-a+no", "gpt-c")
        ]
    assert [model["id"] for model in listed["data"]] == ["gpt-a", "org/b"]
    assert found == [200, 200, 200, 404, 404]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/v1/files"), ("GET", "/v1/chat/completions"), ("PUT", "/v1/models")])
async def test_another_path_is_an_openai_404(method: str, path: str) -> None:
    async with talking() as client:
        said = await client.send(method, path)
    assert (said.status, said.error["code"]) == (404, "unknown_url")


async def test_embeddings_are_the_same_for_the_same_text() -> None:
    async with talking() as client:
        said = [
            (
                await client.send(
                    "POST", "/v1/embeddings", {"model": "m", "input": ["a", "b", "a"], "dimensions": 8, "encoding_format": form}
                )
            ).json
            for form in ("float", "base64")
        ]
        tokens = (await client.send("POST", "/v1/embeddings", {"model": "m", "input": [1, 2]})).json
    one, other, again = (item["embedding"] for item in said[0]["data"])
    assert one == again != other
    assert math.hypot(*one) == pytest.approx(1)
    assert struct.unpack("<8f", base64.b64decode(said[1]["data"][0]["embedding"])) == pytest.approx(one)
    assert said[0]["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert len(tokens["data"]) == 1
    assert len(tokens["data"][0]["embedding"]) == 256


@pytest.mark.parametrize(
    "more", [{"input": None}, {"input": ""}, {"input": []}, {"input": "a", "dimensions": 0}, {"input": "a", "dimensions": "8"}]
)
async def test_embeddings_of_nothing_are_refused(more: Json) -> None:
    async with talking() as client:
        said = [
            await client.send("POST", "/v1/embeddings", {"model": "m", **more}),
            await client.send("POST", "/v1/embeddings", {"model": "m+500", "input": "a"}),
        ]
    assert [answer.status for answer in said] == [400, 500]


async def test_what_was_asked_is_counted_and_bodies_are_kept_only_where_told() -> None:
    async with talking(record=2) as client, talking() as discreet:
        used = [
            (await client.chat(body, Authorization="Bearer secret-key")).json["usage"] for body in (single("a"), batch("b"), single("a"))
        ]
        await client.chat(b"{")
        stats = (await client.send("GET", "/stats")).json
        await discreet.chat(single())
        other = (await discreet.send("GET", "/stats")).body.decode()
        headers = client.provider.stats.recorded[0].headers
        after = (await client.send("DELETE", "/stats")).json
    assert (stats["requests"], stats["batches"], stats["entries"], stats["refused"]) == (3, 1, 3, 1)
    assert stats["models"] == {"a": 2, "b": 1}
    assert stats["paths"] == {"/v1/chat/completions": 3}
    assert stats["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in used)
    assert stats["completion_tokens"] == sum(usage["completion_tokens"] for usage in used)
    assert stats["bodies"] == [batch("b"), single("a")]
    assert headers["authorization"] == "Bearer secret-key"
    assert "secret-key" not in json.dumps(stats)
    assert "learner-7" not in other
    assert (after["requests"], after["bodies"]) == (0, [])


async def test_most_open_tells_how_many_were_answered_together() -> None:
    async with talking() as client:
        calls = [asyncio.create_task(client.chat(single("m+slow_first"))) for _ in range(3)]
        await open_requests(client, 3)
        for call in calls:
            call.cancel()
        await open_requests(client, 0)
        assert client.provider.stats.most_open == 3


def test_counts_stay_bounded_and_without_prompts_in_their_repr() -> None:
    stats, repeats = Stats(), Repeats()
    for i in range(2_000):
        stats.asked(f"model-{i}", entries=0)
    assert len(stats.models) == 257
    assert stats.models["(other)"] == 2_000 - 256
    first = repeats.next(b"first")
    for i in range(5_000):
        repeats.next(str(i).encode())
    assert repeats.next(b"first") == (first[0], 0)
    assert repeats.next(b"first") == (first[0], 1)


async def test_two_providers_in_one_loop_do_not_share_anything() -> None:
    async with talking(seed=1) as one, talking(seed=1) as other:
        assert one.provider.port != other.provider.port
        assert (await one.chat(single())).arguments == (await other.chat(single())).arguments
        assert one.provider.stats.requests == other.provider.stats.requests == 1


async def test_an_address_that_is_taken_is_an_error_and_leaves_nothing_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            async with Provider.running(port=taken.getsockname()[1]):
                pass


async def test_an_address_of_the_newer_kind_is_written_in_brackets() -> None:
    assert Provider("::1", 80, Stats()).url == "http://[::1]:80/v1"


SERVE = (
    "from proxy.simulated import run; run(0, first_token_ms=1, seed=4, api_key='k', ready=lambda provider: print(provider.url, flush=True))"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_of_its_own_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            request = urllib.request.Request(f"{url}/chat/completions", json.dumps(single()).encode(), {"Authorization": "Bearer k"})  # noqa: S310 - loopback
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
                answer: Any = json.load(response)
            assert "learner-7" in json.dumps(answer)
            process.send_signal(number)
            assert process.wait(10) == 0
        finally:
            process.kill()


async def test_instant_calls_cost_little() -> None:
    """A generous bound on CPU, since the provider is what measurements of others stand on: it does not generate anew."""
    async with talking() as client:
        await client.chat(single("instant"))
        started = time.process_time()
        for _ in range(100):
            await client.chat(single("instant"))
        assert (time.process_time() - started) / 100 < 0.003


def test_the_estimate_stands_in_where_there_is_no_vocabulary() -> None:
    assert Estimate().count(SINGLE_TEXT) == pytest.approx(tokenizer().count(SINGLE_TEXT), rel=0.35)
