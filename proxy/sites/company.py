"""Whether a site's calls come in company, and how far apart: from that, how long a call is worth keeping for the next one.

Every call teaches, held or not: what came within the longest wait behind a call was its company, also where that call had
left at once. So a quiet site that turns lively is found out by its calls alone, and the other way round.

Where windows are shared with other processes, company may come there and is not seen coming: then what became of the calls that
were held counts too, and a few calls of a quiet site are held to find out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

from proxy.model import SITE_APP, BatchKey, CallId

_MEMORY = 32
"""Calls after which what was learned counts for about a third: a site that changes is followed within a few dozen calls."""
_FORGET = 1 - 1 / _MEMORY
POSITIONS = 8
"""Places in a run of calls that are learned apart; later ones count as the last. An app that always asks for three is told
from one that goes on."""
_EDGES_S = tuple(0.001 * 2 ** (i / 2) for i in range(33))
"""Upper ends of the classes of gaps; 1 ms to 65 s, so the longest wait that can be set is within."""
_WORTH = 4.0
"""A lesson that joins is worth so many longest waits of one call. At 1 a call waits only where company is all but sure."""
_OPENING = 0.5
"""The chance of company before anything is known: a new site's first calls wait."""
_TRIED = 16
"""Where windows are shared: one call of a quiet site in so many is held all the same, and the next one after company was found."""
_SURENESS = 2.0
"""Calls that what is known of the app (or of nothing) counts for in a site's own knowledge."""


@dataclass(slots=True)
class Habit:
    """What calls did at one site (or of one app): counts that fade."""

    seen: list[float] = field(default_factory=lambda: [0.0] * POSITIONS)
    followed: list[float] = field(default_factory=lambda: [0.0] * POSITIONS)
    gaps: list[float] = field(default_factory=lambda: [0.0] * len(_EDGES_S))
    all_gaps: float = 0.0
    left: int = 0
    """Calls that left at once since one was held to find out."""

    def count(self, position: int, *, followed: bool) -> None:
        """Take in whether the call at this place of its run was followed."""
        self.seen[position] = self.seen[position] * _FORGET + 1
        self.followed[position] = self.followed[position] * _FORGET + followed

    def time(self, gap_s: float) -> None:
        """Take in after how long one was."""
        self.gaps = [count * _FORGET for count in self.gaps]
        self.gaps[_class_of(gap_s)] += 1
        self.all_gaps = self.all_gaps * _FORGET + 1

    def chance(self, position: int, before: float) -> float:
        """Return the chance that a call at this place is followed; `before`: what it would be if nothing were known here."""
        return (self.followed[position] + _SURENESS * before) / (self.seen[position] + _SURENESS)

    def share(self, place: int, before: float) -> float:
        """Return the part of the gaps that are of this class; `before` as above."""
        return (self.gaps[place] + _SURENESS * before) / (self.all_gaps + _SURENESS)


_NOTHING = Habit()


@dataclass(slots=True)
class _Run:
    """Calls of one batch key that came one behind the other, and the window that they are thought to wait in."""

    site: str
    cap_s: float
    last: float
    position: int = 0
    waiting: int = 0
    opened: float = 0.0
    until: float = -inf
    twin: str | None = None
    met: bool = False
    """Company came to its first call in another process."""
    left: bool = False
    """Its first call left at once, and so could not be found by company elsewhere: that it met nobody here says nothing."""
    over: bool = False
    """What is known of it has been learned."""


