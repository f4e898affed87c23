"""What every caller of a batch gets when the provider fails: over HTTP, a real process, every fault that the simulated provider knows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import orjson
import pytest

from proxy.simulated import FAULTS
from tests.acceptance.conftest import OPERATORS_KEY, Failing
from tests.acceptance.learners import WORDS, Got, group

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALL = {"merged": 3}
BATCH_FAULTS: Mapping[str, Mapping[str, int]] = {
    # what stays readable costs nothing
    "doubled": ALL,
    "unknown": ALL,
    "reordered": ALL,
    "array": ALL,
    "stringified": ALL,
    "text": ALL,
    "fenced": ALL,
    "leaked": ALL,
    "parallel": ALL,
    "double_encoded": ALL,
    "whole": ALL,
    "no_usage": ALL,
    "zero_usage": ALL,
    # one entry's fault is that caller's alone
    "missing": {"merged": 2, "resent:missing": 1},
    "invalid": {"merged": 2, "resent:schema": 1},
    "short": {"merged": 1, "resent:words": 2},
    "crossed": {"resent:crossed": 3},
    "unkeyed": {"resent:missing": 3},
    "wrong_types": {"resent:schema": 3},
    "prose": {"resent:missing": 3},
    "empty": {"resent:missing": 3},
    "no_choices": {"resent:upstream_broken_off": 3},
    "refusal": {"resent:missing": 3},
    "content_filter": {"resent:refused": 3},
    # what has arrived stays
    "cut_off": {"merged": 1, "resent:cut_off": 2},
    "huge": {"merged": 1, "resent:cut_off": 2},
    "half": {"merged": 1, "resent:upstream_broken_off": 2},
    "broken": {"merged": 1, "resent:upstream_error": 2},
    "stream_error": {"merged": 1, "resent:upstream_error": 2},
    "stall": {"merged": 1, "resent:upstream_timeout": 2},
    "slow_first": {"resent:upstream_timeout": 3},
    # nothing of the batch is there
    "400": {"resent:rejected": 3},
    "tool_use_failed": {"merged": 2, "resent:schema": 1},
    "500": {"resent:upstream_error": 3},
    "500_once": {"resent:upstream_error": 3},
    "503": {"resent:upstream_error": 3},
    "html": {"resent:upstream_error": 3},
    "redirect": {"resent:upstream_broken_off": 3},
    "empty_200": {"resent:upstream_broken_off": 3},
    "garbage": {"resent:upstream_unreadable": 3},
}
"""By fault, hitting batches only: how many callers got their lesson in which way."""
TOO_LARGE = ("413", "429_too_large", "context_length")
DENIED = ("401", "403")
ELSEWHERE = {*TOO_LARGE, *DENIED, "429", "429_once", "quota"}

streamed = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


def prompts_with(failing: Failing, word: str) -> int:
    """How often a caller's prompt went upstream, in a batch or alone."""
    return sum(word in orjson.dumps(request.body["messages"]).decode() for request in failing.provider.stats.recorded)


def singles(failing: Failing) -> int:
    return failing.provider.stats.requests - failing.provider.stats.batches


async def json_and_sse(failing: Failing, fault: str) -> list[list[Got]]:
    """Send a group that wants JSON and one that wants streams, side by side."""
    return await asyncio.gather(*(group(failing.served.client, f"m{stream:d}+{fault}", stream=stream) for stream in (False, True)))


def refusals(answers: list[Got]) -> list[tuple[int, str | None]]:
    """Status and code of each; every one is an error in OpenAI's form that tells of its batch and of no key."""
    told = [(got.status, got.error()["code"]) for got in answers]
    assert [got.headers["x-lesson-merged"] for got in answers] == ["false"] * 3
    assert OPERATORS_KEY not in repr([got.body for got in answers])
    return told


async def test_every_fault_has_its_row() -> None:
    assert set(FAULTS) == {*BATCH_FAULTS, *ELSEWHERE}


@streamed
@pytest.mark.parametrize("fault", BATCH_FAULTS)
async def test_what_a_batch_lacks_is_asked_for_once_more_and_nothing_else(failing: Failing, fault: str, *, stream: bool) -> None:
    answers = await group(failing.served.client, f"m{stream:d}+{fault}@batch", stream=stream)
    for got in answers:
        got.check_own()
    assert Counter(got.way for got in answers) == BATCH_FAULTS[fault]
    assert len({got.headers["x-lesson-batch-id"] for got in answers}) == 1
    # once merged, and once alone where that failed
    assert [prompts_with(failing, WORDS[got.i]) for got in answers] == [1 if got.way == "merged" else 2 for got in answers]
    assert failing.provider.stats.batches == 1


async def test_a_rate_limit_is_waited_for_by_the_whole_batch(failing: Failing) -> None:
    started = time.monotonic()
    for answers in await json_and_sse(failing, "429_once"):
        for got in answers:
            got.check_own()
            assert got.way == "merged"
    assert time.monotonic() - started >= 1.0, "as Retry-After says"
    assert (failing.provider.stats.batches, singles(failing)) == (4, 0)


