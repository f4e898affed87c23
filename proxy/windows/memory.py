"""The window of one process: futures and a timer around the book, and a task of its own for every batch.

It knows the loop and its clock, and nothing of what a batch is sent as: `dispatch` is handed in. Whatever becomes of a
dispatch (it forgets a lesson, raises, is cancelled), each of its callers is settled; no batch touches another.
"""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import Callable, Iterable, Sequence

from proxy.interfaces import Dispatch
from proxy.model import Alone, Batch, BatchId, Caller, CallId, Failed, Held, Lesson, Merged, Outcome, Plan, Usage
from proxy.windows.book import Away, Book, Sealed
from proxy.windows.seats import Seat, Twins, addressed, deliver


class _Ride:
    """One batch on its way: the delivery that dispatch settles lessons with, and the task that dispatch runs in."""

    def __init__(self, batch: Batch, seats: Sequence[Seat]) -> None:
        self.batch = batch
        self.task: asyncio.Task[None] | None = None
        self._seats = {seat.lesson.id: seat for seat in seats}
        for seat in seats:
            seat.ride = self

    @property
    def seats(self) -> Iterable[Seat]:
        """Everyone in the batch."""
        return self._seats.values()

    def deliver(self, outcome: Outcome, call: CallId) -> bool:
        """Settle one call of this batch."""
        seat = self._seats.get(call)
        return deliver(self.batch, seat, outcome, call)

    def waiting(self, call: CallId) -> bool:
        """Tell whether somebody waits for this call, and it has no outcome yet."""
        seat = self._seats.get(call)
        return seat is not None and seat.waiting

    def left(self) -> None:
        """Stop what runs for nobody, once the last caller has gone."""
        if self.task and not any(map(self.waiting, self._seats)):
            self.task.cancel()

    def end(self) -> None:
        """Settle whom dispatch has forgotten: their callers go alone."""
        merged = Merged(self.batch.id, len(self._seats))
        for call, seat in self._seats.items():
            seat.settle(Failed(call, "dispatch_error", Usage(), merged))


def _random_id() -> str:
    return f"batch-{secrets.token_hex(8)}"


class MemoryWindow:
    """Implements `interfaces.Window` within one process; times are those of the running loop.

    At most `max_waiting` calls wait in at most `max_windows` open windows (a dispatched call counts no more); `new_id`
    names batches. What `dispatch` raises goes to the loop's exception handler.
    """

    def __init__(self, dispatch: Dispatch, *, max_waiting: int, max_windows: int, new_id: Callable[[], str] = _random_id) -> None:
        self._dispatch = dispatch
        self._new_id = new_id
        self._book = Book(max_waiting, max_windows)
        self._seats: dict[CallId, Seat] = {}
        """Who waits in an open window."""
        self._twins = Twins()
        """Known users' calls in open windows and running batches."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None

    @property
    def waiting(self) -> int:
        """The number of calls in open windows."""
        return self._book.waiting

    @property
    def open_windows(self) -> int:
        """The number of open windows."""
        return self._book.windows

    @property
    def running_batches(self) -> int:
        """The number of batches that are under way upstream."""
        return len(self._tasks)

    @property
    def shared(self) -> bool:
        """Whether other processes' calls can be in the same windows: never."""
        return False

    async def join(self, lesson: Lesson, plan: Plan, caller: Caller) -> Held:
        """Wait for the outcome; see `interfaces.Window`. Raises ValueError if a call of this id waits already.

        A marked retry of a known user's call that is still pending waits for that call's own lesson.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiter = loop.create_future()
        seat = self._twins.find(lesson)
        if seat:
            seat.waiters.append(waiter)
            self._book.hasten(seat.lesson.id, plan, now)
            self._set_timer()
        else:
            step = self._book.join(lesson, plan, now)
            if isinstance(step, Away):
                self._close(step.sealed, now)
                return Held(Alone(step.reason))
            seat = self._seated(Seat(lesson, caller, [waiter]))
            self._close(step.sealed, now)
        try:
            outcome = await waiter
        finally:
            self._leave(seat, waiter)
        return Held(addressed(outcome, lesson.id), 0.0 if seat.sealed_s is None else max(0.0, seat.sealed_s - now))

    async def drain(self) -> None:
        """Close every open window at once; later calls are Alone("draining")."""
        now = asyncio.get_running_loop().time()
        self._close(self._book.drain(now), now)

    async def settled(self) -> None:
        """Return when no batch is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """End every batch and await it; who waits in an open window is Alone("draining"), who is in a batch Failed."""
        now = asyncio.get_running_loop().time()
        self._book.drain(now)
        for seat in self._seats.values():
            seat.sealed_s = now
            seat.settle(Alone("draining"))
            self._twins.forget(seat)
        self._seats.clear()
        self._set_timer()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _seated(self, seat: Seat) -> Seat:
        self._seats[seat.lesson.id] = seat
        self._twins.add(seat)
        return seat

    def _leave(self, seat: Seat, waiter: asyncio.Future[Outcome]) -> None:
        """Take one waiter away, and with the last one its call out of the window or the batch."""
        if waiter.done() and not waiter.cancelled():
            return
        waiter.cancel()
        if seat.settled or seat.waiting:
            return
        if seat.ride:
            seat.ride.left()
        elif self._seats.pop(seat.lesson.id, None):
            self._book.leave(seat.lesson.id)
            self._twins.forget(seat)
            self._set_timer()

    def _due(self, armed_for: float) -> None:
        # a loop may ring up to its clock's resolution early; then the window is due all the same
        now = max(asyncio.get_running_loop().time(), armed_for)
        self._armed_for = None
        self._close(self._book.due(now), now)

    def _close(self, sealed: Sequence[Sealed], now: float) -> None:
        """Send what the book has sealed, and wait for the next window's time."""
        for window in sealed:
            self._send(window, now)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._book.next_due()
        if due == self._armed_for:
            return
        if self._timer:
            self._timer.cancel()
        self._timer = None if due is None else asyncio.get_running_loop().call_at(due, self._due, due)
        self._armed_for = due

    def _send(self, sealed: Sealed, now: float) -> None:
        everyone = [self._seats.pop(call) for call in sealed.calls]
        # a caller's cancellation marks its waiter at once and reaches the book only a turn of the loop later
        seats = [seat for seat in everyone if seat.waiting]
        for seat in everyone:
            seat.sealed_s = now
            if seat not in seats or len(seats) == 1:
                seat.settle(Alone("alone"))
                self._twins.forget(seat)
        if len(seats) <= 1:
            return
        lessons = tuple(seat.lesson for seat in seats)
        batch = Batch(BatchId(self._new_id()), sealed.key, lessons, sealed.closed_by, seats[0].caller)
        ride = _Ride(batch, seats)
        # a context of its own: what the call that happened to close the window has bound (log fields) is not the batch's
        ride.task = asyncio.create_task(self._run(ride), name=f"batch {batch.id}", context=contextvars.Context())
        self._tasks.add(ride.task)
        ride.task.add_done_callback(lambda task: self._ended(ride, task))

    async def _run(self, ride: _Ride) -> None:
        await self._dispatch(ride.batch, ride)

    def _ended(self, ride: _Ride, task: asyncio.Task[None]) -> None:
        """Settle the rest. Not a `finally` in the task: one that is cancelled before its first step never enters it."""
        self._tasks.discard(task)
        ride.end()
        for seat in ride.seats:
            self._twins.forget(seat)
        if not task.cancelled() and (error := task.exception()):
            task.get_loop().call_exception_handler(
                {"message": f"dispatch of batch {ride.batch.id} failed", "exception": error, "task": task}
            )
