"""Every dialect refuses what its provider's documents say, in its own form, and writes its answers as that provider does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from proxy.simulated.dialects import DIALECTS, read_dialect
from proxy.simulated.faults import Fault, read_model
from proxy.simulated.schema_limits import output_fault, strict_fault, subset_fault, unbounded
from tests.unit.simulated_requests import KEYS, LESSON, SINGLE_TEXT, Json, Said, batch, batch_schema, named_tool, single, talking

SCHEMA_FORMAT: Json = {"type": "json_schema", "json_schema": {"name": "lesson", "schema": LESSON}}
CLOSED: Json = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def untooled(**more: Any) -> Json:
    return {name: value for name, value in single().items() if not name.startswith("tool")} | more


OPEN_FORMAT: Json = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
BOUNDED: Json = single(**named_tool("f", CLOSED | {"properties": {"a": {"type": "string", "maxLength": 9}}})) | {"tool_choice": "required"}


def strictly(parameters: Json) -> Json:
    body = single(**named_tool("f", parameters))
    body["tools"][0]["function"]["strict"] = True
    return body


async def said(dialect: str, body: Json) -> Said:
    async with talking(dialect=dialect, seed=3) as client:
        return await client.chat(body)


def test_a_model_name_tells_its_dialect_and_its_fault() -> None:
    assert read_dialect("groq+llama", "plain") == ("llama", DIALECTS["groq"])
    rest, dialect = read_dialect("mistral+m+missing", "plain")
    assert (read_model(rest), dialect) == (("m", Fault("missing", "batch")), DIALECTS["mistral"])
    assert read_dialect("m+missing", "vllm") == ("m+missing", DIALECTS["vllm"])
    assert read_dialect("groq", "plain") == ("groq", DIALECTS["plain"])


@pytest.mark.parametrize(
    ("dialect", "body", "status", "param"),
    [
        ("groq", single(n=2), 400, "n"),
        ("groq", single(response_format={"type": "json_object"}), 400, "response_format"),
        ("groq", untooled(response_format={"type": "json_object"}, stream=True), 400, "response_format"),
        ("groq", untooled(response_format=SCHEMA_FORMAT), 400, "response_format"),
        ("cerebras", single(parallel_tool_calls=False), 400, "parallel_tool_calls"),
        ("cerebras", single(response_format=SCHEMA_FORMAT), 400, "response_format"),
        ("openai", single("gpt-5-mini", max_tokens=5), 400, "max_tokens"),
        ("openai", strictly(LESSON | {"required": ["title"]}), 400, "tools[0].function.parameters"),
        ("openai", strictly(CLOSED | {"properties": {"a": {"type": "string", "minLength": 1}}}), 400, "tools[0].function.parameters"),
        ("openai", untooled(response_format=OPEN_FORMAT), 400, "response_format"),
        ("llama.cpp", single(), 500, "tool_choice"),
    ],
)  # fmt: skip
async def test_what_a_provider_refuses(dialect: str, body: Json, status: int, param: str) -> None:
    answer = await said(dialect, body)
    error = answer.json.get("error", answer.json)
    assert (answer.status, error["param"]) == (status, param)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("groq", untooled(model="openai/gpt-oss-120b", response_format=SCHEMA_FORMAT)),
        ("groq", single(parallel_tool_calls=False)),
        ("cerebras", single(tool_choice="required")),
        ("deepinfra", single(tool_choice="auto")),
        ("mistral", single(tool_choice="any", parallel_tool_calls=False)),
        ("openai", single("gpt-5-mini", max_completion_tokens=900)),
        ("openai", strictly(CLOSED)),
        ("llama.cpp", BOUNDED),
        ("vllm", single(n=2)),
    ],
)  # fmt: skip
async def test_what_a_provider_takes(dialect: str, body: Json) -> None:
    answer = await said(dialect, body)
    assert answer.status == 200, answer.body
    assert answer.choice["finish_reason"] in ("stop", "tool_calls")


async def test_errors_have_the_forms_of_their_providers() -> None:
    refused: Json = {"tool_choice": "required", "stream_options": {"include_usage": True}}
    assert (await said("cerebras", single(parallel_tool_calls=False))).json["code"] == "wrong_api_format"
    assert (await said("deepinfra", single(**refused))).json == {"detail": {"error": "tool_choice must be one of auto, none"}}
    unknown = await said("mistral", single(**refused))
    assert unknown.status == 422
    assert unknown.json["message"]["detail"][0] | {"msg": ""} == {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": ""}
    assert (await said("mistral", single(tool_choice="required"))).json["object"] == "error"
    assert (await said("vllm", single("m+500"))).json["code"] == 500
    assert (await said("groq", single("m+429"))).error["code"] == "rate_limit_exceeded"


async def test_a_call_that_breaks_its_schema_fails_the_whole_request() -> None:
    """In JSON as a status; streamed as an event, once all has been written."""
    whole = await said("groq", batch("m+invalid"))
    assert (whole.status, whole.error["code"]) == (400, "tool_use_failed")
    assert whole.error["failed_generation"].startswith("<function=create_lesson_batch>{")
    streamed = await said("groq", batch("m+invalid", stream=True))
    assert (streamed.status, streamed.pieces, streamed.done) == (200, [], True)
    assert streamed.events[0]["error"]["failed_generation"].endswith("}</function>")
    assert (await said("groq", batch("m+text"))).error["code"] == "tool_use_failed"
    assert (await said("groq", batch("m+prose"))).error["code"] == "tool_use_failed"
    assert (await said("groq", batch())).status == 200
    schema_only = untooled(model="gpt-oss+invalid@all", response_format=SCHEMA_FORMAT)
    failed = await said("groq", schema_only)
    assert (failed.status, failed.error["code"]) == (400, "json_validate_failed")
    assert json.loads(failed.error["failed_generation"])["title"]
    assert (await said("groq", untooled(model="m+prose@all"))).status == 200


@pytest.mark.parametrize("dialect", [name for name, dialect in DIALECTS.items() if dialect.whole_arguments and name != "gemini"])
async def test_whole_arguments_come_in_one_piece(dialect: str) -> None:
    choice: Json = {"tool_choice": "any"} if dialect == "mistral" else {}
    answer = await said(dialect, batch(stream=True, **choice))
    (arguments,) = answer.pieces
    assert list(json.loads(arguments)["lessons"]) == list(KEYS)
    assert answer.finishes == ["tool_calls"]


async def test_mistral_tells_the_usage_unasked_with_the_last_choice() -> None:
    answer = await said("mistral", single(stream=True, tool_choice="any"))
    last = answer.events[-1]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["usage"]["completion_tokens"] > 0
    assert not [event for event in answer.events if "usage" in event and not event["choices"]]
    silent = await said("mistral", single("m+no_usage", stream=True, tool_choice="any"))
    assert silent.finishes == ["tool_calls"]
    assert not [event for event in silent.events if event.get("usage")]


@pytest.mark.parametrize(("dialect", "place"), [("groq", "reasoning"), ("cerebras", "reasoning"), ("vllm", "reasoning_content")])
async def test_thoughts_stand_beside_the_call_and_are_counted(dialect: str, place: str) -> None:
    whole = await said(dialect, single("openai/gpt-oss-120b"))
    assert "lessons" in whole.choice["message"][place]
    used = whole.json["usage"]
    assert 0 < used["completion_tokens_details"]["reasoning_tokens"] < used["completion_tokens"]
    streamed = await said(dialect, single("openai/gpt-oss-120b", stream=True, stream_options={"include_usage": True}))
    thoughts = [choice["delta"][place] for event in streamed.events for choice in event["choices"] if place in choice["delta"]]
    assert "".join(thoughts) == whole.choice["message"][place]
    assert jsonschema_rs.is_valid(LESSON, json.loads("".join(streamed.pieces)))
    plain = await said(dialect, single("llama"))
    assert place not in plain.choice["message"]
    assert plain.json["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_a_string_without_a_bound_never_ends() -> None:
    answer = await said("llama.cpp", single(tool_choice="required", max_tokens=300))
    assert answer.choice["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == 300
    told = await said("llama.cpp", untooled(response_format={"type": "json_object"}, max_tokens=900))
    assert told.choice["finish_reason"] == "stop"


async def test_where_no_limit_is_named_the_providers_own_cuts() -> None:
    async with talking(dialect="fireworks", content_words=3000) as client:
        cut = await client.chat(single())
        whole = await client.chat(single(max_tokens=9000))
    assert (cut.choice["finish_reason"], cut.json["usage"]["completion_tokens"]) == ("length", 2048)
    assert whole.choice["finish_reason"] == "stop"


async def test_a_description_that_tells_bounds_is_heard() -> None:
    """As models hear it, where a schema can't say them."""
    told = {"type": "string", "description": 'The level. Must fit {"enum":["hard","easy"]}'}
    schema = {"type": "object", "properties": {"level": told, "note": {"type": "string", "description": "{odd} {"}}, "required": ["level"]}
    answer = await said("plain", single(**named_tool("f", schema)))
    assert json.loads(answer.arguments)["level"] in ("hard", "easy")


