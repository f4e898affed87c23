"""A rendered answer is strictly OpenAI's: its SSE joined equals its JSON, and the official client reads both."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import httpx
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.lessons.render import UsageCorrector, correct_usage_json, read_usage_json, render_json, render_sse
from proxy.model import BatchId, CallId, Completed, Json, Lesson, Merged, Shape, ToolForce, Usage
from tests.make import make_lesson, make_text_lesson

CREATED = 1_760_000_000


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(st.integers(0, 9_999)), draw(st.integers(0, 9_999))
    return Usage(prompt, completion, completion // 2, prompt // 3)


@st.composite
def any_lessons(draw: st.DrawFn) -> Lesson:
    usage = draw(st.booleans())
    match draw(st.sampled_from(get_args(Shape))):
        case "tool":
            return make_lesson(force=draw(st.sampled_from(get_args(ToolForce))), include_usage=usage)
        case "text":
            return make_text_lesson(include_usage=usage)
        case shape:
            return make_lesson(shape=shape, force=None, include_usage=usage)


USAGES, LESSONS = usages(), any_lessons()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def completed(content: str = "{}", usage: Usage | None = None) -> Completed:
    return Completed(CallId("call-0"), content, "gpt-oss-120b", usage or Usage(7, 5), False, 100, Merged(BatchId("b"), 2))


def events(stream: bytes) -> list[Json]:
    assert stream.endswith(b"\n\ndata: [DONE]\n\n")
    lines = stream.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[:-1]
    assert all(line.startswith(b"data: {") for line in lines)
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines]


def joined(chunks: list[Json]) -> Json:
    """Put a stream together as clients do."""
    message: Json = {"role": None, "content": None, "refusal": None}
    choice: Json = {"index": 0, "message": message, "logprobs": None, "finish_reason": None}
    for chunk in chunks:
        for piece in chunk["choices"]:
            assert piece["index"] == 0
            assert choice["finish_reason"] is None
            delta: Json = piece["delta"]
            message["role"] = message["role"] or delta.get("role")
            if delta.get("content") is not None:
                message["content"] = (message["content"] or "") + delta["content"]
            for call in delta.get("tool_calls", ()):
                assert call.pop("index") == 0
                first = message.setdefault("tool_calls", [call | {"function": {**call["function"], "arguments": ""}}])[0]
                first["function"]["arguments"] += call["function"]["arguments"]
            choice["finish_reason"] = piece["finish_reason"]
    head = {name: chunks[0][name] for name in ("id", "created", "model")}
    return head | {"object": "chat.completion", "choices": [choice]}


@given(lesson=LESSONS, content=TEXTS, usage=USAGES)
def test_the_stream_joined_is_the_json(lesson: Lesson, content: str, usage: Usage) -> None:
    done = completed(content, usage)
    whole = orjson.loads(render_json(lesson, done, CREATED))
    chunks = events(render_sse(lesson, done, CREATED))
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert joined(chunks) | {"usage": whole["usage"]} == whole
    assert told == ([whole["usage"]] if lesson.include_usage else [])


@given(lesson=LESSONS, content=TEXTS, usage=USAGES)
def test_both_are_what_the_official_client_expects(lesson: Lesson, content: str, usage: Usage) -> None:
    done = completed(content, usage)
    answer = ChatCompletion.model_validate_json(render_json(lesson, done, CREATED), strict=True)
    assert answer.usage
    assert answer.usage.total_tokens == usage.prompt + usage.completion
    for chunk in events(render_sse(lesson, done, CREATED)):
        ChatCompletionChunk.model_validate_json(orjson.dumps(chunk), strict=True)


def client_of(body: bytes, kind: str) -> openai.OpenAI:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": kind}, content=body)

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(base_url="http://upstream.test/v1", api_key="k", http_client=transport, max_retries=0)


def test_the_official_client_reads_a_tool_call() -> None:
    lesson, done = make_lesson(force="required", include_usage=True), completed('{"title":"T"}')
    with client_of(render_json(lesson, done, CREATED), "application/json") as client:
        call = client.chat.completions.create(model="m", messages=[]).choices[0].message.tool_calls
    assert call
    assert call[0].type == "function"
    assert (call[0].function.name, call[0].function.arguments) == ("create_lesson", '{"title":"T"}')
    with (
        client_of(render_sse(lesson, done, CREATED), "text/event-stream") as client,
        client.chat.completions.stream(model="m", messages=[], stream_options={"include_usage": True}) as stream,
    ):
        streamed = stream.get_final_completion()
    assert streamed.choices[0].finish_reason == "tool_calls"
    assert streamed.choices[0].message.tool_calls
    assert streamed.choices[0].message.tool_calls[0].function.arguments == '{"title":"T"}'
    assert streamed.usage
    assert streamed.usage.total_tokens == 12


@pytest.mark.parametrize(
    ("lesson", "ended"),
    [
        (make_lesson(force="name"), "stop"),
        (make_lesson(force="required"), "tool_calls"),
        (make_lesson(force="auto"), "tool_calls"),
        (make_lesson(shape="json_schema", force=None), "stop"),
        (make_text_lesson(), "stop"),
    ],
)
def test_why_it_ended_is_what_the_caller_would_have_had(lesson: Lesson, ended: str) -> None:
    assert orjson.loads(render_json(lesson, completed(), CREATED))["choices"][0]["finish_reason"] == ended
    assert events(render_sse(lesson, completed(), CREATED))[-1]["choices"][0]["finish_reason"] == ended


def test_ids_are_the_calls_own() -> None:
    first = orjson.loads(render_json(make_lesson(), completed(), CREATED))
    call = first["choices"][0]["message"]["tool_calls"][0]
    assert first["id"].startswith("chatcmpl-")
    assert call["id"].startswith("call_")
    assert len(call["id"]) <= 40
    assert "call-0" not in first["id"]
    assert orjson.loads(render_json(make_lesson(), completed(), CREATED))["id"] == first["id"]
    assert events(render_sse(make_lesson(), completed(), CREATED))[0]["choices"][0]["delta"]["tool_calls"][0]["id"] == call["id"]


def test_details_of_usage_stand_only_where_there_are_such_tokens() -> None:
    usage = orjson.loads(render_json(make_lesson(), completed(usage=Usage(9, 8, 3, 2)), CREATED))["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    plain = orjson.loads(render_json(make_lesson(), completed(), CREATED))["usage"]
    assert plain == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_without_include_usage_no_chunk_speaks_of_it() -> None:
    assert all("usage" not in chunk and chunk["choices"] for chunk in events(render_sse(make_lesson(), completed(), CREATED)))
    asked = events(render_sse(make_lesson(include_usage=True), completed(), CREATED))
    assert [bool(chunk["usage"]) for chunk in asked] == [False] * (len(asked) - 1) + [True]
    assert asked[-1]["choices"] == []


# What a resent caller is told

SPENT = Usage(100, 40, 10, 30)


@given(lesson=LESSONS, content=TEXTS, usage=USAGES)
def test_spent_tokens_are_added_and_nothing_else_changes(lesson: Lesson, content: str, usage: Usage) -> None:
    body = render_json(lesson, completed(content, usage), CREATED)
    corrected = correct_usage_json(body, SPENT)
    assert read_usage_json(body) == usage
    assert read_usage_json(corrected) == usage + SPENT
    assert orjson.loads(corrected) | {"usage": None} == orjson.loads(body) | {"usage": None}
    assert orjson.loads(corrected)["usage"]["total_tokens"] == sum((usage.prompt, usage.completion, SPENT.prompt, SPENT.completion))


def test_bytes_around_the_usage_stay() -> None:
    """Only the first top-level `usage` is written anew; spaces, numbers and look-alikes stay."""
    before = b'\n{ "a" : "usage\\": {", "b":[{"usage":{"prompt_tokens":1}}], "usage" : '
    after = b' , "z":1.50}'
    corrected = correct_usage_json(before + b'{"prompt_tokens":1,"completion_tokens":2,"x":[]}' + after, Usage(5, 6))
    assert corrected == before + b'{"prompt_tokens":6,"completion_tokens":8,"x":[]}' + after


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"not json {",
        b'{"usage":null}',
        b'{"usage":{}}',
        b'{"usage":{"prompt_tokens":"1","completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":true,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":1.5,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":-1,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":2}}',
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2',
        b'{"usage":{prompt_tokens:1}}',
        b'{"error":{"usage":{"prompt_tokens":1,"completion_tokens":2}}}',
        b'["usage",{"usage":{"prompt_tokens":1,"completion_tokens":2}}]x',
        b'\xff\xfe"',
    ],
)
def test_odd_bodies_go_through_unchanged(body: bytes) -> None:
    assert correct_usage_json(body, SPENT) == body
    assert read_usage_json(body) is None


def test_details_deeper_than_can_be_written_go_through_unchanged() -> None:
    body = b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"deep":' + b'{"a":' * 300 + b"1" + b"}" * 302
    assert correct_usage_json(body, SPENT) == body


def test_odd_details_are_left_alone() -> None:
    def with_details(details: Any) -> bytes:
        return orjson.dumps({"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": details}})

    for details in ("x", [1], {"cached_tokens": "many"}):
        assert orjson.loads(correct_usage_json(with_details(details), SPENT))["usage"]["prompt_tokens_details"] == details
        assert read_usage_json(with_details(details)) == Usage(5, 2)
    told = orjson.loads(correct_usage_json(with_details({"cached_tokens": None, "audio_tokens": 1}), SPENT))["usage"]
    assert told["prompt_tokens_details"] == {"cached_tokens": 30, "audio_tokens": 1}
    assert read_usage_json(with_details({"cached_tokens": 99})) == Usage(5, 2, cached=5)


@given(lesson=LESSONS, content=TEXTS, cuts=st.lists(st.integers(0, 3_000)), end=st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_is_corrected_however_it_is_cut(lesson: Lesson, content: str, cuts: list[int], end: bytes) -> None:
    stream = b": hello" + end + render_sse(lesson, completed(content), CREATED).replace(b"\n", end)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    corrector = UsageCorrector(SPENT)
    out = b"".join(corrector.feed(stream[a:b]) for a, b in itertools.pairwise(places)) + corrector.finish()
    if lesson.include_usage:
        told = orjson.loads(out.split(end + end)[-3].removeprefix(b"data: "))["usage"]
        assert told["prompt_tokens"] == 107
        assert told["total_tokens"] == 152
    assert len(out.split(end)) == len(stream.split(end))
    assert [line for line in out.split(end) if b'"total_tokens"' not in line] == [
        line for line in stream.split(end) if b'"total_tokens"' not in line
    ]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_any_other_stream_goes_through_unchanged(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    corrector = UsageCorrector(SPENT)
    assert b"".join(corrector.feed(stream[a:b]) for a, b in itertools.pairwise(places)) + corrector.finish() == stream


def test_lines_are_passed_on_at_once_and_long_ones_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended isn't held; a line over the bound goes through as it is, the next is read again."""
    monkeypatch.setattr("proxy.lessons.spent.MAX_LINE", 50)
    usage = b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    corrector = UsageCorrector(Usage(1, 1))
    assert corrector.feed(b"data: {}\n\ndata: ") == b"data: {}\n\n"
    assert corrector.feed(b"x" * 60) == b"data: " + b"x" * 60
    assert corrector.feed(b"more") == b"more"
    changed = usage.replace(b":1", b":2").replace(b's":2}', b's":3}')
    assert corrector.feed(b' {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n' + usage + b"\n") == (
        b' {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n' + changed + b"\n"
    )
    assert corrector.finish() == b""
