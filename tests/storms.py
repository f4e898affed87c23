"""Kinds of weather for the simulation, and the crowds of callers that are out in them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from proxy.model import Plan
from tests.world import CALM, Weather, World

BAD = Weather(
    lost_commands=0.02,
    lost_replies=0.02,
    slow=0.02,
    routine_waits_s=0.3,
    lost_mail=0.1,
    doubled_mail=0.05,
    late_mail=0.05,
    leaving=0.1,
    deaths=(4.0, 9.0, 14.0),
    stops=((6.0, 6.5), (11.0, 14.0)),
    losses=(8.0, 16.0),
    failing=0.05,
)
STORMS: Mapping[str, tuple[Weather, float]] = MappingProxyType({
    "calm": (CALM, 0.6),
    "slow": (Weather(delay_s=(0.002, 0.03), leaving=0.05), 0.35),
    "deaf": (Weather(lost_mail=0.5, doubled_mail=0.2, late_mail=0.2), 0.45),
    "lossy": (Weather(lost_commands=0.02, lost_replies=0.02, slow=0.02, leaving=0.05, failing=0.05), 0.45),
    "dying": (Weather(deaths=tuple(float(second) for second in range(1, 60, 2)), leaving=0.05), 0.35),
    "forgetful": (Weather(losses=tuple(float(second) for second in range(2, 60, 3)), stops=((20.0, 21.0), (40.0, 45.0))), 0.25),
    "all at once": (BAD, 0.25),
})  # fmt: skip
"""Each kind of weather, and the share of calls that share a batch even then."""


def plan(**overrides: Any) -> Plan:
    values: dict[str, Any] = {"max_wait_s": 0.1, "max_size": 5}
    return Plan(**(values | overrides))


def crowd(world: World, groups: int, *, span_s: float = 20.0, burst_s: float = 0.06, seed: int = 0) -> None:
    """Groups of one to five calls of one key each, at any replica."""
    rng = random.Random(seed)
    for group in range(groups):
        begin = rng.uniform(0, span_s)
        expect = rng.choice([None, None, 3])
        for _ in range(rng.randrange(1, 6)):
            wanted = plan(
                expect=expect,
                streaming=rng.random() < 0.3,
                deadline_s=rng.choice([None, None, 60.0, 5.0]),
                lesson_s=rng.choice([0.0, 2.0]),
                max_size=rng.choice([5, 5, 2]),
                idle_s=rng.choice([None, None, 0.03, 0.0]),
            )
            world.call(begin + rng.uniform(0, burst_s), f"key {group}", wanted)


def judged(world: World) -> World:
    world.run()
    world.judge()
    return world


def stormy(kind: str, seed: int) -> World:
    """Play about 5,100 calls at six replicas in a minute of this weather, and judge them."""
    world = World(seed, replicas=6, weather=STORMS[kind][0])
    crowd(world, 1700, span_s=60.0, seed=seed)
    return judged(world)
