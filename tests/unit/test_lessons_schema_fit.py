"""What a provider bears: what is taken out only widens and is still told, what is put in only narrows."""

from __future__ import annotations

import copy
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.lessons.schema import nodes
from proxy.lessons.schema_fit import BOUNDED_STRING_CHARS, bounded, fitted, loosened, meets_strict, trimmed
from proxy.model import Capability, Json

LOOSE = Capability(loose_items=True)
STRICT = Capability(strict=True)
BOUNDED = Capability(bounded_strings=True)

QUIZ: Json = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 3},
        "level": {"type": "string", "enum": ["easy", "hard"], "description": "How hard it is"},
        "score": {"type": "integer", "minimum": 0, "maximum": 3},
        "parts": {"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string", "format": "date"}, {"type": "null"}]}},
    },
    "required": ["title"],
    "additionalProperties": False,
}


def accepts(schema: Json, instance: Any) -> bool:
    return jsonschema_rs.validator_for(schema, offline=True).is_valid(instance)


def test_a_plain_provider_gets_the_schema_as_it_is() -> None:
    assert fitted(QUIZ, "quiz", Capability(), strict=True) == QUIZ


def test_a_provider_that_validates_by_itself_gets_types_and_words_only() -> None:
    assert fitted(QUIZ, "quiz", LOOSE, strict=False) == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": 'Must fit {"minLength":3}'},
            "level": {"type": "string", "description": 'How hard it is Must fit {"enum":["easy","hard"]}'},
            "score": {"type": "integer", "description": 'Must fit {"minimum":0,"maximum":3}'},
            "parts": {
                "type": "array",
                "items": {"anyOf": [{"type": "string", "description": 'Must fit {"format":"date"}'}, {"type": "null"}]},
                "description": 'Must fit {"minItems":1}',
            },
        },
        "required": ["title"],
    }


def test_strict_takes_out_only_what_strict_forbids() -> None:
    properties = fitted(QUIZ, "quiz", STRICT, strict=True)["properties"]
    assert properties["title"] == {"type": "string", "description": 'Must fit {"minLength":3}'}
    assert properties["level"] == QUIZ["properties"]["level"]
    assert properties["parts"]["items"].keys() == {"anyOf"}
    assert fitted(QUIZ, "quiz", STRICT, strict=False) == QUIZ


def test_a_grammar_gets_bounded_strings_and_everything_required() -> None:
    result = fitted(QUIZ, "quiz", BOUNDED, strict=False)
    assert result["required"] == ["title", "level", "score", "parts"]
    assert result["properties"]["title"]["maxLength"] == BOUNDED_STRING_CHARS
    assert "maxLength" not in result["properties"]["level"]
    assert result["properties"]["parts"]["items"]["oneOf"][0]["maxLength"] == BOUNDED_STRING_CHARS


@pytest.mark.parametrize(
    ("given_bounds", "max_length"),
    [({}, 1999), ({"maxLength": 80}, 80), ({"maxLength": 2000}, 1999), ({"maxLength": 3000}, 3000), ({"minLength": 2500}, 2500)],
)
def test_a_string_keeps_its_own_bound_where_a_grammar_takes_it(given_bounds: Json, max_length: int) -> None:
    assert bounded({"type": ["string", "null"], **given_bounds})["maxLength"] == max_length


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"next": {"$ref": "#"}}},
        {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}]}}, "$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}},
        {"properties": {"a": False}},
        {"properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"properties": {"a": {}}, "not": {"required": ["a"]}},
        {"properties": {"a": {}, "b": {}}, "maxProperties": 1},
    ],
)
def test_a_property_stays_optional_where_requiring_it_leaves_nothing_that_fits(schema: Json) -> None:
    assert all(not node.get("required") or node["required"] in (["a"], ["b"]) for node in nodes(bounded(schema)))


def test_a_reference_without_a_circle_is_required() -> None:
    assert bounded({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "null"}}})["required"] == ["a"]


def test_many_references_count_as_a_circle() -> None:
    names = [f"n{number}" for number in range(100)]
    schema = {"properties": {name: {"$ref": f"#/$defs/{name}"} for name in names}, "$defs": dict.fromkeys(names, True)}
    assert bounded(schema)["required"] == []


def test_words_of_generators_go_and_words_of_people_stay() -> None:
    schema = {
        "title": "PartialLesson",
        "type": "object",
        "properties": {
            "duration_minutes": {"title": "Duration Minutes", "type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1},
            "title": {"title": "What the learner sees first", "minimum": 0},
        },
        "$defs": {"Part": {"title": "Part", "const": {"title": "Part"}}},
    }
    assert trimmed(schema, "PartialLesson") == {
        "type": "object",
        "properties": {"duration_minutes": {"type": "integer"}, "title": {"title": "What the learner sees first", "minimum": 0}},
        "$defs": {"Part": {"const": {"title": "Part"}}},
    }


@pytest.mark.parametrize(
    ("schema", "meets"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "object", "properties": {}, "required": []}, False),
        ({"type": "array"}, False),
        ({"type": "object", "properties": {"a": {"properties": {}}}, "required": ["a"], "additionalProperties": False}, False),
    ],
)
def test_strict_is_met_by_closed_objects_that_require_everything(schema: Json, *, meets: bool) -> None:
    assert meets_strict(schema, Capability(), 2) is meets