def nested(levels: int) -> Json:
    schema: Json = {"type": "string"}
    for _ in range(levels):
        schema = CLOSED | {"properties": {"a": schema}}
    return schema


STRICT: list[tuple[Json, str | None]] = [
    (CLOSED, None),
    (nested(10), None),
    (nested(11), "11 levels"),
    (CLOSED | {"properties": {"a": {"oneOf": [{"type": "string"}]}}}, "'oneOf'"),
    (CLOSED | {"properties": {"a": {"$ref": "#/$defs/A", "description": "x"}}, "$defs": {"A": {}}}, "$ref cannot have"),
    (CLOSED | {"properties": {"a": {"$ref": "#"}}}, None),
    (CLOSED | {"required": []}, "'required'"),
    (CLOSED | {"additionalProperties": True}, "'additionalProperties'"),
    ({**CLOSED, "properties": {f"p{i}": {} for i in range(5001)}, "required": [f"p{i}" for i in range(5001)]}, "at most 5000"),
    (CLOSED | {"properties": {"a": {"anyOf": [{"type": "string", "maxLength": 3}]}}}, "'maxLength'"),
]


@pytest.mark.parametrize(("schema", "fault"), STRICT)
def test_strict_mode_has_openais_limits(schema: Json, fault: str | None) -> None:
    found = strict_fault(schema)
    assert (found is None) if fault is None else (fault in (found or ""))


