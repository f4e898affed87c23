"""The provider follows its prompt: sections behind names, labels, shapes of JSON in text, several things asked for at once."""

from __future__ import annotations

import time
from typing import Any

import pytest

from proxy.simulated.entries import Entries, find_entries, framed
from proxy.simulated.shape import shapes_in
from proxy.simulated.topic import all_named, topic_of, topics_by_name

Json = dict[str, Any]

BATCH_TEXT = """Write one lesson each for bj, xk and qw.
Subject: Algebra 1

[bj]
Difficulty: hard
For learner-17, who likes trains.

[xk]
Difficulty: easy
For learner-18, who likes boats.

[qw]
For learner-19, who likes planes."""


def test_each_name_is_about_the_text_behind_it() -> None:
    """A list of the names before the sections and a common head are not taken for sections."""
    topics = topics_by_name(BATCH_TEXT, ("bj", "xk", "qw"))
    assert topics["bj"].words[:2] == ("learner-17", "hard")
    assert topics["xk"].words[:2] == ("learner-18", "easy")
    assert topics["qw"].words[0] == "learner-19"
    assert all("learner-17" not in topics[key].words for key in ("xk", "qw"))


def test_what_stands_in_no_section_is_common_and_a_siblings_label_is_not() -> None:
    topics = topics_by_name(BATCH_TEXT, ("bj", "xk", "qw"), before="Grade: 9")
    assert dict(topics["xk"].labels) == {"grade": "9", "subject": "Algebra 1", "difficulty": "easy"}
    assert "difficulty" not in topics["qw"].labels


@pytest.mark.parametrize(
    "text",
    [
        "<k1>Write about cats and dogs</k1>\n<k2>Write about bees and ants</k2>\nEach in full.",
        "k1: Write about cats and dogs\nk2: Write about bees and ants",
        "Requests:\n- k1 = Write about cats and dogs\n- k2 = Write about bees and ants\nAnswer under k1 and k2.",
        'Answer {"lessons": {"k1": ..., "k2": ...}}.\n\n### k1\nWrite about cats and dogs\n### k2\nWrite about bees and ants',
        "for k1: write about cats and dogs; for k2: write about bees and ants",
        'Requests as JSON: {"k1": "Write about cats and dogs", "k2": "Write about bees and ants"}. Now write.',
    ],
)
def test_sections_are_found_in_many_notations(text: str) -> None:
    topics = topics_by_name(text, ("k1", "k2"))
    assert "cats" in topics["k1"].words
    assert "bees" not in topics["k1"].words
    assert "bees" in topics["k2"].words
    assert "cats" not in topics["k2"].words


def test_names_without_sections_are_about_the_whole_text() -> None:
    """Identical callers: their keys stand in a list alone."""
    topics = topics_by_name("Topic: the water cycle\nTwo different lessons, under k1 and k2", ("k1", "k2"))
    assert all("cycle" in topic.words for topic in topics.values())
    assert topics_by_name("nothing of the kind", ("k1", "k2"))["k1"].words == ("nothing", "kind")
    assert topics_by_name("text", ()) == {}


def test_names_that_stand_together_share_what_follows() -> None:
    text = (
        "Requests:\n\nbj, xk (distinct lessons):\nAbout cats and dogs\n\nqw:\nAbout bees and ants\n\nFor bj, xk, qw:\nUse short sentences."
    )
    topics = topics_by_name(text, ("bj", "xk", "qw"))
    assert topics["bj"].words == topics["xk"].words
    assert "cats" in topics["bj"].words
    assert "cats" not in topics["qw"].words
    assert all("sentences" in topic.words for topic in topics.values())


def test_a_form_that_names_the_keys_says_nothing_about_any_of_them() -> None:
    text = (
        'Topic: the water cycle\nFor learner-7\n\nIn this form: {"lessons":{"k1":LESSON,"k2":LESSON}}\nEach LESSON fits: {"enum":["cats"]}'
    )
    topics = topics_by_name(text, ("k1", "k2"))
    assert all(topic.words[:3] == ("LESSON", "learner-7", "water") for topic in topics.values())


def test_names_are_whole_words() -> None:
    assert all_named("under k1 and k2", ("k1", "k2"))
    assert not all_named("under k10 and k2", ("k1", "k2"))
    assert not all_named("anything", ())


