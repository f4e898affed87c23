"""Whatever schema is asked for: what the provider writes is valid, bounded, and about the request."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.simulated.pattern import matching
from proxy.simulated.topic import topic_of
from proxy.simulated.writer import Writer

Json = dict[str, Any]


def write(schema: Json, *, about: str = "", seed: int = 0, words: int = 30) -> Any:
    return Writer(schema, topic_of(about), random.Random(seed), words).write(schema, "answer")


def valid(schema: Json, value: Any) -> bool:
    return jsonschema_rs.validator_for(schema, offline=True, validate_formats=True).is_valid(value)


Schemas = st.SearchStrategy[Json]


@st.composite
def sizes(draw: st.DrawFn, least: str, most: str, limit: int) -> Json:
    low, high = sorted([draw(st.integers(0, limit)), draw(st.integers(0, limit))])
    both = {least: low, most: high}
    return {name: both[name] for name in both if draw(st.booleans())}


@st.composite
def strings(draw: st.DrawFn) -> Json:
    return {"type": "string", **draw(sizes("minLength", "maxLength", 200))}


@st.composite
def numbers(draw: st.DrawFn) -> Json:
    prefix = draw(st.sampled_from(["", "exclusive"]))
    low, high = ("exclusiveMinimum", "exclusiveMaximum") if prefix else ("minimum", "maximum")
    edges = sorted([draw(st.integers(-(2**50), 2**50) | st.integers(-30, 30)) for _ in range(2)])
    bounds: Json = {low: edges[0], high: edges[1] + 2}
    kept = {name: value for name, value in bounds.items() if draw(st.booleans())}
    return {"type": draw(st.sampled_from(["integer", "number"])), **kept}


@st.composite
def enums(draw: st.DrawFn) -> Json:
    return {"enum": draw(st.lists(st.text(max_size=5) | st.integers(-5, 5), min_size=1, max_size=4))}


FIXED: list[Json] = [
    {"type": "boolean"}, {"type": "null"}, {"const": {"a": [1]}}, {"type": ["string", "null"]}, {}, {"$ref": "#/$defs/leaf"},
    {"type": "integer", "multipleOf": 5, "minimum": -3}, {"type": "number", "multipleOf": 0.5},
    *({"type": "string", "format": form} for form in ("date-time", "date", "email", "uuid", "uri", "ipv4", "hostname")),
]  # fmt: skip
SCALARS: Schemas = st.one_of(strings(), numbers(), enums(), st.sampled_from(FIXED))


@st.composite
def objects(draw: st.DrawFn, inner: Schemas) -> Json:
    names = st.sampled_from(["title", "content", "subject", "items", "level", "x1"])
    named = draw(st.dictionaries(names, inner, max_size=4))
    required = sorted(named)[: draw(st.integers(0, 4))]
    return {"type": "object", "properties": named, "required": required, "additionalProperties": draw(st.booleans())}


@st.composite
def arrays(draw: st.DrawFn, inner: Schemas) -> Json:
    return {"type": "array", "items": draw(inner), **draw(sizes("minItems", "maxItems", 6))}


@st.composite
def combined(draw: st.DrawFn, inner: Schemas) -> Json:
    match draw(st.sampled_from(["anyOf", "allOf", "map"])):
        case "anyOf":
            return {"anyOf": draw(st.lists(inner, min_size=1, max_size=3))}
        case "allOf":
            return {"allOf": [draw(inner), {"description": "as is"}]}
        case _:
            return {"type": "object", "additionalProperties": draw(inner), "minProperties": 1}


def grown(inner: Schemas) -> Schemas:
    return st.one_of(objects(inner), arrays(inner), combined(inner))


@settings(max_examples=300, deadline=None)
@given(schema=st.recursive(SCALARS, grown, max_leaves=12), seed=st.integers(0, 2**32))
def test_an_instance_of_any_schema_is_valid(schema: Json, seed: int) -> None:
    whole = {**schema, "$defs": {"leaf": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}
    assert valid(whole, write(whole, about="Subject: Algebra 1\nTopic: Linear equations", seed=seed))


SECTION: Json = {
    "type": "object",
    "properties": {
        "heading": {"type": "string"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Section"}, "minItems": 1},
        "next": {"anyOf": [{"$ref": "#/$defs/Section"}, {"type": "null"}]},
    },
    "required": ["heading", "next"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"Section": SECTION}, "$ref": "#/$defs/Section"},
        {
            "$defs": {"a/b": {"type": "string", "maxLength": 9}},
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/a~1b"}},
            "required": ["x"],
        },
        {
            "definitions": {"L": {"type": "string"}},
            "allOf": [{"$ref": "#/definitions/L"}, {"minLength": 300}, {"minLength": 20, "maxLength": 310}],
        },
        {
            "allOf": [
                {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"a": {"minimum": 90}, "b": {}}, "required": ["b"]},
            ]
        },
        {
            "oneOf": [
                {"type": "null"},
                {"type": "object", "properties": {"kind": {"const": "quiz"}}, "required": ["kind"]},
                {"type": "string"},
            ]
        },
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
        {"type": "array", "items": {"enum": ["a", "b", "c", "d"]}, "uniqueItems": True, "minItems": 4},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False},
        {"type": "array", "contains": {"const": 9}, "items": {"type": "integer"}, "minItems": 2},
        {"type": "object", "patternProperties": {"^q[0-9]+$": {"type": "integer"}}, "additionalProperties": False, "minProperties": 2},
        {"type": "object", "propertyNames": {"enum": ["ab", "cd"]}, "additionalProperties": {"type": "null"}, "minProperties": 2},
        {"type": "object", "properties": {"a": False, "b": True}, "required": ["c"], "additionalProperties": {"type": "boolean"}},
        {"type": "number", "multipleOf": 0.25, "minimum": 7.1, "maximum": 7.3},
        {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 7, "maximum": 14},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "integer", "minimum": -20, "maximum": -10},
        {"type": "integer", "exclusiveMaximum": 1.5, "minimum": 1},
        {"type": "number", "minimum": 1e300},
        {"enum": [{"deep": [1, 2]}]},
        {"type": ["null", "integer"]},
        {"minLength": 4},
        {},
    ],
)
def test_these_corners_of_json_schema_are_followed(schema: Json) -> None:
    for seed in range(5):
        assert valid(schema, write(schema, seed=seed))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "^a{100000}$"},
        {"type": "object", "minProperties": 10**9},
        {"$ref": "#"},
        {"$ref": "https://example.com/other.json"},
        {"$ref": "#/nowhere/0/x"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]},
        {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 3},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
        {"anyOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": 5, "b": None}, "required": "a", "additionalProperties": 3},
        {"type": "array", "items": [5], "minItems": "x", "maxItems": -2},
        {"type": "integer", "minimum": "x", "multipleOf": -1},
        {"type": "number", "minimum": 5, "maximum": 1},
        {"type": 5, "enum": [], "anyOf": []},
        {"type": "string", "pattern": "(", "minLength": 3},
        {"allOf": [{"minimum": 1}, {"minimum": "x", "type": "integer"}]},
    ],
)
def test_a_hostile_or_broken_schema_is_answered_within_a_bound(schema: Json) -> None:
    """No schema makes the provider write without end or fail."""
    started = time.process_time()
    value = write(schema)
    assert time.process_time() - started < 2
    assert len(str(value)) < 2_000_000


PATTERNS = [
    r"^[a-z]+(-[a-z0-9]+)*$",
    r"^\d{4}-\d{2}-\d{2}$", r"^[A-Z]{2}\d{3,5}$", r"^(easy|medium|hard)$", r"^#[0-9a-fA-F]{6}$", r"^.+$",
    r"\w+@\w+\.com",
    r"^(?:[01]\d|2[0-3]):[0-5]\d$", r"^[^0-9]{3}$", r"^a?b*?c$", r"^https://\S+$", r"^(?=lesson).*$", r"^[\w.-]{2,}$", "^\\{a\\}$", r"^$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_string_follows_its_pattern(pattern: str) -> None:
    for seed in range(5):
        written = matching(pattern, random.Random(seed), 0, 100)
        assert written is not None
        assert re.search(pattern, written)


def test_a_pattern_is_repeated_until_the_length_fits() -> None:
    written = matching("^[a-z]+$", random.Random(1), 40, 60)
    assert written is not None
    assert re.fullmatch("[a-z]{40,60}", written)


@pytest.mark.parametrize("pattern", [r"^(a)\1$", "(((((((((((((((a)))))))))))))))", "x" * 600, "[z-", "^(b", r"^[^\s\S]$", "a{3000}", "\\"])
def test_a_pattern_that_is_not_followed_gives_a_usual_value_or_none(pattern: str) -> None:
    written = matching(pattern, random.Random(1), 0, 100)
    assert written is None or re.search(pattern, written)


LESSON: Json = {
    "type": "object",
    "properties": {
        "subject": {"type": "string"},
        "title": {"type": "string"},
        "content": {"type": "string"},
        "difficulty": {"enum": ["intro", "easy", "medium", "hard"]},
        "grade": {"type": "integer"},
        "style": {"enum": ["story", "drill"]},
    },
}
PROMPT = "Subject: Algebra 1\n- **Topic:** Linear equations\nDifficulty: medium. Not too hard\nGrade: 9\nTell it to learner-17 as a drill."


def test_an_answer_says_what_the_prompt_says() -> None:
    """Labels fill members of their name, an enum takes the value that is asked for, contents mention the request's words."""
    lesson = write(LESSON, about=PROMPT)
    assert (lesson["subject"], lesson["difficulty"], lesson["grade"], lesson["style"]) == ("Algebra 1", "medium", 9, "drill")
    assert "learner-17" in lesson["content"]
    assert "Linear equations" in lesson["title"]


