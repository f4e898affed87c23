"""The judge of the failure tests finds what it is there to find, in made-up records."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from tests.acceptance.learners import Got
from tests.chaos.judging import BOUND_S, Call, Life, asked_for, judge

OWN, OTHER, THIRD = (f"otter-00000000{letters}" for letters in ("aa", "bb", "cc"))
MERGED = {"x-lesson-merged": "true", "x-lesson-wait-ms": "100", "content-type": "application/json"}
ALONE = MERGED | {"x-lesson-merged": "false", "x-lesson-reason": "taken_back:leader_lost"}


def got(*tokens: str, level: str = "intro", headers: dict[str, str] = MERGED, status: int = 200) -> Got:
    lesson = {"title": "A lesson", "content": f"About {' and '.join(tokens)}.", "level": level}
    call = {"id": "c", "type": "function", "function": {"name": "create_lesson", "arguments": orjson.dumps(lesson).decode()}}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "tool_calls": [call]}}
    return Got(0, status, httpx.Headers(headers), orjson.dumps({"choices": [choice]}))


def answered(token: str = OWN, **overrides: Any) -> Call:
    values: dict[str, Any] = {"user": "learner-1", "got": got(token), "took_s": 1.0}
    return Call(token, **(values | overrides))


TOGETHER = [frozenset({OWN, OTHER})]
ONCE_EACH_WAY = [*TOGETHER, frozenset({OWN})]


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (answered(), TOGETHER),
        (answered(got=got(OWN.title(), headers=ALONE)), ONCE_EACH_WAY),
        (answered(got=None, left=True), TOGETHER),
        (answered(got=None, failed="ReadError", at=Life(killed=True)), TOGETHER),
        (answered(got=None, failed="ConnectError", came=9.0, at=Life(shut_at=8.0)), [frozenset({OTHER, THIRD})]),
        (answered(took_s=BOUND_S + 7.0, at=Life(frozen_s=8.0)), TOGETHER),
    ],
    ids=["merged", "merged and alone", "left", "at a replica that was killed", "let in no more", "frozen"],
)
def test_what_is_promised_is_no_fault(call: Call, asked: list[frozenset[str]]) -> None:
    assert judge([call, answered(OTHER), answered(THIRD, got=got(THIRD, headers=ALONE))], asked).broken == []


@pytest.mark.parametrize(
    ("call", "asked", "said"),
    [
        (answered(), [*TOGETHER, frozenset({OWN, OTHER}), frozenset({OWN})], "generated 2 times in batches and 1 times alone"),
        (answered(got=got(OWN, headers=ALONE)), [*ONCE_EACH_WAY, frozenset({OWN})], "generated 1 times in batches and 2 times alone"),
        (answered(got=got(OTHER)), TOGETHER, f"its lesson tells of {OTHER}"),
        (answered(got=got(OWN, OTHER)), TOGETHER, f"its lesson tells of {OTHER}"),
        (answered(got=got("nothing")), TOGETHER, "the lesson is not its own"),
        (answered(got=got(OWN, level="hard")), TOGETHER, "the lesson is not its own"),
        (answered(got=None, failed="nothing came"), TOGETHER, "no answer from a replica that lives: nothing came"),
        (answered(got=None, failed="ReadError", came=7.0, at=Life(shut_at=8.0)), TOGETHER, "no answer from a replica that lives"),
        (answered(got=None, failed="ReadError", came=9.0, at=Life(shut_at=8.0)), TOGETHER, "no answer from a replica that lives"),
        (answered(got=got(OWN, status=503)), TOGETHER, "status 503"),
        (answered(got=Got(0, 200, httpx.Headers(MERGED), b'{"choices": [')), TOGETHER, "not the form of an answer"),
        (answered(took_s=BOUND_S + 1.0), TOGETHER, "took"),
        (answered(got=got(OWN, headers=MERGED | {"x-lesson-wait-ms": "9000"})), TOGETHER, "waited 9.00 s"),
        (answered(), [frozenset({OWN}), frozenset({OTHER})], "no batch asked for it"),
        (answered(user="learner-2"), TOGETHER, "one request for several users"),
        (answered(), [*TOGETHER, frozenset({THIRD})], "which nobody asked for"),
    ],
)  # fmt: skip
def test_what_is_not_promised_is_found(call: Call, asked: list[frozenset[str]], said: str) -> None:
    broken = judge([call, answered(OTHER)], asked).broken
    assert [what for what in broken if said in what], broken


def test_a_request_is_known_by_the_tokens_of_its_messages() -> None:
    bodies = [{"messages": [{"role": "user", "content": f"about {OWN}"}, {"role": "user", "content": OTHER}], "user": THIRD}]
    assert asked_for(bodies) == TOGETHER