@pytest.mark.parametrize(
    "line", ["Subject: Algebra 1", "- Subject: Algebra 1", "**Subject:** Algebra 1", "subject = Algebra 1", "> Subject : Algebra 1"]
)
def test_labels_are_read_in_many_notations(line: str) -> None:
    assert topic_of(f"Please write.\n{line}\nThanks").labels["subject"] == "Algebra 1"


def test_a_topic_in_a_few_words_has_its_label_and_the_names() -> None:
    assert topic_of("Topic: Linear equations\nFor learner-17 and his dog").subject == "Linear equations, learner-17 Linear equations"
    assert topic_of("").subject == ""


def shape(text: str) -> Json:
    shapes = shapes_in(text)
    assert shapes, text
    return shapes[0]


@pytest.mark.parametrize(
    "text",
    [
        'Reply with {"title": "", "steps": [{"n": 1, "do": ""}], "level": "easy"}',
        'Reply like this: {"title": string, "steps": [{"n": number, "do": string}], "level": "easy" | "hard"}',
        "Shape: {title, steps: [{n: int, do: str}, ...], level: easy|hard}",
        "The fields: {\n  title: a short title,\n  steps: [ {n: 1, do?: ...} ],\n  level: <easy or hard>\n}",
    ],
)
def test_a_shape_is_read_from_examples_and_sketches(text: str) -> None:
    found = shape(text)
    assert list(found["properties"]) == ["title", "steps", "level"]
    assert found["properties"]["title"]["type"] == "string"
    assert list(found["properties"]["steps"]["items"]["properties"]) == ["n", "do"]
    assert found["properties"]["steps"]["items"]["properties"]["n"]["type"] in {"integer", "number"}


def test_types_and_alternatives_of_a_sketch_are_kept() -> None:
    found = shape(
        'Format: {"a": "easy|hard", "b": true, "c": 0.5, "d": null, "e": [], "f": {}, "g": boolean|null, "h": ["", ""], "i": 3 words}'
    )
    assert found["properties"] == {
        "a": {"enum": ["easy", "hard"]},
        "b": {"type": "boolean"},
        "c": {"type": "number", "minimum": 0},
        "d": {"type": "null"},
        "e": {"type": "array"},
        "f": {"type": "object"},
        "g": {"type": ["boolean", "null"]},
        "h": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "i": {"type": "string"},
    }


def test_a_word_in_capitals_stands_for_an_object_or_what_the_text_calls_it() -> None:
    assert shape('In this form: {"lessons": {"bj": LESSON, "xk": LESSON}}')["properties"]["lessons"]["properties"]["bj"] == {
        "type": "object"
    }
    texts = shape('In this form: {"lessons": {"bj": LESSON, "xk": LESSON}}. Each LESSON is a string: the whole text.')
    assert texts["properties"]["lessons"]["properties"]["xk"] == {"type": "string"}


def test_an_example_keeps_its_types() -> None:
    found = shape('Format: {"a": "easy|hard", "b": true, "c": 0.5, "d": null, "e": [], "f": {}, "h": ["", ""], "i": 3}')["properties"]
    assert found["a"] == {"enum": ["easy", "hard"]}
    assert (found["b"]["type"], found["c"]["type"], found["i"]["type"]) == ("boolean", "number", "integer")
    assert found["h"]["minItems"] == 2
    assert (found["e"], found["f"]) == ({"type": "array"}, {"type": "object"})


def test_a_schema_in_the_text_is_taken_as_it_is() -> None:
    schema = '{"properties": {"title": {"type": "string"}}, "required": ["title"], "type": "object"}'
    assert shape(f"Follow this schema:\n{schema}\nnot the schema itself")["required"] == ["title"]


def test_the_shape_that_is_asked_for_comes_before_data_about_the_learner() -> None:
    text = 'Learner profile data: {"name": "Ann", "age": 9, "likes": ["trains", "boats"]}\nReply in this shape: {"title": ""}'
    assert list(shape(text)["properties"]) == ["title"]


@pytest.mark.parametrize(
    "text", ["", "no braces", "{", "}{", "{:}", "{a b c", "{{{{}}}}", "[1]", "f(x) = {x | x > 0}", '{"a": ]}', "{'a'; 'b'}"]
)
def test_what_is_no_shape_is_passed_over(text: str) -> None:
    assert all("properties" in found for found in shapes_in(text))


def test_a_hostile_text_is_read_in_bounded_time() -> None:
    for text in ('{"a": ' * 100_000, "{" * 200_000, "{a:1}" * 100_000, '"' * 200_000, "k1 " * 100_000):
        started = time.process_time()
        shapes_in(text)
        topics_by_name(text, ("k1", "k2"))
        assert time.process_time() - started < 2


