"""The demo's parts: its traffic, its client, its figures; and the whole of it once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.cli.demo.client import Answer, _read, send_all
from proxy.cli.demo.figures import Pass, Provided, figures, problems, saved_share
from proxy.cli.demo.house import NotStartedError, running_proxy
from proxy.cli.demo.traffic import Ask, plan
from proxy.cli.explaining import judge
from proxy.lessons.recognise import Recogniser
from proxy.model import Lesson, Unbatchable
from proxy.settings import load
from proxy.simulated import Provider
from tests.make import make_call


def test_the_traffic_is_the_same_at_every_run() -> None:
    assert plan() == plan()


def test_the_traffic_has_bursts_lone_lessons_and_what_is_no_lesson() -> None:
    """Bursts of 5, 3 and 2 of several users, streamed and not, as the shipped rules see them."""
    recogniser = Recogniser(load(None, env={}).lesson_policy())
    judged = [(ask, judge(make_call(body=ask.body, raw=orjson.dumps(ask.body)), recogniser)) for ask in plan()]
    lessons = [lesson for _, lesson in judged if isinstance(lesson, Lesson)]
    assert all(isinstance(found, Lesson) is ask.lesson for ask, found in judged)
    assert any(isinstance(found, Unbatchable) for _, found in judged)
    assert set(Counter(lesson.key for lesson in lessons).values()) == {1, 2, 3, 5}
    assert len({lesson.user for lesson in lessons}) > 3
    assert {lesson.stream for lesson in lessons} == {True, False}


async def test_the_client_reads_whole_and_streamed_answers() -> None:
    asks = [replace(ask, after_s=0.0) for ask in plan()[:9]]
    done: list[None] = []
    async with Provider.running() as provider:
        answers = await send_all(asks, provider.origin, {}, lambda: done.append(None))
        assert [answer.problem for answer in answers] == [None] * 9
        assert sum(answer.prompt_tokens for answer in answers) == provider.stats.prompt_tokens
    assert len(done) == 9
    assert {ask.stream for ask in asks} == {True, False}


async def test_the_client_notes_what_failed() -> None:
    (ask,) = [ask for ask in plan() if ask.lesson and ask.stream][:1]
    asks = [Ask(0.0, ask.body | {"model": f"m+{fault}"}, lesson=True) for fault in ("500@all", "cut_off@all", "prose@all", "garbage@all")]
    async with Provider.running() as provider:
        answers = await send_all(asks, provider.origin, {}, lambda: None)
        gone = provider.origin
    assert answers[0].problem == "status 500"
    assert all(answer.problem for answer in answers)
    (answer,) = await send_all([asks[0]], gone, {}, lambda: None)
    assert answer.problem == "ClientConnectorError"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "not of the asked form (ValueError)"),
        (b"data: {}\n\n", "not of the asked form (ValueError)"),
        (b'data: {"error": {}}\n\ndata: [DONE]\n\n', "not of the asked form (ValueError)"),
        (b'data: {"choices": [{"delta": {"content": "{}"}}]}\n\ndata: [DONE]\n\n', "a lesson without title or content"),
        (b"data: {\n\ndata: [DONE]\n\n", "not of the asked form (JSONDecodeError)"),
        (b'data: {"choices": [{}]}\n\ndata: [DONE]\n\n', "not of the asked form (KeyError)"),
    ],
)
def test_a_broken_stream_is_a_problem(text: bytes, problem: str) -> None:
    assert _read(Ask(0.0, {"stream": True}, lesson=True), text)[0] == problem


def test_an_empty_answer_is_a_problem() -> None:
    text = orjson.dumps({"choices": [{"message": {"content": ""}}], "usage": {}})
    assert _read(Ask(0.0, {}, lesson=False), text)[0] == "an empty answer"


def run_of(*answers: Answer, prompt_tokens: int = 100) -> Pass:
    return Pass(answers, Provided(requests=3, prompt_tokens=prompt_tokens, completion_tokens=1234))


def answer(**fields: Any) -> Answer:
    values: dict[str, Any] = {"lesson": True, "problem": None, "seconds": 1.0}
    return Answer(**(values | fields))


def test_a_batch_is_counted_once() -> None:
    batch = [answer(batch_id="b", batch_size=3) for _ in range(3)]
    assert run_of(*batch, answer(batch_id="c", batch_size=2), answer()).batches == {3: 1, 2: 1}


def test_the_saved_share_is_what_the_provider_counted() -> None:
    assert saved_share(run_of(prompt_tokens=200), run_of(prompt_tokens=50)) == 0.75
    assert saved_share(run_of(prompt_tokens=100), run_of(prompt_tokens=110)) == pytest.approx(-0.1)
    assert saved_share(run_of(prompt_tokens=0), run_of(prompt_tokens=0)) == 0


def test_the_table_shows_both_runs() -> None:
    merged = run_of(
        answer(batch_id="b", batch_size=2, wait_ms=80, seconds=2.0), answer(problem="status 500", wait_ms=100), prompt_tokens=55
    )
    table = figures(run_of(answer()), merged)
    cells = {str(label): (str(one), str(two)) for label, one, two in zip(*(column.cells for column in table.columns), strict=True)}
    assert cells["calls from apps"] == ("1", "2")
    assert cells["… failed"] == ("0", "1")
    assert cells["batches"] == ("0", "1 (1 of 2)")
    assert cells["input tokens saved"] == ("", "45.0%")
    assert cells["wait in the window, median / longest"] == ("-", "90 / 100 ms")
    assert cells["lesson calls, median / longest"] == ("1.0 / 1.0 s", "2.0 / 2.0 s")
    assert problems(merged) == ["1 calls: status 500"]


async def test_a_proxy_that_does_not_start_is_told_with_its_log() -> None:
    with pytest.raises(NotStartedError, match="--upstream: must be like"):
        async with running_proxy("nowhere"):
            pass


@pytest.mark.slow
def test_the_whole_demo_ends_by_itself_and_saves_tokens() -> None:
    done = subprocess.run([sys.executable, "-m", "proxy", "demo"], check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    saved = next(line for line in done.stdout.splitlines() if "input tokens saved" in line)
    assert float(saved.split("│")[3].strip().removesuffix("%")) > 30
