"""One entry is checked against its caller's shape, its own schema and the configured checks, offline and within bounds."""

from __future__ import annotations

from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lessons.checks import Fit, Unfit, inspect, words
from proxy.lessons.crossing import Crossing, nests
from proxy.lessons.merge import Unmergeable, merge
from proxy.lessons.validators import checkable, conforms
from proxy.model import Capability, Json, Lesson
from proxy.policy import FieldCheck
from tests.make import make_body, make_lesson, make_lessons, make_text_lesson

GOOD = '{"title":"Lines","content":"A line is straight."}'
OPEN: Json = {"type": "object"}


def reason(lesson: Lesson, reading: str) -> str | None:
    verdict = inspect(lesson, reading)
    return verdict.reason if isinstance(verdict, Unfit) else None


def content(lesson: Lesson, reading: str) -> str | None:
    verdict = inspect(lesson, reading)
    return verdict.content if isinstance(verdict, Fit) else None


def test_a_good_entry_is_handed_over_as_it_is_written() -> None:
    spaced = f" {GOOD} ".replace(":", " : ")
    assert content(make_lesson(), spaced) == spaced
    assert content(make_lesson(shape="json_object", schema=None), '{"a":1}') == '{"a":1}'


def test_an_object_in_a_string_is_taken_out() -> None:
    assert content(make_lesson(), '"{\\"title\\":\\"T\\",\\"content\\":\\"c\\"}"') == '{"title":"T","content":"c"}'
    assert reason(make_lesson(), '"[1]"') == "not_object"


@pytest.mark.parametrize(
    ("lesson", "reading", "expected"),
    [
        (make_lesson(), '{"title":"T"}', "schema"),
        (make_lesson(), '{"title":"T","content":"c","x":1}', "schema"),
        (make_lesson(), "[]", "not_object"),
        (make_lesson(schema={}), "1", "not_object"),
        (make_lesson(shape="json_object", schema=None), '"text"', "not_object"),
        (make_lesson(shape="json_schema", schema={"type": "array"}), "{}", "schema"),
        (make_lesson(), "{", "not_json"),
        (make_text_lesson(), "{}", "not_text"),
        (make_text_lesson(), '" "', "empty"),
    ],
)
def test_what_is_wrong_is_named(lesson: Lesson, reading: str, expected: str) -> None:
    assert reason(lesson, reading) == expected


def test_a_schema_may_want_something_else_than_an_object() -> None:
    assert content(make_lesson(shape="json_schema", schema={"type": "array"}), "[1]") == "[1]"
    assert content(make_lesson(shape="json_schema", schema={"type": "string"}), '"text"') == '"text"'


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (FieldCheck(min_words=3), '"one two"', "words"),
        (FieldCheck(min_words=3), '"one two three"', None),
        (FieldCheck(min_words=3), '""', "words"),
        (FieldCheck(min_words=3), "[]", "words"),
        (FieldCheck(min_words=3), '[{"text":"one two"},"three"]', None),
        (FieldCheck(min_words=3), None, None),
        (FieldCheck(min_words=3), "null", None),
        (FieldCheck(max_words=2), '"one two three"', "words"),
        (FieldCheck(max_words=2), '"one two"', None),
        (FieldCheck(max_words=0), '"one"', "words"),
        (FieldCheck(required=True), None, "required"),
        (FieldCheck(required=True), "null", "required"),
        (FieldCheck(required=True), '" "', "required"),
        (FieldCheck(required=True), "{}", "required"),
        (FieldCheck(required=True), "0", None),
        (FieldCheck(required=True), "false", None),
        (FieldCheck(required=True, min_words=2), '"one"', "words"),
    ],
)
def test_configured_checks(check: FieldCheck, value: str | None, expected: str | None) -> None:
    """They hold for a field that is there; only `required` asks for one that isn't."""
    reading = "{}" if value is None else f'{{"body":{value}}}'
    assert reason(make_lesson(schema=OPEN, checks={"body": check}), reading) == expected


def test_checks_of_a_text_stand_under_content() -> None:
    lesson = make_text_lesson(checks={"content": FieldCheck(min_words=3), "other": FieldCheck(required=True)})
    assert reason(lesson, '"one two"') == "words"
    assert content(lesson, '"one two three"') == "one two three"


def test_words_of_scripts_without_spaces() -> None:
    """Two ideographs count as a word, and a Thai text isn't one word."""
    assert words("直線は二点を結ぶ") == 4
    assert words("เส้นตรงเชื่อมสองจุดเข้าด้วยกัน") > 4
    assert words("a line, 直線 end") == 4
    assert words({"a": [1, None, "x y"], "b": True}) == 2


@given(st.text())
def test_words_are_what_spaces_part(text: str) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert words(ascii_text) == len(ascii_text.split())


# Schemas


def ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def chain(length: int) -> Json:
    """Every definition refers twice to the next: written out, the schema doubles with each."""
    defs: Json = {f"a{i}": {"anyOf": [{"properties": {"x": ref(f"a{i + 1}")}}, {"allOf": [ref(f"a{i + 1}")]}]} for i in range(length)}
    return {"$defs": defs | {f"a{length}": {"type": "string"}}, **ref("a0")}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"$schema": "http://example.com/own"},
        {"$ref": "#/$defs/nowhere"},
        {"type": "nonsense"},
        {"$dynamicRef": "#x"},
        {"properties": {"a": {"$id": "http://example.com/a"}}},
        {"pattern": "(((a{1,999}){1,999}){1,999})"},
        {"pattern": "("},
        {"properties": {f"p{i}": {"pattern": f"^{i}"} for i in range(100)}},
        {"description": "x" * 100_000},
        {"const": 2**70},
        {"const": "\ud800"},
        chain(30),
    ],
)
def test_what_is_not_checkable_is_not_merged_and_never_handed_over(schema: Json) -> None:
    """Nothing is fetched, nothing runs without a bound, and no entry reaches its caller unchecked."""
    began = process_time()
    assert not checkable(schema)
    assert not conforms(schema, {"a": 1})
    lesson = make_lesson(schema=schema)
    assert inspect(lesson, '{"a":1}') == Unfit("schema")
    unmergeable = merge([lesson] * 2, Capability(), seed="")
    assert isinstance(unmergeable, Unmergeable)
    assert unmergeable.reason in ("schema_unchecked", "schema_ref")
    assert process_time() - began < 1


