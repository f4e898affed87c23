"""A lone lesson is tried again where that may help, as often and as long as is set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from proxy.errors import OverloadedError, UpstreamUnavailableError
from proxy.model import Reply
from proxy.upstream.patience import Patience, retry_after_s
from proxy.upstream.slots import Slots


class Clock:
    def __init__(self) -> None:
        self.at = 100.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


def script(*outcomes: Reply | Exception) -> tuple[Callable[[], Awaitable[Reply]], list[Reply | Exception]]:
    left = list(outcomes)

    async def once() -> Reply:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return once, left


def patience(clock: Clock, retries: int = 2, chance: float = 0.0) -> Patience:
    return Patience(retries, sleep=clock.sleep, now=lambda: clock.at, chance=lambda: chance)


OK = Reply(200, ())
BUSY = Reply(503, ())


def limited(after: str) -> Reply:
    return Reply(429, (("retry-after", after),))


async def test_a_good_answer_is_taken_at_once() -> None:
    """No second call, no pause."""
    clock = Clock()
    once, left = script(OK, OK)
    assert await patience(clock).repeated(once) is OK
    assert (clock.slept, len(left)) == ([], 1)


@pytest.mark.parametrize("bad", [BUSY, limited("0"), Reply(500, ()), Reply(529, ()), UpstreamUnavailableError("x")])
async def test_what_passes_is_tried_again_as_often_as_set(bad: Reply | Exception) -> None:
    """429, 5xx and network failures: `retries` more tries, then the last outcome stands."""
    once, left = script(bad, bad, OK, OK)
    assert await patience(Clock()).repeated(once) is OK
    assert len(left) == 1
    once, left = script(bad, bad, bad, OK)
    if isinstance(bad, Exception):
        with pytest.raises(UpstreamUnavailableError):
            await patience(Clock()).repeated(once)
    else:
        assert await patience(Clock()).repeated(once) is bad
    assert len(left) == 1


@pytest.mark.parametrize(
    "final",
    [
        Reply(400, ()),
        Reply(401, ()),
        Reply(404, ()),
        Reply(503, (("x-should-retry", "false"),)),
        Reply(429, (), b'{"error":{"code":"insufficient_quota"}}'),
    ],
)
async def test_what_repeating_will_not_cure_stands(final: Reply) -> None:
    """Other errors, an exhausted quota, and upstream's own word against it."""
    once, left = script(final, OK)
    assert await patience(Clock()).repeated(once) is final
    assert len(left) == 1


async def test_an_error_of_our_own_is_not_repeated() -> None:
    """A full house stays full news."""
    once, left = script(OverloadedError("full"), OK)
    with pytest.raises(OverloadedError):
        await patience(Clock()).repeated(once)
    assert len(left) == 1


async def test_the_pause_is_never_shorter_than_asked_and_is_spread() -> None:
    """Retry-After plus up to a quarter."""
    for chance, slept in ((0.0, 4.0), (1.0, 5.0)):
        clock = Clock()
        once, _ = script(limited("4"), OK)
        await patience(clock, chance=chance).repeated(once)
        assert clock.slept == [slept]


async def test_unasked_pauses_grow() -> None:
    """Half a second, a second, two."""
    clock = Clock()
    once, _ = script(BUSY, BUSY, BUSY, OK)
    assert await patience(clock, retries=3).repeated(once) is OK
    assert clock.slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(("after", "tries"), [("21", 1), ("9", 3), ("11", 2)])
async def test_twenty_seconds_in_all_are_the_bound(after: str, tries: int) -> None:
    """A pause that doesn't fit is not begun: the caller hears now."""
    clock = Clock()
    once, left = script(*[limited(after)] * 9)
    assert (await patience(clock, retries=8).repeated(once)).status == 429
    assert 9 - len(left) == tries
    assert sum(clock.slept) <= 20


def test_retry_after_in_all_its_forms() -> None:
    """Seconds, milliseconds, a date; nonsense is nothing."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": "1.5"}) == 1.5
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert 28 < (retry_after_s({"retry-after": soon}) or 0) <= 30
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    for nonsense in ("", "soon", "-1", "nan", "inf"):
        assert retry_after_s({"retry-after": nonsense}) is None
    assert retry_after_s({}) is None


def test_slots_are_bounded_and_given_back_once() -> None:
    """The limit holds, and a second release changes nothing."""
    slots = Slots(2)
    first, second = slots.take(), slots.take()
    with pytest.raises(OverloadedError) as full:
        slots.take()
    assert (full.value.retry_after_s, full.value.http_status) == (1, 503)
    first.release()
    first.release()
    assert slots.taken == 1
    with slots.take():
        assert slots.taken == 2
    second.release()
    assert slots.taken == 0
