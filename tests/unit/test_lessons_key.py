"""Who may share a batch: whatever stands outside the lesson parts the keys, what may differ inside does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.lessons.key import canonical
from proxy.lessons.recognise import Recogniser
from proxy.model import SITE_APP, Call, Json, Lesson, Unbatchable
from proxy.policy import IdentityPolicy, LessonPolicy, Rule
from tests.make import LESSON_SCHEMA, make_body, make_call, make_caller, make_user_text

RULES = TypeAdapter(tuple[Rule, ...]).validate_python(
    yaml.safe_load((Path(__file__).parent.parent.parent / "proxy" / "rules.yaml").read_text(encoding="utf-8"))
)
SHIPPED = Recogniser(LessonPolicy(rules=RULES))
ACROSS = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(identical_across_users=True)))
BY_KEY = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(when_missing="api_key")))
NEVER = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(when_missing="never")))
TENANTS = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(user=(("header.x-tenant-id", "header.x-user-id"),))))
KNOWN = {"x-user-id": "ann"}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
UNKNOWN_FIELDS = st.sampled_from(["temperature", "top_p", "reasoning_effort", "verbosity", "service_tier", "provider", "x", "ünknown"])
NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12).filter(
    lambda name: name.casefold() not in IdentityPolicy().ignore
)


def lesson(headers: dict[str, str] | None = None, by: Recogniser = SHIPPED, **parts: Any) -> Lesson:
    found = verdict(headers, by, **parts)
    assert isinstance(found, Lesson), found
    return found


def verdict(headers: dict[str, str] | None = None, by: Recogniser = SHIPPED, **parts: Any) -> Lesson | Unbatchable:
    """Judge a call; `key` is the caller's, everything else is a field of its body."""
    call: Call = replace(make_call(), caller=make_caller(key_digest=parts.pop("key", "k")))
    body = {name: value for name, value in make_body(**parts).items() if value is not ...}
    return by.judge(replace(call, body=body, headers=headers or {}, raw=b""))


def user(text: str = "", subject: str = "Maths", topic: str = "Ratios") -> list[Json]:
    return [{"role": "user", "content": make_user_text(subject, topic, f"Write the lesson. {text}")}]


def with_messages(parts: Json) -> Json:
    return {"messages": user(), **parts}


def schema(**more: Any) -> Json:
    return {"tools": [{"type": "function", "function": {"name": "create_lesson", "parameters": LESSON_SCHEMA | more}}]}


OUTSIDE: dict[str, Json] = {
    "model": {"model": "another"},
    "subject": {"messages": user(subject="Physics")},
    "topic": {"messages": user(topic="Fractions")},
    "system text": {"messages": [{"role": "system", "content": "Be brief."}, *user()]},
    "developer text": {"messages": [{"role": "developer", "content": "Be brief."}, *user()]},
    "system text behind the user's": {"messages": [*user(), {"role": "system", "content": "Be brief."}]},
    "number of user messages": {"messages": [*user(), {"role": "user", "content": "Be brief."}]},
    "schema": schema(minProperties=1),
    "order of the schema": schema(properties=dict(reversed(LESSON_SCHEMA["properties"].items()))),
    "tool choice": {"tool_choice": "required"},
    "temperature": {"temperature": 0.4},
    "a field that nobody knows": {"x_unknown": {"deep": [1]}},
    "a field that is null": {"x_unknown": None},
    "name of the token limit": {"max_completion_tokens": 900},
    "other name of the token limit": {"max_tokens": 900},
    "API key": {"key": "another"},
}


@pytest.mark.parametrize("headers", [KNOWN, {}], ids=["known user", "no user"])
def test_whatever_stands_outside_the_lesson_parts_the_keys(headers: dict[str, str]) -> None:
    """Each of these differs from the plain call and from each other in something outside the lesson."""
    plain = {"plain": lesson(headers, messages=user()).key}
    keys = plain | {name: lesson(headers, **with_messages(parts)).key for name, parts in OUTSIDE.items()}
    assert len(set(keys.values())) == len(keys)
    named = ("openai-organization", "openai-project", "openai-beta")
    by_header = {lesson(headers | {name: "x"}, messages=user()).key for name in named}
    assert len(by_header | set(plain.values())) == len(named) + 1


