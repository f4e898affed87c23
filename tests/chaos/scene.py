"""What a scenario plays with: a fleet, its traffic, and chances from the round's seed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.fleet import Fleet, Replica
from tests.chaos.judging import Call, Generated, asked_for
from tests.chaos.traffic import Traffic

_LED = 3
_POLL_S = 0.01
_PATIENCE_S = 5.0


@dataclass
class Scene:
    """One round, while it is played."""

    fleet: Fleet
    traffic: Traffic
    rng: random.Random

    def one(self) -> Replica:
        """Pick a replica."""
        return self.rng.choice(self.fleet.balanced)

    def others(self, *than: Replica) -> list[Replica]:
        """Return the other replicas, in any order."""
        others = [replica for replica in self.fleet.balanced if replica not in than]
        return self.rng.sample(others, len(others))

    def led_by(self, leader: Replica, guests: Sequence[Replica] = (), groups: int = _LED) -> list[Call]:
        """Send groups that `leader` leads, with callers at the others or at `guests`, and one more of its own in some."""
        calls: list[Call] = []
        for _ in range(groups):
            own = [leader] if self.rng.random() < 1 / 2 else []
            calls += self.traffic.led_by(leader, [*(guests or self.others(leader)), *own])
        return calls

    async def between(self, least_s: float, most_s: float) -> None:
        """Let some time pass."""
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    async def in_a_batch(self, calls: Sequence[Call]) -> None:
        """Wait until the provider is writing a batch with one of these calls; no longer than a window may take."""
        tokens = {call.token for call in calls}

        def begun() -> bool:
            bodies = [request.body for request in self.fleet.provider.stats.recorded]
            return bool(tokens & Generated.of(asked_for(bodies)).merged.keys())

        await self._until(begun)

    async def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not true() and time.monotonic() < deadline:  # noqa: ASYNC110 - the provider only counts
            await asyncio.sleep(_POLL_S)
