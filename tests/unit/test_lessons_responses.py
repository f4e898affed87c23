"""The Responses API is the same lesson in other words: read as the chat call of equal meaning, and never as more than that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.lessons.forms.continuing import answer_id, builds_on, site_of
from proxy.lessons.forms.responses import read_responses
from proxy.lessons.recognise import Recogniser
from proxy.model import CallId, Json, Lesson, Unbatchable
from proxy.policy import LessonPolicy, Rule
from tests.make import LESSON_SCHEMA, SYSTEM_TEXT, make_body, make_call, make_caller, make_responses_body, make_user_text

RULES = TypeAdapter(tuple[Rule, ...]).validate_python(
    yaml.safe_load((Path(__file__).parent.parent.parent / "proxy" / "rules.yaml").read_text(encoding="utf-8"))
)
SHIPPED = Recogniser(LessonPolicy(rules=RULES))
PATH = "/v1/responses"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "format", "name", "id", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
SET_FIELDS = st.sampled_from(["input", "instructions", "tools", "tool_choice", "text", "reasoning", "max_output_tokens", "model", "stream"])


def verdict(key: str = "k", user: str | None = "ann", **parts: Any) -> Lesson | Unbatchable:
    body = make_responses_body(**parts)
    headers = {} if user is None else {"x-user-id": user}
    return SHIPPED.judge(make_call(path=PATH, body=body, headers=headers, caller=make_caller(key_digest=key)))


def lesson(**parts: Any) -> Lesson:
    found = verdict(**parts)
    assert isinstance(found, Lesson), found
    return found


def chat(user: str | None = "ann", **parts: Any) -> Lesson:
    headers = {} if user is None else {"x-user-id": user}
    found = SHIPPED.judge(make_call(body=make_body(**parts), headers=headers, caller=make_caller(key_digest="k")))
    assert isinstance(found, Lesson), found
    return found


def reason(**parts: Any) -> str:
    found = verdict(**parts)
    assert isinstance(found, Unbatchable), found
    return found.reason


def test_a_call_is_read_as_the_chat_call_of_equal_meaning() -> None:
    found = lesson(max_output_tokens=900, reasoning={"effort": "low"}, text={"verbosity": "low"}, temperature=0.5)
    assert found.body == make_body(max_completion_tokens=900, reasoning_effort="low", verbosity="low", temperature=0.5)
    assert (found.token_limit, found.token_limit_field, found.force) == (900, "max_completion_tokens", "name")
    assert (found.schema, found.schema_name) == (LESSON_SCHEMA, "create_lesson")


@pytest.mark.parametrize(
    ("said", "in_chat"),
    [
        ({}, {}),
        ({"text": {}, "reasoning": {}, "store": None, "include": [], "truncation": "disabled"}, {}),
        # nothing of a merged lesson is stored, whatever its caller says of it
        ({"store": True}, {}),
        ({"store": False}, {}),
        ({"truncation": "auto", "include": ["reasoning.encrypted_content"], "background": False}, {}),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, {}),
        ({"max_output_tokens": 900}, {"max_completion_tokens": 500}),
        ({"service_tier": "flex", "top_p": 0.9}, {"service_tier": "flex", "top_p": 0.9}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        ({"temperature": None, "top_p": None, "parallel_tool_calls": None}, {}),
        ({"metadata": {"run": "7"}}, {}),
    ],
)
def test_calls_of_equal_meaning_share_a_key_whichever_api_they_come_by(said: Json, in_chat: Json) -> None:
    assert lesson(**said).key == chat(**in_chat).key


def test_schemas_and_texts_share_across_the_apis_too() -> None:
    """The order of names around a schema means nothing; within it, it does."""
    named = {"type": "json_schema", "name": "lesson", "strict": True, "schema": LESSON_SCHEMA}
    other = {"json_schema": {"schema": LESSON_SCHEMA, "strict": True, "name": "lesson"}, "type": "json_schema"}
    parts: Json = {"tools": ..., "tool_choice": ...}
    assert lesson(text={"format": named}, **parts).key == chat_without_tools(response_format=other).key
    assert lesson(text={"format": {"type": "json_object"}}, **parts).key == chat_without_tools(response_format={"type": "json_object"}).key
    assert lesson(text={"format": {"type": "text"}}, **parts).key == lesson(**parts).key == chat_without_tools().key
    turned = {"type": "object", "properties": dict(reversed(LESSON_SCHEMA["properties"].items())), **_without(LESSON_SCHEMA, "properties")}
    assert lesson(text={"format": named | {"schema": turned}}, **parts).key != chat_without_tools(response_format=other).key


def chat_without_tools(**parts: Any) -> Lesson:
    body = _without(make_body(**parts), "tools", "tool_choice")
    found = SHIPPED.judge(make_call(body=body, headers={"x-user-id": "ann"}, caller=make_caller(key_digest="k")))
    assert isinstance(found, Lesson), found
    return found


def _without(value: Json, *names: str) -> Json:
    return {name: part for name, part in value.items() if name not in names}


@pytest.mark.parametrize(
    "said",
    [
        {"instructions": "You write long lessons."},
        {"temperature": 0.3},
        {"text": {"verbosity": "low"}},
        {"reasoning": {"effort": "low"}},
        {"service_tier": "flex"},
        {"max_output_tokens": 100},
        {"tool_choice": "required"},
        {"user": "ann", "tools": [{"type": "function", "name": "create_lesson", "parameters": LESSON_SCHEMA, "strict": True}]},
    ],
    ids=repr,
)
def test_calls_that_differ_in_anything_outside_the_lesson_do_not_share(said: Json) -> None:
    assert lesson(**said).key != lesson().key


def test_without_a_user_only_bodies_that_are_identical_as_written_share() -> None:
    parts: Json = {"user": None}
    assert lesson(**parts).key == lesson(**parts, stream=True, max_output_tokens=None).key
    assert lesson(**parts).key != lesson(**parts, store=False).key
    assert lesson(**parts).key != chat(**parts).key


def test_instructions_stand_before_the_input() -> None:
    """`input` may be a text, and a text in one part is as good as the text itself."""
    plain = lesson(input=make_user_text())
    assert plain.body["messages"] == [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": make_user_text()}]
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": make_user_text()}]}]
    assert lesson(input=parts).body == plain.body
    two = [{"role": "user", "content": [{"type": "input_text", "text": text} for text in (make_user_text(), "Keep it short.")]}]
    assert [part["type"] for part in lesson(input=two).body["messages"][1]["content"]] == ["text", "text"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": make_user_text()}]}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "middle"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt_template"),
        ({"max_tool_calls": 2}, "hosted_tools"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"reasoning": {"summary": "auto"}}, "reasoning"),
        ({"reasoning": "low"}, "reasoning"),
        ({"text": {"format": {"type": "text"}, "speed": 2}}, "text"),
        ({"text": "json"}, "text"),
        ({"stream_options": [1]}, "stream_options"),
        ({"seed": 7}, "seed"),
        ({"nobody_knows": 1}, "unknown_field"),
        ({"max_tokens": 100}, "unknown_field"),
        ({"instructions": [{"role": "system", "content": "x"}]}, "instructions"),
        ({"max_output_tokens": 0}, "token_limit"),
        ({"tools": [{"type": "web_search"}]}, "hosted_tools"),
        ({"tools": [{"type": "custom", "name": "create_lesson"}]}, "hosted_tools"),
        ({"tool_choice": "none"}, "tool_choice_none"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"text": {"format": {"type": "json_object"}}}, "tool_and_format"),
        ({"stream": "yes"}, "stream"),
    ],
    ids=repr,
)
def test_what_chat_has_no_word_for_goes_alone(said: Json, why: str) -> None:
    assert reason(**said) == why


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ({"role": "assistant", "content": "Before."}, "history"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, "history"),
        ({"type": "reasoning", "id": "rs_1", "summary": []}, "history"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}, "parts"),
        ({"role": "user", "content": [{"type": "input_text", "text": "x", "cached": True}]}, "message_fields"),
        ({"role": "user", "content": "x", "status": "completed"}, "message_fields"),
        ({"role": "critic", "content": "x"}, "role"),
        ({"role": "user", "content": 5}, "content"),
    ],
    ids=repr,
)
def test_an_item_that_no_lesson_needs_makes_the_call_go_alone(item: Json, why: str) -> None:
    assert reason(input=[{"role": "user", "content": make_user_text()}, item]) == why


def test_several_tools_go_alone_and_tool_choice_without_tools_says_nothing() -> None:
    tool = make_responses_body()["tools"][0]
    assert reason(tools=[tool, tool, tool]) == "several_tools"
    assert lesson(tools=[], tool_choice="auto").key == lesson(tools=..., tool_choice=...).key
    assert lesson(tool_choice=None).key == lesson(tool_choice=...).key
    assert reason(tools=[], tool_choice="required") == "tool_choice"


@pytest.mark.parametrize("given_input", [None, [], "", 5, {}, [5]], ids=repr)
def test_an_input_that_is_none_is_said_to_be_so(given_input: Any) -> None:
    assert reason(input=given_input) in {"input", "no_subject"}


def test_a_long_history_is_not_read() -> None:
    assert reason(input=[{"role": "user", "content": "x"}] * 65) == "many_messages"


@given(body=JSON_VALUES, name=SET_FIELDS, value=JSON_VALUES)
def test_reading_never_raises(body: Any, name: str, value: Any) -> None:
    read_responses(body)
    read_responses(make_responses_body() | {name: value})
    builds_on(make_responses_body() | {name: value})


def test_both_apis_call_from_one_site() -> None:
    """What is learned of an app's place holds whichever way it asks."""
    assert len(lesson().site) == 32
    assert lesson(user="ben", input=make_user_text("Biology", "Cells")).site == lesson().site == chat().site