LESSON: Json = {"type": "object", "properties": {"title": {"type": "string"}}}


def wrapped(inner: Json) -> Json:
    return {"type": "object", "properties": {"lessons": inner}, "required": ["lessons"]}


def keyed(names: list[str], entry: Json) -> Json:
    return {"type": "object", "properties": dict.fromkeys(names, entry)}


def array(names: list[str], others: Json) -> Json:
    return {"type": "array", "items": {"type": "object", "properties": {"key": {"enum": names}, **others}, "required": ["key"]}}


def found(schema: Json, prompt: str = "for k1 and k2") -> Entries | None:
    return find_entries(schema, schema, prompt)


@pytest.mark.parametrize(
    ("schema", "member"),
    [
        (wrapped(keyed(["k1", "k2"], LESSON)), "lessons"),
        (wrapped(keyed(["k1", "k2"], {"$ref": "#/$defs/L"})) | {"$defs": {"L": LESSON}}, "lessons"),
        (wrapped(keyed(["k1", "k2"], {"type": "string"})), "lessons"),
        (wrapped(keyed(["k1", "k2"], {"type": "object"})), "lessons"),
        (keyed(["k1", "k2"], LESSON), None),
    ],
)
def test_an_object_with_a_member_for_each_named_thing_asks_for_several(schema: Json, member: str | None) -> None:
    entries = found(schema)
    assert entries is not None
    assert (entries.form, entries.keys, entries.member) == ("object", ("k1", "k2"), member)


@pytest.mark.parametrize(
    "inner", [keyed(["bj", "xk"], LESSON), keyed(["b12", "k07"], {"type": "string"}), array(["bj", "xk"], {"lesson": LESSON})]
)
def test_keys_that_are_plainly_made_up_need_not_stand_in_the_prompt(inner: Json) -> None:
    """As where the same thing is asked for several times."""
    assert found(wrapped(inner), "Write distinct lessons about the water cycle.") is not None


def test_an_array_of_keyed_items_asks_for_several() -> None:
    held = found(wrapped(array(["k1", "k2"], {"lesson": LESSON})))
    beside = found(wrapped(array(["k1", "k2"], {"title": {"type": "string"}, "content": {"type": "string"}})))
    assert held is not None
    assert beside is not None
    assert (held.form, held.keys, held.value_field, held.schemas[0]) == ("array", ("k1", "k2"), "lesson", LESSON)
    assert (beside.value_field, list(beside.schemas[0]["properties"])) == (None, ["title", "content"])


@pytest.mark.parametrize(
    ("schema", "prompt"),
    [
        (wrapped(keyed(["start", "close"], LESSON)), "nobody names them"),
        (keyed(["bj", "xk"], LESSON), "nobody names them"),
        (
            wrapped(array(["a1", "b2"], {"q": {}}))
            | {"properties": {"words": {"type": "array", "items": {"properties": {"level": {"enum": ["a1", "b2"]}, "q": {}}}}}},
            "words",
        ),
        (wrapped(keyed(["k1"], LESSON)), "k1"),
        (wrapped({"type": "object", "properties": {"k1": LESSON, "k2": {"type": "string"}}}), "k1 k2"),
        (wrapped(keyed(["title", "content"], {"type": "string"})), "give title and content"),
        (keyed(["title", "topic"], {"type": "string"}), "give title and topic"),
        (LESSON, "a title please"),
        (
            wrapped({"type": "array", "items": {"type": "object", "properties": {"level": {"enum": ["easy", "hard"]}, "q": {}}}}),
            "questions",
        ),
        (wrapped({"type": "array", "items": LESSON}), "k1 k2"),
        ({}, "k1 k2"),
    ],
)
def test_one_thing_is_not_taken_for_several(schema: Json, prompt: str) -> None:
    assert found(schema, prompt) is None


def test_entries_are_framed_as_they_were_asked_for() -> None:
    of_object, of_array = found(wrapped(keyed(["k1", "k2"], LESSON))), found(wrapped(array(["k1", "k2"], {"lesson": {"type": "string"}})))
    assert of_object is not None
    assert of_array is not None
    assert framed(of_object, [("k1", 1), ("k1", 2)]) == '{"lessons":{"k1":1,"k1":2}}'
    assert framed(of_array, [("k1", "a")]) == '{"lessons":[{"key":"k1","lesson":"a"}]}'
