"""Rules as an operator writes them: order, exceptions, guards, trials, routing, and structure before any name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from proxy.lessons.recognise import Recogniser
from proxy.model import Json, Lesson, Unbatchable
from proxy.policy import FieldCheck, LessonPolicy, MergePolicy, Rule, When, WindowPolicy
from tests.make import make_body, make_call

SHIPPED = TypeAdapter(tuple[Rule, ...]).validate_python(
    yaml.safe_load((Path(__file__).parent.parent.parent / "proxy" / "rules.yaml").read_text(encoding="utf-8"))
)
BY_NAME = Rule("by name", When(tool="create_lesson"))


def judge(*rules: Rule, headers: dict[str, str] | None = None, policy: Json | None = None, **fields: Any) -> Lesson | Unbatchable:
    call = make_call(body=make_body(**fields), headers=headers or {"x-user-id": "u1"})
    return Recogniser(LessonPolicy(rules=(*rules, *SHIPPED), **(policy or {}))).judge(call)


def lesson(*rules: Rule, **fields: Any) -> Lesson:
    found = judge(*rules, **fields)
    assert isinstance(found, Lesson), found
    return found


def tool(*names: str, name: str = "create_lesson") -> Json:
    parameters = {"type": "object", "properties": {field: {"type": "string"} for field in names}}
    return {"tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}], "tool_choice": "required"}


def user(text: str) -> Json:
    return {"messages": [{"role": "user", "content": f"Subject: Maths\nTopic: Ratios\n{text}"}]}


def test_first_rule_that_matches_decides() -> None:
    assert lesson(BY_NAME).rule == "by name"
    assert lesson(Rule("other", When(tool="other_*")), BY_NAME).rule == "by name"
    assert lesson().rule == "lesson tool or schema"


def test_name_alone_never_makes_a_lesson() -> None:
    assert judge(BY_NAME, **tool("problem", "recommendation", "category")) == Unbatchable("no_rule")
    assert judge(BY_NAME, **tool("course_id", "title", "content", "position")) == Unbatchable("no_rule")
    assert lesson(BY_NAME, **tool("title", "content")).rule == "by name"


def test_rule_that_says_what_a_lesson_looks_like_is_believed() -> None:
    own = Rule("story", When(tool="story_lesson", schema_any=("sentence_1",)))
    assert lesson(own, **tool("title", "sentence_1", name="story_lesson")).rule == "story"


def test_rule_for_prompts_that_names_no_words_takes_the_shipped_ones() -> None:
    own = Rule("model", When(model="GPT-*", shape=("text",)))
    plain = {"tools": None, "tool_choice": None, "model": "gpt-oss"}
    assert lesson(own, **plain, **user("Write one lesson.")).rule == "model"
    assert judge(own, **plain, **user("I am stuck here.")) == Unbatchable("no_rule")


def test_guard_holds_for_an_operators_rule_unless_that_rule_sets_it_aside() -> None:
    text = user("Translate this lesson into French.")
    assert judge(BY_NAME, **text) == Unbatchable("translation", "translation")
    assert lesson(Rule("by name", BY_NAME.when, despite=("translation",)), **text).rule == "by name"
    assert lesson(Rule("by name", BY_NAME.when, despite=("*",)), **text).rule == "by name"


def test_guard_is_switched_off_by_its_mode() -> None:
    rules = tuple(Rule(r.name, r.when, r.merge_calls, r.guard, mode="off") if r.name == "translation" else r for r in SHIPPED)
    call = make_call(body=make_body(**user("Translate this lesson into French.")))
    assert isinstance(Recogniser(LessonPolicy(rules=rules)).judge(call), Lesson)


def test_exception_before_a_rule_sends_its_calls_alone() -> None:
    own = Rule("not now", When(headers={"X-App": "beta*"}), merge_calls=False)
    assert judge(own, headers={"x-app": "beta-2"}) == Unbatchable("rule", "not now")
    named = Rule("not now", own.when, merge_calls=False, reason="beta")
    assert judge(named, headers={"x-app": "beta-2"}) == Unbatchable("beta", "not now")
    assert isinstance(judge(own, headers={"x-app": "live"}), Lesson)


def test_rule_brings_its_own_settings() -> None:
    own = Rule(
        "own", BY_NAME.when, window=WindowPolicy(max_size=2), merge=MergePolicy(carrier="tool"), checks={"content": FieldCheck(min_words=5)}
    )
    found = lesson(own)
    assert (found.window.max_size, found.merge.carrier, found.checks) == (2, "tool", {"content": FieldCheck(min_words=5)})
    plain = lesson(policy={"checks": {"title": FieldCheck(required=True)}})
    assert (plain.window, plain.checks) == (WindowPolicy(), {"title": FieldCheck(required=True)})


def test_rule_routes_its_calls_to_another_alias_which_is_part_of_the_key() -> None:
    routed = lesson(Rule("by name", BY_NAME.when, model="cheap"))
    assert routed.model == "cheap"
    assert routed.key != lesson(BY_NAME).key
    assert routed.key == lesson(Rule("by name", BY_NAME.when, model="cheap"), model="another").key


def test_modes() -> None:
    assert lesson(policy={"mode": "dry_run"}).mode == "dry_run"
    assert lesson(Rule("by name", BY_NAME.when, mode="dry_run")).mode == "dry_run"
    assert judge(Rule("by name", BY_NAME.when, mode="off")) == Unbatchable("rule_off", "by name")


def test_rules_own_mode_wins_over_the_policys() -> None:
    own = Rule("by name", BY_NAME.when, mode="on")
    assert lesson(own, policy={"mode": "off"}).mode == "on"
    elsewhere = Rule("elsewhere", When(model="another"), mode="on")
    assert judge(Rule("by name", BY_NAME.when), elsewhere, policy={"mode": "off"}) == Unbatchable("off", "by name")


def test_trial_moves_only_the_calls_that_take_part_to_its_model() -> None:
    assert lesson(Rule("by name", BY_NAME.when, model="cheap", share=0.0), model="dear").model == "dear"
    assert lesson(Rule("by name", BY_NAME.when, model="cheap", mode="dry_run"), model="dear").model == "dear"


def test_share_merges_its_part_of_the_keys_and_always_the_same() -> None:
    def modes(share: float) -> list[str]:
        rule = Rule("by name", BY_NAME.when, share=share)
        recogniser = Recogniser(LessonPolicy(rules=(rule, *SHIPPED)))
        found = [recogniser.judge(make_call(headers={"x-user-id": f"u{number}"})) for number in range(300)]
        return [one.mode for one in found if isinstance(one, Lesson)]

    assert set(modes(0.0)) == {"off"}
    assert set(modes(1.0)) == {"on"}
    half = modes(0.5)
    assert 100 < half.count("on") < 200
    assert half == modes(0.5)


def test_conditions_on_path_header_and_model() -> None:
    assert lesson(Rule("p", When(path="/v1/chat/*"))).rule == "p"
    assert lesson(Rule("p", When(path="/v1/resp*"))).rule != "p"
    assert lesson(Rule("h", When(headers={"x-app": "*"}))).rule == "h"
    assert lesson(Rule("h", When(headers={"x-app": "a"}))).rule != "h"
    assert lesson(Rule("m", When(model="gpt-oss-*"))).rule == "m"


@pytest.mark.parametrize("phrase", ["", "a*", "create ~ a lesson", "give me ... lesson", "... lesson", "x ~", "!", "ab* ~ lesson"])
def test_phrase_that_can_not_be_read_is_refused_at_start(phrase: str) -> None:
    with pytest.raises(ValueError, match="phrase"):
        Recogniser(LessonPolicy(rules=(Rule("r", When(prompt_any=(phrase,))),)))


def _found(phrase: str, text: str) -> bool:
    own = Rule("own", When(shape=("text",), prompt_any=(phrase,)), despite=("*",))
    call = make_call(body=make_body(tools=None, tool_choice=None, **user(text)), headers={})
    found = Recogniser(LessonPolicy(rules=(own,))).judge(call)
    return isinstance(found, Lesson)


@pytest.mark.parametrize(
    ("phrase", "text", "expected"),
    [
        ("quiz only", "QUIZ, only!", True),
        ("quiz only", "quizzes only", False),
        ("quiz only", "quiz.only", False),
        ("translat*", "Translations please", True),
        ("translat*", "trans lation", False),
        ("check ... lesson", "check that every little lesson is right", True),
        ("check ... lesson", "check one two three four five six lesson", False),
        ("check ... lesson", "check it. A lesson", False),
        ("create ~ lesson", "create a short and lively lesson", True),
        ("create ~ lesson", "create a quiz for the lesson", False),
        ("create ~ lesson", "Create\na\nlesson", True),
        ("create ~ lesson", "create_lesson", True),
        ("{n} ~ lessons", "3 different lessons", True),
        ("{n} ~ lessons", "three lessons", True),
        ("{n} ~ lessons", "1 of the lessons", False),
        ("{n} ~ lessons", "20 years of lessons", False),
        ("evaluat* ~ lesson", "evaluating a lesson", True),
        ("don't write", "Don\u2019t write", True),
        ("写一节课", "请写一节课。", True),
        ("crea ~ lección", "CREA una LECCIÓN", True),
        ("一节", "class", False),
    ],
)
def test_phrases_match_words_not_letters(phrase: str, text: str, *, expected: bool) -> None:
    assert _found(phrase, text) is expected


def test_phrase_stands_in_a_long_text_as_in_a_short_one() -> None:
    filler = "only words and a quiz " * 2_000
    assert _found("quiz only", f"{filler} quiz only")
    assert not _found("only quiz", filler)


def test_shipped_rules_have_distinct_names_and_guards_give_reasons() -> None:
    assert len({rule.name for rule in SHIPPED}) == len(SHIPPED)
    assert all(rule.reason for rule in SHIPPED if rule.guard)
    assert not any(rule.guard and rule.merge_calls for rule in SHIPPED)
