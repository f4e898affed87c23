"""A lesson answered in the Responses API: its events tell what its JSON says, and the official client reads both."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import httpx
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from proxy.lessons.forms.responses_answer import render_json, render_sse, was_cut_off
from proxy.lessons.spent import UsageCorrector, correct_usage_json, read_usage_json
from proxy.model import BatchId, CallId, Completed, Json, Lesson, Merged, Shape, Usage
from tests.make import make_lesson, make_responses_body, make_text_lesson

CREATED = 1_760_000_000
SITE = "0123456789abcdef" * 2
EVENT = TypeAdapter[Any](ResponseStreamEvent)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SHAPES = st.sampled_from(get_args(Shape))
COUNTS = st.integers(0, 9_999)


def lesson_of(shape: Shape) -> Lesson:
    if shape == "tool":
        return make_lesson(site=SITE)
    return make_text_lesson(site=SITE) if shape == "text" else make_lesson(shape=shape, force=None, site=SITE)


def completed(content: str = "{}", usage: Usage | None = None) -> Completed:
    return Completed(CallId("call-0"), content, "gpt-oss-120b", usage or Usage(7, 5), False, 100, Merged(BatchId("b"), 2))


def events(stream: bytes) -> list[Json]:
    """Read the events, each with its own name beside its data."""
    blocks = stream.removesuffix(b"\n\n").split(b"\n\n")
    pairs = [block.split(b"\n") for block in blocks]
    read = [(name.removeprefix(b"event: "), orjson.loads(data.removeprefix(b"data: "))) for name, data in pairs]
    assert all(name.decode() == event["type"] for name, event in read)
    return [event for _, event in read]


@given(shape=SHAPES, content=TEXTS)
def test_the_events_tell_what_the_json_says(shape: Shape, content: str) -> None:
    """Piece by piece: numbered without a gap, each about the one item, which ends as it stands in the whole answer."""
    lesson, done, body = lesson_of(shape), completed(content), make_responses_body()
    whole = orjson.loads(render_json(body, lesson, done, CREATED))
    told = events(render_sse(body, lesson, done, CREATED))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["response"] == whole
    (item,) = whole["output"]
    begun: Json = {"status": "in_progress", "output": [], "usage": None, "completed_at": None}
    assert told[0]["response"] == told[1]["response"] == whole | begun
    assert (whole["status"], whole["created_at"], whole["completed_at"]) == ("completed", CREATED, CREATED)
    inner = told[2:-1]
    assert {event["output_index"] for event in inner} == {0}
    assert {event.get("item_id", item["id"]) for event in inner} == {item["id"]}
    assert inner[-1]["item"] == item
    assert "".join(event["delta"] for event in inner if event["type"].endswith(".delta")) == content
    written = item["arguments"] if shape == "tool" else item["content"][0]["text"]
    assert written == content


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ("tool", ["function_call_arguments.delta", "function_call_arguments.done"]),
        ("text", ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]),
    ],
)
def test_the_sequence_is_openais(shape: Shape, names: list[str]) -> None:
    told = [event["type"] for event in events(render_sse({}, lesson_of(shape), completed(), CREATED))]
    around = ["created", "in_progress", "output_item.added", *names, "output_item.done", "completed"]
    assert told == [f"response.{name}" for name in around]


@given(shape=SHAPES, content=TEXTS, prompt=COUNTS, completion=COUNTS)
def test_both_are_what_the_official_client_expects(shape: Shape, content: str, prompt: int, completion: int) -> None:
    lesson, done = lesson_of(shape), completed(content, Usage(prompt, completion, completion // 2, prompt // 3))
    answer = Response.model_validate_json(render_json(make_responses_body(), lesson, done, CREATED))
    assert answer.usage
    assert answer.usage.total_tokens == prompt + completion
    assert answer.usage.input_tokens_details.cached_tokens == prompt // 3
    assert answer.usage.output_tokens_details.reasoning_tokens == completion // 2
    for event in events(render_sse(make_responses_body(), lesson, done, CREATED)):
        EVENT.validate_python(event)


class Told(BaseModel):
    title: str


def client_of(body: bytes, kind: str) -> openai.OpenAI:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": kind}, content=body)

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(base_url="http://upstream.test/v1", api_key="k", http_client=transport, max_retries=0)


def test_the_official_client_reads_text_and_parses_it() -> None:
    lesson, done = lesson_of("json_schema"), completed('{"title":"T"}')
    with client_of(render_json({}, lesson, done, CREATED), "application/json") as client:
        assert client.responses.create(model="m", input="x").output_text == '{"title":"T"}'
        parsed = client.responses.parse(model="m", input="x", text_format=Told).output_parsed
    assert parsed == Told(title="T")
    with client_of(render_sse({}, lesson, done, CREATED), "text/event-stream") as client:
        with client.responses.stream(model="m", input="x", text_format=Told) as stream:
            final = stream.get_final_response()
        assert final.output_parsed == Told(title="T")
        pieces = list(client.responses.create(model="m", input="x", stream=True))
    assert pieces[-1].type == "response.completed"


def test_the_official_client_reads_a_function_call() -> None:
    lesson, done = lesson_of("tool"), completed('{"title":"T"}')
    with client_of(render_json({}, lesson, done, CREATED), "application/json") as client:
        (call,) = client.responses.create(model="m", input="x").output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.status) == ("create_lesson", '{"title":"T"}', "completed")
    assert call.call_id.startswith("call_")
    with (
        client_of(render_sse({}, lesson, done, CREATED), "text/event-stream") as client,
        client.responses.stream(model="m", input="x") as stream,
    ):
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert streamed.arguments == '{"title":"T"}'


def test_what_the_caller_asked_for_is_said_back_and_nothing_is_stored() -> None:
    body = make_responses_body(
        store=True, temperature=0.3, text={"verbosity": "low"}, reasoning={"effort": "low"}, metadata={"a": "b"}, user="ann", top_p=None
    )
    told = orjson.loads(render_json(body, lesson_of("tool"), completed(), CREATED))
    assert told["store"] is False
    for name in ("instructions", "tools", "tool_choice", "temperature", "metadata", "user"):
        assert told[name] == body[name]
    assert told["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert told["reasoning"] == {"effort": "low", "summary": None}
    assert (told["top_p"], told["parallel_tool_calls"], told["truncation"], told["previous_response_id"]) == (1.0, True, "disabled", None)
    assert "input" not in told


def test_ids_are_the_calls_own_and_tell_the_site() -> None:
    told = orjson.loads(render_json({}, lesson_of("tool"), completed(), CREATED))
    (item,) = told["output"]
    assert told["id"].startswith(f"resp_lesson{SITE}")
    assert item["id"].startswith(f"fc_lesson{SITE}")
    assert "call-0" not in str(told)
    assert orjson.loads(render_json({}, lesson_of("text"), completed(), CREATED))["output"][0]["id"].startswith("msg_lesson")


def test_an_answer_that_was_cut_off_is_known_by_its_status() -> None:
    whole = render_json({}, lesson_of("text"), completed('he said "status": "incomplete"'), CREATED)
    assert not was_cut_off(whole)
    assert was_cut_off(whole.replace(b'"status":"completed"', b'"status": "incomplete"', 1))


# What a resent caller is told

SPENT = Usage(100, 40, 10, 30)


@given(shape=SHAPES, content=TEXTS, prompt=COUNTS, completion=COUNTS)
def test_spent_tokens_are_added_and_nothing_else_changes(shape: Shape, content: str, prompt: int, completion: int) -> None:
    usage = Usage(prompt, completion)
    body = render_json(make_responses_body(), lesson_of(shape), completed(content, usage), CREATED)
    corrected = correct_usage_json(body, SPENT)
    assert read_usage_json(body) == usage
    assert read_usage_json(corrected) == usage + SPENT
    assert orjson.loads(corrected) | {"usage": None} == orjson.loads(body) | {"usage": None}


@given(shape=SHAPES, content=TEXTS, cuts=st.lists(st.integers(0, 5_000)))
def test_a_stream_is_corrected_however_it_is_cut(shape: Shape, content: str, cuts: list[int]) -> None:
    """Only the last event tells the usage, within the response that it holds."""
    stream = render_sse(make_responses_body(), lesson_of(shape), completed(content), CREATED)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    corrector = UsageCorrector(SPENT)
    out = b"".join(corrector.feed(stream[a:b]) for a, b in itertools.pairwise(places)) + corrector.finish()
    before, after = events(stream), events(out)
    assert after[:-1] == before[:-1]
    assert after[-1]["response"]["usage"] == {
        "input_tokens": 107,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 0},
        "output_tokens": 45,
        "output_tokens_details": {"reasoning_tokens": 10},
        "total_tokens": 152,
    }
    assert after[-1]["response"] | {"usage": 0} == before[-1]["response"] | {"usage": 0}