def test_the_limits_of_the_others() -> None:
    assert output_fault(CLOSED) is None
    assert "minimum" in (output_fault(CLOSED | {"properties": {"a": {"type": "integer", "minimum": 1}}}) or "")
    assert "additionalProperties" in (output_fault({"type": "object"}) or "")
    assert subset_fault({"type": "object", "properties": {"a": {"type": "string"}}}) is None
    assert "$defs" in (subset_fault(batch_schema()) or "")
    assert "non-empty" in (subset_fault({"type": "object", "properties": {"a": {"type": "object"}}}) or "")
    assert unbounded(CLOSED)
    assert not unbounded(CLOSED | {"properties": {"a": {"type": "string", "maxLength": 3}}})


def messages(**more: Any) -> Json:
    body: Json = {
        "model": "claude",
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "You teach."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": SINGLE_TEXT}]}],
        "tools": [{"name": "create_lesson", "input_schema": LESSON}],
        "tool_choice": {"type": "tool", "name": "create_lesson"},
    }
    return body | more


FORMAT: Json = {"type": "json_schema", "schema": CLOSED}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (messages(max_tokens=None), "max_tokens: Field required"),
        (messages(response_format={}), "response_format: Extra inputs"),
        (messages(thinking={"type": "enabled", "budget_tokens": 1024}), "Thinking may not be enabled"),
        (messages(thinking={"type": "adaptive"}, tool_choice={"type": "any"}), "Thinking may not be enabled"),
        (messages(output_format=FORMAT | {"schema": {"type": "object"}}), "additionalProperties"),
        (messages(output_format={"type": "json_schema"}), "a schema is needed"),
        (messages(messages=["x"]), "Input should be an object"),
    ],
)
async def test_what_anthropic_refuses(body: Json, word: str) -> None:
    async with talking() as client:
        answer = await client.send("POST", "/v1/messages", body)
    assert (answer.status, answer.json["type"]) == (400, "error")
    assert word in answer.error["message"]


async def test_anthropics_answers() -> None:
    asked = messages(tools=None, tool_choice=None, thinking={"type": "adaptive"}, output_config={"format": FORMAT})
    async with talking(seed=1) as client:
        called = (await client.send("POST", "/v1/messages", messages())).json
        text = (await client.send("POST", "/v1/messages", messages(tool_choice={"type": "none"}))).json
        cut = (await client.send("POST", "/v1/messages", messages(max_tokens=9))).json
        thought = (await client.send("POST", "/v1/messages", asked)).json
        failed = await client.send("POST", "/v1/messages", messages(model="claude+429"))
    assert (called["stop_reason"], called["content"][0]["type"]) == ("tool_use", "tool_use")
    assert jsonschema_rs.is_valid(LESSON, called["content"][0]["input"])
    assert called["usage"].keys() == {"input_tokens", "output_tokens"}
    assert (text["stop_reason"], text["content"][0]["type"]) == ("end_turn", "text")
    assert (cut["stop_reason"], cut["content"][0]["input"]) == ("max_tokens", {})
    assert [block["type"] for block in thought["content"]] == ["thinking", "text"]
    assert list(json.loads(thought["content"][1]["text"])) == ["a"]
    assert (failed.status, failed.json["type"]) == (429, "error")


