"""What is never merged, each with its own reason; and what asks for nothing and so changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.lessons.recognise import MAX_BODY_BYTES, Recogniser
from proxy.model import Json, Lesson, Unbatchable
from proxy.policy import IdentityPolicy, LessonPolicy, Rule
from tests.make import LESSON_SCHEMA, make_body, make_call

RULES = TypeAdapter(tuple[Rule, ...]).validate_python(
    yaml.safe_load((Path(__file__).parent.parent.parent / "proxy" / "rules.yaml").read_text(encoding="utf-8"))
)
SHIPPED = Recogniser(LessonPolicy(rules=RULES))
TOOL: Json = make_body()["tools"][0]
USER = "Subject: Maths\nTopic: Ratios\nWrite one lesson."


def verdict(headers: dict[str, str] | None = None, **fields: Any) -> Lesson | Unbatchable:
    return SHIPPED.judge(replace(make_call(), body=make_body(**fields), headers=headers or {}, raw=b""))


def reason(headers: dict[str, str] | None = None, **fields: Any) -> str:
    found = verdict(headers, **fields)
    assert isinstance(found, Unbatchable), found
    return found.reason


def without_tool(**fields: Any) -> Json:
    return {"tools": None, "tool_choice": None, "messages": [{"role": "user", "content": USER}]} | fields


def test_the_plain_body_is_a_lesson() -> None:
    assert isinstance(verdict(), Lesson)
    assert isinstance(verdict(**without_tool()), Lesson)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("n", 2, "n"),
        ("n", True, "n"),
        ("n", "1", "n"),
        ("seed", 0, "seed"),
        ("logprobs", True, "logprobs"),
        ("top_logprobs", 3, "logprobs"),
        ("logit_bias", {"50256": -100}, "logit_bias"),
        ("stop", "END", "stop"),
        ("stop", ["END"], "stop"),
        ("prediction", {"type": "content", "content": "x"}, "prediction"),
        ("audio", {"voice": "alloy"}, "audio"),
        ("modalities", ["text", "audio"], "modalities"),
        ("store", True, "store"),
        ("store", "true", "store"),
        ("functions", [{"name": "f"}], "functions"),
        ("function_call", "auto", "functions"),
        ("previous_response_id", "resp_1", "previous_response_id"),
        ("web_search_options", {}, "hosted_tools"),
        ("guided_json", {}, "guided_output"),
        ("tools", [TOOL, TOOL], "several_tools"),
        ("tools", [{"type": "web_search"}], "hosted_tools"),
        ("tools", [{"type": "custom", "custom": {"name": "create_lesson"}}], "hosted_tools"),
        ("tools", ["create_lesson"], "hosted_tools"),
        ("tools", {"0": TOOL}, "tools"),
        ("tools", [{"type": "function", "function": {"name": 7}}], "tools"),
        ("tool_choice", "none", "tool_choice_none"),
        ("tool_choice", {"type": "function", "function": {"name": "other"}}, "tool_choice"),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}}, "tool_choice"),
        ("response_format", {"type": "json_object"}, "tool_and_format"),
        ("stream", "yes", "stream"),
        ("stream_options", [], "stream_options"),
        ("max_tokens", 0, "token_limit"),
        ("max_tokens", -5, "token_limit"),
        ("max_tokens", 10.5, "token_limit"),
        ("max_tokens", True, "token_limit"),
        ("max_completion_tokens", "100", "token_limit"),
    ],
)
def test_field_that_speaks_against_merging_is_named_with_the_rule_it_would_have_met(field: str, value: Any, expected: str) -> None:
    found = verdict(**{field: value})
    assert isinstance(found, Unbatchable)
    assert found.reason == expected
    # what no longer has a readable lesson form may also have lost its rule
    assert found.rule is not None or expected in {"several_tools", "hosted_tools", "tools"}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "n": 1,
            "stop": None,
            "seed": None,
            "logprobs": False,
            "top_logprobs": 0,
            "logit_bias": {},
            "store": False,
            "modalities": ["text"],
        },
        {"functions": [], "function_call": None, "response_format": None, "stop": [], "previous_response_id": None},
        {"response_format": {"type": "text"}},
        {"max_tokens": None, "max_completion_tokens": 500},
        {"stream": None, "stream_options": None},
        {"tool_choice": None},
        {"tool_choice": "auto"},
        {"tool_choice": "required"},
    ],
)
def test_fields_that_ask_for_nothing_do_not_stop_a_merge(fields: Json) -> None:
    assert isinstance(verdict(**fields), Lesson)


def test_both_token_limits_go_alone_and_one_is_read() -> None:
    assert reason(max_tokens=100, max_completion_tokens=100) == "token_limits"
    found = verdict(max_completion_tokens=321)
    assert isinstance(found, Lesson)
    assert (found.token_limit, found.token_limit_field) == (321, "max_completion_tokens")


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "function", "function": {"name": "x"}}])
def test_tool_choice_without_tools_goes_alone(choice: Any) -> None:
    assert reason(**without_tool(tool_choice=choice)) == "tool_choice"


@pytest.mark.parametrize(
    ("message", "expected"),
    list[tuple[Json, str]](
        [
            ({"role": "assistant", "content": "x"}, "history"),
            ({"role": "tool", "tool_call_id": "c", "content": "x"}, "history"),
            ({"role": "function", "name": "f", "content": "x"}, "history"),
            ({"role": "narrator", "content": "x"}, "role"),
            ({"role": ["user"], "content": "x"}, "role"),
            ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "parts"),
            ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "parts"),
            ({"role": "user", "content": [{"type": "file", "file": {}}]}, "parts"),
            ({"role": "user", "content": [{"type": "text", "text": 7}]}, "parts"),
            ({"role": "user", "content": ["x"]}, "parts"),
            ({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, "message_fields"),
            ({"role": "user", "content": "x", "name": "ann"}, "message_fields"),
            ({"role": "user", "content": None}, "content"),
            ({"role": "user", "content": 5}, "content"),
            ({"role": "user"}, "content"),
            ({"role": "system", "content": {"text": "x"}}, "content"),
        ]
    ),
)
def test_message_that_can_not_be_merged_is_named(message: Json, expected: str) -> None:
    assert reason(messages=[*make_body()["messages"], message]) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], "body"),
        (None, "body"),
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": 4}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": "hi"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": [1]}, "messages"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}] * 65}, "many_messages"),
        ({"model": "m", "messages": [{"role": "user", "content": "x" * 100_001}]}, "too_long"),
    ],
)
def test_body_that_can_not_be_read_is_named(body: Any, expected: str) -> None:
    assert SHIPPED.judge(replace(make_call(), body=body, raw=b"")) == Unbatchable(expected)


def test_body_beyond_the_bound_goes_alone_unread() -> None:
    assert SHIPPED.judge(make_call(raw=b" " * (MAX_BODY_BYTES + 1))) == Unbatchable("too_long")


def _schema(**more: Any) -> Json:
    tool = {"type": "function", "function": {"name": "create_lesson", "parameters": LESSON_SCHEMA | more}}
    return {"tools": [tool], "tool_choice": "auto"}


def _property(value: Any) -> Json:
    return _schema(properties=LESSON_SCHEMA["properties"] | {"extra": value})


@pytest.mark.parametrize(
    "value",
    [
        {"$ref": "http://example.org/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "other.json#/x"},
        {"$ref": ""},
        {"$ref": "#anchor"},
        {"$ref": 7},
        {"$id": "http://example.org/"},
        {"$anchor": "a"},
        {"$dynamicRef": "#a"},
        {"$dynamicAnchor": "a"},
        {"$recursiveRef": "#"},
        {"id": "http://example.org/"},
        {"items": [{"anyOf": [{"$ref": "http://example.org/x"}]}]},
    ],
)
def test_schema_that_leaves_itself_goes_alone(value: Json) -> None:
    assert reason(**_property(value)) == "schema_ref"


@pytest.mark.parametrize("odd", [{}, [], {"a": 1}, ["string"], None, 5], ids=repr)
def test_schema_of_no_known_type_is_read_without_raising(odd: Any) -> None:
    """A schema may hold anything where a type should stand."""
    schemas: list[Json] = [{"type": "object", "properties": {"x": {"type": odd}}}, {"type": odd, "properties": {"content": {}}}]
    for schema in schemas:
        function: Json = {"name": "create_lesson", "parameters": schema}
        assert isinstance(verdict(tools=[{"type": "function", "function": function}]), Lesson | Unbatchable)


def test_schema_that_refers_to_itself_is_merged() -> None:
    assert isinstance(verdict(**_property({"$ref": "#/$defs/Part"}) | _schema(**{"$defs": {"Part": {"type": "string"}}})), Lesson)
    assert isinstance(verdict(**_property({"type": "object", "properties": {"id": {"type": "string"}}})), Lesson)


def test_schema_without_bound_goes_alone() -> None:
    deep: Json = {"type": "string"}
    for _ in range(200):
        deep = {"$comment": "x", "items": deep}
    assert reason(**_property(deep)) == "schema_size"
    assert reason(**_property({"$comment": "x", "enum": ["x"] * 6000})) == "schema_size"


def test_header_switches_merging_off_for_a_call() -> None:
    assert reason({"x-lesson-merge": "Off"}) == "header_off"
    assert isinstance(verdict({"x-lesson-merge": "on"}), Lesson)


def test_other_paths_and_the_off_mode_are_not_judged() -> None:
    assert SHIPPED.judge(make_call(path="/v1/completions")) == Unbatchable("path")
    assert Recogniser(LessonPolicy(rules=RULES, mode="off")).judge(make_call()) == Unbatchable("off")


def test_temperature_0_goes_alone_only_where_calls_must_be_identical() -> None:
    assert reason(temperature=0) == "identical_temperature_0"
    assert reason(temperature=0.0) == "identical_temperature_0"
    known = verdict({"x-user-id": "u1"}, temperature=0)
    assert isinstance(known, Lesson)
    assert known.deterministic
    across = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(identical_across_users=True)))
    assert across.judge(make_call(body=make_body(temperature=0), headers={"x-user-id": "u1"})) == Unbatchable(
        "identical_temperature_0", known.rule
    )


def test_headers_become_hints_and_garbage_is_ignored() -> None:
    found = verdict(
        {
            "x-lesson-expect": "4",
            "x-lesson-max-wait-ms": "20",
            "x-stainless-timeout": "30",
            "x-stainless-read-timeout": "12.5",
            "x-stainless-retry-count": "2",
        },
        stream=True,
        stream_options={"include_usage": True},
    )
    assert isinstance(found, Lesson)
    assert (found.expect, found.max_wait_ms, found.deadline_s, found.retry_count) == (4, 20, 12.5, 2)
    assert (found.stream, found.include_usage) == (True, True)
    garbage = dict.fromkeys(
        ("x-lesson-expect", "x-lesson-max-wait-ms", "x-stainless-timeout", "x-stainless-read-timeout", "x-stainless-retry-count")
    )
    for text in ("", "-1", "nan", "inf", "1e400", "\uff19", "9" * 5000, "four", "0x10"):
        odd = verdict(dict.fromkeys(garbage, text))
        assert isinstance(odd, Lesson)
        assert (odd.expect, odd.max_wait_ms, odd.deadline_s, odd.retry_count) in {(None, None, None, 0), (None, None, 9.0, 0)}
    none = verdict({"x-lesson-expect": "0"})
    assert isinstance(none, Lesson)
    assert none.expect is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "tools",
        "tool_choice",
        "response_format",
        "max_tokens",
        "stream",
        "stream_options",
        "n",
        "stop",
        "user",
        "safety_identifier",
        "metadata",
        "temperature",
        "x",
    ]
)


@given(body=_JSON)
def test_any_json_value_is_judged_without_raising(body: Any) -> None:
    assert isinstance(SHIPPED.judge(replace(make_call(), body=body, raw=b"")), Unbatchable)


@given(fields=st.dictionaries(_FIELDS, _JSON, max_size=3))
def test_any_value_in_a_lesson_body_is_judged_without_raising(fields: Json) -> None:
    SHIPPED.judge(replace(make_call(), body=make_body() | fields, raw=b""))


@given(path=st.sampled_from(["parameters", "name", "description", "type", "function"]), value=_JSON)
def test_any_value_in_a_tool_is_judged_without_raising(path: str, value: Any) -> None:
    function = {"name": "create_lesson", "parameters": LESSON_SCHEMA}
    tool = {"type": "function", "function": function | {path: value}} if path not in {"type", "function"} else {**TOOL, path: value}
    SHIPPED.judge(replace(make_call(), body=make_body(tools=[tool]), raw=b""))


@given(keyword=st.sampled_from(["properties", "type", "$ref", "$defs", "title", "description", "items"]), value=_JSON)
def test_any_value_in_a_schema_is_judged_without_raising(keyword: str, value: Any) -> None:
    SHIPPED.judge(replace(make_call(), body=make_body(**_schema(**{keyword: value})), raw=b""))


@pytest.mark.parametrize(
    "value",
    ["\ud800", 2**80, float("nan"), float("inf"), {"a": "\udfff"}, "x" * 10_000],
    ids=["surrogate", "long integer", "nan", "inf", "nested surrogate", "long"],
)
def test_odd_values_are_merged_or_not_but_never_raise(value: Any) -> None:
    found = verdict({"x-user-id": "u"}, x_unknown=value)
    assert isinstance(found, Lesson)
    other = verdict({"x-user-id": "u"}, x_unknown=None)
    assert isinstance(other, Lesson)
    assert found.key != other.key
    assert found.identity_digest != other.identity_digest


def test_nesting_beyond_the_encoder_goes_alone() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert reason({"x-user-id": "u"}, x_unknown=deep) == "not_encodable"
    while deep != 1:  # unwound here: the interpreter's own unwinding of such a list is not what is tested
        deep = deep[0]


def test_surrogates_in_a_prompt_are_judged() -> None:
    messages = [{"role": "user", "content": f"{USER}\nLearner: \ud83d"}]
    found = SHIPPED.judge(replace(make_call(), body=make_body(messages=messages), raw=b"", headers={"x-user-id": "\udc00"}))
    assert isinstance(found, Lesson)


def test_a_query_goes_alone() -> None:
    """What it means to a provider is not known, and a merged call can't carry it."""
    assert SHIPPED.judge(replace(make_call(), query="api-version=2")) == Unbatchable("query")


@pytest.mark.parametrize(("text", "reason"), [("Topic: Ratios", "no_subject"), ("Subject: Maths", "no_topic")])
def test_a_lesson_tool_without_subject_or_topic_is_told_which_it_lacks(text: str, reason: str) -> None:
    assert verdict(messages=[{"role": "user", "content": f"Write the lesson.\n{text}"}]) == Unbatchable(reason, "lesson tool or schema")
