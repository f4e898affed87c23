"""Who waits for a lesson, whatever holds the windows: one seat a lesson, for its caller and for marked retries of its call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from proxy.model import Alone, Batch, BatchKey, Caller, CallId, Lesson, Outcome


class Ride(Protocol):
    """A batch on its way."""

    def left(self) -> None:
        """Stop what runs for nobody, once the last caller has gone."""
        ...


@dataclass(slots=True, eq=False)
class Seat:
    """One lesson's place, from joining until it is settled. Its caller and marked retries of the same call wait for it."""

    lesson: Lesson
    caller: Caller
    waiters: list[asyncio.Future[Outcome]]
    """Done when settled; cancelled, each for itself, together with the caller that waits."""
    sealed_s: float | None = None
    ride: Ride | None = None
    """The dispatched batch that it is in."""
    settled: bool = False

    def company(self) -> int:
        """Count those who wait here."""
        return sum(not waiter.done() for waiter in self.waiters)

    @property
    def waiting(self) -> bool:
        """Somebody wants the outcome, and there is none yet."""
        return not self.settled and self.company() > 0

    def settle(self, outcome: Outcome) -> bool:
        """Hand over the first outcome; False: there was one, or nobody waits any more."""
        waiting, self.settled = self.waiting, True
        if waiting:
            for waiter in self.waiters:
                if not waiter.done():
                    waiter.set_result(outcome)
        return waiting


class Twins:
    """Known users' pending calls, by what a marked retry has in common with its call."""

    def __init__(self) -> None:
        self._pending: dict[tuple[BatchKey, str], dict[CallId, Seat]] = {}

    def add(self, seat: Seat) -> None:
        """Remember a call, where its user is known."""
        if seat.lesson.scope == "user":
            self._pending.setdefault(_twin_key(seat.lesson), {})[seat.lesson.id] = seat

    def find(self, lesson: Lesson) -> Seat | None:
        """Return the waiting call that this one repeats; of several identical ones that with the fewest retries.

        One whose caller has gone is not taken over: dispatch may have left it out already.
        """
        if lesson.retry_count <= 0:
            return None
        pending = [seat for seat in self._pending.get(_twin_key(lesson), {}).values() if seat.waiting]
        return min(pending, key=Seat.company, default=None)

    def forget(self, seat: Seat) -> None:
        """Forget a call that is not pending any more."""
        key = _twin_key(seat.lesson)
        if seats := self._pending.get(key):
            seats.pop(seat.lesson.id, None)
            if not seats:
                del self._pending[key]


def deliver(batch: Batch, seat: Seat | None, outcome: Outcome, call: CallId) -> bool:
    """Settle one call of this batch; what says it is another call's or another batch's is never handed over."""
    if seat is None or seat.lesson.key != batch.key or not is_for(outcome, call, batch.id):
        return False
    return seat.settle(outcome)


def is_for(outcome: Outcome, call: CallId, batch_id: str) -> bool:
    """Tell whether an outcome is this call's, from this batch."""
    return isinstance(outcome, Alone) or (outcome.id == call and outcome.batch.batch_id == batch_id)


def addressed(outcome: Outcome, call: CallId) -> Outcome:
    """Return the outcome as this call's own: a retry gets what the call it repeats got."""
    return outcome if isinstance(outcome, Alone) or outcome.id == call else replace(outcome, id=call)


def _twin_key(lesson: Lesson) -> tuple[BatchKey, str]:
    return lesson.key, lesson.identity_digest
