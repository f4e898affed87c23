"""Traces of lesson calls, made from committed parameters and seeds: when each call comes, from which site, with how many others.

The parameters were committed before there was a policy to tune. Tuning used the tuning seeds; what was then frozen is
judged on the scoring seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

TUNING_SEEDS = (1, 2, 3, 4, 5)
SCORING_SEEDS = (201, 202, 203, 204, 205)

BURSTS = 600
"""Bursts (of one call or more) a trace."""
BETWEEN_S = 2.0
"""Mean time between the bursts of a site, Poisson."""
NEAR_MS = 15.0
"""Mean gap of calls that an app sends together, exponential."""
STAGGERED_MS = (80.0, 160.0)
"""Gaps of calls that an app sends one behind the other without awaiting them, uniform."""
SIZES = (2, 3, 3, 5)
"""Calls of a burst in company, drawn evenly."""
IN_COMPANY = 0.3
"""Share of a mixed trace's calls that come in company."""
PHASE_S = 200.0
"""A drifting site is quiet, then near, then staggered, for so long each."""

Gap = Callable[[random.Random], float]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call."""

    at: float
    """Seconds."""
    site: str
    key: str
    group: int
    """How many calls its burst has, itself included: what the app could announce."""


def _near(rng: random.Random) -> float:
    return rng.expovariate(1000.0 / NEAR_MS)


def _staggered(rng: random.Random) -> float:
    return rng.uniform(*STAGGERED_MS) / 1000.0


def _burst(at: float, key: str, size: int, gap: Gap, rng: random.Random) -> list[Arrival]:
    arrivals: list[Arrival] = []
    for _ in range(size):
        arrivals.append(Arrival(at, "site", key, size))
        at += gap(rng)
    return arrivals


def _in_company(rng: random.Random) -> int:
    """Return the size of a mixed trace's next burst: 1, or one of SIZES so that IN_COMPANY of all calls have company."""
    mean = sum(SIZES) / len(SIZES)
    bursts = IN_COMPANY / mean / (IN_COMPANY / mean + (1 - IN_COMPANY))
    return rng.choice(SIZES) if rng.random() < bursts else 1


def _trace(seed: int, shape: Callable[[float, random.Random], tuple[int, Gap]]) -> list[Arrival]:
    rng = random.Random(seed)
    at, arrivals = 0.0, list[Arrival]()
    for number in range(BURSTS):
        at += rng.expovariate(1.0 / BETWEEN_S)
        size, gap = shape(at, rng)
        arrivals += _burst(at, f"learner-{number}", size, gap, rng)
    return sorted(arrivals, key=lambda arrival: arrival.at)


def lone(seed: int) -> list[Arrival]:
    """Return calls that never have company."""
    return _trace(seed, lambda _, __: (1, _near))


def near(seed: int) -> list[Arrival]:
    """Return bursts of calls that come almost at once."""
    return _trace(seed, lambda _, rng: (rng.choice(SIZES), _near))


def staggered(seed: int) -> list[Arrival]:
    """Return bursts of calls that come one behind the other."""
    return _trace(seed, lambda _, rng: (rng.choice(SIZES), _staggered))


def mixed(seed: int) -> list[Arrival]:
    """Return mostly lone calls, and near bursts among them."""
    return _trace(seed, lambda _, rng: (_in_company(rng), _near))


def drifting(seed: int) -> list[Arrival]:
    """Return a site that is quiet, then near, then staggered, and quiet again."""

    def shape(at: float, rng: random.Random) -> tuple[int, Gap]:
        match int(at / PHASE_S) % 3:
            case 0:
                return 1, _near
            case 1:
                return rng.choice(SIZES), _near
            case _:
                return rng.choice(SIZES), _staggered

    return _trace(seed, shape)


TRACES: dict[str, Callable[[int], list[Arrival]]] = {
    "lone": lone,
    "near": near,
    "staggered": staggered,
    "mixed": mixed,
    "drifting": drifting,
}
