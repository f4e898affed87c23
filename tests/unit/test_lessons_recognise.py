"""The recogniser over bodies as apps send them: what is merged, and what only looks like it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from pydantic import TypeAdapter

from bench.lesson_prompt import REQUESTS
from bench.tokens import chat_body
from proxy.lessons.recognise import Recogniser
from proxy.model import Json, Lesson, Unbatchable
from proxy.policy import LessonPolicy, Rule
from tests.make import make_call

DATA = Path(__file__).parent.parent / "data" / "requests"
RULES = TypeAdapter(tuple[Rule, ...]).validate_python(
    yaml.safe_load((Path(__file__).parent.parent.parent / "proxy" / "rules.yaml").read_text(encoding="utf-8"))
)
SHIPPED = Recogniser(LessonPolicy(rules=RULES))


def judge(body: Any, headers: dict[str, str] | None = None, path: str = "/v1/chat/completions") -> Lesson | Unbatchable:
    return SHIPPED.judge(make_call(body=body, headers=headers or {}, path=path))


def _own_cases() -> list[Json]:
    read = yaml.safe_load((DATA / "own.yaml").read_text(encoding="utf-8"))
    return [case | {"body": _body(case, read["forms"][case["form"]])} for case in read["cases"]]


def _app_cases() -> list[Json]:
    read = yaml.safe_load((DATA / "apps.yaml").read_text(encoding="utf-8"))
    return [case | {"body": {"model": "gpt-4o-mini", **case["body"]}} for case in read["cases"]]


def _body(case: Json, form: Json) -> Json:
    users = cast("list[Any]", case["user"] if isinstance(case["user"], list) else [case["user"]])
    messages: list[Json] = [{"role": role, "content": case[role]} for role in ("system", "developer") if case.get(role)]
    messages += [{"role": "user", "content": content} for content in users]
    return {"model": "gpt-4o-mini", "messages": messages, **form, **case.get("more", {})}


OWN = _own_cases()
APPS = _app_cases()
RECORDED = cast("list[Json]", json.loads((DATA / "index.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["file"])
def test_recorded_request_is_decided_as_indexed(case: Json) -> None:
    recorded = json.loads((DATA / case["file"]).read_text(encoding="utf-8"))
    verdict = judge(recorded["body"], recorded["headers"], recorded["path"]) if "path" in recorded else judge(recorded, case["headers"])
    _check(verdict, case)


@pytest.mark.parametrize("case", OWN, ids=lambda case: case["name"])
def test_own_request_is_decided_as_written(case: Json) -> None:
    _check(judge(case["body"]), case)


@pytest.mark.parametrize("case", APPS, ids=lambda case: case["name"])
def test_request_in_the_manner_of_an_app_is_decided_as_written(case: Json) -> None:
    _check(judge(case["body"]), case)


def _check(verdict: Lesson | Unbatchable, case: Json) -> None:
    if case["expect"] == "merge":
        assert isinstance(verdict, Lesson), verdict
        assert (verdict.subject, verdict.topic) == (case["subject"], case["topic"])
        assert verdict.mode == "on"
    elif case["expect"] == "single":
        assert isinstance(verdict, Unbatchable), verdict
        assert case.get("reason") in {None, verdict.reason}


def test_there_are_enough_own_requests_on_both_sides() -> None:
    assert sum(case["expect"] == "merge" for case in OWN) >= 120
    assert sum(case["expect"] == "single" for case in OWN) >= 190


def test_long_requests_about_one_learner_belong_together() -> None:
    """The prompts that the figures are measured on: long instructions, and a page about the learner."""
    verdicts = [judge(chat_body(request) | {"user": "learner-1"}) for request in REQUESTS]
    assert all(isinstance(verdict, Lesson) for verdict in verdicts), verdicts
    assert len({verdict.key for verdict in verdicts if isinstance(verdict, Lesson)}) == 1