class Company:
    """Learns of at most `max_sites` sites and apps, and follows at most `max_runs` batch keys."""

    def __init__(self, max_sites: int, max_runs: int) -> None:
        self._max_sites = max_sites
        self._max_runs = max_runs
        self._habits: OrderedDict[str, Habit] = OrderedDict()
        self._runs: OrderedDict[BatchKey, _Run] = OrderedDict()
        self.shared = False
        """Windows are shared with other processes."""
        self._held: OrderedDict[CallId, _Run] = OrderedDict()
        """First calls of runs that wait in shared windows."""

    def arrived(self, site: str, key: BatchKey, cap_s: float, now: float, *, twin: str | None = None) -> None:
        """Take in that a call came. `cap_s`: the longest that calls of this site wait, above 0.

        `twin`: what it has in common with calls that must be answered alike; such a one is no company of its twin.
        """
        self._expire(now)
        run = self._runs.get(key)
        if run and now - run.last > run.cap_s:
            self._learn(run, None)
            run = None
        if run is None:
            run = self._runs[key] = _Run(site, cap_s, now, twin=twin)
        elif twin is not None and twin == run.twin:
            return
        else:
            self._learn(run, now - run.last)
            run.last = now
            run.position = min(run.position + 1, POSITIONS - 1)
        self._runs.move_to_end(key)
        if len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)

    def gap_s(self, call: CallId, key: BatchKey, cap_s: float, size: int, now: float) -> float:
        """Return how long the call that has just come should wait for the next; 0.0: it is not worth it."""
        run = self._runs.get(key)
        if run is None:
            return 0.0
        if now >= run.until or run.waiting >= size:
            run.opened, run.waiting = now, 0
        run.waiting += 1
        left_s = min(cap_s, run.cap_s - (now - run.opened))
        gap_s = self._best(run, left_s) if run.waiting < size else 0.0
        if self.shared and run.position == 0:
            gap_s = gap_s or self._tried(run, left_s)
            run.left = not gap_s
            self._hold(call, run)
        run.until = now + gap_s
        return gap_s

    def ended(self, call: CallId, *, merged: bool) -> None:
        """Take in what became of a call that waited; one that met nobody here may have had company elsewhere."""
        run = self._held.pop(call, None)
        if run is None or not merged or run.position > 0:
            return
        run.met = True
        self._habit(run.site).left = _TRIED - 1
        if run.over and not run.left:
            for name in (run.site, run.site[:SITE_APP]):
                habit = self._habit(name)
                habit.followed[0] = min(habit.followed[0] + 1, habit.seen[0])

    def _tried(self, run: _Run, left_s: float) -> float:
        habit = self._habit(run.site)
        habit.left = (habit.left + 1) % _TRIED
        return 0.0 if habit.left else left_s

    def _hold(self, call: CallId, run: _Run) -> None:
        self._held[call] = run
        if len(self._held) > self._max_runs:
            self._held.popitem(last=False)

    def _best(self, run: _Run, left_s: float) -> float:
        """Return the wait that gains most: each lesson that joins is worth `_WORTH` waits, each second is lost to all who wait."""
        app, site = self._habits.get(run.site[:SITE_APP], _NOTHING), self._habits.get(run.site, _NOTHING)
        chance = site.chance(run.position, app.chance(run.position, _OPENING))
        worth_s = _WORTH * run.cap_s
        best_s = best = came = waited_s = start_s = 0.0
        for place, upper_s in enumerate(_EDGES_S):
            end_s = min(upper_s, left_s)
            # nothing is known: a gap is as likely as any other within the longest wait
            share = chance * site.share(place, app.share(place, (end_s - start_s) / run.cap_s))
            came += share
            waited_s += share * (start_s + end_s) / 2
            gain = came * worth_s - run.waiting * (waited_s + (1 - came) * end_s)
            if gain > best:
                best, best_s = gain, end_s
            if upper_s >= left_s:
                break
            start_s = upper_s
        return best_s

    def _expire(self, now: float) -> None:
        """End the runs that nobody continued."""
        while self._runs:
            key, run = next(iter(self._runs.items()))
            if now - run.last <= run.cap_s:
                return
            del self._runs[key]
            self._learn(run, None)

    def _learn(self, run: _Run, gap_s: float | None) -> None:
        run.over = True
        for name in (run.site, run.site[:SITE_APP]):
            habit = self._habit(name)
            if run.position > 0 or not run.left:
                habit.count(run.position, followed=gap_s is not None or (run.met and run.position == 0))
            if gap_s is not None:
                habit.time(gap_s)

    def _habit(self, name: str) -> Habit:
        habit = self._habits.setdefault(name, Habit())
        self._habits.move_to_end(name)
        if len(self._habits) > self._max_sites:
            self._habits.popitem(last=False)
        return habit


def _class_of(gap_s: float) -> int:
    return min(bisect_left(_EDGES_S, gap_s), len(_EDGES_S) - 1)
