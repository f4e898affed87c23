"""The edge: paths, methods, errors in OpenAI's form, streams, callers that leave, and draining."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from proxy.errors import OverloadedError, UpstreamRateLimitedError, UpstreamUnavailableError
from proxy.lessons.forms.continuing import answer_id
from proxy.model import Call, CallId, Reply
from proxy.observe.events import CallFinished, Faulted
from proxy.routes.openpaths import NamedPath, OpenPaths
from tests.unit.asgi import CHAT, HELLO, OK, Exchange, House, Stream, ask, scope, start


@pytest.mark.parametrize(
    "path",
    [
        CHAT,
        "/chat/completions",
        "//v1//chat/completions/",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/../v1/chat/completions",
    ],
)
async def test_every_spelling_of_a_listed_path_is_one_path(path: str) -> None:
    house = House()
    assert (await ask(house.edge, path=path)).status == 200
    assert house.calls[0].path == CHAT


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/embeddings"])
async def test_the_other_model_paths_lead_to_the_same_place(path: str) -> None:
    house = House()
    assert (await ask(house.edge, path=path, body={"model": "m", "input": "x"})).status == 200
    assert house.calls[0].path == "/v1/" + path.rsplit("/", 1)[1]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/organization/api_keys",
        "/",
        "/v1",
        "/admin",
        "/v1/../x",
        "/v1/%2e%2e/x",
        "/v1/..;/x",
        "/v1\\chat",
        "/v1/ä",
        "/v1/a?b",
        "/v1/a#b",
        "/v1/a\nb",
        "/v1/" + "a" * 3000,
    ],
)
async def test_what_nobody_named_is_a_404_in_openais_form_and_reaches_nobody(path: str) -> None:
    house = House()
    answer = await ask(house.edge, path=path)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (404, "invalid_request_error", "unknown_url")
    assert house.calls == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/savings",
        "/savings",
        "/dashboard",
    ],
)
async def test_what_this_release_does_not_build_is_refused_by_name(path: str) -> None:
    house = House(open_paths=OpenPaths(callers_own=lambda _alias: True))
    answer = await ask(house.edge, path=path)
    assert (answer.status, answer.error["code"]) == (404, "not_built")
    assert "not built in this release" in answer.error["message"]
    assert house.calls == []


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", CHAT, "POST"), ("POST", "/v1/models", "GET, HEAD"), ("DELETE", "/v1/models/a/b", "GET, HEAD")]
)
async def test_a_wrong_method_is_told_which_are_right(method: str, path: str, allow: str) -> None:
    answer = await ask(House().edge, method=method, path=path)
    assert (answer.status, answer.headers["allow"], answer.error["code"]) == (405, allow, "method_not_allowed")


async def test_a_request_id_comes_with_every_answer_and_is_the_calls_id() -> None:
    house = House()
    answer = await ask(house.edge)
    assert answer.headers["x-request-id"] == house.calls[0].id
    other = await ask(house.edge, path="/nowhere")
    assert other.headers["x-request-id"] not in ("", answer.headers["x-request-id"])


async def test_an_answer_goes_out_as_it_came_with_its_length() -> None:
    headers = (("content-type", "application/json"), ("x-lesson-merged", "false"), ("x-request-id", "theirs"), ("connection", "close"))
    answer = await ask(House(Reply(200, headers, b'{"a": 1}')).edge)
    assert answer.body == b'{"a": 1}'
    assert (answer.headers["content-length"], answer.headers["x-lesson-merged"]) == ("8", "false")
    assert answer.headers["x-request-id"] != "theirs"
    assert "connection" not in answer.headers


async def test_the_call_holds_the_callers_bytes_and_no_credential() -> None:
    raw = b'{ "model": "m",  "messages": [] }'
    house = House()
    await ask(house.edge, body=raw, headers=[("Authorization", "Bearer k"), ("X-User-Id", "u1"), ("api-key", "k")], query=b"a=b")
    call = house.calls[0]
    assert (call.raw, call.query, call.method, call.body) == (raw, "a=b", "POST", {"model": "m", "messages": []})
    assert dict(call.headers) == {"x-user-id": "u1"}
    assert call.caller.key_digest
    assert call.caller.bearer is None


async def test_a_header_that_comes_twice_is_neither_of_the_two() -> None:
    """A client that adds an x-user-id to its gateway's is a user of its own, not the gateway's."""
    house = House()
    await ask(house.edge, headers=[("x-user-id", "mine"), ("x-user-id", "gateway")])
    assert house.calls[0].headers["x-user-id"] == "mine, gateway"


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "should_retry"),
    [
        (OverloadedError("full", retry_after_s=1.2), 503, "2", None),
        (OverloadedError("full"), 503, "1", None),
        (UpstreamRateLimitedError("slow", retry_after_s=0.0, should_retry=False), 429, "1", "false"),
        (UpstreamUnavailableError("broken", upstream_status=500, should_retry=True), 500, None, "true"),
    ],
)
async def test_our_errors_say_when_to_come_back(error: Exception, status: int, retry_after: str | None, should_retry: str | None) -> None:
    answer = await ask(House(error).edge)
    assert answer.status == status
    assert answer.error["message"]
    assert answer.headers.get("retry-after") == retry_after
    assert answer.headers.get("x-should-retry") == should_retry


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("7", "7"),
        ("0.4", "1"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "1"),
        ("-5", "1"),
        ("nan", "1"),
        ("soon", "1"),
        (None, "1"),
        ("inf", "1"),
    ],
)
async def test_upstreams_429_always_has_whole_seconds(said: str | None, told: str) -> None:
    headers = (("content-type", "application/json"), *((("retry-after", said),) if said else ()))
    answer = await ask(House(Reply(429, headers, b'{"error":{}}')).edge)
    assert [value for name, value in answer.raw_headers if name == b"retry-after"] == [told.encode()]


async def test_upstreams_429_with_a_date_is_told_in_seconds() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answer = await ask(House(Reply(429, (("retry-after", in_a_minute),), b"{}")).edge)
    assert 50 <= int(answer.headers["retry-after"]) <= 61


async def test_a_fault_of_ours_is_a_500_that_says_nothing_of_the_prompt() -> None:
    house = House(KeyError("the secret prompt"))
    answer = await ask(house.edge)
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert answer.headers["x-request-id"] in answer.error["message"]
    fault = next(event for event in house.events if isinstance(event, Faulted))
    assert (fault.kind, fault.call_id) == ("KeyError", answer.headers["x-request-id"])
    assert any("asgi.py" in frame for frame in fault.frames)
    assert "secret" not in repr(fault)


async def test_what_ends_before_the_batcher_is_told_as_refused_and_what_ends_behind_it_is_not_told_twice() -> None:
    house = House(OverloadedError("full"))
    await ask(house.edge, body=b"{")
    await ask(house.edge)
    told = [event for event in house.events if isinstance(event, CallFinished)]
    assert [(event.status, event.way, event.reason) for event in told] == [(400, "refused", "invalid_json")]


async def test_an_error_that_upstream_spelt_oddly_can_still_be_written() -> None:
    error = UpstreamUnavailableError("broken", detail={"message": "half an emoji \ud83d"})
    answer = await ask(House(error).edge)
    assert "half an emoji" in answer.body.decode()
    assert answer.status == 502


async def test_a_stream_goes_out_chunk_by_chunk_and_is_closed() -> None:
    stream = Stream([b"data: 1\n\n", b"data: [DONE]\n\n"])
    house = House(stream.reply())
    answer = await ask(house.edge)
    assert answer.pieces == [b"data: 1\n\n", b"data: [DONE]\n\n", b""]
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("text/event-stream", "no-cache")
    assert "content-length" not in answer.headers
    assert stream.closed == 1
    await house.settled()


@pytest.mark.parametrize("error", [UpstreamUnavailableError("the provider broke"), ZeroDivisionError("secret")])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_never_cleanly(error: Exception) -> None:
    stream = Stream([b'data: {"cut', error])
    house = House(stream.reply())
    answer = await ask(house.edge)
    last = answer.body.decode().split("\n\n")[-2]
    told = orjson.loads(last.removeprefix("data: "))["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert "[DONE]" not in answer.body.decode()
    assert "secret" not in answer.body.decode()
    assert stream.closed == 1
    await house.settled()


async def test_what_is_no_event_stream_is_cut_off_where_it_breaks() -> None:
    stream = Stream([b"RIFF", UpstreamUnavailableError("broke")], kind="audio/wav")
    house = House(stream.reply())
    answer = await ask(house.edge)
    assert answer.body == b"RIFF"
    assert not answer.complete
    assert stream.closed == 1


async def ended(task: asyncio.Task[None]) -> None:
    """Return when the exchange is over; unlike `wait_for` this cancels nothing, which would hide that nobody else did."""
    done, _ = await asyncio.wait({task}, timeout=1)
    assert done, "the work goes on though its caller has left"
    await task


async def _held(_call: Call) -> Reply:
    await asyncio.Event().wait()
    return OK


async def test_a_caller_that_leaves_while_its_answer_is_made_cancels_the_work() -> None:
    cancelled = asyncio.Event()

    async def working(_call: Call) -> Reply:
        try:
            return await _held(_call)
        finally:
            cancelled.set()

    house, exchange = House(working), Exchange(parts=[orjson.dumps(HELLO)])
    task = start(house.edge, exchange)
    await house.called.wait()
    exchange.leave()
    await ended(task)
    assert cancelled.is_set()
    assert exchange.status == 0
    await house.settled()


async def test_a_caller_that_leaves_in_the_middle_of_a_stream_closes_it() -> None:
    stream = Stream([b"data: 1\n\n", asyncio.Event()])
    house, exchange = House(stream.reply()), Exchange(parts=[orjson.dumps(HELLO)])
    task = start(house.edge, exchange)
    await exchange.piece_came.wait()
    exchange.leave()
    await ended(task)
    assert (stream.closed, stream.finalised) == (1, True)
    assert [event for event in house.events if isinstance(event, Faulted)] == []
    await house.settled()


async def test_a_caller_that_leaves_while_it_takes_no_more_ends_the_stream_behind_it_at_once() -> None:
    """The stream stands at a chunk that is not taken: it is ended here, not when the garbage collector finds it."""
    stream, full = Stream([b"data: 1\n\n", b"data: 2\n\n"]), asyncio.Event()
    held = stream.reply()
    house, exchange = House(held), Exchange(parts=[orjson.dumps(HELLO)])

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            full.set()
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(house.edge(scope("POST", CHAT), exchange.receive, send))
    await full.wait()
    exchange.leave()
    await ended(task)
    assert (stream.closed, stream.finalised) == (1, True)
    assert held.chunks is not None


async def test_a_caller_that_leaves_while_its_answer_is_closed_does_not_stop_the_closing() -> None:
    exchange = Exchange(parts=[orjson.dumps(HELLO)])
    closed = asyncio.Event()

    async def close() -> None:
        exchange.leave()
        for _ in range(5):
            await asyncio.sleep(0)
        closed.set()

    house = House(replace(Stream([b"data: 1\n\n"]).reply(), close=close))
    await ended(start(house.edge, exchange))
    assert closed.is_set()
    await house.settled()


async def test_a_caller_that_leaves_before_its_request_is_whole_is_not_answered() -> None:
    exchange = Exchange(parts=[b'{"model"', b"never"])
    house = House()
    receive = exchange.receive

    async def receive_then_leave() -> dict[str, Any]:
        message = await receive()
        exchange.leave()
        return message

    await house.edge(scope("POST", CHAT), receive_then_leave, exchange.send)
    assert (exchange.status, house.calls, house.events) == (0, [], [])
    await house.settled()


async def test_a_call_whose_time_is_over_at_a_stop_is_answered_503_and_its_work_is_cancelled() -> None:
    house, exchange = House(_held), Exchange(parts=[orjson.dumps(HELLO)])
    task = start(house.edge, exchange)
    await house.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (exchange.status, exchange.error["code"], exchange.headers["retry-after"]) == (503, "stopping", "1")
    await house.settled()


async def test_a_cancellation_that_is_not_the_callers_own_is_an_answer_too() -> None:
    house = House(asyncio.CancelledError())
    assert (await ask(house.edge)).status == 503


async def test_while_draining_readiness_says_no_and_each_answer_ends_its_connection() -> None:
    house = House()
    house.edge.state = "draining"
    answer = await ask(house.edge)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    ready = await ask(house.edge, "GET", "/health/ready", b"")
    assert (ready.status, ready.json["reason"], ready.headers["retry-after"]) == (503, "draining", "1")
    assert (await ask(house.edge, "GET", "/health/live", b"")).status == 200


async def test_health_and_metrics_need_no_key_and_no_front() -> None:
    house = House()
    assert (await ask(house.edge, "GET", "/health/ready", b"")).json == {"status": "ready"}
    metrics = await ask(house.edge, "GET", "/metrics", b"")
    assert (metrics.body, metrics.headers["content-type"]) == (b"metrics", "text/plain")
    house.edge.front, house.edge.state = None, "starting"
    assert (await ask(house.edge, "GET", "/health/ready", b"")).json["reason"] == "starting"
    assert (await ask(house.edge)).status == 503


async def test_a_call_ends_on_the_front_that_it_began_on() -> None:
    go, house = asyncio.Event(), House()

    async def slow(_call: Call) -> Reply:
        await go.wait()
        return OK

    house.reply = slow
    old = house.edge.front
    assert old is not None
    task = start(house.edge, exchange := Exchange(parts=[orjson.dumps(HELLO)]))
    await house.called.wait()
    house.edge.front = house.front()
    idle = asyncio.ensure_future(old.lease.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    go.set()
    await task
    await asyncio.wait_for(idle, 1)
    assert exchange.status == 200
    await house.settled()


async def test_models_are_listed_and_found_by_ids_with_slashes() -> None:
    house = House()
    models = ({"id": "meta/llama-3", "object": "model"}, {"id": "gpt", "object": "model"})
    house.upstream.models = lambda: models  # type: ignore[method-assign]
    assert (await ask(house.edge, "GET", "/v1/models", b"")).json == {"object": "list", "data": list(models)}
    assert (await ask(house.edge, "GET", "/models/meta/llama-3", b"")).json == models[0]
    house.upstream.knows = lambda model: model == "a-pattern-matches"  # type: ignore[method-assign]
    matched = await ask(house.edge, "GET", "/v1/models/a-pattern-matches", b"")
    assert (matched.status, matched.json["id"], matched.json["object"]) == (200, "a-pattern-matches", "model")
    missing = await ask(house.edge, "GET", "/v1/models/none", b"")
    assert (missing.status, missing.error["code"], missing.error["param"]) == (404, "model_not_found", "model")


async def test_where_every_name_goes_to_the_callers_own_provider_it_lists_its_models() -> None:
    house = House(open_paths=OpenPaths(callers_own=lambda alias: alias == "*"))
    assert (await ask(house.edge, "GET", "/v1/models", b"")).status == 200
    assert [(call.path, call.method, call.alias) for call in house.calls] == [("/v1/models", "GET", "*")]


async def test_a_model_behind_the_callers_own_key_is_asked_of_its_provider() -> None:
    """A pattern answers to every name; whether it stands for anything the provider alone knows."""
    house = House(open_paths=OpenPaths(callers_own=lambda alias: alias != "operators"))
    assert (await ask(house.edge, "GET", "/v1/models/gpt-4o", b"")).json == {"ok": True}
    assert [(call.path, call.method, call.alias) for call in house.calls] == [("/v1/models/gpt-4o", "GET", "gpt-4o")]
    assert (await ask(house.edge, "GET", "/v1/models/operators", b"")).json["id"] == "operators"
    assert len(house.calls) == 1


async def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await House().edge({"type": "websocket", "path": "/"}, Exchange().receive, send)  # type: ignore[arg-type]
    assert sent == ["websocket.close"]


NAMED = OpenPaths((NamedPath("/v1/files", ("POST",), "x"), NamedPath("/v1/rerank", ("POST",), "x")))
CALLERS: Callable[[str], bool] = lambda alias: alias in ("*", "mine")  # noqa: E731


@pytest.mark.parametrize(
    ("paths", "method", "path", "body", "alias"),
    [
        (NAMED, "POST", "/v1/files", b"--boundary\r\n", "x"),
        (NAMED, "POST", "//v1/files/", b"", "x"),
        (NAMED, "POST", "/v1/rerank", b'{"model": "y"}', "x"),
        (OpenPaths(callers_own=CALLERS), "GET", "/v1/files/file-1", b"", "*"),
        (OpenPaths(callers_own=CALLERS), "GET", "/v1/responses/resp_1", b"", "*"),
        (OpenPaths(callers_own=CALLERS), "POST", "/v1/responses/resp_1/cancel", b"", "*"),
        (OpenPaths(callers_own=CALLERS), "POST", "/v1/rerank", b'{"model": "mine"}', "mine"),
    ],
)
async def test_an_open_path_goes_to_its_alias_byte_for_byte(paths: OpenPaths, method: str, path: str, body: bytes, alias: str) -> None:
    house = House(open_paths=paths)
    assert (await ask(house.edge, method, path, body, [("content-type", "application/json" if body[:1] == b"{" else "x/y")])).status == 200
    call = house.calls[0]
    assert (call.alias, call.raw, call.method) == (alias, body, method)
    assert call.body == (orjson.loads(body) if body[:1] == b"{" else {})


@pytest.mark.parametrize(
    ("paths", "method", "path", "body", "status"),
    [
        (NAMED, "GET", "/v1/files", b"", 405),
        (NAMED, "POST", "/v1/files/x", b"", 404),
        (NAMED, "POST", "/v1/filesx", b"", 404),
        (OpenPaths(callers_own=CALLERS), "POST", "/v1/rerank", b'{"model": "operators"}', 404),
        (OpenPaths(callers_own=lambda _alias: False), "GET", "/v1/files", b"", 404),
        (OpenPaths(callers_own=CALLERS), "POST", "/files", b"", 404),
    ],
)
async def test_an_operators_key_opens_no_path_that_nobody_named(paths: OpenPaths, method: str, path: str, body: bytes, status: int) -> None:
    house = House(open_paths=paths)
    answer = await ask(house.edge, method, path, body, [("content-type", "application/json")] if body else [])
    assert (answer.status, house.calls) == (status, [])
    assert answer.error["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_answer_of_ours_was_never_stored(method: str) -> None:
    """Whoever asks for a merged answer by its id is told so, and nobody upstream is asked."""
    house = House(open_paths=OpenPaths(callers_own=lambda _alias: True))
    for path in ("/v1/responses/", "/responses/"):
        answer = await ask(house.edge, method=method, path=path + answer_id("resp", "ab", CallId("a")))
        assert (answer.status, answer.error["code"]) == (404, "response_not_found")
    assert house.calls == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "m"}', "input"),
        (b'{"model": "m", "input": 5}', "input"),
        (b'{"model": "m", "input": null}', "input"),
        (b'{"input": "x"}', "model"),
        (b'{"model": "m", "input": "x", "stream": "yes"}', "stream"),
    ],
)
async def test_a_response_that_cannot_be_asked_for_is_told_why(body: bytes, param: str) -> None:
    answer = await ask(House().edge, path="/v1/responses", body=body)
    assert (answer.status, answer.error["param"], answer.error["type"]) == (400, param, "invalid_request_error")


@pytest.mark.parametrize("body", [b'{"model": "m", "input": "x"}', b'{"model": "m", "previous_response_id": "resp_1"}'])
@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "//v1/responses/"])
async def test_a_response_is_asked_for_like_a_chat(path: str, body: bytes) -> None:
    house = House()
    assert (await ask(house.edge, path=path, body=body)).status == 200
    assert (house.calls[0].path, house.calls[0].raw) == ("/v1/responses", body)


async def test_a_closed_path_is_refused_before_its_body_is_read() -> None:
    exchange = Exchange(parts=[b"a", b"b"])
    await House().edge(scope("POST", "/v1/files"), exchange.receive, exchange.send)
    assert (exchange.status, exchange.parts_read) == (404, 0)