def test_no_file_is_read_for_a_schema(tmp_path: Path) -> None:
    """A caller can't make the proxy read what lies on its disk, not even as the language of its schema."""
    (tmp_path / "schema.json").write_text('{"type":"string"}')
    uri = (tmp_path / "schema.json").as_uri()
    assert not checkable({"$schema": uri})
    assert not checkable({"properties": {"a": {"$ref": uri}}})


def test_a_schema_that_nests_without_end_is_not_checkable() -> None:
    schema: Json = {}
    for _ in range(150):
        schema = {"properties": {"a": schema}}
    assert not checkable(schema)


def test_schemas_that_clients_send_are_checkable() -> None:
    tree: Json = {"type": "object", "properties": {"children": {"type": "array", "items": ref("node")}}, "required": ["children"]}
    schema: Json = {"$schema": "http://json-schema.org/draft-07/schema#", "$defs": {"node": tree}, **ref("node")}
    assert checkable(schema)
    assert conforms(schema, {"children": [{"children": []}]})
    assert not conforms(schema, {"children": [{}]})
    email = {"type": "string", "pattern": r"^(?!\.)[a-z.]+@(?=x)[a-z.]+$"}
    assert checkable(email)
    assert conforms(email, "a@x.org")
    assert not conforms(email, ".a@x.org")


@pytest.mark.parametrize("pattern", [r"^(a+)+$", r"^(\w+\s?)*$", r"(?=a)(a+)+$", r"(a|aa)+\1$", r"(?:a|a?)+b"])
def test_patterns_end_in_bounded_time(pattern: str) -> None:
    schema: Json = {"type": "string", "pattern": pattern}
    began = process_time()
    conforms(schema, "a" * 30_000 + "!")
    assert process_time() - began < 1


def test_recursive_schemas_and_deep_values_end_in_bounded_time() -> None:
    either: Json = {"anyOf": [{"properties": {"x": ref("a")}, "required": ["x"]}, {"properties": {"x": ref("a")}, "required": ["y"]}]}
    value: Any = {}
    for _ in range(900):
        value = {"x": value}
    began = process_time()
    assert not conforms({"$defs": {"a": either}, **ref("a")}, value)
    assert process_time() - began < 1


# Exchanged contents


def asking(schema: Json, *texts: Any) -> list[Lesson]:
    return [make_lesson(schema=schema, body=make_body(messages=[{"role": "user", "content": text}])) for text in texts]


@pytest.mark.parametrize(
    "listed",
    [
        {"enum": ["easy", "hard"]},
        {"anyOf": [{"const": "easy"}, {"const": "hard"}, {"type": "null"}]},
        {"allOf": [ref("level")]},
        ref("level"),
        ref("alias"),
    ],
)
def test_listed_values_are_found_wherever_the_schema_keeps_them(listed: Json) -> None:
    defs = {"level": {"enum": ["easy", "hard"]}, "alias": ref("level")}
    schema = {"$defs": {**defs, "lesson": {"properties": {"level": listed}}}, **ref("lesson")}
    crossing = Crossing(asking(schema, "Level: easy", [{"type": "text", "text": "Level: HARD"}]))
    assert crossing.crossed(0, {"level": "hard"})
    assert crossing.crossed(1, {"level": "easy"})
    assert not crossing.crossed(0, {"level": "easy"})


def test_whole_numbers_are_compared_too() -> None:
    crossing = Crossing(asking({"properties": {"gradeLevel": {"enum": [3, 4, 5]}}}, "Grade level: 3", "Grade level: 5"))
    assert crossing.crossed(0, {"gradeLevel": 5})
    assert not crossing.crossed(0, {"gradeLevel": 3})
    assert not crossing.crossed(0, {"gradeLevel": 4})


@pytest.mark.parametrize("schema", [None, {}, {"properties": 1}, ref("none"), {"properties": {"level": {"anyOf": [{"$ref": "#/x"}, 1]}}}])
def test_nothing_is_crossed_where_nothing_is_listed(schema: Json | None) -> None:
    assert not Crossing(make_lessons(2, schema=schema)).crossed(0, {"level": "hard"})
    listed: Json = {"properties": {"level": {"enum": ["easy", "hard"]}}}
    long = asking(listed, "Level: easy\n" + "x" * 30_000, "Level: hard", None)
    assert not Crossing(long).crossed(0, {"level": "hard"})
    assert not Crossing(long).crossed(1, ["hard"])


def test_keys_inside_a_lesson_are_found_as_deep_as_a_batch_goes() -> None:
    keys = frozenset({"k1", "k2"})
    for value in ({"k1": 1}, [{"k2": 1}], {"lessons": {"k1": 1}}, {"lessons": [{"key": "k2"}]}):
        assert nests(value, keys)
    for value in (None, "k1", {"title": "k1"}, {"key": ["k1"]}, {"key": "K1"}, [[[{"k1": 1}]]]):
        assert not nests(value, keys)
