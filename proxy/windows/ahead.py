"""Lessons asked for ahead: a call of a loop is sent as several, its caller gets the first, the others wait for its next calls.

It knows the loop and its clock, and nothing of how a batch is sent or when this is worth it. What is kept is one user's, by
one API key, for the very same request; it is handed out once, and thrown away when it has waited too long or there is too much.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from proxy.interfaces import Dispatch
from proxy.model import Alone, Batch, BatchId, Caller, CallId, Completed, Failed, Lesson, Merged, Outcome, Usage

_Request = tuple[str, str, int | None]
"""Batch key (so API key and user), the body's digest, token limit."""


@dataclass(slots=True, eq=False)
class _Seat:
    """One lesson that was asked for; nobody's, until a call takes it."""

    lesson: Lesson
    ride: _Ride
    waiters: list[asyncio.Future[Outcome]] = field(default_factory=list[asyncio.Future[Outcome]])
    taken: bool = False
    settled: bool = False
    kept: Completed | None = None
    bytes: int = 0
    """Of what is kept."""
    until: float = 0.0

    @property
    def waiting(self) -> bool:
        """It has no outcome yet, and is wanted by a caller or kept for one that may come."""
        return not self.settled and (not self.taken or any(not waiter.done() for waiter in self.waiters))


class _Ride:
    """One batch of equal requests on its way: the delivery that dispatch settles its lessons with."""

    def __init__(self, lessons: tuple[Lesson, ...], batch: Batch, keep: Callable[[_Seat, Outcome], bool]) -> None:
        self.batch = batch
        self.seats = {lesson.id: _Seat(lesson, self) for lesson in lessons}
        self.task: asyncio.Task[None] | None = None
        self._keep = keep

    def deliver(self, outcome: Outcome, call: CallId) -> bool:
        """Settle one call: its caller gets the outcome, or it is kept."""
        seat = self.seats.get(call)
        if seat is None or not seat.waiting:
            return False
        if not isinstance(outcome, Alone) and (outcome.id != call or outcome.batch.batch_id != self.batch.id):
            return False
        seat.settled = True
        if not seat.taken:
            return self._keep(seat, outcome)
        for waiter in seat.waiters:
            if not waiter.done():
                waiter.set_result(outcome)
        return True

    def waiting(self, call: CallId) -> bool:
        """Tell whether this lesson is still wanted, or worth keeping."""
        seat = self.seats.get(call)
        return seat is not None and seat.waiting

    def left(self) -> None:
        """Stop what a caller has left that no other caller waits for: what would be kept is nobody's then."""
        if self.task and not any(seat.taken and seat.waiting for seat in self.seats.values()):
            self.task.cancel()


