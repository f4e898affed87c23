"""How many failed lessons may be sent again: a share of the calls of the last seconds, so that a storm can't double itself.

Pure: `now` is an argument, in seconds of any steady clock. It knows no call and no provider, only names and counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from math import floor

_SLICES = 20
"""Slices of time that a window is counted in. Counts are rounded to the safe side, by one slice at most."""


@dataclass(slots=True)
class _Slice:
    number: int
    calls: int = 0
    resends: int = 0


@dataclass(slots=True)
class _Tally:
    """The slices of one name in the order of time; older ones than a resend may still matter in are dropped."""

    slices: deque[_Slice] = field(default_factory=deque[_Slice])

    def at(self, number: int) -> _Slice:
        """Return the slice of this moment."""
        if not self.slices or self.slices[-1].number < number:
            self.slices.append(_Slice(number))
        while self.slices[0].number < number - _SLICES:
            self.slices.popleft()
        return self.slices[-1]

    def calls(self, number: int) -> int:
        """Count the calls that are certainly within the window which ends in this slice."""
        return sum(s.calls for s in self.slices if s.number > number - _SLICES)

    def resends(self, number: int) -> int:
        """Count the resends that may be within it."""
        return sum(s.resends for s in self.slices if s.number >= number - _SLICES)


class ResendBudget:
    """Lets through at most max(`floor`, `share` of the calls) resends in any `window_s` seconds, for each name apart.

    The `max_names` names that were used last are remembered.
    """

    def __init__(self, floor: int = 10, share: float = 0.2, window_s: float = 10.0, max_names: int = 1000) -> None:
        self._floor = floor
        self._share = share
        self._slice_s = window_s / _SLICES
        self._max_names = max_names
        self._tallies: OrderedDict[str, _Tally] = OrderedDict()

    def called(self, name: str, now: float) -> None:
        """Count one call."""
        self._tally(name).at(self._number(now)).calls += 1

    def take(self, name: str, now: float) -> bool:
        """Take one resend, if the budget has it."""
        number = self._number(now)
        tally = self._tally(name)
        current = tally.at(number)
        if tally.resends(number) >= self._allowed(tally, number):
            return False
        current.resends += 1
        return True

    def retry_after_s(self, name: str, now: float) -> float:
        """Return the seconds until a resend is possible if nobody else asks for one; 0.0: it is now."""
        tally = self._tallies.get(name)
        if tally is None:
            return 0.0
        number = self._number(now)
        # when every slice is out of the window the floor alone counts, so the search ends
        ahead = range(_SLICES + 2)
        free = next((n for n in ahead if tally.resends(number + n) < self._allowed(tally, number + n)), len(ahead))
        return max(0.0, (number + free) * self._slice_s - now) if free else 0.0

    def _allowed(self, tally: _Tally, number: int) -> int:
        return max(self._floor, floor(self._share * tally.calls(number)))

    def _number(self, now: float) -> int:
        return floor(now / self._slice_s)

    def _tally(self, name: str) -> _Tally:
        tally = self._tallies.setdefault(name, _Tally())
        self._tallies.move_to_end(name)
        if len(self._tallies) > self._max_names:
            self._tallies.popitem(last=False)
        return tally
