"""A day of mixed traffic in small: the merging core whole, under a virtual clock, with a provider that keeps a meter of its own."""

from __future__ import annotations

import pytest

from bench.day import DAY_S, Day, measure

CALLS = 6000


@pytest.fixture(scope="module")
def day() -> Day:
    """Every twentieth call of the bench's day, as dense as there."""
    return measure(CALLS, DAY_S * CALLS / 100_000)


def test_everybody_is_answered_within_the_bound(day: Day) -> None:
    """The virtual clock is exact: not a millisecond beyond it, and a site that never has company waits for none."""
    assert (day.calls, day.failed, day.still_waiting) == (CALLS, 0, 0)
    assert day.longest_wait_ms <= 100.001
    assert day.lone_wait_ms < 1


def test_the_day_saves_money_by_the_providers_own_meter(day: Day) -> None:
    """Net of every resend and everything thrown away, with one entry in twenty bad and a sick site among them."""
    assert day.merged > 0.2 * CALLS
    assert day.resent > 0
    assert day.meter.saved_usd > 0


def test_the_money_told_is_the_money_saved(day: Day) -> None:
    """The events' sum is what the meter says; neither knows of the other."""
    assert day.told_usd == pytest.approx(day.meter.saved_usd, rel=1e-6)


def test_what_is_sick_rests_and_comes_back(day: Day) -> None:
    """The sick site is found out and tried again until it is well; when the day ends nobody rests."""
    assert any(name.startswith("sick: ") for name in day.rested)
    assert day.resumed["sick"] >= 1
    assert day.resting_at_the_end == 0
