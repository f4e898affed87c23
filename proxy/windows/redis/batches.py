"""Batches that go off from this replica: their lessons gathered from here and from elsewhere, and a task of its own for each."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.interfaces import Dispatch
from proxy.model import Alone, Batch, BatchId, Caller, CallId, Lesson, Outcome
from proxy.windows.protocol import Entry, Epoch, ReplicaId, Ticket
from proxy.windows.redis.callers import Callers
from proxy.windows.redis.codec import Codec, UnreadableError
from proxy.windows.redis.ride import SharedRide
from proxy.windows.replica import Dispatch as SendOff
from proxy.windows.replica.calls import BACK
from proxy.windows.seats import Seat


@dataclass(slots=True)
class _Gathered:
    lessons: list[Lesson] = field(default_factory=list[Lesson])
    own: dict[CallId, Seat] = field(default_factory=dict[CallId, Seat])
    others: dict[CallId, Ticket] = field(default_factory=dict[CallId, Ticket])


class Batches:
    """Runs `dispatch`. `wanted` and `bring` lead to the machine, which is told when a batch is over (`ended`)."""

    def __init__(  # noqa: PLR0913 - what it connects, named
        self,
        dispatch: Dispatch,
        callers: Callers,
        codec: Codec,
        me: ReplicaId,
        *,
        wanted: Callable[[Epoch, Ticket], bool],
        bring: Callable[[Epoch, Ticket, Outcome], None],
        ended: Callable[[Epoch], None],
    ) -> None:
        self._dispatch = dispatch
        self._callers = callers
        self._codec = codec
        self._me = me
        self._wanted = wanted
        self._bring = bring
        self._tell_ended = ended
        self._rides: dict[Epoch, SharedRide] = {}

    @property
    def running(self) -> int:
        """The number of batches that are under way."""
        return len(self._rides)

    def recount(self, epoch: Epoch) -> None:
        """Stop a batch for which nobody waits any more."""
        if ride := self._rides.get(epoch):
            ride.left()

    def send_off(self, batch: SendOff, now: float) -> int:
        """Start a batch; return its size, 0 where too few are left: then whoever is left goes alone."""
        gathered = self._gathered(batch, now)
        caller: Caller = next((seat.caller for seat in gathered.own.values()), batch.caller)
        # with a caller's own credential it must be that of one who is here
        without_credential = caller.bearer is not None and not gathered.own
        if len(gathered.lessons) <= 1 or without_credential:
            self._alone(gathered, batch.epoch, BACK + "leader_left" if without_credential else "alone")
            self._tell_ended(batch.epoch)
            return 0
        lessons = tuple(gathered.lessons)
        ride = SharedRide(
            Batch(BatchId(batch.epoch), batch.key, lessons, batch.closed_by, caller),
            gathered.own,
            gathered.others,
            wanted=self._wanted,
            bring=self._bring,
        )
        self._rides[batch.epoch] = ride
        # a context of its own: what the call that happened to close the window has bound (log fields) is not the batch's
        ride.task = asyncio.create_task(self._run(ride), name=f"batch {batch.epoch}", context=contextvars.Context())
        ride.task.add_done_callback(lambda task: self._ended(ride, task))
        return len(lessons)

    async def settled(self) -> None:
        """Return when no batch is under way."""
        while tasks := [ride.task for ride in self._rides.values() if ride.task]:
            await asyncio.wait(tasks)
            # that its batch is over is told by a callback, in the loop's next turn
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """End every batch and await it."""
        tasks = [ride.task for ride in self._rides.values() if ride.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            # what ends a task is told to it by callbacks, in the loop's next turn
            await asyncio.sleep(0)

    def _gathered(self, batch: SendOff, now: float) -> _Gathered:
        gathered = _Gathered()
        for entry in batch.entries:
            if entry.owner == self._me:
                self._gather_own(gathered, entry, now)
            else:
                self._gather_other(gathered, entry, batch)
        return gathered

    def _gather_own(self, gathered: _Gathered, entry: Entry, now: float) -> None:
        seat = self._callers.board(entry.id, now)
        # a caller's cancellation marks its waiter at once and reaches the machine only a turn of the loop later
        if seat and seat.waiting:
            gathered.own[seat.lesson.id] = seat
            gathered.lessons.append(seat.lesson)
        elif seat:
            self._callers.forget(seat)

    def _gather_other(self, gathered: _Gathered, entry: Entry, batch: SendOff) -> None:
        try:
            lesson = self._codec.open_lesson(entry.payload, batch.key, entry.id)
        except UnreadableError:
            lesson = None
        if lesson is None or lesson.id in gathered.own or lesson.id in gathered.others:
            self._bring(batch.epoch, entry.id, Alone(BACK + "unreadable"))
            return
        gathered.others[lesson.id] = entry.id
        gathered.lessons.append(lesson)

    def _alone(self, gathered: _Gathered, epoch: Epoch, reason: str) -> None:
        for seat in gathered.own.values():
            seat.settle(Alone(reason))
            self._callers.forget(seat)
        for ticket in gathered.others.values():
            self._bring(epoch, ticket, Alone(reason))

    async def _run(self, ride: SharedRide) -> None:
        await self._dispatch(ride.batch, ride)

    def _ended(self, ride: SharedRide, task: asyncio.Task[None]) -> None:
        """Settle the rest. Not a `finally` in the task: one that is cancelled before its first step never enters it."""
        del self._rides[ride.epoch]
        ride.end()
        self._tell_ended(ride.epoch)
        for seat in ride.seats:
            self._callers.forget(seat)
        if not task.cancelled() and (error := task.exception()):
            task.get_loop().call_exception_handler(
                {"message": f"dispatch of batch {ride.batch.id} failed", "exception": error, "task": task}
            )
