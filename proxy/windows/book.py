"""The rules of the window as a pure state machine: who waits with whom, until when, and in which order they are sealed.

It knows no loop and no clock (`now` is an argument, in seconds of any steady clock), no I/O and no prompt. Each method
changes the state at once and returns what is left to do: batches to send, calls to let go.

The rules
 1. One window a batch key. Its clock starts with the first call; a later call can only pull its bound forward, so
    nobody waits past the bound it came with. The bound leaves the call time to be written before its own deadline.
 2. No window where merging can't happen: a size or wait of none, a call announced as the only one, a deadline too
    near, an output limit that has room for no second lesson. Such a call is Away at once.
 3. A call joins only where everybody stays within their bounds, in the order in which the lessons will be written:
    streaming callers first, then earliest deadlines, then arrival. Lesson k is expected to start after those before it
    (`max_added_s`) and to end, counted from the window's closing, before its caller's deadline. The output tokens of
    all fit the model's limit. Where it doesn't fit, the window is sealed (`no_room`) and the call opens the next one.
 4. A window closes at its time, when `max_size` are in (`full`; the smallest of its calls' sizes counts), or when the
    announced calls have come (`expected`; the largest announcement counts, and only those who announced are counted,
    the ones that left or were sent away included). What a full window leaves of an announcement, the next one expects.
 5. A window also closes when nobody has come for the gap (`idle`) that its latest call asks for; without a gap, or where
    companions are announced, the bound counts. A gap of none closes the window that the call finds, and opens none.
 6. A call that must answer as its twin does (`deterministic`) never stands beside one: Away, and the twin keeps waiting.
 7. Full is full: over `max_waiting` calls or `max_windows` windows a call is Away, and nobody else notices.
 8. After `drain` everything is sealed and every call is Away.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from proxy.model import BatchKey, CallId, Closed, Plan
from proxy.windows.entrants import Entrant, refusal, wait_bound_s

_ROUNDING_S = 1e-6
"""What sums of moments may be wrong by: a call that just keeps its deadline alone must not miss it by a rounding."""

_SPARE_DEADLINES = 64
"""Outdated entries that the heap may hold beside one for each open window, before it is built anew."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A window that is closed: its calls in the order in which lessons are asked for. One call alone is no batch."""

    key: BatchKey
    calls: tuple[CallId, ...]
    closed_by: Closed


@dataclass(frozen=True, slots=True)
class Joined:
    """The call waits; windows that its coming closed (its own too) are `sealed`."""

    closes_at: float
    """When its window closes if nobody comes; who comes may push that out, never past the bound."""
    sealed: tuple[Sealed, ...] = ()


