"""The simulation over many calls plays every kind of weather, and ends."""

from __future__ import annotations

from tests.chaos.simulation import storms
from tests.storms import STORMS


def test_it_ends_with_the_calls_that_were_asked_for_and_tells_each_world() -> None:
    told = list(storms(10_000, seed=1))
    assert 10_000 <= sum(storm.calls for storm in told) < 30_000
    assert [storm for storm in told if storm.broken] == []
    assert {storm.kind for storm in told} <= set(STORMS)
    assert len({(storm.kind, storm.seed) for storm in told}) == len(told) > 1
