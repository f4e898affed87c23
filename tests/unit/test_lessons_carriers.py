"""How a batch travels: the carrier that the provider bears, and the JSON of it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.lessons.carriers import Parcel, carried, choose
from proxy.lessons.unfit import UnfitError
from proxy.model import Capability, Carrier, EntryForm, Json, Lesson, Shape
from proxy.policy import CarrierChoice
from tests.make import make_body, make_lesson

ITEM: Json = {
    "type": "object",
    "properties": {"title": {"type": "string", "minLength": 3}},
    "required": ["title"],
    "additionalProperties": False,
}
KEYS = ("bx", "qw")
BY_NAME = {"type": "function", "function": {"name": "create_lesson_batch"}}


def tool_lesson(function: Json | None = None, schema: Json = ITEM) -> Lesson:
    function = {"name": "create_lesson", "parameters": schema} | (function or {})
    return make_lesson(schema=schema, body=make_body(tools=[{"type": "function", "function": function}]))


def schema_lesson(**declared: Any) -> Lesson:
    json_schema = {"name": "lesson", "schema": ITEM, **declared}
    body: Json = {"messages": [], "response_format": {"type": "json_schema", "json_schema": json_schema}}
    return make_lesson(shape="json_schema", schema=ITEM, schema_name="lesson", force=None, body=body)


def bare_lesson(shape: Shape) -> Lesson:
    return make_lesson(shape=shape, schema=None, schema_name=None, force=None, body={"messages": []})


def fields(lesson: Lesson, carrier: Carrier = "tool", *, alike: bool = False, **capability: Any) -> Json:
    return carried(Parcel(lesson, KEYS, Capability(**capability), alike=alike), carrier)


def function_of(lesson: Lesson, *, alike: bool = False, **capability: Any) -> Json:
    return fields(lesson, "tool", alike=alike, **capability)["tools"][0]["function"]


@pytest.mark.parametrize(
    ("shape", "capability", "choice", "carrier"),
    [
        ("tool", {}, "auto", "tool"),
        ("tool", {"force": "required"}, "auto", "tool"),
        ("tool", {"force": "none"}, "auto", "json_schema"),
        ("tool", {"force": "none", "json_schema": False}, "auto", "json_object"),
        ("tool", {"force": "none"}, "tool", "json_schema"),
        ("tool", {}, "json_object", "json_object"),
        ("tool", {"json_object": False}, "json_object", "tool"),
        ("json_schema", {}, "auto", "json_schema"),
        ("json_schema", {"json_schema": False}, "auto", "tool"),
        ("json_object", {}, "auto", "tool"),
        ("json_object", {"force": "none"}, "auto", "json_schema"),
        ("json_object", {"force": "none", "strict": True}, "auto", "json_object"),
        ("json_object", {"strict": True}, "json_schema", "tool"),
        ("text", {}, "auto", "tool"),
        ("text", {"force": "none", "strict": True}, "auto", "json_schema"),
        ("text", {"bounded_strings": True}, "auto", "json_object"),
        ("text", {"bounded_strings": True, "json_object": False}, "auto", "tool"),
        ("tool", {"streamed_arguments": False}, "auto", "json_schema"),
        ("tool", {"streamed_arguments": False, "json_schema": False}, "auto", "tool"),
        ("tool", {"streamed_arguments": False, "streamed_format": False}, "auto", "tool"),
        ("tool", {"streamed_arguments": False, "stream": False}, "auto", "tool"),
        ("tool", {"streamed_arguments": False}, "tool", "tool"),
        ("json_schema", {"streamed_format": False}, "auto", "tool"),
        ("json_object", {"open_objects": False}, "auto", "json_object"),
        ("text", {"open_objects": False, "streamed_arguments": False}, "auto", "json_schema"),
    ],
)
def test_the_carrier_is_the_best_that_the_provider_bears(shape: Shape, capability: Json, choice: CarrierChoice, carrier: Carrier) -> None:
    assert choose(shape, Capability(**capability), choice) == carrier


@pytest.mark.parametrize("shape", ["tool", "json_schema", "json_object", "text"])
def test_a_provider_that_bears_nothing_gets_no_batch(shape: Shape) -> None:
    with pytest.raises(UnfitError, match="no_carrier"):
        choose(shape, Capability(force="none", json_schema=False, json_object=False), "auto")


def test_one_tool_with_one_required_property_a_key() -> None:
    reference = {"$ref": "#/$defs/item"}
    lessons = {"type": "object", "properties": {"bx": reference, "qw": reference}, "required": ["bx", "qw"], "additionalProperties": False}
    function = {
        "name": "create_lesson_batch",
        "parameters": {
            "$defs": {"item": ITEM},
            "type": "object",
            "properties": {"lessons": lessons},
            "required": ["lessons"],
            "additionalProperties": False,
        },
    }
    assert fields(tool_lesson()) == {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": BY_NAME,
        "parallel_tool_calls": False,
    }


def test_a_provider_that_forces_by_required_gets_the_word() -> None:
    assert fields(tool_lesson(), force="required", parallel_tool_calls=False).keys() == {"tools", "tool_choice"}
    assert fields(tool_lesson(), force="required")["tool_choice"] == "required"


def test_as_an_array_the_entries_are_keyed_and_the_schema_stands_in_them() -> None:
    parameters = function_of(tool_lesson(), entries="array")["parameters"]
    lessons = parameters["properties"]["lessons"]
    assert "$defs" not in parameters
    assert lessons["minItems"] == lessons["maxItems"] == 2
    assert lessons["items"] == {
        "type": "object",
        "properties": {"key": {"type": "string", "enum": ["bx", "qw"]}, "lesson": ITEM},
        "required": ["key", "lesson"],
        "additionalProperties": False,
    }


def test_inline_the_schema_stands_at_every_key() -> None:
    parameters = function_of(tool_lesson(), entries="inline")["parameters"]
    assert parameters["properties"]["lessons"]["properties"] == {"bx": ITEM, "qw": ITEM}
    assert parameters["properties"]["lessons"]["required"] == ["bx", "qw"]
    assert "$defs" not in parameters


def test_inline_a_reference_to_the_root_means_the_callers_own_place() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": "#"}}, "$defs": {"A": {"type": "null"}}}
    parameters = function_of(tool_lesson(schema=schema), entries="inline")["parameters"]
    assert parameters["$defs"] == {"A": {"type": "null"}}
    for key in KEYS:
        own = parameters["properties"]["lessons"]["properties"][key]["properties"]
        assert own == {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": f"#/properties/lessons/properties/{key}"}}


def test_as_an_array_the_callers_own_references_still_resolve() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/definitions/A"}, "b": {"$ref": "#"}},
        "definitions": {"A": {"type": "null"}},
    }
    parameters = function_of(tool_lesson(schema=schema), entries="array")["parameters"]
    item = parameters["properties"]["lessons"]["items"]["properties"]["lesson"]
    assert parameters["$defs"] == {"A": {"type": "null"}}
    assert item["properties"] == {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": "#/properties/lessons/items/properties/lesson"}}


def test_equal_calls_get_a_lean_wrapper_but_a_grammar_a_whole_one() -> None:
    lean = function_of(tool_lesson(), alike=True)["parameters"]
    assert "required" not in lean
    assert "additionalProperties" not in lean
    assert lean["properties"]["lessons"]["required"] == ["bx", "qw"]
    whole = function_of(tool_lesson(), alike=True, bounded_strings=True)["parameters"]
    assert whole["required"] == ["lessons"]
    assert whole["properties"]["lessons"]["additionalProperties"] is False
    assert function_of(tool_lesson({"strict": True}), alike=True)["parameters"]["additionalProperties"] is False


def test_a_provider_that_fails_the_call_over_a_stray_entry_is_not_told_to_forbid_it() -> None:
    parameters = function_of(tool_lesson(), loose_items=True)["parameters"]
    assert "additionalProperties" not in parameters
    assert "additionalProperties" not in parameters["properties"]["lessons"]
    assert parameters["$defs"]["item"]["properties"]["title"]["description"] == 'Must fit {"minLength":3}'


def test_strict_stays_where_the_schema_meets_it() -> None:
    function = function_of(tool_lesson({"strict": True}), strict=True)
    assert function["strict"] is True
    assert "minLength" not in function["parameters"]["$defs"]["item"]["properties"]["title"]
    optional: Json = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    assert "strict" not in function_of(tool_lesson({"strict": True}, schema=optional), strict=True)
    assert "strict" not in function_of(tool_lesson(), strict=True)


def test_what_is_too_deep_for_strict_goes_without_it_and_with_all_its_bounds() -> None:
    function = function_of(tool_lesson({"strict": True}), strict=True, strict_levels=2)
    assert "strict" not in function
    assert function["parameters"]["$defs"]["item"] == ITEM


def test_a_json_schema_caller_keeps_its_form() -> None:
    response_format = fields(schema_lesson(strict=True), "json_schema", alike=True)["response_format"]
    assert response_format["type"] == "json_schema"
    assert response_format["json_schema"]["name"] == "create_lesson_batch"
    assert response_format["json_schema"]["strict"] is True
    assert response_format["json_schema"]["schema"]["required"] == ["lessons"]


def test_a_tool_caller_can_be_carried_as_json_schema() -> None:
    named = fields(tool_lesson(), "json_schema")["response_format"]["json_schema"]
    assert named["schema"]["$defs"]["item"] == ITEM


def test_a_json_object_carries_no_schema() -> None:
    assert fields(tool_lesson(), "json_object") == {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(("shape", "entry"), [("json_object", {"type": "object"}), ("text", {"type": "string"})])
@pytest.mark.parametrize("entries", ["reference", "inline", "array"])
def test_callers_without_a_schema_get_open_entries(shape: Shape, entry: Json, entries: EntryForm) -> None:
    parameters = function_of(bare_lesson(shape), entries=entries)["parameters"]
    assert parameters["properties"]["lessons"]["properties"] == {"bx": entry, "qw": entry}
    assert "$defs" not in parameters


def test_a_tool_without_a_schema_takes_any_object() -> None:
    assert function_of(tool_lesson(schema={}))["parameters"]["properties"]["lessons"]["properties"]["bx"] == {"type": "object"}


def test_the_callers_description_goes_to_the_item() -> None:
    function = function_of(tool_lesson({"description": "Make one lesson with a joke"}))
    assert "description" not in function
    assert function["parameters"]["$defs"]["item"]["description"] == "Make one lesson with a joke"


@pytest.mark.parametrize("schema", [ITEM | {"description": "A lesson"}, {"$ref": "#/$defs/L", "$defs": {"L": ITEM}}])
def test_an_item_that_is_described_or_only_refers_leaves_the_description_to_the_tool(schema: Json) -> None:
    function = function_of(tool_lesson({"description": "Make one lesson with a joke"}, schema=schema))
    assert function["description"] == "Make one lesson with a joke"


@pytest.mark.parametrize("description", ["Create one lesson", "create a new lesson.", "", None, 7])
def test_a_description_that_only_repeats_the_name_is_dropped(description: Any) -> None:
    function = function_of(tool_lesson({"description": description}))
    assert "description" not in function
    assert "description" not in function["parameters"]["$defs"]["item"]


@pytest.mark.parametrize("body", [{}, {"tools": []}, {"tools": [None]}, {"tools": [{"function": 1}]}, {"tools": "x"}])
def test_a_body_that_declares_nothing_is_no_hindrance(body: Json) -> None:
    assert function_of(make_lesson(schema=ITEM, body=body))["parameters"]["$defs"]["item"] == ITEM
