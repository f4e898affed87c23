"""The simulation of `tests/world.py`, over as many calls as one likes: every kind of weather, each with its own seeds."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count

from tests.storms import STORMS, stormy


@dataclass
class Storm:
    """What came of one world, or of many."""

    kind: str
    seed: int
    worlds: int = 1
    calls: int = 0
    fates: Counter[str] = field(default_factory=Counter[str])
    twice: int = 0
    broken: str | None = None

    def add(self, other: Storm) -> None:
        """Take another world's in."""
        self.worlds += other.worlds
        self.calls += other.calls
        self.fates += other.fates
        self.twice += other.twice


def played(kind: str, seed: int) -> Storm:
    """Play one world."""
    try:
        world = stormy(kind, seed)
    except AssertionError as error:
        return Storm(kind, seed, broken=str(error))
    twice = sum(caller.merged > 0 and bool(caller.fates) and caller.fates != ["merged"] for caller in world.callers.values())
    return Storm(kind, seed, calls=len(world.callers), fates=world.fates(), twice=twice)


def storms(calls: int, seed: int) -> Generator[Storm]:
    """Play worlds, one a core at a time, until there were so many calls; tell each."""
    workers = os.cpu_count() or 1
    worlds = ((number, kind) for number in count(seed) for kind in STORMS)
    done = 0
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        playing: set[Future[Storm]] = set()
        while done < calls:
            while len(playing) < workers:
                number, kind = next(worlds)
                playing.add(pool.submit(played, kind, number))
            over, playing = wait(playing, return_when=FIRST_COMPLETED)
            for storm in (future.result() for future in over):
                done += storm.calls
                yield storm
                if storm.broken:
                    return
