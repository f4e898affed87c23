"""How the operator's rules and the shipped ones become one list."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.policy import AddedSeconds, MergePolicy, Rule, When, WindowPolicy
from proxy.settings import ConfigError, LessonSettings, Settings, parse
from proxy.settings.document import parse_yaml
from proxy.settings.lessons import shipped_names, shipped_rules

SHIPPED: tuple[dict[str, Any], ...] = (
    {"name": "not a quiz", "when": {"prompt_any": ["quiz"]}, "merge_calls": False},
    {"name": "a tool", "when": {"shape": ["tool"], "tool": "create_lesson"}, "window": {"max_size": 4}},
    {"name": "a text", "when": {"shape": ["text"]}},
)


def rules(text: str) -> list[Rule]:
    return list(LessonSettings.model_validate(parse_yaml(text) or {}).rules(SHIPPED))


def names(text: str) -> list[str]:
    return [rule.name for rule in rules(text)]


def whole(text: str) -> Settings:
    return parse({"model_list": [{"model_name": "a", "litellm_params": {"model": "simulated/a"}}]} | parse_yaml(text), env={})


def test_without_a_word_the_shipped_rules_stand() -> None:
    assert names("") == ["not a quiz", "a tool", "a text"]


def test_the_operators_rules_stand_first() -> None:
    assert names("recognise: [{name: mine, when: {tool: x}}]") == ["mine", "not a quiz", "a tool", "a text"]


def test_a_rule_named_as_a_shipped_one_without_a_when_changes_it_in_its_place() -> None:
    """The exceptions before it go on standing before it, else switching on a trial would merge what must not be."""
    made = rules("recognise: [{name: a tool, share: 0.1, mode: dry_run}]")
    assert [rule.name for rule in made] == ["not a quiz", "a tool", "a text"]
    assert made[1].when == When(shape=("tool",), tool="create_lesson")
    assert (made[1].share, made[1].mode) == (0.1, "dry_run")
    assert made[1].window == WindowPolicy(max_size=4)


def test_a_changed_exception_is_still_one() -> None:
    made = rules("recognise: [{name: not a quiz, mode: on}]")
    assert made[0].merge_calls is False


def test_a_rule_named_as_a_shipped_one_with_a_when_of_its_own_replaces_it() -> None:
    made = rules("recognise: [{name: a tool, when: {tool: other}}]")
    assert [rule.name for rule in made] == ["a tool", "not a quiz", "a text"]
    assert made[0].when == When(tool="other")
    assert made[0].window is None


def test_without_the_shipped_rules_those_that_are_named_stay() -> None:
    assert names("{shipped_rules: false, recognise: [{name: a text}, {name: mine, when: {}}]}") == ["mine", "a text"]
    assert names("shipped_rules: false") == []


def test_a_rules_window_inherits_what_it_leaves_out() -> None:
    (mine, *_) = rules(
        "{window: {max_wait_ms: 30, max_size: 7}, merge: {idle_seconds: 9, max_added_seconds: {json: 3}},"
        " recognise: [{name: mine, when: {}, window: {max_size: 2}, merge: {max_added_seconds: {stream: 1}}}]}"
    )
    assert mine.window == WindowPolicy(max_wait_ms=30, max_size=2)
    assert mine.merge == MergePolicy(idle_seconds=9, max_added_seconds=AddedSeconds(json=3, stream=1))


def test_a_rule_without_a_window_says_so() -> None:
    """None means: as set for all."""
    (mine, *_) = rules("recognise: [{name: mine, when: {}, window: null}]")
    assert (mine.window, mine.merge, mine.checks) == (None, None, None)


def test_a_rules_checks_stand_in_place_of_the_general_ones() -> None:
    (mine, *_) = rules("{checks: {a: {min_words: 1}}, recognise: [{name: mine, when: {}, checks: {b: {required: true}}}]}")
    assert set(mine.checks or {}) == {"b"}


def test_rules_made_in_code_are_taken_as_those_of_a_file() -> None:
    made = LessonSettings(recognise=(Rule("mine", When(tool="x"), window=WindowPolicy(max_size=2)),)).rules(SHIPPED)
    assert made[0] == Rule("mine", When(tool="x"), window=WindowPolicy(max_size=2))


def test_a_rule_without_a_when_must_have_a_shipped_name() -> None:
    with pytest.raises(ConfigError, match=r"lessons\.recognise\[0\]\.when: is missing: no shipped rule is called 'a tol'"):
        whole("lessons: {recognise: [{name: a tol, mode: off}]}")


def test_every_shipped_rule_is_sound_and_has_a_name_of_its_own() -> None:
    policy = whole("lessons: {}").lesson_policy()
    assert len(policy.rules) == len(shipped_rules()) == len(shipped_names())
    assert all("when" in rule for rule in shipped_rules())


def test_every_shipped_rule_can_be_switched_off_by_its_name() -> None:
    for place, rule in enumerate(shipped_rules()):
        made = whole(f"lessons: {{recognise: [{{name: {rule['name']!r}, mode: off}}]}}").lesson_policy().rules
        assert made[place].name == rule["name"]
        assert made[place].mode == "off"
