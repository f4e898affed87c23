"""Every fault does what its table says, on JSON and on streams, to the requests in its scope and to no other."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import aiohttp
import jsonschema_rs
import pytest

from proxy.simulated import FAULTS
from proxy.simulated.faults import Fault, read_model
from tests.unit.simulated_requests import KEYS, LESSON, Json, Said, array_schema, batch, open_requests, single, talking

LESSON_IS = jsonschema_rs.validator_for(LESSON)
HTTP: dict[str, tuple[int, str | None]] = {
    "429": (429, "rate_limit_exceeded"),
    "429_too_large": (429, "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota"),
    "400": (400, "invalid_function_parameters"),
    "401": (401, "invalid_api_key"),
    "403": (403, "permission_denied"),
    "413": (413, "request_too_large"),
    "context_length": (400, "context_length_exceeded"),
    "500": (500, None),
    "503": (503, "overloaded"),
}
HANGING = ("slow_first", "stall")
OF_BATCHES = {name for name in FAULTS if read_model(f"m+{name}")[1] == Fault(name, "batch")}


def entries_of(text: str) -> list[tuple[str, Any]]:
    """The entries of a batch's JSON with what comes twice kept."""
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    assert [name for name, _ in pairs] == ["lessons"]
    return [(key, _plain(value)) for key, value in pairs[0][1]]


def _plain(value: Any) -> Any:
    return dict(cast("list[tuple[str, Any]]", value)) if isinstance(value, list) else value


async def batch_with(fault: str, **more: Any) -> Said:
    async with talking(seed=5) as client:
        return await client.chat(batch(f"m+{fault}", **more))


def test_a_model_name_tells_its_fault_and_whom_it_hits() -> None:
    assert read_model("gpt-4o") == ("gpt-4o", None)
    assert read_model("simulated/a+b+missing") == ("simulated/a+b", Fault("missing", "batch"))
    assert read_model("m+500") == ("m", Fault("500", "all"))
    assert read_model("m+500@batch") == ("m", Fault("500", "batch"))
    assert read_model("m+missing@all") == ("m", Fault("missing", "all"))
    assert read_model("m+429@first") == ("m", Fault("429", "first"))
    assert Fault("500", "batch").hits(batch=True)
    assert not Fault("500", "batch").hits(batch=False)
    for wrong in ("m+nonsense", "m+500@nobody", "m+"):
        with pytest.raises(KeyError):
            read_model(wrong)


