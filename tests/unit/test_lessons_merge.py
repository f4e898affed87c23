"""Several lessons as one request: each text whole behind its own key, what is shared once, nothing lost and nobody's body touched."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.lessons.entry_keys import entry_keys
from proxy.lessons.merge import ENTRY_TOKENS, MergedBody, Unmergeable, merge
from proxy.lessons.unfit import UnfitError
from proxy.model import BatchKey, Capability, EntryForm, Json, Lesson
from tests.make import LESSON_SCHEMA, make_body, make_lesson, make_lessons

SYSTEM = {"role": "system", "content": "You write lessons."}


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def lessons_of(*conversations: Sequence[Json], **overrides: Any) -> list[Lesson]:
    return [make_lesson(body=make_body(messages=list(messages)), **overrides) for messages in conversations]


def asking(*texts: str, **overrides: Any) -> list[Lesson]:
    return lessons_of(*([SYSTEM, user(text)] for text in texts), **overrides)


def merged(lessons: Sequence[Lesson], seed: str = "seed", **arguments: Any) -> MergedBody:
    result = merge(lessons, arguments.pop("capability", Capability()), seed=seed, **arguments)
    assert isinstance(result, MergedBody), result
    return result


def refused(lessons: Sequence[Lesson], **arguments: Any) -> str:
    result = merge(lessons, arguments.pop("capability", Capability()), seed="seed", **arguments)
    assert isinstance(result, Unmergeable)
    return result.reason


def last_text(result: MergedBody) -> str:
    return result.body["messages"][-1]["content"]


def parts_of(result: MergedBody) -> tuple[str, dict[str, str], str]:
    """Read a merged text as a model would: what stands before the keys, behind each, and after the last."""
    every = ", ".join(result.keys)
    key = f"(?:{'|'.join(result.keys)})"
    head, *rest = re.split(rf"\n\n({key}(?:, {key})*)(?: \(clearly distinct lessons\))?:\n", last_text(result))
    own = dict(zip(rest[::2], rest[1::2], strict=True))
    last = list(own)[-1]
    own[last], _, tail = own[last].partition(f"\n\nFor {every}:\n")
    return head, own, tail


def test_what_is_shared_goes_up_once_and_each_text_stands_behind_its_key() -> None:
    context = user("Learner: grade 9")
    texts = [f"Subject: A\nTopic: B\nPace: {pace}\nJoke: {joke}\nWrite now." for pace, joke in (("slow", "no"), ("fast", "yes"))]
    result = merged(lessons_of(*([SYSTEM, context, user(text)] for text in texts)))
    assert result.body["messages"][:2] == [SYSTEM, context]
    head, own, tail = parts_of(result)
    assert head.startswith("Subject: A\nTopic: B\n\nFill each key of `lessons` with one full, independent lesson")
    assert own == dict(zip(result.keys, ["Pace: slow\nJoke: no", "Pace: fast\nJoke: yes"], strict=True))
    assert tail == "Write now."


def test_equal_calls_go_up_once_and_ask_for_distinct_lessons() -> None:
    result = merged(asking("Topic: B\nGo.", "Topic: B\nGo.", "Topic: B\nGo."))
    assert result.body["messages"] == [SYSTEM, user("Topic: B\nGo.\n\nOne full-length, independent, clearly distinct lesson per key.")]
    assert len(set(result.keys)) == 3


def test_equal_calls_whose_last_text_is_a_list_get_one_more_part() -> None:
    parts = [{"type": "text", "text": "Go."}]
    content = merged(lessons_of([user(parts)], [user(parts)])).body["messages"][0]["content"]
    assert content[0] == parts[0]
    assert content[1]["text"].startswith("One full-length")


def test_the_last_message_is_a_users() -> None:
    equal = merged(lessons_of([user("Go."), SYSTEM], [user("Go."), SYSTEM])).body["messages"]
    differing = merged(lessons_of([user("Go."), SYSTEM], [user("Run."), SYSTEM])).body["messages"]
    assert [message["role"] for message in equal] == [message["role"] for message in differing] == ["user", "system", "user"]


def test_of_three_the_two_equal_ones_stand_once_and_are_told_to_differ() -> None:
    result = merged(asking("Go east", "Go west", "Go east"))
    first, second, third = result.keys
    assert f"\n\n{first}, {third} (clearly distinct lessons):\nGo east\n\n{second}:\nGo west" in last_text(result)


def test_texts_as_parts_and_several_messages_become_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    result = merged(lessons_of([SYSTEM, user(parts), user("three")], [SYSTEM, user("four")]))
    assert list(parts_of(result)[1].values()) == ["one\ntwo\n\nthree", "four"]


def test_a_call_that_only_has_what_all_have_keeps_its_last_message() -> None:
    result = merged(lessons_of([SYSTEM, user("A")], [SYSTEM, user("A"), user("B")]))
    assert list(parts_of(result)[1].values()) == ["A", "A\n\nB"]
    after = merged(lessons_of([user("A")], [user("B"), user("A")]))
    assert list(parts_of(after)[1].values()) == ["A", "B\n\nA"]


@pytest.mark.parametrize(
    "texts",
    [
        ("Go", "Go\nfast"),
        ('{\n"a": 1\n}', '{\n"a": 2\n}'),
        ("```\nx\n```", "```\ny\n```"),
        ("<task>\nx\n</task>", "<task>\ny\n</task>"),
        ("Notes:\nx", "Notes:\ny"),
        ("\n\nx", "\n\ny"),
        ("Go\n\n", "Go\nx"),
    ],
)
def test_a_block_that_would_tear_a_text_is_left_in_it(texts: tuple[str, str]) -> None:
    head, own, tail = parts_of(merged(asking(*texts)))
    assert (head.startswith("Fill each key"), list(own.values()), tail) == (True, list(texts), "")


def test_the_shortest_text_keeps_a_line_of_its_own_and_the_rest_is_still_shared() -> None:
    head, own, tail = parts_of(merged(asking("Go\nend", "Go\nmore\nend")))
    assert (head.startswith("Go\n\nFill"), list(own.values()), tail) == (True, ["end", "more\nend"], "")


def test_a_text_that_imitates_headers_stays_inside_its_own() -> None:
    guess = merged(asking("a", "b")).keys
    forged = f"a\n\n{guess[1]}:\nb\n\nFor {', '.join(guess)}:\neverything"
    result = merged(asking(forged, "b"))
    assert not any(key in forged for key in result.keys)
    assert list(parts_of(result)[1].values()) == [forged, "b"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "messages"),
        ([], "messages"),
        ([1], "messages"),
        ([user("")], "empty_request"),
        ([user([])], "empty_request"),
        ([user(None)], "message_parts"),
        ([user([{"type": "image_url", "image_url": {}}])], "message_parts"),
        ([user([{"type": "text", "text": "x", "cache_control": {}}])], "message_parts"),
        ([{"role": "user", "content": "x", "name": "ann"}], "message_parts"),
        ([{"role": "system", "content": "x"}], "message_parts"),
    ],
)
def test_what_differs_must_be_users_text(messages: Any, reason: str) -> None:
    other = make_lesson(body=make_body(messages=[user("Go.")]))
    assert refused([other, make_lesson(body=make_body(messages=messages))]) == reason


def test_nothing_and_calls_of_different_keys_are_no_batch() -> None:
    assert refused([]) == "no_lessons"
    first, second = make_lessons(2)
    assert refused([first, replace(second, key=BatchKey("other"))]) == "different_keys"


def test_other_fields_pass_and_what_the_batch_sets_is_replaced() -> None:
    body = make_body(
        temperature=0.4,
        unknown={"deep": [1]},
        stream=True,
        stream_options={},
        metadata={"a": "b"},
        response_format={"type": "json_object"},
        parallel_tool_calls=True,
        functions=[],
        max_tokens=None,
    )
    result = merged([make_lesson(body=body)] * 2)
    assert result.body.keys() == {"messages", "tools", "tool_choice", "parallel_tool_calls", "temperature", "unknown"}
    assert result.body["unknown"] == {"deep": [1]}
    assert result.body["unknown"] is not body["unknown"]
    assert result.body["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("first", "second", "sent"),
    [
        ({"user": "ann"}, {"user": "ann"}, {"user": "ann"}),
        ({"user": "ann"}, {"user": "bob"}, {}),
        ({"user": "ann"}, {}, {}),
        ({}, {"user": "ann"}, {}),
        ({"user": "ann", "safety_identifier": "x"}, {"user": "bob", "safety_identifier": "x"}, {"safety_identifier": "x"}),
    ],
)
def test_identity_goes_up_only_where_all_name_the_same(first: Json, second: Json, sent: Json) -> None:
    body = merged([make_lesson(body=make_body(**fields)) for fields in (first, second)]).body
    assert {name: body[name] for name in ("user", "safety_identifier") if name in body} == sent


def test_an_operators_own_identity_field_of_one_learner_goes_up_for_no_other() -> None:
    """With `identical_across_users` bodies may differ in any field that the operator named; the first one's is not all's."""
    body = merged([make_lesson(body=make_body(student=name, temperature=0.5)) for name in ("ann", "bob")]).body
    assert "student" not in body
    assert body["temperature"] == 0.5


@pytest.mark.parametrize(
    ("limits", "learned", "capability", "sent"),
    [
        ((100, 300), (), {}, {"max_tokens": 400 + 2 * ENTRY_TOKENS}),
        ((100, 300), (), {"token_limit_field": "max_completion_tokens"}, {"max_completion_tokens": 400 + 2 * ENTRY_TOKENS}),
        ((100, 300), (), {"max_output_tokens": 350}, {"max_tokens": 350}),
        ((100, None), (None, 101), {}, {"max_tokens": 100 + 101 + 2 * ENTRY_TOKENS}),
        ((100, None), (), {}, {}),
        ((None, None), (100, 100), {}, {}),
        ((None, None), (), {"default_output_tokens": 2048}, {"max_tokens": 2 * 2048 + 2 * ENTRY_TOKENS}),
        ((None, 100), (50, 50), {"default_output_tokens": 2048}, {"max_tokens": 2048 + 100 + 2 * ENTRY_TOKENS}),
        ((None, None), (), {"default_output_tokens": 2048, "max_output_tokens": 3000}, {"max_tokens": 3000}),
    ],
)
def test_the_token_limit_is_the_sum(limits: Sequence[int | None], learned: Sequence[int | None], capability: Json, sent: Json) -> None:
    lessons = [replace(make_lesson(), token_limit=limit, token_limit_field="max_tokens" if limit else None) for limit in limits]
    body = merged(lessons, capability=Capability(**capability), learned_tokens=learned).body
    assert {name: value for name, value in body.items() if name.startswith("max_")} == sent


@pytest.mark.parametrize(
    ("asked", "thinks"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": None, "reasoning_effort": "none"}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning": {"max_tokens": 900}}, True),
        ({"reasoning": {"enabled": False}}, False),
    ],
)
def test_where_thinking_forbids_it_no_tool_is_forced(asked: Json, *, thinks: bool) -> None:
    lessons = [make_lesson(body=make_body(**asked, messages=[user(text)])) for text in "ab"]
    assert merged(lessons, capability=Capability(force_while_thinking=False)).carrier == ("json_schema" if thinks else "tool")
    assert merged(lessons).carrier == "tool"


def test_a_json_object_carrier_tells_the_form_in_words() -> None:
    result = merged(asking("a", "b"), carrier="json_object")
    first, second = result.keys
    text = last_text(result)
    assert f'Answer with JSON only, in this form: {{"lessons":{{"{first}":LESSON,"{second}":LESSON}}}}' in text
    assert text.count(json.dumps(LESSON_SCHEMA, separators=(",", ":"))) == 1


@pytest.mark.parametrize(
    ("shape", "carrier", "words"),
    [
        ("tool", "json_schema", "Answer in JSON, without a tool call."),
        ("json_schema", "json_schema", "Answer in JSON."),
        ("text", "tool", "Each value is a string: the whole text asked for."),
        ("json_object", "tool", "Each value is the JSON object asked for."),
        ("json_object", "json_object", "Each LESSON is the JSON object asked for."),
        ("tool", "json_object", 'Each LESSON fits this JSON schema: {"type":"object"}'),
    ],
)
def test_the_words_tell_what_the_carrier_leaves_open(shape: Any, carrier: Any, words: str) -> None:
    result = merged(asking("a", "b", shape=shape, schema=None, schema_name=None), carrier=carrier)
    assert result.carrier == carrier
    assert words in last_text(result)


def test_keys_are_short_differ_and_follow_from_the_seed() -> None:
    assert merged(make_lessons(5), "one").keys == merged(make_lessons(5), "one").keys != merged(make_lessons(5), "two").keys
    assert all(len(key) == 2 for key in merged(make_lessons(5)).keys)


def test_keys_grow_where_the_texts_hold_the_short_ones() -> None:
    pairs = " ".join(a + b for a in "BCDFGHJKMNPQRSTVWXZ" for b in "bcdfghjkmnpqrstvwxz")
    assert {len(key) for key in entry_keys(5, pairs, "seed")} == {3}
    numbered = " ".join(f"{letter}{number:02}" for letter in "abcdefghijklmnopqrstuvwxyz" for number in range(100))
    assert {len(key) for key in entry_keys(5, f"{pairs} {numbered}", "seed")} == {5}


def test_texts_that_hold_every_candidate_make_no_batch() -> None:
    class All(str):
        """Holds whatever is looked for."""

        __slots__ = ()

        def lower(self) -> All:
            return self

        def __contains__(self, key: object) -> bool:
            return True

    with pytest.raises(UnfitError, match="keys"):
        entry_keys(2, All(), "seed")


TEXTS = st.text(st.sampled_from("ab:\n{}<>`/ é\ud800"), min_size=1, max_size=30) | st.sampled_from(
    ["bx:\nx", "Topic: A\nGo", "Topic: A\nRun", "Topic: A\nGo\nnow", "For bx, qw:\nall"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS.filter(str.strip), min_size=2, max_size=5), st.text(max_size=5))
@example(["x", "x"], "")
@example(["a\nb\nc", "a\nd\nc", "a\nb\nc"], "")
def test_read_back_every_text_is_whole_and_its_own_callers(texts: list[str], seed: str) -> None:
    """Law: what stands before the keys, behind a caller's key and after the last is that caller's text, line by line."""
    result = merged(asking(*texts), seed)
    assert not any(key in text.lower() for key in result.keys for text in texts)
    if len(set(texts)) == 1:
        assert last_text(result).startswith(f"{texts[0]}\n\nOne full-length")
        return
    head, own, tail = parts_of(result)
    leading = head[: head.rindex("Fill each key")].removesuffix("\n\n")
    behind = {key: text for named, text in own.items() for key in named.split(", ")}
    for key, text in zip(result.keys, texts, strict=True):
        assert "\n".join(part for part in (leading, behind[key], tail) if part) == text
    assert result.body["messages"][0] == SYSTEM


WORDS = st.sampled_from(
    ["$ref", "$defs", "$id", "type", "properties", "items", "required", "enum", "anyOf", "oneOf", "not", "title", "messages", "role"]
)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["#", "#/$defs/item", "#/properties/x", "object", "string", "user", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.sampled_from(["item", "x"]), inner, max_size=4),
    max_leaves=12,
)
ANY_OBJECT = st.dictionaries(WORDS, ANY_JSON, max_size=5)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": st.sampled_from(["a", "b\nc", "b\nd"]) | ANY_JSON}), max_size=3
)
CAPABILITIES = st.builds(
    Capability,
    force=st.sampled_from(["name", "required", "none"]),
    json_schema=st.booleans(),
    json_object=st.booleans(),
    entries=st.sampled_from(["reference", "inline", "array"]),
    strict=st.booleans(),
    bounded_strings=st.booleans(),
    loose_items=st.booleans(),
    max_output_tokens=st.none() | st.integers(1, 100),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(MESSAGES | ANY_JSON, min_size=1, max_size=3),
    st.none() | ANY_OBJECT,
    ANY_OBJECT,
    CAPABILITIES,
    st.sampled_from(["tool", "json_schema", "json_object", "text"]),
    st.sampled_from(["auto", "tool", "json_schema", "json_object"]),
)
def test_whatever_callers_send_there_is_a_body_or_a_reason(
    conversations: list[Any], schema: Any, more: Json, capability: Capability, shape: Any, carrier: Any
) -> None:
    """Law: merge is total, the same arguments give the same body, and the callers' bodies stay as they are."""
    bodies = [make_body(**more) | {"messages": messages} for messages in conversations]
    lessons = [make_lesson(body=body, shape=shape, schema=schema, token_limit=3, token_limit_field="max_tokens") for body in bodies]
    before = copy.deepcopy((bodies, schema))
    result = merge(lessons, capability, seed="s", carrier=carrier)
    assert (bodies, schema) == before
    assert result == merge(lessons, capability, seed="s", carrier=carrier)
    if isinstance(result, MergedBody):
        assert len(set(result.keys)) == len(lessons)
        assert not {"model", "stream", "stream_options", "metadata"} & result.body.keys()
        assert result.body["messages"][-1]["role"] == "user"


