"""Whether a call is one of a loop: the same request again and again, each sent when the one before was answered.

From how long such runs were it tells how likely the next calls are. It is off until loops have been seen: a site starts
with no chance at all.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from proxy.model import SITE_APP, Price
from proxy.sites.company import POSITIONS, Habit

_BEFORE = 0.0
"""The chance that the same is asked again, before anything is known."""
_ENOUGH = 4.0
"""Calls at a place of their loop after which a site is known by itself, and not by its app."""
_BAD = 0.05
"""Entries of a batch that are thrown away and asked for again, taken for granted."""
_KEPT_OF_PROMPT = 0.9
"""What an identical call saves of its prompt in a batch; the rest is its key and what the batch says of itself."""


@dataclass(slots=True)
class _Run:
    """One request of one user, as often as it came."""

    site: str
    within_s: float
    open: int = 0
    """Calls that are not answered yet."""
    answered: float = 0.0
    position: int = 0


class Loops:
    """Learns of at most `max_sites` sites and apps, and follows at most `max_runs` requests."""

    def __init__(self, max_sites: int, max_runs: int) -> None:
        self._max_sites = max_sites
        self._max_runs = max_runs
        self._habits: OrderedDict[str, Habit] = OrderedDict()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def began(self, site: str, request: str, within_s: float, now: float) -> None:
        """Take in that a call came; one that comes beside its like is no loop. `within_s`: so soon after an answer the next one comes."""
        self._expire(now)
        run = self._runs.get(request)
        if run and run.open == 0 and now - run.answered > run.within_s:
            self._learn(run, followed=False)
            run = None
        if run is None:
            run = self._runs[request] = _Run(site, within_s)
        elif run.open == 0:
            self._learn(run, followed=True)
            run.position = min(run.position + 1, POSITIONS - 1)
        run.open += 1
        self._runs.move_to_end(request)
        if len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)

    def ended(self, request: str, now: float, *, answered: bool) -> None:
        """Take in that a call ended. Where it got no lesson, what comes next is a repetition and no loop."""
        run = self._runs.get(request)
        if run is not None and not answered:
            del self._runs[request]
        elif run is not None and run.open > 0:
            run.open -= 1
            run.answered = now
            self._runs.move_to_end(request)

    def worth(self, request: str, most: int, prompt: float, completion: float, price: Price) -> int:
        """Return how many of this request are worth asking for now, `most` at most; 1: this one alone.

        Each further one saves its `prompt` where it is wanted, and costs its `completion` where it is not.
        """
        run = self._runs.get(request)
        if run is None or run.open != 1:
            return 1
        app, site = self._habits.get(run.site[:SITE_APP], Habit()), self._habits.get(run.site, Habit())
        wanted, count, net = 1.0, 1, -_BAD * price.of(0, completion)
        best, best_count = 0.0, 1
        while count < most:
            position = min(run.position + count - 1, POSITIONS - 1)
            known = site if site.seen[position] >= _ENOUGH else app
            wanted *= known.chance(position, _BEFORE)
            count += 1
            net += wanted * price.of(prompt * _KEPT_OF_PROMPT, 0) - (1 - wanted + _BAD) * price.of(0, completion)
            if net > best:
                best, best_count = net, count
        return best_count

    def _expire(self, now: float) -> None:
        """End the runs that nobody continued."""
        while self._runs:
            request, run = next(iter(self._runs.items()))
            if run.open or now - run.answered <= run.within_s:
                return
            del self._runs[request]
            self._learn(run, followed=False)

    def _learn(self, run: _Run, *, followed: bool) -> None:
        for name in (run.site, run.site[:SITE_APP]):
            habit = self._habits.setdefault(name, Habit())
            self._habits.move_to_end(name)
            if len(self._habits) > self._max_sites:
                self._habits.popitem(last=False)
            habit.count(run.position, followed=followed)