@given(field=UNKNOWN_FIELDS, one=VALUES, other=VALUES)
def test_values_that_differ_in_any_other_field_part_the_keys(field: str, one: Any, other: Any) -> None:
    assume(canonical(one) != canonical(other))
    keys = [verdict(KNOWN, **{field: value}) for value in (one, other)]
    assert all(isinstance(found, Lesson) for found in keys)
    assert len({found.key for found in keys if isinstance(found, Lesson)}) == 2


@pytest.mark.parametrize(
    "unset",
    [{"n": 1}, {"stop": None}, {"seed": None}, {"logprobs": False}, {"store": False}, {"response_format": None}, {"modalities": ["text"]}],
    ids=repr,
)
def test_what_asks_for_nothing_counts_as_not_set(unset: Json) -> None:
    assert lesson(KNOWN, **unset).key == lesson(KNOWN).key


def test_no_tools_are_as_good_as_none() -> None:
    schema: Json = {"type": "json_schema", "json_schema": {"name": "lesson", "schema": LESSON_SCHEMA}}
    bare = lesson(KNOWN, tools=..., tool_choice=..., response_format=schema)
    assert lesson(KNOWN, tools=[], tool_choice=None, response_format=schema).key == bare.key


@given(one=VALUES, other=VALUES)
@example(one=None, other=math.inf)
def test_only_equal_values_are_written_alike(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == _alike(one, other)


def test_numbers_of_another_kind_are_written_apart() -> None:
    odd: list[Any] = [
        0,
        0.0,
        -0.0,
        False,
        None,
        "",
        "0",
        [],
        {},
        math.nan,
        math.inf,
        -math.inf,
        1,
        1.0,
        True,
        2**70,
        float(2**70),
        "\ud800",
        "\ufffd",
    ]
    assert len({canonical([value]) for value in odd}) == len(odd)
    assert len({canonical({"a": value}) for value in odd}) == len(odd)


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON, kinds of numbers and the order of names included."""
    return repr(one) == repr(other)


@given(users=st.lists(st.text(max_size=20), min_size=2, max_size=2), key=st.sampled_from(["a", "b"]))
def test_lessons_of_one_learner_share_a_batch_however_they_are_worded(users: list[str], key: str) -> None:
    found = [verdict(KNOWN, key=key, messages=user(text)) for text in users]
    lessons = [one for one in found if isinstance(one, Lesson)]
    assert len({one.key for one in lessons}) <= 1


@pytest.mark.parametrize(
    "parts",
    [
        {"max_tokens": 100},
        {"max_tokens": 2_000},
        {"max_tokens": 900, "stream": True, "stream_options": {"include_usage": True}},
        {"max_tokens": 900, "stream": False},
        {"max_tokens": 900, "metadata": {"trace": "1"}},
        {"max_tokens": 900, "metadata": {"user_id": "ann"}},
        {"max_tokens": 900, "user": "ann"},
        {"max_tokens": 900, "safety_identifier": "ann"},
        {"max_tokens": 900, "messages": user("Add an example.")},
        {"max_tokens": 900, "messages": user(subject=" MATHS ", topic="ratios.")},
    ],
    ids=str,
)
def test_what_may_differ_between_lessons_of_a_batch_is_not_in_the_key(parts: Json) -> None:
    assert lesson(KNOWN, **with_messages(parts)).key == lesson(KNOWN, messages=user(), max_tokens=900).key


@given(one=NAMES, other=NAMES)
def test_different_users_never_share(one: str, other: str) -> None:
    assume(one.strip() != other.strip())
    ways: list[Any] = [{"headers": {"x-user-id": name}} for name in (one, other)]
    ways += [{"user": name} for name in (one, other)]
    ways += [{"metadata": {"user_id": name}} for name in (one, other)]
    first, second = {lesson(**way).key for way in ways[::2]}, {lesson(**way).key for way in ways[1::2]}
    assert first.isdisjoint(second)
    assert len(first) == len(second) == 1


def test_users_groups_and_keys_of_one_name_are_different_learners() -> None:
    found = {
        lesson({"x-user-id": "k"}, BY_KEY).key,
        lesson({"x-lesson-group": "k"}, BY_KEY).key,
        lesson({}, BY_KEY, key="k").key,
    }
    assert len(found) == 3
    assert lesson({"x-lesson-group": "k"}).key != lesson({"x-lesson-group": "k2"}).key
    assert lesson({}, BY_KEY).scope == "user"


def test_parts_of_a_user_are_not_run_together() -> None:
    pairs = [("a", "bc"), ("ab", "c"), ("a,b", "c"), ("bc", "a")]
    keys = {lesson({"x-tenant-id": tenant, "x-user-id": name}, TENANTS).key for tenant, name in pairs}
    assert len(keys) == len(pairs)
    assert lesson({"x-user-id": "a"}, TENANTS).scope == "identical"


@given(key=NAMES, other=NAMES, across=st.booleans(), headers=st.sampled_from([{}, KNOWN, {"x-lesson-group": "g"}]))
def test_different_api_keys_never_share(key: str, other: str, across: bool, headers: dict[str, str]) -> None:  # noqa: FBT001 - drawn
    assume(key != other)
    by = ACROSS if across else SHIPPED
    assert lesson(headers, by, key=key).key != lesson(headers, by, key=other).key


@given(one=st.text(max_size=20), other=st.text(max_size=20))
def test_without_a_user_only_identical_bodies_share(one: str, other: str) -> None:
    first, second = verdict(messages=user(one)), verdict(messages=user(other))
    if isinstance(first, Lesson) and isinstance(second, Lesson):
        assert first.scope == "identical"
        assert (first.key == second.key) == (one == other)


@pytest.mark.parametrize(
    "parts",
    [{"metadata": {"trace": "1"}}, {"user": "anonymous"}, {"safety_identifier": ""}, {"messages": user("An example too.")}],
    ids=str,
)
def test_without_a_user_every_other_field_counts(parts: Json) -> None:
    assert lesson(**with_messages(parts)).key != lesson(messages=user()).key


def test_without_a_user_stream_and_the_size_of_the_limit_do_not_count() -> None:
    plain = lesson(max_tokens=900)
    assert lesson(max_tokens=200, stream=True, stream_options={"include_usage": True}).key == plain.key
    assert plain.identity_digest == lesson(max_tokens=200, stream=True).identity_digest


@pytest.mark.parametrize("name", ["anonymous", "Guest", " 0 ", "NULL", "", "   "])
def test_value_that_names_nobody_is_no_user(name: str) -> None:
    assert lesson({"x-user-id": name}).scope == "identical"
    assert verdict({"x-user-id": name}, NEVER) == Unbatchable("no_user", lesson().rule)


@pytest.mark.parametrize(
    "parts",
    [{"user": "bob"}, {"safety_identifier": "bob"}, {"metadata": {"user_id": "bob"}}, {"user": 7}],
    ids=str,
)
def test_sources_of_identity_that_disagree_go_alone(parts: Json) -> None:
    assert verdict(KNOWN, **parts) == Unbatchable("identity_conflict", lesson().rule)
    assert isinstance(verdict(KNOWN | {"x-lesson-group": "g"}), Lesson)


def test_identical_calls_at_temperature_0_go_alone() -> None:
    assert verdict(temperature=0) == Unbatchable("identical_temperature_0", lesson().rule)
    assert lesson(KNOWN, temperature=0).deterministic


def test_across_users_only_what_is_identical_but_for_the_user_shares() -> None:
    ann, bob = {"x-user-id": "ann"}, {"x-user-id": "bob"}
    assert lesson(ann, ACROSS).key == lesson(bob, ACROSS).key
    assert lesson({}, ACROSS, user="ann").key == lesson({}, ACROSS, user="bob").key
    assert lesson({}, ACROSS, metadata={"user_id": "ann"}).key == lesson({}, ACROSS, metadata={"user_id": "bob"}).key
    assert lesson(ann, ACROSS, messages=user()).key != lesson(bob, ACROSS, messages=user("Be brief.")).key
    assert lesson(ann, ACROSS, metadata={"a": "1"}).key != lesson(bob, ACROSS, metadata={"a": "2"}).key


def test_half_of_a_compound_source_beside_another_users_name_is_a_conflict() -> None:
    """A tenant without its user, beside a user who may be of any tenant: learners of two tenants must not meet."""
    both = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(user=(("header.x-tenant", "header.x-user"), "body.user"))))
    assert verdict({"x-tenant": "t"}, both, user="u1") == Unbatchable("identity_conflict", "lesson tool or schema")
    assert lesson({"x-user": "u1"}, both, user="u1").user == "u1"
    assert lesson({"x-tenant": "t"}, both).user is None


def test_half_of_a_compound_source_parts_the_calls_of_nobody() -> None:
    """Two tenants' calls that name no user are not one tenant's, however alike they are and whatever they share besides."""
    both = IdentityPolicy(user=(("header.x-tenant", "header.x-user"),), when_missing="api_key")
    for policy, more in ((both, {}), (both, {"x-lesson-group": "g"}), (replace(both, when_missing="identical_only"), {})):
        by = Recogniser(LessonPolicy(rules=RULES, identity=policy))
        assert lesson({"x-tenant": "a", **more}, by).key != lesson({"x-tenant": "b", **more}, by).key
        assert lesson({"x-tenant": "a", **more}, by).key == lesson({"x-tenant": "a", **more}, by).key


def test_two_compound_sources_agree_only_part_by_part() -> None:
    """Tenant a with user b is not tenant b with user a; a source that names the user alone agrees with either that has it."""
    pairs = (("header.x-tenant", "header.x-user"), ("body.tenant", "body.user"), "metadata.user_id")
    by = Recogniser(LessonPolicy(rules=RULES, identity=IdentityPolicy(user=pairs)))
    headers = {"x-tenant": "a", "x-user": "b"}
    assert verdict(headers, by, tenant="b", user="a") == Unbatchable("identity_conflict", lesson().rule)
    assert lesson(headers, by, tenant="a", user="b", metadata={"user_id": "b"}).user == "a\nb"


def test_a_site_is_the_key_model_system_text_and_schema_and_nothing_of_the_learner_or_lesson() -> None:
    """Calls of one place in an app teach one site, whoever learns what."""
    here = lesson(KNOWN, messages=[{"role": "system", "content": "Teach."}, *user()])
    assert here.site == lesson({"x-user-id": "bob"}, messages=[{"role": "system", "content": "Teach."}, *user("More.", topic="Area")]).site
    others = [
        lesson(KNOWN, key="another", messages=[{"role": "system", "content": "Teach."}, *user()]),
        lesson(KNOWN, model="another", messages=[{"role": "system", "content": "Teach."}, *user()]),
        lesson(KNOWN, messages=[{"role": "system", "content": "Teach well."}, *user()]),
        lesson(
            KNOWN,
            messages=[{"role": "system", "content": "Teach."}, *user()],
            tools=[{"type": "function", "function": {"name": "create_lesson", "parameters": {**LESSON_SCHEMA, "description": "short"}}}],
        ),
    ]
    assert len({here.site, *(other.site for other in others)}) == 5
    assert [here.site[:SITE_APP] == other.site[:SITE_APP] for other in others] == [False, False, True, True]
