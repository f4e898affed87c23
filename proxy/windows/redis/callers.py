"""The callers of this replica whose calls are in shared windows, by the tickets under which the store knows the calls."""

from __future__ import annotations

import asyncio

from proxy.model import CallId, Lesson, Outcome
from proxy.windows.protocol import Ticket
from proxy.windows.seats import Seat, Twins


class Callers:
    """Own calls, from joining until they are settled or part of an own batch."""

    def __init__(self) -> None:
        self._seats: dict[Ticket, Seat] = {}
        self._tickets: dict[CallId, Ticket] = {}
        self._twins = Twins()
        """Those in own batches too."""

    def repeated(self, lesson: Lesson) -> Seat | None:
        """Return the pending call that this one is a marked retry of."""
        return self._twins.find(lesson)

    def ticket(self, seat: Seat) -> Ticket | None:
        """Return the ticket of a call that is in no own batch yet."""
        return self._tickets.get(seat.lesson.id)

    def get(self, ticket: Ticket) -> Seat | None:
        """Return the call of this ticket."""
        return self._seats.get(ticket)

    def everyone(self) -> list[Ticket]:
        """Return the tickets of all, as they are now."""
        return list(self._seats)

    def add(self, ticket: Ticket, seat: Seat) -> None:
        """Take a call in; raises ValueError if one of this id waits already."""
        if seat.lesson.id in self._tickets:
            raise ValueError(f"call {seat.lesson.id} waits already")
        self._seats[ticket] = seat
        self._tickets[seat.lesson.id] = ticket
        self._twins.add(seat)

    def board(self, ticket: Ticket, now: float) -> Seat | None:
        """Give a call over to an own batch; None: it is not here."""
        seat = self._seats.pop(ticket, None)
        if seat:
            del self._tickets[seat.lesson.id]
            seat.sealed_s = now
        return seat

    def settle(self, ticket: Ticket, outcome: Outcome, closed_at: float) -> None:
        """Settle a call that is in no own batch; `closed_at` is when its window closed."""
        if seat := self.board(ticket, closed_at):
            seat.settle(outcome)
            self.forget(seat)

    def forget(self, seat: Seat) -> None:
        """Forget a call that is over."""
        if ticket := self._tickets.pop(seat.lesson.id, None):
            del self._seats[ticket]
        self._twins.forget(seat)


def quit_seat(seat: Seat, waiter: asyncio.Future[Outcome]) -> bool:
    """Take one waiter away; return whether it was the last, so that the call is to be let go."""
    if waiter.done() and not waiter.cancelled():
        return False
    waiter.cancel()
    if seat.settled or seat.waiting:
        return False
    if seat.ride:
        seat.ride.left()
        return False
    return True
