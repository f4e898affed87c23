"""Callers that leave in the middle of a batch, and a provider that dies in it: nobody else's lesson, and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.acceptance.conftest import Failing
from tests.acceptance.learners import Got, ask, call

pytestmark = pytest.mark.asyncio(loop_scope="session")

AT_ONCE_S = 1.0
streamed = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


def begin(failing: Failing, model: str, *, stream: bool) -> list[asyncio.Task[Got]]:
    return [asyncio.create_task(call(failing.served.client, i, ask(model, i, stream=stream))) for i in range(3)]


async def until(condition: Callable[[], bool]) -> None:
    """Return when something in this process has come true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - counts have no event
            await asyncio.sleep(0.005)


async def nothing_runs(failing: Failing) -> None:
    """The slot is free and the provider's request is over, at once."""
    async with asyncio.timeout(AT_ONCE_S):
        await failing.served.until("lesson_proxy_upstream_slots_taken", 0)
        await until(lambda: failing.slow.stats.open_requests == 0)


@streamed
async def test_one_that_leaves_while_the_batch_is_written_costs_the_others_nothing(failing: Failing, *, stream: bool) -> None:
    calls = begin(failing, f"slow-{stream:d}", stream=stream)
    await until(lambda: failing.slow.stats.completion_tokens > 0)
    calls[0].cancel()
    for got in await asyncio.gather(*calls[1:]):
        got.check_own()
        assert (got.way, got.headers["x-lesson-batch-size"]) == ("merged", "3")
    # whether its entry was written last, and so left unwritten, is the order in which they came
    assert failing.slow.stats.requests == 1


@streamed
async def test_one_that_leaves_after_a_sibling_has_its_lesson_costs_the_last_nothing(failing: Failing, *, stream: bool) -> None:
    calls = begin(failing, f"slow-{stream:d}", stream=stream)
    (first,), others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    first.result().check_own()
    assert failing.slow.stats.open_requests == 1, "the first had its lesson while the others were written"
    leaver, stayer = others
    leaver.cancel()
    got = await stayer
    got.check_own()
    assert got.way == "merged"
    assert failing.slow.stats.requests == 1


@streamed
async def test_when_all_have_left_the_batch_ends_at_once_and_nobody_is_sent_alone(failing: Failing, *, stream: bool) -> None:
    calls = begin(failing, f"slow-{stream:d}", stream=stream)
    await until(lambda: failing.slow.stats.completion_tokens > 0)
    for one in calls:
        one.cancel()
    await nothing_runs(failing)
    assert (failing.slow.stats.requests, failing.slow.stats.left) == (1, 1)


async def test_when_the_last_has_its_lesson_or_has_left_the_batch_ends_at_once(failing: Failing) -> None:
    calls = begin(failing, "slow", stream=False)
    (first,), others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    first.result().check_own()
    for one in others:
        one.cancel()
    await nothing_runs(failing)
    assert (failing.slow.stats.requests, failing.slow.stats.left) == (1, 1)


@streamed
async def test_one_that_leaves_while_it_is_sent_alone_ends_that_call_at_once(failing: Failing, *, stream: bool) -> None:
    """The batch is refused at once; the lone calls are written slowly."""
    calls = begin(failing, f"slow-{stream:d}+400@batch", stream=stream)
    await until(lambda: failing.slow.stats.open_requests == 3)
    for one in calls[1:]:
        one.cancel()
    await until(lambda: failing.slow.stats.open_requests <= 1)
    (await calls[0]).check_own()
    await nothing_runs(failing)
    assert (failing.slow.stats.requests, failing.slow.stats.batches, failing.slow.stats.left) == (4, 1, 2)


async def test_a_provider_killed_in_the_middle_takes_only_what_it_had_not_written(failing: Failing) -> None:
    """What has arrived stays; the rest is told that the provider can't be reached; a lone stream that had begun ends with an error."""
    alone = asyncio.create_task(call(failing.served.client, 0, ask("mortal", 0, stream=True, n=8)))
    (first,), others = await asyncio.wait(begin(failing, "mortal", stream=False), return_when=asyncio.FIRST_COMPLETED)
    failing.mortal.kill()
    first.result().check_own()
    assert first.result().way == "merged"
    for got in await asyncio.gather(*others):
        assert (got.status, got.error()["code"]) == (502, "upstream_error")
        assert got.way == "resent:upstream_error"
    got = await alone
    assert (got.status, got.broken_with()) == (200, "upstream_error")
