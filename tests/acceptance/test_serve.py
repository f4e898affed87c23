"""`lesson-proxy serve` as its users meet it: a real process, real sockets, real signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.simulated import Provider
from tests.acceptance.conftest import Serve, Served
from tests.make import make_body, make_user_text

CHAT = "/v1/chat/completions"
LESSON = make_body(
    model="lesson-model",
    user="learner-1",
    messages=[{"role": "system", "content": "You are a patient teacher."}, {"role": "user", "content": make_user_text()}],
)
HELLO: dict[str, Any] = {"model": "lesson-model", "messages": [{"role": "user", "content": "Say hello."}]}
SECRET = "sk-this-must-not-be-logged"


def config(folder: Path, text: str = "", *, drain: str = "drain_grace_seconds: 1\ndrain_seconds: 6") -> Path:
    """Write a configuration with the simulated provider and what a test adds."""
    file = folder / "proxy.yaml"
    file.write_text(f'model_list:\n  - {{model_name: "*", litellm_params: {{model: "simulated/*"}}}}\n{drain}\n{text}\n')
    return file


async def lesson(served: Served, body: Any = LESSON, **headers: str) -> httpx.Response:
    return await served.client.post(CHAT, json=body, headers=headers)


async def test_the_default_answers_lessons_without_a_key_and_merges_those_that_belong_together(serve: Serve) -> None:
    served = await serve()
    provider = await served.logged("state", state="embedded_provider")
    assert "simulated" in provider["detail"]
    models = (await served.client.get("/v1/models")).json()["data"]
    assert {model["owned_by"] for model in models} == {"simulated"}

    alone = await lesson(served)
    assert (alone.status_code, alone.headers["x-lesson-merged"], alone.headers["x-lesson-reason"]) == (200, "false", "alone")

    together = await asyncio.gather(*(lesson(served, authorization=f"Bearer {SECRET}", **{"x-lesson-expect": "3"}) for _ in range(3)))
    assert [answer.headers["x-lesson-merged"] for answer in together] == ["true"] * 3
    assert len({answer.headers["x-lesson-batch-id"] for answer in together}) == 1
    assert len({answer.json()["id"] for answer in together}) == 3
    assert len({answer.headers["x-request-id"] for answer in together}) == 3
    for answer in together:
        arguments = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        assert set(orjson.loads(arguments)) == {"title", "content"}

    await served.logged("call", call=together[0].headers["x-request-id"], way="merged")
    assert await served.metric("lesson_proxy_batches_total") == 1
    assert await served.metric("lesson_proxy_input_tokens_saved") > 0
    log = repr(served.process.log())
    assert SECRET not in log
    assert "learner-1" not in log
    assert "Linear equations" not in log


async def test_the_openai_client_sees_nothing_unusual(standing: Served) -> None:
    client: Any = openai.AsyncOpenAI(base_url=standing.url + "/v1", api_key="any", max_retries=0)
    async with client:
        whole = await client.chat.completions.create(**LESSON)
        assert whole.choices[0].message.tool_calls
        text = ""
        async for chunk in await client.chat.completions.create(**HELLO, stream=True):
            text += chunk.choices[0].delta.content or ""
        assert text
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="m", messages="no list", stream=False)
        assert bad.value.param == "messages"
        with pytest.raises(openai.NotFoundError) as missing:
            await client.files.list()
        assert missing.value.code == "unknown_url"


async def test_health_and_metrics_are_there(standing: Served) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert (await standing.client.get(path)).status_code == 200, path
    assert await standing.metric("lesson_proxy_calls_in_flight") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_lets_everybody_finish(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    """1 calls run and wait; 2 the signal; 3 readiness says no; 4 new calls go alone, their connections end;
    5 the listener closes; 6 whoever was there before is answered; 7 the process ends with 0."""
    async with Provider.running(first_token_s=2.5) as provider:
        file = tmp_path / "proxy.yaml"
        file.write_text(
            f"model_list: [{{model_name: '*', litellm_params: {{model: 'openai/*', api_base: '{provider.url}', api_key: k}}}}]\n"
            "lessons: {window: {max_wait_ms: 30000, policy: fixed}}\ndrain_grace_seconds: 1\ndrain_seconds: 10\n"
        )
        served = await serve("--config", str(file))
        waiting = [asyncio.create_task(lesson(served)) for _ in range(2)]
        running = asyncio.create_task(lesson(served, HELLO))
        await served.until("lesson_proxy_waiting_calls", 2)
        await served.until("lesson_proxy_upstream_slots_taken", 1)

        served.signal(number)
        await served.logged("state", state="draining", detail=number.name)
        ready = await served.client.get("/health/ready")
        assert (ready.status_code, ready.json()["reason"], ready.headers["connection"]) == (503, "draining", "close")
        late = asyncio.create_task(lesson(served))

        assert [(await call).headers["x-lesson-merged"] for call in waiting] == ["true", "true"]
        assert (await running).status_code == 200
        answered = await late
        assert (answered.status_code, answered.headers["x-lesson-reason"]) == (200, "draining")
        assert answered.headers["connection"] == "close"
        with pytest.raises(httpx.ConnectError):
            await served.client.get("/health/live")
        assert await served.ended() == 0
        await served.logged("state", state="stopped")


async def test_whose_time_is_over_at_a_stop_gets_an_error_and_the_process_ends(serve: Serve, tmp_path: Path) -> None:
    served = await serve("--config", str(config(tmp_path, drain="drain_grace_seconds: 0\ndrain_seconds: 1")))
    stuck = asyncio.create_task(lesson(served, HELLO | {"model": "m+slow_first"}))
    streaming = asyncio.create_task(lesson(served, HELLO | {"model": "m+stall", "stream": True}))
    await served.until("lesson_proxy_upstream_slots_taken", 2)
    served.signal(signal.SIGTERM)
    answer = await stuck
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "stopping", "1")
    assert '"error"' in (await streaming).text
    assert await served.ended() == 0


async def test_a_second_signal_stops_now(serve: Serve, tmp_path: Path) -> None:
    served = await serve("--config", str(config(tmp_path, drain="drain_grace_seconds: 60\ndrain_seconds: 60")))
    stuck = asyncio.create_task(lesson(served, HELLO | {"model": "m+slow_first"}))
    await served.until("lesson_proxy_upstream_slots_taken", 1)
    served.signal(signal.SIGTERM)
    await served.logged("state", state="draining")
    served.signal(signal.SIGTERM)
    assert await served.ended() == 128 + signal.SIGTERM
    assert (await stuck).status_code == 503


async def test_a_reload_changes_new_calls_and_a_bad_file_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    file = config(tmp_path)
    served = await serve("--config", str(file))
    old = asyncio.create_task(lesson(served, HELLO | {"model": "m+slow_first"}))
    await served.until("lesson_proxy_upstream_slots_taken", 1)

    config(tmp_path, "acess: {mode: keys}")
    served.signal(signal.SIGHUP)
    await served.logged("state", state="reload_refused", saying="acess")
    assert (await lesson(served, HELLO)).status_code == 200

    config(tmp_path, "access: {mode: keys, keys: [{name: app, key: os.environ/APP_KEY}]}")
    served.signal(signal.SIGHUP)
    await served.logged("state", state="reload_refused", saying="APP_KEY")

    config(tmp_path, "access: {mode: keys, keys: [{name: app, key: new-key}]}")
    served.signal(signal.SIGHUP)
    await served.logged("state", state="reloaded")
    assert (await lesson(served, HELLO)).status_code == 401
    assert (await lesson(served, HELLO, authorization="Bearer new-key")).status_code == 200
    # the call that began before still runs, on what it began on
    assert not old.done()
    assert await served.metric("lesson_proxy_upstream_slots_taken") == 1
    old.cancel()
    await served.until("lesson_proxy_upstream_slots_taken", 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["m+slow_first", "m+stall"])
async def test_a_caller_that_leaves_ends_the_work_for_it_at_once(standing: Served, model: str, *, stream: bool) -> None:
    call = asyncio.create_task(lesson(standing, HELLO | {"model": model, "stream": stream}))
    await standing.until("lesson_proxy_upstream_slots_taken", 1)
    call.cancel()
    await standing.until("lesson_proxy_upstream_slots_taken", 0)
    await standing.until("lesson_proxy_calls_in_flight", 1)
    assert await standing.metric("lesson_proxy_faults_total") == 0


async def test_a_caller_that_leaves_its_window_leaves_the_others_alone(standing: Served) -> None:
    calls = [asyncio.create_task(lesson(standing)) for _ in range(3)]
    await standing.until("lesson_proxy_waiting_calls", 3)
    calls[0].cancel()
    others = [await call for call in calls[1:]]
    assert [(other.status_code, other.headers["x-lesson-batch-size"]) for other in others] == [(200, "2"), (200, "2")]


async def test_bad_input_is_told_in_openais_form_and_never_a_fault(standing: Served) -> None:
    table: list[tuple[str, str, bytes, dict[str, str], int]] = [
        ("POST", CHAT, b"", {}, 400),
        ("POST", CHAT, b"{", {}, 400),
        ("POST", CHAT, b"[1]", {}, 400),
        ("POST", CHAT, b'{"model": "m", "messages": [NaN]}', {}, 400),
        ("POST", CHAT, b'{"model": 1, "messages": []}', {}, 400),
        ("POST", CHAT, b'{"model": "m", "messages": {}}', {}, 400),
        ("POST", CHAT, b'{"model": "m", "messages": [], "stream": "yes"}', {}, 400),
        ("POST", CHAT, b"[" * 100_000, {}, 400),
        ("POST", CHAT, b"x" * 600_000, {}, 413),
        ("POST", CHAT, b"x", {"content-encoding": "br"}, 400),
        ("GET", CHAT, b"", {}, 405),
        ("POST", "/v1/responses", b"{}", {}, 400),
        ("POST", "/v1/files", b"{}", {}, 404),
        ("GET", "/v1/%2e%2e/admin", b"", {}, 404),
        ("GET", "/v1/..%252f..%252fadmin", b"", {}, 404),
        ("GET", "/nowhere", b"", {}, 404),
    ]
    for method, path, body, headers, status in table:
        answer = await standing.client.request(method, path, content=body, headers=headers)
        assert answer.status_code == status, (path, body[:50])
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
    assert await standing.metric("lesson_proxy_faults_total") == 0


async def test_what_is_no_http_hurts_nobody(standing: Served) -> None:
    host, port = standing.url.removeprefix("http://").split(":")
    for sent in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST " + CHAT.encode() + b" HTTP/1.1\r\ncontent-length: -1\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
    assert (await lesson(standing, HELLO)).status_code == 200


async def test_a_port_that_is_taken_is_said_and_the_process_ends(standing: Served) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        "serve",
        "--port",
        standing.url.rpartition(":")[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 1
    assert b"address already in use" in told
    assert b"Traceback" not in told


async def test_what_libraries_warn_of_stands_nowhere(serve: Serve, tmp_path: Path) -> None:
    """An answer of a form that litellm does not expect: pydantic's warning would write it to stderr, word for word."""

    async def odd(_request: web.Request) -> web.Response:
        message = {"role": "assistant", "content": "fine", "refusal": {"text": SECRET}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage})

    application = web.Application()
    application.router.add_post("/v1/chat/completions", odd)
    async with TestServer(application) as provider:
        file = tmp_path / "proxy.yaml"
        params = f"{{model: openai/a, api_base: '{provider.make_url('/v1')}', api_key: k, temperature: 0.5}}"
        file.write_text(f"model_list: [{{model_name: a, litellm_params: {params}}}]\n")
        served = await serve("--config", str(file))
        answer = await lesson(served, HELLO | {"model": "a"})
        assert answer.status_code == 200
        await served.logged("call", call=answer.headers["x-request-id"])
        assert SECRET not in served.process.err.read_text()