def test_an_id_of_ours_tells_its_site_and_no_other_id_does() -> None:
    site = lesson().site
    for kind in ("resp", "msg", "fc"):
        own = answer_id(kind, site, CallId("call-0"))
        assert own.startswith(f"{kind}_")
        assert len(own) <= 64, "what OpenAI itself takes as an id"
        assert site_of(own) == site
    assert answer_id("resp", site, CallId("a")) != answer_id("resp", site, CallId("b"))
    for foreign in ("resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b", "", None, 5, "resp_lesson", own + "0"):
        assert site_of(foreign) is None


def test_a_body_may_name_our_answers_in_two_ways() -> None:
    response, message = answer_id("resp", "ab", CallId("a")), answer_id("msg", "ab", CallId("a"))
    follow_up = {"role": "user", "content": "And a quiz."}
    assert builds_on({"previous_response_id": response, "input": "And a quiz."}) == ("previous_response_id", response)
    assert builds_on({"input": [{"type": "item_reference", "id": message}, follow_up]}) == ("input", message)
    assert builds_on({"input": [{"id": message}, follow_up]}) == ("input", message)
    # what a caller sends along whole needs nothing that was stored
    whole = {"type": "message", "id": message, "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
    assert builds_on({"input": [whole, follow_up]}) is None
    assert builds_on({"input": [{"id": message, "role": "assistant", "content": "x"}, follow_up]}) is None
    assert builds_on({"previous_response_id": "resp_1", "input": []}) is None