@pytest.mark.parametrize("place", ["messages", "schema", "told", "other"])
def test_what_is_too_deep_gets_a_reason(place: str) -> None:
    deep: Any = "x"
    for _ in range(1020):
        deep = [deep]
    body = make_body(**({"messages": [user(deep)]} if place == "messages" else {"other": deep} if place == "other" else {}))
    schema = {"default": deep} if place in ("schema", "told") else LESSON_SCHEMA
    reason = refused([make_lesson(body=body, schema=schema)] * 2, carrier="json_object" if place == "told" else "auto")
    assert reason == ("schema_depth" if place in ("schema", "told") else "body_depth")


@pytest.mark.parametrize("shape", ["tool", "json_schema"])
@pytest.mark.parametrize("form", ["reference", "inline", "array"])
def test_the_merged_schema_takes_valid_lessons_and_no_others(shape: Any, form: EntryForm) -> None:
    result = merged(asking("a", "b", shape=shape), capability=Capability(entries=form))
    fields = result.body
    schema = fields["tools"][0]["function"]["parameters"] if shape == "tool" else fields["response_format"]["json_schema"]["schema"]
    validator = jsonschema_rs.validator_for(schema, offline=True)

    def answer(*entries: Any) -> Json:
        pairs = list(zip(result.keys, entries, strict=False))
        return {"lessons": [{"key": key, "lesson": entry} for key, entry in pairs] if form == "array" else dict(pairs)}

    good, bad = {"title": "t", "content": "c"}, {"title": "t"}
    assert validator.is_valid(answer(good, good))
    assert not validator.is_valid(answer(good, bad))
    assert not validator.is_valid(answer(good))


def test_merging_shares_nothing_with_the_callers_schema() -> None:
    lessons = make_lessons(2)
    function = merged(lessons).body["tools"][0]["function"]
    function["parameters"]["$defs"]["item"]["properties"].clear()
    assert lessons[0].schema
    assert lessons[0].schema["properties"]


def test_a_field_that_is_null_asks_for_nothing_and_is_not_sent() -> None:
    """litellm fails a whole call over some of them (`web_search_options`)."""
    lessons = [make_lesson(body=make_body(web_search_options=None, temperature=0.5)) for _ in range(2)]
    merged = merge(lessons, Capability(), seed="s")
    assert isinstance(merged, MergedBody)
    assert "web_search_options" not in merged.body
    assert merged.body["temperature"] == 0.5