class Ahead:
    """Keeps at most `max_kept` lessons (those still being written included) of at most `max_bytes`, each for `keep_s` seconds.

    `wasted` is told every lesson that came and was thrown away.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        *,
        wasted: Callable[[Lesson, Completed], None],
        new_id: Callable[[], str],
        max_kept: int,
        max_bytes: int,
        keep_s: float,
    ) -> None:
        self._dispatch = dispatch
        self._wasted = wasted
        self._new_id = new_id
        self._max_kept = max_kept
        self._max_bytes = max_bytes
        self.keep_s = keep_s
        self._free: dict[_Request, OrderedDict[CallId, _Seat]] = {}
        """What the next call of a request can take, the eldest first."""
        self._taken: dict[_Request, OrderedDict[CallId, _Seat]] = {}
        """What a caller waits for: a marked retry joins it."""
        self._kept: OrderedDict[CallId, _Seat] = OrderedDict()
        """Lessons that came and wait, in the order of their time."""
        self._bytes = 0
        self._pending = 0
        """Lessons that are being written for nobody yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def kept(self) -> int:
        """The number of lessons that wait for a call, those that are still being written included."""
        return len(self._kept) + self._pending

    async def take(self, lesson: Lesson) -> Outcome | None:
        """Return the outcome of a lesson that was asked for ahead, waiting for it where it is being written; None: there is none."""
        request = _request(lesson)
        seat = self._joined(lesson, request) or self._next(request)
        if seat is None:
            return None
        if seat.kept:
            return replace(seat.kept, id=lesson.id)
        return _addressed(await self._wait(seat), lesson.id)

    async def ask(self, lesson: Lesson, caller: Caller, count: int) -> Outcome:
        """Send the lesson as `count` (or as many as there is room for), and return its own outcome.

        Cancelling this stops the batch, where no other call waits for a lesson of it.
        """
        count = min(count, 1 + self._max_kept - self.kept)
        if self._closing or count <= 1:
            return Alone("alone")
        lessons = (lesson, *(replace(lesson, id=CallId(f"{lesson.id}+{i}")) for i in range(1, count)))
        batch = Batch(BatchId(self._new_id()), lesson.key, lessons, "ahead", caller)
        ride = _Ride(lessons, batch, self._keep)
        first, *others = ride.seats.values()
        first.taken = True
        self._pending += len(others)
        _add(self._taken, first)
        for seat in others:
            _add(self._free, seat)
        ride.task = asyncio.create_task(self._run(ride), name=f"batch {batch.id}", context=contextvars.Context())
        self._tasks.add(ride.task)
        ride.task.add_done_callback(lambda task: self._ended(ride, task))
        return await self._wait(first)

    async def aclose(self) -> None:
        """End every batch and throw everything away."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._kept:
            self._throw_away(next(iter(self._kept.values())))
        self._set_timer()

    def _joined(self, lesson: Lesson, request: _Request) -> _Seat | None:
        """Find the pending call that this one repeats, if it is a retry."""
        seats = self._taken.get(request)
        if lesson.retry_count <= 0 or not seats:
            return None
        return next((seat for seat in seats.values() if seat.waiting), None)

    def _next(self, request: _Request) -> _Seat | None:
        """Take the eldest free lesson of this request."""
        seats = self._free.get(request)
        if not seats:
            return None
        seat = next(iter(seats.values()))
        _remove(self._free, seat)
        seat.taken = True
        if seat.kept:
            self._put_down(seat)
        else:
            self._pending -= 1
            _add(self._taken, seat)
        return seat

    async def _wait(self, seat: _Seat) -> Outcome:
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        seat.waiters.append(waiter)
        try:
            return await waiter
        finally:
            if not waiter.done() or waiter.cancelled():
                waiter.cancel()
                seat.ride.left()

    async def _run(self, ride: _Ride) -> None:
        await self._dispatch(ride.batch, ride)

    def _keep(self, seat: _Seat, outcome: Outcome) -> bool:
        """Keep a lesson that nobody has asked for yet; what is none is no loss."""
        self._pending -= 1
        if not isinstance(outcome, Completed):
            _remove(self._free, seat)
            return True
        seat.kept, seat.bytes = outcome, len(outcome.content.encode(errors="replace"))
        seat.until = asyncio.get_running_loop().time() + self.keep_s
        self._kept[seat.lesson.id] = seat
        self._bytes += seat.bytes
        while self._bytes > self._max_bytes:
            self._throw_away(next(iter(self._kept.values())))
        self._set_timer()
        return True

    def _put_down(self, seat: _Seat) -> None:
        del self._kept[seat.lesson.id]
        self._bytes -= seat.bytes
        self._set_timer()

    def _throw_away(self, seat: _Seat) -> None:
        _remove(self._free, seat)
        del self._kept[seat.lesson.id]
        self._bytes -= seat.bytes
        if seat.kept:
            self._wasted(seat.lesson, seat.kept)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._kept and (seat := next(iter(self._kept.values()))).until <= now:
            self._throw_away(seat)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer and not self._kept:
            self._timer.cancel()
            self._timer = None
        elif self._kept and self._timer is None:
            until = next(iter(self._kept.values())).until
            self._timer = asyncio.get_running_loop().call_at(until, self._expire)

    def _ended(self, ride: _Ride, task: asyncio.Task[None]) -> None:
        """Settle whom dispatch has forgotten: callers go alone, what was to be kept is not."""
        self._tasks.discard(task)
        merged = Merged(ride.batch.id, len(ride.seats))
        for call, seat in ride.seats.items():
            if not seat.settled and not seat.taken:
                _remove(self._free, seat)
                self._pending -= 1
                seat.settled = True
            ride.deliver(Failed(call, "dispatch_error", Usage(), merged), call)
            _remove(self._taken, seat)
        if not task.cancelled() and (error := task.exception()):
            task.get_loop().call_exception_handler(
                {"message": f"dispatch of batch {ride.batch.id} failed", "exception": error, "task": task}
            )


def _request(lesson: Lesson) -> _Request:
    return lesson.key, lesson.identity_digest, lesson.token_limit


def _add(seats: dict[_Request, OrderedDict[CallId, _Seat]], seat: _Seat) -> None:
    seats.setdefault(_request(seat.lesson), OrderedDict())[seat.lesson.id] = seat


def _remove(seats: dict[_Request, OrderedDict[CallId, _Seat]], seat: _Seat) -> None:
    request = _request(seat.lesson)
    if of_request := seats.get(request):
        of_request.pop(seat.lesson.id, None)
        if not of_request:
            del seats[request]


def _addressed(outcome: Outcome, call: CallId) -> Outcome:
    """Return the outcome as that of the call that took it."""
    return outcome if isinstance(outcome, Alone) else replace(outcome, id=call)
