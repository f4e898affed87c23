"""Moments at which something is to be looked at: at most one a name, the earliest first; it knows no clock."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Name = TypeVar("Name")

_SPARE = 64
"""Outdated moments that the heap may hold beside one for each name, before it is built anew."""


class Alarms(Generic[Name]):
    """A heap whose outdated entries are passed over."""

    def __init__(self) -> None:
        self._at: dict[Name, float] = {}
        self._heap: list[tuple[float, int, Name]] = []
        self._number = 0
        """Sets apart what rings at the same moment, so that names need no order."""

    def set(self, name: Name, at: float) -> None:
        """Ring for `name` at `at`, in place of when it was to ring."""
        if self._at.get(name) == at:
            return
        self._at[name] = at
        if len(self._heap) > 2 * len(self._at) + _SPARE:
            self._heap = [(moment, i, known) for i, (known, moment) in enumerate(self._at.items())]
            heapq.heapify(self._heap)
            self._number = len(self._heap)
        else:
            heapq.heappush(self._heap, (at, self._number, name))
            self._number += 1

    def at(self, name: Name) -> float | None:
        """Return when it rings for `name`; None: it does not."""
        return self._at.get(name)

    def clear(self, name: Name) -> None:
        """Ring no more for `name`."""
        self._at.pop(name, None)

    def next(self) -> float | None:
        """Return the earliest moment."""
        while self._heap:
            at, _, name = self._heap[0]
            if self._at.get(name) == at:
                return at
            heapq.heappop(self._heap)
        return None

    def ring(self, now: float) -> list[Name]:
        """Return, and forget, every name whose moment has come."""
        ringing: list[Name] = []
        while (at := self.next()) is not None and at <= now:
            name = heapq.heappop(self._heap)[2]
            del self._at[name]
            ringing.append(name)
        return ringing
