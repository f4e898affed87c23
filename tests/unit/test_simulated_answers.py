"""The honest provider over a real socket: every form of answer, JSON and streamed, counted, cut, seeded."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from proxy.simulated.tokens import Estimate, Tokenizer, Vocabulary, tokenizer
from tests.unit.simulated_requests import BATCH_TEXT, KEYS, LESSON, LEVELS, SINGLE_TEXT, array_schema, batch, batch_schema, single, talking

Json = dict[str, Any]


def lesson_is_valid(value: Any) -> bool:
    return jsonschema_rs.validator_for(LESSON).is_valid(value)


async def test_a_forced_tool_is_called_with_valid_arguments_about_the_request() -> None:
    async with talking() as client:
        said = await client.chat(single())
    lesson = json.loads(said.arguments)
    assert lesson_is_valid(lesson)
    assert lesson["difficulty"] == "easy"
    assert "learner-7" in lesson["content"]
    assert 80 < len(lesson["content"].split()) < 130
    assert said.choice["finish_reason"] == "stop"
    assert said.choice["message"]["content"] is None
    assert said.choice["message"]["tool_calls"][0]["function"]["name"] == "create_lesson"


@pytest.mark.parametrize(("choice", "finish"), [("required", "tool_calls"), ("auto", "tool_calls"), (None, "tool_calls"), ("none", "stop")])
async def test_a_tool_is_called_unless_it_may_not_be(choice: str | None, finish: str) -> None:
    async with talking() as client:
        said = await client.chat(single(tool_choice=choice))
    assert said.choice["finish_reason"] == finish
    assert ("tool_calls" in said.choice["message"]) == (choice != "none")


async def test_a_tools_result_is_answered_with_words() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "done", "tool_call_id": "x"},
    ]
    async with talking() as client:
        said = await client.chat(single(messages=messages, tool_choice="auto"))
    assert "tool_calls" not in said.choice["message"]


@pytest.mark.parametrize("schema", [batch_schema(), array_schema()], ids=["object", "array"])
async def test_every_entry_of_a_batch_is_valid_about_its_own_section_and_unlike_the_others(schema: Json) -> None:
    async with talking() as client:
        said = await client.chat(batch(schema=schema))
    answer = json.loads(said.arguments)
    assert jsonschema_rs.validator_for(schema).is_valid(answer)
    entries = answer["lessons"]
    lessons: Json = {item["key"]: item["lesson"] for item in entries} if schema == array_schema() else entries
    assert list(lessons) == list(KEYS)
    for key, lesson in lessons.items():
        assert lesson["difficulty"] == LEVELS[key]
        assert f"learner-{key}" in lesson["content"]
        assert not any(f"learner-{other}" in lesson["content"] for other in KEYS if other != key)


@pytest.mark.parametrize("wanted", ["json_schema", "tool"])
@pytest.mark.parametrize("entry", [{"type": "string"}, {"type": "object"}], ids=["text", "open object"])
async def test_a_batch_of_texts_or_of_open_objects_is_written_too(entry: Json, wanted: str) -> None:
    """A text is as long as alone; an open object has the shape that the prompt shows."""
    schema = {
        "type": "object",
        "properties": {"lessons": {"type": "object", "properties": dict.fromkeys(KEYS, entry), "required": list(KEYS)}},
    }
    body = batch(schema=schema)
    body["messages"].insert(0, {"role": "system", "content": 'Reply in this shape: {"heading": "", "body": ""}'})
    if wanted == "json_schema":
        del body["tools"], body["tool_choice"]
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "batch", "schema": schema}}
    async with talking() as client:
        said = await client.chat(body)
    lessons = json.loads(said.content if wanted == "json_schema" else said.arguments)["lessons"]
    assert list(lessons) == list(KEYS)
    for key, lesson in lessons.items():
        text = lesson if isinstance(lesson, str) else lesson["body"]
        assert f"learner-{key}" in text
        assert len(text.split()) > 80
        assert isinstance(lesson, str) or list(lesson) == ["heading", "body"]


@pytest.mark.parametrize(
    ("prompt", "members"),
    [
        ('Reply with JSON like {"meta": {"grade": 9}, "slides": [{"bullets": ["", ""]}]}', ["meta", "slides"]),
        ('Shape: {"name": string, "tips": [string]}', ["name", "tips"]),
        ('Schema: {"type": "object", "properties": {"only": {"type": "integer"}}, "required": ["only"]}', ["only"]),
        ("Reply with JSON.", ["title", "content", "key_points"]),
    ],
)
async def test_a_json_object_has_the_shape_that_the_prompt_shows(prompt: str, members: list[str]) -> None:
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": SINGLE_TEXT}]
    async with talking() as client:
        said = await client.chat({"model": "m", "messages": messages, "response_format": {"type": "json_object"}})
    assert list(json.loads(said.content)) == members


async def test_a_json_object_of_several_named_things_is_a_batch_too() -> None:
    shape = '{"lessons": {' + ", ".join(f'"{key}": {{...}}' for key in KEYS) + "}}"
    messages = [
        {"role": "system", "content": 'Each lesson in this shape: {"title": "", "content": ""}'},
        {"role": "user", "content": f"{BATCH_TEXT}\n\nReply with one JSON object: {shape}"},
    ]
    async with talking() as client:
        said = await client.chat({"model": "m", "messages": messages, "response_format": {"type": "json_object"}})
        assert client.provider.stats.entries == 3
    lessons = json.loads(said.content)["lessons"]
    assert {key: list(lesson) for key, lesson in lessons.items()} == {key: ["title", "content"] for key in KEYS}
    assert all(f"learner-{key}" in lesson["content"] for key, lesson in lessons.items())


async def test_without_a_form_the_answer_is_paragraphs() -> None:
    async with talking(content_words=200) as client:
        said = await client.chat({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": SINGLE_TEXT}]}]})
    assert said.content.count("\n\n") >= 2
    assert len(said.content.split()) >= 200
    assert "learner-7" in said.content


async def test_the_same_seed_and_requests_give_the_same_answers_and_a_repeated_body_another() -> None:
    answers: list[list[str]] = []
    for seed in (1, 1, 2):
        async with talking(seed=seed) as client:
            answers.append([(await client.chat(single())).arguments for _ in range(2)])
    assert answers[0] == answers[1]
    assert len({answers[0][0], answers[0][1], answers[2][0]}) == 3


async def test_identical_callers_of_a_batch_get_distinct_lessons() -> None:
    body = batch(messages=[{"role": "user", "content": f"{SINGLE_TEXT}\nThree different lessons, under bj, xk and qw"}])
    async with talking() as client:
        lessons = json.loads((await client.chat(body)).arguments)["lessons"]
    assert len({lesson["content"] for lesson in lessons.values()}) == 3


async def test_several_choices_differ_and_the_prompt_is_billed_once() -> None:
    async with talking() as client:
        one, three = (await client.chat(single())).json, (await client.chat(single(n=3))).json
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert len({choice["message"]["tool_calls"][0]["function"]["arguments"] for choice in three["choices"]}) == 3
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert three["usage"]["completion_tokens"] > 2 * one["usage"]["completion_tokens"]


@pytest.mark.parametrize("limit", [{"max_tokens": 20}, {"max_completion_tokens": 20}])
async def test_an_answer_is_cut_at_the_token_limit(limit: Json) -> None:
    async with talking() as client:
        said = await client.chat(single() | limit)
        streamed = await client.chat(single(stream=True) | limit)
    assert said.choice["finish_reason"] == "length"
    assert streamed.finishes == ["length"]
    assert said.json["usage"]["completion_tokens"] == 20
    with pytest.raises(json.JSONDecodeError):
        json.loads(said.arguments)


async def test_usage_counts_the_texts_and_the_compact_json_of_tools_and_schemas() -> None:
    tokens = tokenizer()
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": LESSON}}
    async with talking() as client:
        tool = (await client.chat(single())).json["usage"]
        schema = (await client.chat({"model": "m", "messages": single()["messages"], "response_format": form})).json["usage"]
    compact = json.dumps({"name": "create_lesson", "parameters": LESSON}, separators=(",", ":"))
    assert tool["prompt_tokens"] == tokens.count(SINGLE_TEXT) + tokens.count(compact)
    assert schema["prompt_tokens"] == tokens.count(SINGLE_TEXT) + tokens.count(json.dumps(form["json_schema"], separators=(",", ":")))
    assert tool["total_tokens"] == tool["prompt_tokens"] + tool["completion_tokens"]


@pytest.mark.parametrize("body", [single(), batch(), {"model": "m", "messages": [{"role": "user", "content": SINGLE_TEXT}]}])
@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_says_in_pieces_what_its_json_would_say(body: Json, *, include_usage: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": include_usage}}
    async with talking(seed=3, delta_chars=7) as client:
        said = await client.chat(body | options)
    first, *_, last = said.events
    assert said.done
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert max(map(len, said.pieces)) == 7
    assert said.finishes == ["stop"]
    assert ("usage" in first) == include_usage
    assert (last["choices"] == [] and last["usage"]["completion_tokens"] > 50) == include_usage
    text = "".join(said.pieces)
    assert text if "tools" not in body else json.loads(text)


async def test_a_tool_streams_its_name_first_then_its_arguments() -> None:
    async with talking() as client:
        said = await client.chat(single(stream=True))
    opened, piece = (event["choices"][0]["delta"]["tool_calls"][0] for event in said.events[1:3])
    assert (opened["index"], opened["type"], opened["function"]) == (0, "function", {"name": "create_lesson", "arguments": ""})
    assert opened["id"].startswith("call_")
    assert set(piece) == {"index", "function"}


async def test_instant_repeats_its_first_answer_to_the_same_bytes() -> None:
    """And it takes no time, whatever the speed is."""
    async with talking(tokens_per_second=0.001, first_token_s=1000) as client:
        first, again = [await client.chat(single("instant")) for _ in range(2)]
        streams = [await client.chat(single("instant", stream=True)) for _ in range(2)]
        assert client.provider.stats.requests == 4
        assert client.provider.stats.completion_tokens == 2 * (first.json["usage"]["completion_tokens"] + _written(streams[0].pieces))
    assert first.body == again.body
    assert streams[0].body == streams[1].body
    assert lesson_is_valid(json.loads(first.arguments))


def _written(pieces: list[str]) -> int:
    return tokenizer().count("".join(pieces))


async def test_completions_answer_prompts_with_text() -> None:
    async with talking(delta_chars=10) as client:
        one = await client.send("POST", "/v1/completions", {"model": "m", "prompt": SINGLE_TEXT, "max_tokens": 30})
        two = await client.send("POST", "/v1/completions", {"model": "m", "prompt": ["a", "b"], "n": 2})
        streamed = await client.send(
            "POST", "/completions", {"model": "m", "prompt": SINGLE_TEXT, "stream": True, "stream_options": {"include_usage": True}}
        )
    assert (one.json["object"], one.choice["finish_reason"]) == ("text_completion", "length")
    assert "learner-7" in one.choice["text"]
    assert [choice["index"] for choice in two.json["choices"]] == [0, 1, 2, 3]
    assert "learner-7" in "".join(event["choices"][0]["text"] for event in streamed.events[:-1])
    assert streamed.events[-1]["usage"]["completion_tokens"] > 50
    assert streamed.done


@pytest.mark.parametrize("counter", [Estimate(), tokenizer()], ids=["estimate", "vocabulary"])
def test_what_is_cut_has_no_more_tokens_than_allowed(counter: Tokenizer) -> None:
    text = "Linear equations 🧮 and lines. " * 30
    for limit in (1, 7, 50, 10_000):
        cut = counter.cut(text, limit)
        assert text.startswith(cut)
        assert counter.count(cut) <= limit or cut == text


def test_the_vocabulary_of_this_machine_is_a_real_one() -> None:
    assert isinstance(tokenizer(), Vocabulary)
    assert tokenizer().count("The quick brown fox jumps over the lazy dog.") == 10
    assert tokenizer().count("word " * 20_000) == 20_001
