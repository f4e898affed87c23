"""The provider's Responses API: the answers of chat in other words, what goes on from an answer, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.unit.simulated_requests import LESSON, SINGLE_TEXT, Json, Said, talking

EVENT = TypeAdapter[Any](ResponseStreamEvent)
FUNCTION: Json = {"type": "function", "name": "create_lesson", "parameters": LESSON}


def asked(model: str = "lesson-model", **more: Any) -> Json:
    return {"model": model, "input": SINGLE_TEXT, **more}


async def said(body: Json) -> Said:
    async with talking() as client:
        return await client.send("POST", "/v1/responses", body)


def events(answer: Said) -> list[Any]:
    lines = [block.partition("\ndata: ") for block in answer.body.decode().split("\n\n") if block]
    told = [EVENT.validate_json(data) for _, _, data in lines]
    assert [name.removeprefix("event: ") for name, _, _ in lines] == [event.type for event in told]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    return told


@pytest.mark.parametrize("form", [{}, {"tools": [FUNCTION], "tool_choice": "required"}, {"text": {"format": {"type": "json_object"}}}])
async def test_the_stream_brings_what_the_whole_answer_says(form: Json) -> None:
    whole = Response.model_validate((await said(asked(**form))).json)
    last = events(await said(asked(stream=True, **form)))[-1].response
    assert (whole.status, last.status) == ("completed", "completed")
    assert [item.type for item in whole.output] == [item.type for item in last.output]
    assert whole.usage
    assert last.usage.input_tokens == whole.usage.input_tokens > 0


async def test_it_is_the_chat_answer_of_the_same_prompt() -> None:
    """Instructions and messages cost what they cost in chat."""
    messages = [{"role": "system", "content": "You teach."}, {"role": "user", "content": SINGLE_TEXT}]
    async with talking() as client:
        chat = (await client.chat({"model": "m", "messages": messages})).json["usage"]
        other = (await client.send("POST", "/responses", {"model": "m", "input": SINGLE_TEXT, "instructions": "You teach."})).json["usage"]
    assert other["input_tokens"] == chat["prompt_tokens"]


@pytest.mark.parametrize(
    ("fault", "status", "reason"), [("cut_off", "incomplete", "max_output_tokens"), ("content_filter", "incomplete", "content_filter")]
)
async def test_what_ends_too_early_is_incomplete(fault: str, status: str, reason: str) -> None:
    body = asked(f"m+{fault}@all", text={"format": {"type": "json_object"}})
    whole = (await said(body)).json
    streamed = events(await said(body | {"stream": True}))[-1]
    assert (whole["status"], whole["incomplete_details"]["reason"]) == (status, reason)
    assert (streamed.type, streamed.response.incomplete_details.reason) == ("response.incomplete", reason)


async def test_a_refusal_is_a_part_of_its_own() -> None:
    body = asked("m+refusal@all", text={"format": {"type": "json_object"}})
    assert (await said(body)).json["output"][0]["content"][0]["type"] == "refusal"
    names = [event.type for event in events(await said(body | {"stream": True}))]
    assert "response.refusal.done" in names


async def test_usage_can_be_missing() -> None:
    assert events(await said(asked("m+no_usage", stream=True)))[-1].response.usage is None


async def test_what_goes_on_from_an_answer_costs_the_whole_conversation() -> None:
    """Known by its id unless it was not to be stored; the instructions of before are not those of now."""
    async with talking() as client:
        first = (await client.send("POST", "/v1/responses", asked(instructions="Long. " * 50))).json
        lone = (await client.send("POST", "/v1/responses", asked())).json
        again = (await client.send("POST", "/v1/responses", asked(previous_response_id=first["id"], stream=True))).body
        kept = (await client.send("POST", "/v1/responses", asked(store=False))).json
        unknown = [await client.send("POST", "/v1/responses", asked(previous_response_id=name)) for name in (kept["id"], "resp_0", 5)]
    told = events(Said(200, {}, again))[-1].response.usage.input_tokens
    assert told > 2 * lone["usage"]["input_tokens"]
    assert told == 2 * lone["usage"]["input_tokens"] + first["usage"]["output_tokens"]
    assert {(answer.status, answer.error["code"]) for answer in unknown} == {(400, "previous_response_not_found")}


async def test_the_oldest_conversations_go() -> None:
    async with talking() as client:
        ids = [(await client.send("POST", "/v1/responses", asked(input=f"Hi {i}"))).json["id"] for i in range(258)]
        first, last = [(await client.send("POST", "/v1/responses", asked(previous_response_id=name))).status for name in (ids[0], ids[-1])]
    assert (first, last) == (400, 200)


async def test_a_tools_result_is_answered_with_words() -> None:
    items: list[Json] = [
        {"role": "user", "content": [{"type": "input_text", "text": SINGLE_TEXT}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "create_lesson", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]
    assert (await said(asked(input=items, tools=[FUNCTION]))).json["output"][0]["type"] == "message"
    schema: Json = {"type": "json_schema", "name": "lesson", "schema": LESSON}
    text = (await said(asked(text={"format": schema}))).json["output"][0]["content"][0]["text"]
    assert '"title"' in text


REFUSED: list[tuple[Json, int, str]] = [
    ({"input": None}, 400, "input"),
    ({"input": ["x"]}, 400, "input[0]"),
    ({"input": [{"type": "strange"}]}, 400, "input[0].type"),
    ({"input": [{"type": {}}]}, 400, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input"),
    ({"tools": {"a": 1}}, 400, "tools"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools"),
    ({"text": {"format": {"type": "json_schema"}}}, 400, "text.format.schema"),
]


@pytest.mark.parametrize(("more", "status", "param"), REFUSED)
async def test_what_cannot_be_understood_is_refused(more: Json, status: int, param: str) -> None:
    answer = await said(asked(**more))
    assert (answer.status, answer.error["param"]) == (status, param)
