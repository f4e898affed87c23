"""Contract 9 with callers that leave at every single turn of the loop: window, dispatcher and batcher together, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.errors import ProxyError
from proxy.model import Reply
from proxy.observe.events import BatchFinished, CallFinished
from tests.unit.test_promises import Coming, Doing, House, assert_own
from tests.virtual_time import VirtualLoop, run

GOOD = Doing(("good",) * 4, reverse=False, pause_s=0.05, cut=60, breaks_at=2.0, error=0, ends="whole")
DOINGS = {
    "whole": [GOOD],
    "rate limit, then whole": [replace(GOOD, breaks_at=0.0, error=0), GOOD],
    "too large, then halves": [replace(GOOD, breaks_at=0.0, error=1), GOOD],
    "entries missing": [replace(GOOD, entries=("good", "missing", "invalid", "good"))],
    "breaks in the middle": [replace(GOOD, breaks_at=0.5, error=5)],
    "silent at its end": [replace(GOOD, ends="silent")],
}
COMINGS = [*(Coming(0.0, 0, number, None, stream=number == 1, retry=False) for number in range(3)), Coming(0.15, 0, 1, None, False, True)]
"""The last one repeats the second's call while that is under way."""


async def story(doings: list[Doing], leaving: tuple[int, ...], turn: int) -> int:
    """Let everybody come, and some leave before the given turn; return how many turns it took until all had their end."""
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    house = House(doings)
    calls = [asyncio.create_task(house.come(number, coming)) for number, coming in enumerate(COMINGS)]
    first = loop.turns
    loop.at_turn(turn, lambda: [calls[number].cancel() for number in leaving])
    told = await asyncio.gather(*calls, return_exceptions=True)
    turns = loop.turns - first
    await asyncio.sleep(0.01)
    # silence and pauses are longer: nobody is written for whose callers have all gone
    assert house.upstream.open_streams == 0 or not all(isinstance(end, asyncio.CancelledError) for end in told)
    await asyncio.sleep(60)
    assert faults == []
    assert (house.window.waiting, house.window.open_windows, house.window.running_batches) == (0, 0, 0)
    assert (house.upstream.open_streams, house.upstream.open_sends) == (0, 0)
    _check(house, leaving, told)
    return turns


def _check(house: House, leaving: tuple[int, ...], told: list[Reply | BaseException]) -> None:
    for number, (coming, end) in enumerate(zip(COMINGS, told, strict=True)):
        match end:
            case Reply():
                assert_own(coming, end)
            case asyncio.CancelledError():
                assert number in leaving
            case _:
                assert isinstance(end, ProxyError), repr(end)
    ends = Counter(event.call_id for event in house.events if isinstance(event, CallFinished))
    assert all(times == 1 for times in [*ends.values(), *house.upstream.alone.values()])
    for batch in (event for event in house.events if isinstance(event, BatchFinished)):
        assert batch.completed + sum(count for _, count in batch.failed) + batch.refused + batch.left == batch.size
        assert batch.left >= 0


@pytest.mark.parametrize("leaving", [(0,), (1,), (3,), (1, 3), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("doings", DOINGS.values(), ids=DOINGS)
def test_whenever_callers_leave_the_others_get_their_own_and_nothing_is_left_over(doings: list[Doing], leaving: tuple[int, ...]) -> None:
    turn, turns = 1, 1
    while turn <= turns:
        turns = run(story(doings, leaving, turn))
        turn += 1
    assert turn > 10