async def test_a_rate_limit_that_stays_is_told_to_each_and_never_becomes_single_calls(failing: Failing) -> None:
    for answers in await json_and_sse(failing, "429"):
        assert refusals(answers) == [(429, "rate_limit_exceeded")] * 3
        assert len({got.headers["x-lesson-batch-id"] for got in answers}) == 1
    assert (failing.provider.stats.batches, singles(failing)) == (4, 0)


@streamed
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("quota", 429, "insufficient_quota"), ("401", 401, "upstream_denied"), ("403", 403, "upstream_denied")],
)
async def test_what_only_the_owner_can_cure_is_told_to_each_at_once(
    failing: Failing, fault: str, status: int, code: str, *, stream: bool
) -> None:
    answers = await group(failing.served.client, f"m{stream:d}+{fault}", stream=stream)
    assert refusals(answers) == [(status, code)] * 3
    assert {got.headers.get("x-should-retry") for got in answers} == {"false" if fault == "quota" else None}
    assert (failing.provider.stats.batches, singles(failing)) == (1, 0)


@streamed
@pytest.mark.parametrize("fault", TOO_LARGE)
async def test_a_batch_that_is_too_large_is_halved_then_sent_alone(failing: Failing, fault: str, *, stream: bool) -> None:
    model = f"m{stream:d}+{fault}@batch"
    answers = await group(failing.served.client, model, stream=stream)
    for got in answers:
        got.check_own()
    assert [got.way for got in answers] == ["too_large"] * 3
    assert (failing.provider.stats.batches, failing.provider.stats.entries, singles(failing)) == (2, 5, 3)


@pytest.mark.parametrize(
    ("fault", "status", "code", "lone_tries"),
    [
        ("400", 400, "invalid_function_parameters", 1),
        ("500", 500, None, 2),
        ("503", 503, "overloaded", 2),
        ("html", 502, "upstream_error", 2),
    ],
)
async def test_a_failure_that_hits_lone_calls_too_is_each_callers_error(
    failing: Failing, fault: str, status: int, code: str | None, lone_tries: int
) -> None:
    for answers in await json_and_sse(failing, fault):
        assert refusals(answers) == [(status, code)] * 3
        assert {got.way for got in answers} == set(BATCH_FAULTS[fault])
    assert (failing.provider.stats.batches, singles(failing)) == (2, 6 * lone_tries)


async def test_a_stream_that_breaks_after_its_beginning_ends_with_one_error_event(failing: Failing) -> None:
    faults = {
        "stall": "upstream_timeout",
        "slow_first": "upstream_timeout",
        "broken": "upstream_error",
        "half": "upstream_error",
        "stream_error": None,
    }
    groups = await asyncio.gather(*(group(failing.served.client, f"all+{fault}@all", stream=True) for fault in faults))
    for answers, (fault, code) in zip(groups, faults.items(), strict=True):
        arrived = [got for got in answers if got.way == "merged"]
        assert len(arrived) == BATCH_FAULTS[fault].get("merged", 0), fault
        for got in answers:
            if got in arrived:
                got.check_own()
            else:
                assert got.status == 200, fault
                assert got.broken_with() == code, fault


async def test_an_answer_that_never_comes_whole_is_each_callers_error(failing: Failing) -> None:
    faults = {"stall": (504, "upstream_timeout"), "slow_first": (504, "upstream_timeout"), "broken": (502, "upstream_error")}
    groups = await asyncio.gather(*(group(failing.served.client, f"whole+{fault}@all") for fault in faults))
    for answers, (fault, told) in zip(groups, faults.items(), strict=True):
        arrived = [got for got in answers if got.way == "merged"]
        assert len(arrived) == BATCH_FAULTS[fault].get("merged", 0), fault
        for got in answers:
            if got in arrived:
                got.check_own()
            else:
                assert (got.status, got.error()["code"]) == told, fault


async def test_merging_rests_after_repeated_refusals(failing: Failing) -> None:
    for _ in range(3):
        await group(failing.served.client, "resting+400@batch")
    failing.provider.stats.reset()
    for got in await group(failing.served.client, "resting+400@batch"):
        got.check_own()
        assert got.way == "site_rests"
    assert (failing.provider.stats.batches, singles(failing)) == (0, 3)


async def test_a_storm_of_failures_is_not_doubled_by_resends(failing: Failing) -> None:
    groups = await asyncio.gather(*(group(failing.served.client, "storm+500@batch") for _ in range(5)))
    answers = [got for answers in groups for got in answers]
    for got in answers:
        if got.status == 200:
            got.check_own()
        else:
            assert (got.status, got.error()["code"]) == (503, "resend_budget")
    assert Counter(got.status for got in answers) == {200: 10, 503: 5}
    assert singles(failing) == 10
