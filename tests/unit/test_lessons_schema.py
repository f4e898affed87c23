"""Moving a caller's schema: what it accepts stays the same, wherever its references point."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.lessons.schema import MAX_SCHEMA_DEPTH, item_name, nest, references, resolved
from proxy.lessons.unfit import UnfitError
from proxy.model import Json

NODE: Json = {"type": "object", "properties": {"text": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#"}}}}


def moved(schema: Json) -> Json:
    """Build the larger schema around a moved one, as a carrier does."""
    name = item_name(schema)
    nested = nest(schema, f"/$defs/{name}")
    return {"$defs": {name: nested.item, **nested.definitions}, "$ref": f"#/$defs/{name}"}


def inlined(schema: Json) -> Json:
    """Build an array of keyed entries around a moved one."""
    nested = nest(schema, "/properties/lesson")
    return {"properties": {"lesson": nested.item}, "$defs": nested.definitions}


def accepts(schema: Json, instance: Any) -> bool:
    return jsonschema_rs.validator_for(schema, offline=True).is_valid(instance)


def test_a_reference_to_the_root_points_to_the_item() -> None:
    larger = moved(NODE)
    assert references(larger) == {"#/$defs/item"}
    assert accepts(larger, {"text": "a", "parts": [{"text": "b", "parts": []}]})
    assert not accepts(larger, {"parts": [{"parts": [{"text": 1}]}]})


@pytest.mark.parametrize(
    ("reference", "becomes"),
    [
        ("#/$defs/Part", "#/$defs/Part"),
        ("#/definitions/Old", "#/$defs/Old"),
        ("#/definitions/Part", "#/$defs/Part_"),
        ("#/definitions/Part/properties/x", "#/$defs/Part_/properties/x"),
        ("#/$defs/a~1b", "#/$defs/a~1b"),
        ("#/$defs/L%3Cstr%3E", "#/$defs/L%3Cstr%3E"),
        ("#/properties/title", "#/$defs/item2/properties/title"),
        ("#/properties/list/anyOf/1", "#/$defs/item2/properties/list/anyOf/1"),
        ("#/properties/list/items", "#/$defs/item2/properties/list/items"),
        ("#", "#/$defs/item2"),
    ],
)
def test_every_kind_of_reference_is_rewritten_and_still_resolves(reference: str, becomes: str) -> None:
    schema: Json = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.org/lesson",
        "properties": {"title": {"type": "string"}, "list": {"anyOf": [True, {"type": "array"}], "items": {}}, "it": {"$ref": reference}},
        "$defs": {"Part": {}, "a/b": {}, "L<str>": {}, "item": {}},
        "definitions": {"Old": {}, "Part": {"properties": {"x": {"type": "null"}}}},
    }
    larger = moved(schema)
    item = larger["$defs"]["item2"]
    assert item["properties"]["it"] == {"$ref": becomes}
    assert resolved(larger, becomes) is not None
    assert not {"$schema", "$id", "$defs", "definitions"} & item.keys()


def test_what_looks_like_a_reference_in_data_stays() -> None:
    data = {"$ref": "#/$defs/x", "$id": "y"}
    schema = {"properties": {"$ref": {"enum": [data]}, "$id": {"default": data}}, "examples": [data], "x-own": {"deep": data}}
    assert nest(schema, "/$defs/item").item == schema


UNMOVABLE: list[Json] = [
    {"$ref": "https://example.org/lesson"},
    {"$ref": "other.json#/x"},
    {"$ref": "#anchor"},
    {"$ref": ""},
    {"$ref": "#/$defs"},
    {"$ref": "#/$defs/none"},
    {"$ref": "#/x-own/y", "x-own": {"y": {}}},
    {"$ref": "#/anyOf/2", "anyOf": [{}]},
    {"$ref": "#/items/additionalProperties/x", "items": {"additionalProperties": {}}},
    {"$ref": "#/anyOf/²", "anyOf": [{}]},
    {"$ref": f"#/anyOf/{'9' * 5000}", "anyOf": [{}]},
    {"$ref": "#/$defs/a%2Fproperties", "$defs": {"a": {}}},
    {"$ref": "#/dependencies/a", "dependencies": {"a": ["b"]}},
    {"$dynamicRef": "#x"},
    {"$recursiveRef": "#"},
    {"properties": {"a": {"$id": "inner", "$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
]


@pytest.mark.parametrize("schema", UNMOVABLE)
def test_a_reference_that_can_not_follow_makes_the_schema_unfit(schema: Json) -> None:
    with pytest.raises(UnfitError, match="schema_ref"):
        nest(schema, "/$defs/item")


@pytest.mark.parametrize("keyword", ["items", "not", "allOf", "properties", "default"])
def test_depth_is_bounded(keyword: str) -> None:
    schema: Json = {}
    for _ in range(1000):
        schema = {keyword: [schema] if keyword == "allOf" else {"x": schema} if keyword == "properties" else schema}
    with pytest.raises(UnfitError, match="schema_depth"):
        nest(schema, "/$defs/item")


def test_a_schema_within_the_depth_is_moved() -> None:
    schema: Json = {}
    for _ in range(MAX_SCHEMA_DEPTH - 1):
        schema = {"items": schema}
    assert nest(schema, "/$defs/item").item == schema


Values = st.SearchStrategy[Any]

NAMES = st.sampled_from(["a", "b", "item"])
REFERENCES = st.sampled_from(["#", "#/$defs/a", "#/$defs/item", "#/definitions/a", "#/properties/a", "#/$defs/b/items", "#/anyOf/0"])


def _reference(to: str) -> Json:
    return {"$ref": to}


PLAIN: list[Any] = [{}, True, False, {"type": "string"}, {"type": "integer"}, {"enum": ["a", 1]}, {"type": "string", "minLength": 2}]
LEAVES: Values = st.one_of(
    st.sampled_from(PLAIN),
    st.builds(_reference, REFERENCES),
)


def _items(inner: Any) -> Json:
    return {"items": inner}


def _larger(inner: Values) -> Values:
    maps = st.dictionaries(NAMES, inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", ["object", "string"]]),
            "properties": maps,
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            # no references below it: a schema that forbids itself means nothing
            "not": st.sampled_from(PLAIN),
        },
    )


def _with_definitions(root: Json, defs: Json, definitions: Json) -> Json:
    return {**root, "$defs": defs, "definitions": definitions}


SCHEMAS = st.builds(
    _with_definitions,
    _larger(st.recursive(LEAVES, _larger, max_leaves=6)),
    st.fixed_dictionaries({"a": LEAVES, "b": st.builds(_items, LEAVES)}, optional={"item": LEAVES}),
    st.fixed_dictionaries({"a": LEAVES}),
)
INSTANCES = st.recursive(
    st.sampled_from(["", "a", "abc", 1, 2.5, None, True]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.lists(INSTANCES, min_size=1, max_size=8))
def test_a_moved_schema_accepts_what_the_callers_accepts_and_nothing_else(schema: Json, instances: list[Any]) -> None:
    before = copy.deepcopy(schema)
    try:
        larger, inline = moved(schema), inlined(schema)
    except UnfitError as unfit:
        assert unfit.reason == "schema_ref"  # noqa: PT017 - a reference to a place that this schema happens not to have
        return
    assert schema == before
    try:
        validator = jsonschema_rs.validator_for(schema, offline=True)
        validity = [validator.is_valid(instance) for instance in instances]
    except (ValueError, jsonschema_rs.ValidationError):
        event("the validator refuses the caller's own schema")
        return
    event(f"valid: {any(validity)}, invalid: {not all(validity)}")
    assert [accepts(larger, instance) for instance in instances] == validity
    assert [accepts(inline, {"lesson": instance}) for instance in instances] == validity