@dataclass(frozen=True, slots=True)
class Away:
    """The call is not held: it goes alone. `sealed` as in Joined."""

    reason: str
    sealed: tuple[Sealed, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """One waiting call, with its place in the batch's order and its bounds as moments."""

    order: tuple[bool, float, int]
    call: CallId
    digest: str
    plan: Plan
    deadline: float

    def __lt__(self, other: _Entry) -> bool:
        return self.order < other.order


@dataclass(slots=True)
class _Window:
    key: BatchKey
    max_size: int = 0
    bound: float = inf
    closes_at: float = inf
    """The earliest bound of its calls, or the end of the idle gap before it."""
    announced: int = 0
    """The largest announcement; 0: none."""
    arrived: int = 0
    """Calls that announced companions and have come, in this window or in the full ones before it."""
    entries: list[_Entry] = field(default_factory=list[_Entry])

    def hint(self, expect: int | None) -> None:
        """Note one call of an announced group."""
        if expect is not None:
            self.announced = max(self.announced, expect)
            self.arrived += 1

    @property
    def complete(self) -> bool:
        return 0 < self.announced <= self.arrived


class Book:
    """Every open window. At most `max_waiting` calls wait in at most `max_windows` windows."""

    def __init__(self, max_waiting: int, max_windows: int) -> None:
        self._max_waiting = max_waiting
        self._max_windows = max_windows
        self._open: dict[BatchKey, _Window] = {}
        self._where: dict[CallId, _Window] = {}
        self._closings: list[tuple[float, BatchKey]] = []
        """A heap; an entry counts only while its window is open and closes at that very moment."""
        self._rest_of_group: OrderedDict[BatchKey, tuple[int, float]] = OrderedDict()
        """After a full window: how many of an announced group have come, and until when the rest is expected."""
        self._arrivals = 0
        self._draining = False

    @property
    def waiting(self) -> int:
        """The number of calls in open windows."""
        return len(self._where)

    @property
    def windows(self) -> int:
        """The number of open windows."""
        return len(self._open)

    def join(self, lesson: Entrant, plan: Plan, now: float) -> Joined | Away:
        """Take one call in, or say why not; raises ValueError if a call of this id waits already."""
        if lesson.id in self._where:
            raise ValueError(f"call {lesson.id} waits already")
        bound_s = wait_bound_s(plan)
        if reason := self._refusal(plan):
            return Away(reason)
        window, sealed = self._current(lesson.key, now)
        if lesson.deterministic and window and any(e.digest == lesson.identity_digest for e in window.entries):
            window.hint(plan.expect)
            return Away("identical_temperature_0", (*sealed, *self._closed_early(window, now)))
        self._arrivals += 1
        deadline = inf if plan.deadline_s is None else now + plan.deadline_s
        entry = _Entry((not plan.streaming, deadline, self._arrivals), lesson.id, lesson.identity_digest, plan, deadline)
        if window and not _fits(window, entry, now + bound_s):
            sealed = (*sealed, self._seal(window, "no_room", now))
            window = None
        if window is None:
            if reason := self._none_opened(plan):
                return Away(reason, sealed)
            window = self._opened(lesson.key, now)
        self._enter(window, entry, now + bound_s, now)
        return Joined(window.closes_at, (*sealed, *self._closed_early(window, now)))

    def hasten(self, call: CallId, plan: Plan, now: float) -> None:
        """Pull the closing forward for somebody who waits for the same call within bounds of its own."""
        window = self._where.get(call)
        if window:
            window.bound = min(window.bound, now + max(0.0, wait_bound_s(plan)))
            self._close_at(window, min(window.closes_at, window.bound))

    def leave(self, call: CallId) -> bool:
        """Take a call out whose caller has gone; False: it waits in no window (any more)."""
        window = self._where.pop(call, None)
        if window is None:
            return False
        window.entries = [e for e in window.entries if e.call != call]
        if not window.entries:
            del self._open[window.key]
        return True

    def due(self, now: float) -> tuple[Sealed, ...]:
        """Close the windows whose time has come."""
        sealed: list[Sealed] = []
        while (window := self._next()) and window.closes_at <= now:
            sealed.append(self._seal(window, "time", now))
        return tuple(sealed)

    def next_due(self) -> float | None:
        """Return the moment when the next window closes; None: none is open."""
        window = self._next()
        return window.closes_at if window else None

    def bound(self, key: BatchKey) -> float | None:
        """Return when the window of one key closes at the latest; None: none is open."""
        window = self._open.get(key)
        return window.bound if window else None

    def close(self, key: BatchKey, closed_by: Closed, now: float) -> Sealed | None:
        """Close the window of one key before its time; None: none is open."""
        window = self._open.get(key)
        return self._seal(window, closed_by, now) if window else None

    def drain(self, now: float) -> tuple[Sealed, ...]:
        """Close everything, for good."""
        self._draining = True
        return tuple(self._seal(window, "drain", now) for window in list(self._open.values()))

    def _refusal(self, plan: Plan) -> str | None:
        """Say why this call can't be held whoever else is waiting."""
        if self._draining:
            return "draining"
        return refusal(plan) or ("windows_full" if len(self._where) >= self._max_waiting else None)

    def _current(self, key: BatchKey, now: float) -> tuple[_Window | None, tuple[Sealed, ...]]:
        """Return the key's window; one that is past its time (a late timer) is closed first."""
        window = self._open.get(key)
        if window and window.closes_at <= now:
            return None, (self._seal(window, "time", now),)
        return window, ()

    def _none_opened(self, plan: Plan) -> str | None:
        if plan.expect is None and plan.idle_s is not None and plan.idle_s <= 0:
            return "alone"
        return "windows_full" if len(self._open) >= self._max_windows else None

    def _opened(self, key: BatchKey, now: float) -> _Window:
        window = _Window(key)
        come, until = self._rest_of_group.pop(key, (0, now))
        window.arrived = come if now < until else 0
        self._open[key] = window
        return window

    def _enter(self, window: _Window, entry: _Entry, bound: float, now: float) -> None:
        window.max_size = min(window.max_size, entry.plan.max_size) if window.entries else entry.plan.max_size
        insort(window.entries, entry)
        window.hint(entry.plan.expect)
        self._where[entry.call] = window
        window.bound = min(window.bound, bound)
        gap_s = inf if entry.plan.idle_s is None or window.announced else max(0.0, entry.plan.idle_s)
        self._close_at(window, min(window.bound, now + gap_s))

    def _close_at(self, window: _Window, moment: float) -> None:
        if moment != window.closes_at:
            window.closes_at = moment
            self._schedule(window)

    def _closed_early(self, window: _Window, now: float) -> tuple[Sealed, ...]:
        if window.complete:
            return (self._seal(window, "expected", now),)
        if len(window.entries) >= window.max_size:
            return (self._seal(window, "full", now),)
        return (self._seal(window, "time", now),) if window.closes_at <= now else ()

    def _seal(self, window: _Window, closed_by: Closed, now: float) -> Sealed:
        del self._open[window.key]
        for entry in window.entries:
            del self._where[entry.call]
        if closed_by in {"full", "no_room"} and window.arrived < window.announced:
            self._expect_rest(window, now)
        if closed_by == "time" and window.closes_at < window.bound:
            closed_by = "idle"
        return Sealed(window.key, tuple(e.call for e in window.entries), closed_by)

    def _expect_rest(self, window: _Window, now: float) -> None:
        longest_s = max(e.plan.max_wait_s for e in window.entries)
        self._rest_of_group[window.key] = (window.arrived, now + longest_s)
        self._rest_of_group.move_to_end(window.key)
        if len(self._rest_of_group) > self._max_windows:
            self._rest_of_group.popitem(last=False)

    def _schedule(self, window: _Window) -> None:
        if len(self._closings) > 2 * len(self._open) + _SPARE_DEADLINES:
            self._closings = [(w.closes_at, w.key) for w in self._open.values()]
            heapq.heapify(self._closings)
        heapq.heappush(self._closings, (window.closes_at, window.key))

    def _next(self) -> _Window | None:
        while self._closings:
            closes_at, key = self._closings[0]
            window = self._open.get(key)
            if window and window.closes_at == closes_at:
                return window
            heapq.heappop(self._closings)
        return None


def _fits(window: _Window, entry: _Entry, bound: float) -> bool:
    """Tell whether everybody in the window and the new call would stay within their bounds together."""
    together = sorted([*window.entries, entry])
    return (
        len(together) <= min(window.max_size, entry.plan.max_size)
        and _tokens_fit(together)
        and _times_fit(together, min(window.bound, bound))
    )


def _tokens_fit(together: Sequence[_Entry]) -> bool:
    limit = min((e.plan.max_tokens for e in together if e.plan.max_tokens is not None), default=inf)
    return sum(e.plan.tokens for e in together) <= limit


def _times_fit(together: Sequence[_Entry], closes_at: float) -> bool:
    before_s = 0.0
    for entry in together:
        if before_s > entry.plan.max_added_s or closes_at + before_s + entry.plan.lesson_s > entry.deadline + _ROUNDING_S:
            return False
        before_s += entry.plan.lesson_s
    return True