@pytest.mark.parametrize("fault", sorted(OF_BATCHES))
async def test_a_fault_of_batches_leaves_single_requests_honest(fault: str) -> None:
    async with talking() as client:
        said = await client.chat(single(f"m+{fault}"))
        streamed = await client.chat(single(f"m+{fault}", stream=True))
    assert LESSON_IS.is_valid(json.loads(said.arguments))
    assert LESSON_IS.is_valid(json.loads("".join(streamed.pieces)))
    assert said.json["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - OF_BATCHES))
async def test_another_fault_can_be_kept_to_batches(fault: str) -> None:
    async with talking() as client:
        said = await client.chat(single(f"m+{fault}@batch"))
    assert LESSON_IS.is_valid(json.loads(said.arguments))


async def test_missing_leaves_one_entry_out() -> None:
    assert [key for key, _ in entries_of((await batch_with("missing")).arguments)] == ["bj", "qw"]


async def test_doubled_brings_one_entry_twice_with_other_contents() -> None:
    entries = entries_of((await batch_with("doubled")).arguments)
    assert [key for key, _ in entries] == ["bj", "bj", "xk", "qw"]
    assert entries[0][1] != entries[1][1]
    assert all(LESSON_IS.is_valid(lesson) for _, lesson in entries)


async def test_unknown_brings_an_entry_that_nobody_asked_for() -> None:
    assert {key for key, _ in entries_of((await batch_with("unknown")).arguments)} > set(KEYS)


async def test_reordered_brings_entries_in_another_order() -> None:
    assert [key for key, _ in entries_of((await batch_with("reordered")).arguments)] == ["qw", "xk", "bj"]


async def test_invalid_breaks_the_last_entry_alone() -> None:
    entries = entries_of((await batch_with("invalid")).arguments)
    assert [LESSON_IS.is_valid(lesson) for _, lesson in entries] == [True, True, False]


async def test_wrong_types_breaks_every_entry() -> None:
    entries = entries_of((await batch_with("wrong_types")).arguments)
    assert not any(LESSON_IS.is_valid(lesson) for _, lesson in entries)


async def test_short_cuts_every_entry_but_the_first_to_a_few_words() -> None:
    lengths = [len(lesson["content"].split()) for _, lesson in entries_of((await batch_with("short")).arguments)]
    assert lengths[0] > 80
    assert max(lengths[1:]) < 20


async def test_crossed_exchanges_contents_under_right_keys() -> None:
    entries = entries_of((await batch_with("crossed")).arguments)
    assert [key for key, _ in entries] == list(KEYS)
    for (_, lesson), owner in zip(entries, ("xk", "qw", "bj"), strict=True):
        assert f"learner-{owner}" in lesson["content"]


async def test_array_answers_in_the_other_form() -> None:
    listed = json.loads((await batch_with("array")).arguments)["lessons"]
    assert [item.pop("key") for item in listed] == list(KEYS)
    assert all(LESSON_IS.is_valid(item) for item in listed)
    keyed = json.loads((await batch_with("array", schema=array_schema())).arguments)["lessons"]
    assert list(keyed) == list(KEYS)


async def test_unkeyed_answers_with_entries_without_keys() -> None:
    listed = json.loads((await batch_with("unkeyed")).arguments)["lessons"]
    assert len(listed) == 3
    assert all(LESSON_IS.is_valid(item) for item in listed)


async def test_stringified_and_double_encoded_hide_json_in_a_string() -> None:
    inner = json.loads((await batch_with("stringified")).arguments)["lessons"]
    whole = json.loads((await batch_with("double_encoded")).arguments)
    assert list(json.loads(inner)) == list(KEYS)
    assert list(json.loads(whole)["lessons"]) == list(KEYS)


async def test_cut_off_stops_within_the_json() -> None:
    said = await batch_with("cut_off")
    assert said.choice["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(said.arguments)


@pytest.mark.parametrize("fault", ["text", "fenced", "leaked"])
async def test_the_json_comes_as_content_instead_of_the_call(fault: str) -> None:
    said = await batch_with(fault)
    start, end = said.content.index("{"), said.content.rindex("}") + 1
    if fault == "fenced":
        start, end = said.content.index("```json") + 7, said.content.rindex("```")
    assert list(json.loads(said.content[start:end])["lessons"]) == list(KEYS)
    assert "tool_calls" not in said.choice["message"]
    assert (said.content[0] == "{") == (fault == "text")


async def test_prose_holds_no_json() -> None:
    said = await batch_with("prose")
    assert "{" not in said.content
    assert len(said.content.split()) > 80


async def test_parallel_makes_one_call_an_entry_all_with_index_0() -> None:
    said, streamed = await batch_with("parallel"), await batch_with("parallel", stream=True)
    calls = said.choice["message"]["tool_calls"]
    assert [list(json.loads(call["function"]["arguments"])["lessons"]) for call in calls] == [[key] for key in KEYS]
    pieces = [call for event in streamed.events for c in event["choices"] for call in c["delta"].get("tool_calls", [])]
    assert {piece["index"] for piece in pieces} == {0}
    assert len({piece["id"] for piece in pieces if "id" in piece}) == 3


async def test_empty_no_choices_refusal_and_filter_bring_no_content() -> None:
    empty, none, refusal, filtered = [await batch_with(fault) for fault in ("empty", "no_choices", "refusal", "content_filter")]
    assert empty.content == ""
    assert none.json["choices"] == []
    assert refusal.choice["message"]["refusal"]
    assert refusal.content is None
    assert filtered.choice["finish_reason"] == "content_filter"
    assert [(await batch_with(fault, stream=True)).pieces for fault in ("empty", "no_choices", "refusal", "content_filter")] == [[]] * 4


async def test_refusal_is_streamed_as_such() -> None:
    said = await batch_with("refusal", stream=True)
    assert any(event["choices"][0]["delta"].get("refusal") for event in said.events)


async def test_whole_brings_all_arguments_in_one_chunk() -> None:
    said = await batch_with("whole", stream=True)
    assert len(said.pieces) == 1
    assert list(json.loads(said.pieces[0])["lessons"]) == list(KEYS)


async def test_usage_is_left_out_or_zero() -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    none, zero = await batch_with("no_usage", **asked), await batch_with("zero_usage", **asked)
    assert not any("usage" in event for event in none.events)
    assert zero.events[-1]["usage"]["total_tokens"] == 0
    assert (await batch_with("zero_usage")).json["usage"]["prompt_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", sorted(HTTP))
async def test_an_http_fault_is_an_openai_error_on_every_request(fault: str, *, stream: bool) -> None:
    status, code = HTTP[fault]
    async with talking() as client:
        for body in (single(f"m+{fault}", stream=stream), batch(f"m+{fault}", stream=stream)):
            said = await client.chat(body)
            assert (said.status, said.error["code"]) == (status, code)
            assert set(said.error) == {"message", "type", "param", "code"}
            assert said.headers.get("retry-after") == ("1" if fault == "429" else None)
        assert client.provider.stats.refused == 2
        assert client.provider.stats.prompt_tokens == 0


@pytest.mark.parametrize("fault", ["429_once", "500_once"])
async def test_a_fault_that_happens_once_spares_the_same_body_the_next_time(fault: str) -> None:
    async with talking() as client:
        statuses = [(await client.chat(body)).status for body in [single(f"m+{fault}")] * 2 + [batch(f"m+{fault}")] * 3]
    first = int(fault[:3])
    assert statuses == [first, 200, first, 200, 200]


async def test_a_fault_of_the_first_request_spares_every_later_one_of_that_model() -> None:
    async with talking() as client:
        bodies = [single("m+500@first"), single("m+500@first", stream=True), batch("m+500@first"), single("other+500@first")]
        statuses = [(await client.chat(body)).status for body in bodies]
    assert statuses == [500, 200, 200, 500]


async def test_tool_use_failed_hands_the_models_text_along() -> None:
    said = await batch_with("tool_use_failed")
    written = json.loads(said.error["failed_generation"])
    assert (said.status, said.error["code"], written["name"]) == (400, "tool_use_failed", "create_lesson_batch")
    assert [LESSON_IS.is_valid(lesson) for _, lesson in entries_of(written["arguments"])] == [True, True, False]


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_of_something_else_than_a_model(*, stream: bool) -> None:
    async with talking() as client:
        html, moved, nothing, junk = [
            await client.chat(single(f"m+{fault}", stream=stream)) for fault in ("html", "redirect", "empty_200", "garbage")
        ]
        assert client.provider.stats.redirected == 0
        await client.send("POST", moved.headers["location"], {})
        assert client.provider.stats.redirected == 1
    assert (html.status, html.headers["content-type"].split(";")[0]) == (502, "text/html")
    assert (moved.status, nothing.status, nothing.body) == (307, 200, b"")
    assert junk.status == 200
    with pytest.raises(ValueError):  # noqa: PT011 - JSON and UTF-8 errors are both
        _ = junk.json


@pytest.mark.parametrize("fault", ["half", "stream_error", "huge"])
async def test_a_stream_goes_wrong_in_its_middle(fault: str) -> None:
    said = await batch_with(fault, stream=True)
    assert said.status == 200
    assert len(said.pieces) > 3
    with pytest.raises(json.JSONDecodeError):
        json.loads("".join(said.pieces))
    match fault:
        case "half":
            assert (said.finishes, said.done) == ([], False)
        case "stream_error":
            assert (said.finishes, said.done, "error" in said.events[-1]) == ([], False, True)
        case _:
            assert (said.finishes, said.done, len(said.body) > 4_000_000) == (["length"], True, True)


async def test_without_a_stream_the_same_faults_cut_or_fail() -> None:
    half, error, huge = [await batch_with(fault) for fault in ("half", "stream_error", "huge")]
    with pytest.raises(json.JSONDecodeError):
        _ = half.json
    assert error.status == 500
    assert len(huge.arguments) > 4_000_000


@pytest.mark.parametrize("stream", [False, True])
async def test_broken_resets_the_connection_in_the_middle(*, stream: bool) -> None:
    async with talking() as client:
        with pytest.raises(aiohttp.ClientError):
            await client.chat(single("m+broken", stream=stream))
        assert (await client.chat(single())).status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", HANGING)
async def test_a_hanging_answer_ends_when_its_client_leaves(fault: str, *, stream: bool) -> None:
    async with talking() as client:
        call = asyncio.create_task(client.chat(single(f"m+{fault}", stream=stream)))
        await open_requests(client, 1)
        assert client.provider.stats.open_streams == stream
        call.cancel()
        await open_requests(client, 0)
        assert (client.provider.stats.open_streams, client.provider.stats.left) == (0, 1)


async def test_stall_brings_something_before_it_hangs() -> None:
    async with (
        talking() as client,
        client.session.post(f"{client.provider.url}/chat/completions", json=batch("m+stall", stream=True)) as response,
    ):
        assert b"tool_calls" in await response.content.readexactly(1000)
        assert client.provider.stats.open_streams == 1


async def test_faults_of_contents_can_hit_single_requests_too() -> None:
    async with talking() as client:
        said = {fault: await client.chat(single(f"m+{fault}@all")) for fault in sorted(OF_BATCHES - {"no_choices", "tool_use_failed"})}
    assert not LESSON_IS.is_valid(json.loads(said["invalid"].arguments))
    assert not LESSON_IS.is_valid(json.loads(said["wrong_types"].arguments))
    assert len(json.loads(said["short"].arguments)["content"].split()) < 20
    assert said["fenced"].content.count("```") == 2
    assert said["cut_off"].choice["finish_reason"] == "length"
    # what needs several entries to go wrong stays honest
    for fault in ("missing", "doubled", "unknown", "reordered", "crossed", "array", "unkeyed", "stringified", "parallel"):
        assert LESSON_IS.is_valid(json.loads(said[fault].arguments))


async def test_a_batch_of_texts_breaks_as_texts_do() -> None:
    """An entry that is a bare string goes wrong by not being one."""
    schema: Json = {
        "type": "object",
        "properties": {"lessons": {"type": "object", "properties": {key: {"type": "string"} for key in KEYS}, "required": list(KEYS)}},
    }
    entries = entries_of((await batch_with("invalid", schema=schema)).arguments)
    assert [isinstance(text, str) for _, text in entries] == [True, True, False]
    listed = json.loads((await batch_with("array", schema=schema)).arguments)["lessons"]
    assert [sorted(item) for item in listed] == [["key", "value"]] * 3


async def test_a_fault_that_is_not_known_is_a_missing_model() -> None:
    async with talking() as client:
        said = await client.chat(single("m+nonsense"))
    assert (said.status, said.error["code"]) == (404, "model_not_found")
    assert "missing" in said.error["message"]