def test_the_length_of_contents_is_chosen() -> None:
    assert 150 <= len(write(LESSON, about=PROMPT, words=150)["content"].split()) < 170
    assert len(write(LESSON, about=PROMPT, words=5)["content"].split()) < 20


def test_a_label_out_of_bounds_is_not_taken() -> None:
    bounded = {"type": "object", "properties": {"grade": {"type": "integer", "maximum": 5}, "subject": {"type": "string", "maxLength": 5}}}
    lesson = write(bounded, about=PROMPT)
    assert lesson["grade"] <= 5
    assert lesson["subject"] != "Algebra 1"


def test_equal_seeds_write_the_same_and_others_something_else() -> None:
    assert write(LESSON, about=PROMPT, seed=1) == write(LESSON, about=PROMPT, seed=1)
    assert write(LESSON, about=PROMPT, seed=1)["content"] != write(LESSON, about=PROMPT, seed=2)["content"]


def test_an_object_of_no_declared_members_takes_the_shape_of_the_prompt() -> None:
    shape = {"type": "object", "properties": {"titre": {"type": "string"}, "inner": {"type": "object"}}, "required": ["titre"]}
    writer = Writer({}, topic_of(""), random.Random(1), 20, (shape, {"properties": {"deep": {"type": "null"}}}))
    written = writer.write({"type": "object"}, "answer")
    assert set(written) == {"titre", "inner"}
    assert written["inner"] == {"deep": None}