@pytest.mark.parametrize("fault", ["", "+no_usage", "+parallel"])
async def test_anthropics_streams(fault: str) -> None:
    body = messages(model=f"claude{fault}", stream=True, thinking={"type": "enabled"}, tool_choice={"type": "auto"})
    async with talking(seed=1) as client:
        lines = (await client.send("POST", "/v1/messages", body)).body.decode().split("\n\n")[:-1]
    events = [json.loads(line.partition("\ndata: ")[2]) for line in lines]
    assert [line.partition("\n")[0] for line in lines] == [f"event: {event['type']}" for event in events]
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert jsonschema_rs.is_valid(LESSON, json.loads("".join(delta.get("partial_json", "") for delta in deltas)))
    assert "".join(delta.get("thinking", "") for delta in deltas).startswith("The user wants")
    told = [events[0]["message"]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]]
    assert (events[-2]["type"], events[-2]["delta"]["stop_reason"]) == ("message_delta", "tool_use")
    assert [count > 0 for count in told] == ([False] * 2 if fault == "+no_usage" else [True] * 2)


def contents(parameters: Json | None = None, **more: Any) -> Json:
    body: Json = {
        "contents": [{"role": "user", "parts": [{"text": SINGLE_TEXT}]}, {"role": "model", "parts": [{"text": "Yes."}]}],
        "systemInstruction": {"parts": [{"text": "You teach."}]},
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": parameters or SUBSET}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    }
    return body | more


SUBSET: Json = {"type": "object", "properties": {"title": {"type": "string"}, "level": {"type": "string", "enum": ["a", "b"]}}}
GENERATE = "/v1beta/models/gemini-x:generateContent"
STREAMED = "/models/gemini-x:streamGenerateContent?alt=sse"


async def test_what_gemini_refuses() -> None:
    schema = {"responseMimeType": "application/json", "responseSchema": {"type": "object", "properties": {"a": {"$ref": "#"}}}}
    async with talking() as client:
        referring = await client.send("POST", GENERATE, contents(batch_schema()))
        empty = await client.send("POST", GENERATE, contents({"type": "object"}))
        odd = await client.send("POST", GENERATE, contents(tools=[], generationConfig=schema))
        strange = await client.send("POST", GENERATE, contents(contents=["x"]))
        unknown = await client.send("POST", "/models/gemini-x:countTokens", contents())
    assert (referring.status, referring.error["status"]) == (400, "INVALID_ARGUMENT")
    assert 'Unknown name "$defs"' in referring.error["message"]
    assert "non-empty" in empty.error["message"]
    assert 'Unknown name "$ref"' in odd.error["message"]
    assert [answer.status for answer in (empty, odd, strange, unknown)] == [400, 400, 400, 404]


async def test_geminis_answers() -> None:
    config = {"response_mime_type": "application/json", "max_output_tokens": 900}
    async with talking(seed=1) as client:
        called = (await client.send("POST", GENERATE, contents())).json
        free = (await client.send("POST", GENERATE, contents(toolConfig={"functionCallingConfig": {"mode": "NONE"}}))).json
        named = (await client.send("POST", GENERATE, contents(tools=[], generationConfig=config | {"response_json_schema": CLOSED}))).json
        any_object = (await client.send("POST", GENERATE, contents(tools=[], toolConfig=None, generationConfig=config))).json
        auto = (await client.send("POST", GENERATE, contents(toolConfig={}))).json
    parts = [answer["candidates"][0]["content"]["parts"][0] for answer in (called, free, named, any_object, auto)]
    assert jsonschema_rs.is_valid(SUBSET, parts[0]["functionCall"]["args"])
    assert "text" in parts[1]
    assert list(json.loads(parts[2]["text"])) == ["a"]
    assert isinstance(json.loads(parts[3]["text"]), dict)
    assert "functionCall" in parts[4]
    assert called["usageMetadata"]["candidatesTokenCount"] > 0
    assert called["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize("fault", ["", "%2Bno_usage"])
async def test_geminis_streams(fault: str) -> None:
    async with talking(seed=1) as client:
        called = await client.send("POST", STREAMED.replace("-x", f"-x{fault}"), contents())
        spoken = await client.send("POST", STREAMED.replace("-x", f"-x{fault}"), contents(tools=[], toolConfig=None))
    for answer in (called, spoken):
        events = [json.loads(line.removeprefix("data: ")) for line in answer.body.decode().split("\r\n\r\n") if line]
        candidates = [event["candidates"][0] for event in events]
        assert [candidate.get("finishReason") for candidate in candidates] == [None] * (len(events) - 1) + ["STOP"]
        assert ("usageMetadata" in events[-1]) is not bool(fault)
    assert called.body.count(b"functionCall") == 1
