"""The lessons API over the edge: what is refused before anything is sent, what each item is sent as, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.access.keys import Access, NamedKey
from proxy.errors import OverloadedError, ProxyError, UpstreamRateLimitedError, UpstreamRejectedError
from proxy.lessons.render import usage_object
from proxy.model import Call, Json, Reply, Secret, Unbatchable, Usage
from proxy.observe.events import CallFinished
from proxy.policy import WindowPolicy
from proxy.routes.lessons import MOST_REQUESTS
from tests.make import make_lesson
from tests.unit.asgi import HELLO, Exchange, Header, House, Stream, ask, scope, start

BATCH = "/v1/lessons/batch"
VARIANTS = "/v1/lessons/variants"
FACTS = (("x-lesson-merged", "true"), ("x-lesson-batch-id", "b1"), ("x-lesson-batch-size", "2"), ("x-lesson-wait-ms", "3"))
NOTHING = {"reason": None, "batch_id": None, "batch_size": None, "wait_ms": None, "input_tokens_saved": None}


def hello(i: int = 0, **more: Any) -> Json:
    return {"model": "m", "messages": [{"role": "user", "content": f"hello {i}"}], **more}


def said(call: Call) -> str:
    return call.body["messages"][0]["content"]


async def echo(call: Call) -> Reply:
    """Answer with what was asked; the later items first."""
    for _ in range(20 - int(call.id.rpartition("-")[2])):
        await asyncio.sleep(0)
    body = {"object": "chat.completion", "echo": said(call), "usage": usage_object(Usage(5, 7))}
    return Reply(200, (("content-type", "application/json"), *FACTS, ("x-lesson-input-tokens-saved", "4")), orjson.dumps(body))


def house(reply: Any = echo, **more: Any) -> House:
    return House(reply, max_body_bytes=100_000, **more)


async def results(of: House, requests: Sequence[Json], headers: Sequence[Header] = ()) -> list[Json]:
    answer = await ask(of.edge, path=BATCH, body={"requests": requests}, headers=headers)
    assert answer.status == 200, answer.body
    assert set(answer.json) == {"results"}
    return answer.json["results"]


def events(answer: Exchange) -> list[Json]:
    blocks = answer.body.decode().split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [orjson.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


@pytest.mark.parametrize("path", [BATCH, "/lessons/batch", "//v1/lessons//batch/"])
async def test_nothing_asked_is_nothing_answered(path: str) -> None:
    of = house()
    answer = await ask(of.edge, path=path, body={"requests": []})
    assert (answer.status, answer.json) == (200, {"results": []})
    assert answer.headers["x-request-id"]
    assert of.calls == []


async def test_each_result_stands_where_its_request_stood() -> None:
    of = house(verdict=make_lesson())
    found = await results(of, [hello(i) for i in range(4)])
    assert [told["response"]["echo"] for told in found] == [f"hello {i}" for i in range(4)]
    assert found[1] == {
        "success": True,
        "response": {"object": "chat.completion", "echo": "hello 1", "usage": usage_object(Usage(5, 7))},
        "usage": usage_object(Usage(5, 7)),
        "lesson": {
            "request_id": of.calls[1].id,
            "merged": True,
            "reason": None,
            "batch_id": "b1",
            "batch_size": 2,
            "wait_ms": 3,
            "input_tokens_saved": 4,
        },
    }


async def test_each_item_is_sent_as_a_call_of_its_own_with_the_outer_calls_hints_and_no_credential() -> None:
    of = house()
    sent = [("authorization", "Bearer k"), ("x-user-id", "u1"), ("x-lesson-topic", "T"), ("accept-encoding", "gzip")]
    sent += [
        ("content-type", "application/json"),
        ("content-length", "0"),
        ("x-stainless-retry-count", "1"),
        ("accept", "text/event-stream"),
    ]
    of_the_call = await ask(of.edge, path=BATCH, body={"requests": [hello(0, x=1.5), hello(1)]}, headers=sent, query=b"a=b")
    assert of_the_call.status == 200
    first, second = of.calls
    assert (first.path, first.query, first.method, first.body, first.raw) == (
        "/v1/chat/completions",
        "a=b",
        "POST",
        hello(0, x=1.5),
        orjson.dumps(hello(0, x=1.5)),
    )
    assert {*first.headers} == {"x-user-id", "x-lesson-topic", "x-lesson-group"}
    assert first.caller == second.caller
    assert first.caller.key_digest
    request_id = of_the_call.headers["x-request-id"]
    assert [first.id, second.id] == [f"{request_id}-0", f"{request_id}-1"]


async def test_items_without_a_user_are_one_learners_within_one_call_alone() -> None:
    of = house()
    for group in ("", "the-apps-own"):
        for _ in range(2):
            await results(of, [hello(), hello(1)], [("x-lesson-group", group)] if group else [])
    groups = [call.headers["x-lesson-group"] for call in of.calls]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert min(len(group) for group in groups[:4]) >= 32
    assert groups[4:] == ["the-apps-own"] * 4


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        ([], "requests[1]", "invalid_type"),
        (None, "requests[1]", "invalid_type"),
        ("hello", "requests[1]", "invalid_type"),
        ({}, "requests[1].model", "missing_required_parameter"),
        ({"model": 5, "messages": []}, "requests[1].model", "invalid_type"),
        ({"model": "unknown", "messages": []}, "requests[1].model", "model_not_found"),
        ({"model": "m" * 300, "messages": []}, "requests[1].model", "model_not_found"),
        ({"model": "m"}, "requests[1].messages", "missing_required_parameter"),
        ({"model": "m", "messages": "hello"}, "requests[1].messages", "invalid_type"),
        ({"model": "m", "messages": ["hello"]}, "requests[1].messages", "invalid_type"),
        (hello(stream=True), "requests[1].stream", "invalid_value"),
        (hello(stream="no"), "requests[1].stream", "invalid_type"),
    ],
)
async def test_one_bad_item_is_named_and_nothing_is_sent(item: Any, param: str, code: str) -> None:
    of = house()
    of.upstream.knows = lambda model: model == "m"  # type: ignore[method-assign]
    answer = await ask(of.edge, path=BATCH, body={"requests": [hello(), item, hello()]})
    assert (answer.status, answer.error["type"], answer.error["param"], answer.error["code"]) == (400, "invalid_request_error", param, code)
    assert answer.error["message"].startswith("requests[1]")
    assert of.calls == []
    answer = await ask(of.edge, path=VARIANTS, body={"request": item, "count": 2})
    assert (answer.status, answer.error["param"]) == (400, param.replace("requests[1]", "request"))
    assert of.calls == []
    assert [(event.status, event.way) for event in of.events if isinstance(event, CallFinished)] == [(400, "refused")] * 2


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (BATCH, {}, "requests"),
        (BATCH, {"requests": None}, "requests"),
        (BATCH, {"requests": {"0": HELLO}}, "requests"),
        (BATCH, {"requests": "all"}, "requests"),
        (BATCH, {"requests": [HELLO] * (MOST_REQUESTS + 1)}, "requests"),
        (BATCH, {"requests": [], "model": "m"}, "model"),
        (BATCH, {"requests": [], "stream": 1}, "stream"),
        (VARIANTS, {"count": 2}, "request"),
        (VARIANTS, {"request": HELLO}, "count"),
        (VARIANTS, {"request": HELLO, "count": 0}, "count"),
        (VARIANTS, {"request": HELLO, "count": -1}, "count"),
        (VARIANTS, {"request": HELLO, "count": True}, "count"),
        (VARIANTS, {"request": HELLO, "count": "2"}, "count"),
        (VARIANTS, {"request": HELLO, "count": 2.0}, "count"),
        (VARIANTS, {"request": HELLO, "count": 6}, "count"),
        (VARIANTS, {"request": HELLO, "count": 10**12}, "count"),
        (VARIANTS, {"request": HELLO, "n": 2, "count": 2}, "n"),
        (VARIANTS, {"request": hello(temperature=0), "count": 2}, "request.temperature"),
        (VARIANTS, {"request": hello(seed=1), "count": 2}, "request.seed"),
    ],
)
async def test_a_call_that_can_not_be_meant_so_is_a_400_that_says_where(path: str, body: Json, param: str) -> None:
    of = house()
    answer = await ask(of.edge, path=path, body=body)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)
    assert of.calls == []


@pytest.mark.parametrize("path", [BATCH, VARIANTS])
async def test_the_outer_call_is_bounded_and_guarded_as_any_other(path: str) -> None:
    of = house(access=Access(digest_key=b"k" * 32, keys=[NamedKey("app", Secret("right"))]))
    assert (await ask(of.edge, path=path, body={"requests": []})).status == 401
    key = [("authorization", "Bearer right")]
    assert (await ask(of.edge, path=path, body=b"[]", headers=key)).error["code"] == "invalid_json"
    assert (await ask(of.edge, path=path, body=b"{}" + b" " * 100_000, headers=key)).status == 413
    assert (await ask(of.edge, "GET", path, b"", headers=key)).headers["allow"] == "POST"
    assert of.calls == []
    of.edge.front = None
    assert (await ask(of.edge, path=path, body={"requests": []})).status == 503


@pytest.mark.parametrize(
    ("verdict", "most"),
    [(Unbatchable("no_rule"), 5), (make_lesson(window=WindowPolicy(max_size=2)), 2), (make_lesson(window=WindowPolicy(max_size=7)), 7)],
)
async def test_no_more_variants_than_go_together(verdict: Any, most: int) -> None:
    of = house(verdict=verdict)
    assert (await ask(of.edge, path=VARIANTS, body={"request": hello(), "count": most + 1})).error["param"] == "count"
    assert of.calls == []
    answer = await ask(of.edge, path=VARIANTS, body={"request": hello(), "count": most})
    assert len(answer.json["results"]) == len(of.calls) == most
    assert {said(call) for call in of.calls} == {"hello 0"}
    assert len({call.id for call in of.calls}) == most
    assert len({id(call.raw) for call in of.calls}) == 1, "a large request is held once"


async def test_one_variant_may_be_asked_for_as_exactly_as_one_likes() -> None:
    answer = await ask(house().edge, path=VARIANTS, body={"request": hello(temperature=0, seed=1), "count": 1})
    assert [told["success"] for told in answer.json["results"]] == [True]


ERROR = {"message": "no", "type": "invalid_request_error", "param": None, "code": "content_filter"}
JSON = (("content-type", "application/json"),)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Reply(400, JSON, orjson.dumps({"error": ERROR})), {"status": 400, "retry_after": None, "error": ERROR}),
        (UpstreamRejectedError("no", code="content_filter"), {"status": 400, "retry_after": None, "error": ERROR}),
        (
            UpstreamRateLimitedError("slow", retry_after_s=6.2),
            {
                "status": 429,
                "retry_after": 7,
                "error": {"message": "slow", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"},
            },
        ),
        (
            Reply(503, (*JSON, ("retry-after", "soon")), orjson.dumps({"error": ERROR})),
            {"status": 503, "retry_after": 1, "error": ERROR},
        ),
    ],
)
async def test_an_item_that_failed_has_its_error_and_its_siblings_have_their_lessons(outcome: Reply | ProxyError, told: Json) -> None:
    async def answer(call: Call) -> Reply:
        if said(call) != "hello 1":
            return await echo(call)
        if isinstance(outcome, ProxyError):
            raise outcome.told((("x-lesson-merged", "false"), ("x-lesson-reason", "resent:schema")))
        return outcome

    of = house(answer)
    found = await results(of, [hello(i) for i in range(3)])
    assert [one["success"] for one in found] == [True, False, True]
    reason = "resent:schema" if isinstance(outcome, ProxyError) else "no_rule"
    lesson = NOTHING | {"request_id": of.calls[1].id, "merged": False, "reason": reason}
    assert found[1] == {"success": False, "usage": None, "lesson": lesson} | told


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"text"', b"", b'{"a": NaN}', b"\xff", b"[" * 300 + b"]" * 300])
@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_that_can_not_stand_in_json_is_that_items_error(body: bytes, status: int) -> None:
    found = await results(house(Reply(status, JSON, body)), [hello()])
    assert (found[0]["success"], found[0]["status"], found[0]["error"]["code"]) == (False, 502, "upstream_error")
    assert set(found[0]["error"]) == {"message", "type", "param", "code"}


async def test_half_an_emoji_of_a_model_spoils_no_siblings_lesson() -> None:
    found = await results(house(Reply(200, JSON, b'{"text": "\\ud83d"}')), [hello()])
    assert found[0]["response"] == {"text": "\ufffd"}
    assert found[0]["usage"] is None


async def test_an_answer_that_comes_in_chunks_is_one_result() -> None:
    stream = Stream([b'{"usage"', b': {"total_tokens": 3}}'])
    found = await results(house(stream.reply()), [hello()])
    assert found[0]["response"] == {"usage": {"total_tokens": 3}}
    assert stream.closed == 1


async def test_a_stream_tells_each_lesson_as_it_is_finished_then_the_totals() -> None:
    async def answer(call: Call) -> Reply:
        if said(call) == "hello 2":
            raise OverloadedError("full")
        return await echo(call)

    of = house(answer)
    streamed = await ask(of.edge, path=BATCH, body={"requests": [hello(i) for i in range(4)], "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *told, last = events(streamed)
    whole = await results(of, [hello(i) for i in range(4)])
    for one in (*told, *whole):
        del one["lesson"]["request_id"]
    assert told == [{"index": index} | whole[index] for index in (2, 3, 1, 0)]
    assert last == {
        "totals": {
            "requests": 4,
            "succeeded": 3,
            "failed": 1,
            "merged": 3,
            "batches": 1,
            "input_tokens_saved": 12,
            "usage": usage_object(Usage(15, 21)),
        }
    }
    await of.settled()


async def test_a_stream_of_nothing_is_totals_and_an_end() -> None:
    (last,) = events(await ask(house().edge, path=BATCH, body={"requests": [], "stream": True}))
    assert last["totals"]["requests"] == 0


async def test_the_first_event_is_there_while_others_are_still_made() -> None:
    held = asyncio.Event()

    async def answer(call: Call) -> Reply:
        if said(call) == "hello 0":
            await held.wait()
        return await echo(call)

    of, exchange = house(answer), Exchange(parts=[orjson.dumps({"requests": [hello(0), hello(1)], "stream": True})])
    task = start(of.edge, exchange, path=BATCH)
    await exchange.piece_came.wait()
    assert exchange.pieces[0].startswith(b'data: {"index":1,')
    held.set()
    await task
    assert [event.get("index") for event in events(exchange)] == [1, 0, None]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_leaves_cancels_all_its_items(*, stream: bool) -> None:
    cancelled: list[str] = []
    all_begun = asyncio.Event()

    async def answer(call: Call) -> Reply:
        if said(call) == "hello 0":
            return await echo(call)
        try:
            if len(of.calls) == 3:
                all_begun.set()
            await asyncio.Event().wait()
        finally:
            cancelled.append(said(call))
        raise AssertionError

    of, exchange = house(answer), Exchange(parts=[orjson.dumps({"requests": [hello(i) for i in range(3)], "stream": stream})])
    task = start(of.edge, exchange, path=BATCH)
    await all_begun.wait()
    if stream:
        await exchange.piece_came.wait()
    exchange.leave()
    await asyncio.wait({task}, timeout=1)
    assert task.done()
    assert sorted(cancelled) == ["hello 1", "hello 2"]
    await of.settled()


async def test_a_caller_that_leaves_while_it_takes_no_more_ends_its_items_with_it() -> None:
    """The stream stands at an event that is not taken: what runs behind it ends now, not when the garbage collector comes."""
    ended: list[str] = []

    async def answer(call: Call) -> Reply:
        if said(call) == "hello 0":
            return await echo(call)
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            ended.append(said(call))
        raise AssertionError

    of, exchange = house(answer), Exchange(parts=[orjson.dumps({"requests": [hello(0), hello(1)], "stream": True})])
    full = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            full.set()
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(of.edge(scope("POST", BATCH), exchange.receive, send))
    await full.wait()
    exchange.leave()
    await task
    assert ended == ["hello 1"]
    await of.settled()


async def test_at_a_stop_the_call_is_told_so_and_its_items_end() -> None:
    async def answer(_call: Call) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    of, exchange = house(answer), Exchange(parts=[orjson.dumps({"requests": [hello()]})])
    task = start(of.edge, exchange, path=BATCH)
    await of.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (exchange.status, exchange.error["code"]) == (503, "stopping")
    await of.settled()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["model", "messages", "stream", "role", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
CALLS = st.fixed_dictionaries({}, optional=dict.fromkeys(("requests", "request", "count", "stream", "more"), ANYTHING))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(CALLS | ANYTHING, st.sampled_from([BATCH, VARIANTS]))
async def test_whatever_is_sent_is_answered_or_refused_with_a_400(body: Any, path: str) -> None:
    answer = await ask(house().edge, path=path, body=orjson.dumps(body) if not _is_large(body) else b"{}")
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert answer.error["message"]


def _is_large(body: Any) -> bool:
    try:
        orjson.dumps(body)
    except TypeError:
        return True
    return False