def test_where_an_object_must_name_its_members_lists_of_strings_are_typed() -> None:
    """What has no type would be taken for an object on the way."""
    schema = {
        "properties": {"a": {"enum": ["x", "y"]}, "b": {"const": "z"}, "c": {"enum": [1, "x"]}, "d": {"enum": ["x"], "type": "string"}}
    }
    item = fitted(schema, None, Capability(open_objects=False), strict=False)
    assert [part.get("type") for part in item["properties"].values()] == ["string", "string", None, "string"]
    assert fitted(schema, None, Capability(), strict=False) == schema


CLOSED: Json = {"type": "object", "required": ["a"], "additionalProperties": False}
THREE_LEVELS: Json = CLOSED | {"properties": {"a": {"type": "array", "items": CLOSED | {"properties": {"a": {"type": "string"}}}}}}
RECURSIVE: Json = CLOSED | {"properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
REFERRING: Json = CLOSED | {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": THREE_LEVELS}}


@pytest.mark.parametrize(
    ("schema", "capability", "meets"),
    [
        (THREE_LEVELS, {"strict_levels": 5}, True),
        (THREE_LEVELS, {"strict_levels": 4}, False),
        (REFERRING, {"strict_levels": 6}, True),
        (REFERRING, {"strict_levels": 5}, False),
        (RECURSIVE, {"strict_levels": 4}, True),
        (THREE_LEVELS, {"strict_properties": 6}, True),
        (THREE_LEVELS, {"strict_properties": 5}, False),
        (THREE_LEVELS, {"strict_properties": 10, "entries": "inline"}, True),
        (THREE_LEVELS, {"strict_properties": 9, "entries": "inline"}, False),
    ],
)
def test_strict_has_limits_of_size_with_the_batch_around(schema: Json, capability: Json, *, meets: bool) -> None:
    """Three lessons: two levels and four properties more than one alone."""
    assert meets_strict(schema, Capability(**capability), 3) is meets


def _referring_to(names: list[str]) -> Json:
    return CLOSED | {"required": names, "properties": {name: {"$ref": f"#/$defs/{name}"} for name in names}}


@pytest.mark.parametrize(
    "definitions",
    [
        {f"d{level}": CLOSED | {"properties": {"a": {"anyOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2}}} for level in range(40)}
        | {"d40": {"type": "string"}},
        {f"d{number}": _referring_to([f"d{other}" for other in range(12)]) for number in range(12)},
    ],
    ids=["each twice the next", "each all the others"],
)
def test_levels_are_counted_without_writing_references_out(definitions: Json) -> None:
    """Forty small definitions can be a trillion objects: counted one by one they would stop every caller for days."""
    started = time.process_time()
    schema = CLOSED | {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    assert meets_strict(schema, Capability(strict_levels=1000), 3)
    assert not meets_strict(schema, Capability(strict_levels=10), 3)
    assert time.process_time() - started < 1


Values = st.SearchStrategy[Any]

NAMES = st.sampled_from(["a", "b"])
OPENNESS: list[Any] = [False, True, {}]
LEAVES: Values = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 1, "maxLength": 2},
        {"type": "string", "enum": ["a", "abc"]},
        {"type": "integer", "minimum": 1},
        {"const": "a"},
        {"type": ["string", "null"], "pattern": "^a"},
        True,
        {},
    ]
)


def _any_of(parts: list[Any]) -> Json:
    return {"anyOf": parts}


def _larger(inner: Values) -> Values:
    maps = st.dictionaries(NAMES, inner, min_size=1, max_size=2)
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": maps},
        optional={"required": st.lists(NAMES, max_size=2, unique=True), "additionalProperties": st.sampled_from(OPENNESS)},
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner}, optional={"minItems": st.just(1), "uniqueItems": st.just(True)}
    )
    return st.one_of(objects, arrays, st.builds(_any_of, st.lists(inner, min_size=1, max_size=2)))


SCHEMAS = _larger(st.recursive(LEAVES, _larger, max_leaves=5))
INSTANCES = st.recursive(
    st.sampled_from(["", "a", "abc", 0, 1, None]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=2)),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.lists(INSTANCES, max_size=8))
def test_loosening_only_widens_and_bounding_only_narrows(schema: Json, instances: list[Any]) -> None:
    before = copy.deepcopy(schema)
    loose, strict, narrow = (
        fitted(schema, None, LOOSE, strict=False),
        fitted(schema, None, STRICT, strict=True),
        fitted(schema, None, BOUNDED, strict=False),
    )
    assert schema == before
    for instance in instances:
        if accepts(schema, instance):
            event("valid")
            assert accepts(loose, instance)
            assert accepts(strict, instance)
        if accepts(narrow, instance):
            event("valid when bounded")
            assert accepts(schema, instance)
    for node in nodes(narrow):
        assert node.get("type") != "string" or "maxLength" in node or "enum" in node


def test_two_kinds_of_choice_keep_the_first() -> None:
    assert loosened({"anyOf": [{"type": "string"}], "oneOf": [{}]}, frozenset()) == {"anyOf": [{"type": "string"}]}
