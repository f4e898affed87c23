"""One quick round of the worst that can happen to replicas that share windows; `make chaos` plays all of it, for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.rounds import play

SEED = 1
WORST = ("leader_killed_mid_stream", "redis_failed_over")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_whatever_dies_every_caller_of_a_replica_that_lives_gets_its_own_answer(tmp_path: Path) -> None:
    async with Fleet.running(tmp_path, 2) as fleet:
        for name in WORST:
            verdict = await play(fleet, name, SEED)
            assert verdict.broken == [], name
            assert verdict.figures["merged"] > 0
