"""The window that several replicas share: the machine's effects done, and the world told to the machine.

Everything is decided by the machine (`windows/replica`); here are its timer, its commands and messages on their way, and
its callers' futures. While the store can't be had, calls wait in a window of this process alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from proxy.interfaces import Dispatch
from proxy.model import Alone, Caller, Held, Lesson, Outcome, Plan
from proxy.windows.entrants import refusal, wait_bound_s
from proxy.windows.memory import MemoryWindow
from proxy.windows.notices import CameLate, JoinedElsewhere, Notice, TakenBack, WindowLed
from proxy.windows.protocol import Command, Epoch, Join, Message, ReplicaId, Reply, Settle, Ticket
from proxy.windows.redis.batches import Batches
from proxy.windows.redis.callers import Callers, quit_seat
from proxy.windows.redis.codec import Codec, UnreadableError
from proxy.windows.redis.courier import Courier
from proxy.windows.redis.ears import Ears
from proxy.windows.redis.link import connect
from proxy.windows.redis.scripts import CHANNEL, Scripts
from proxy.windows.replica import Dispatch as SendOff
from proxy.windows.replica import Effect, GoAlone, Hand, Note, Recount, Replica, Send, Times
from proxy.windows.replica.calls import BACK
from proxy.windows.seats import Seat, addressed, is_for

_MOST_BYTES = 256 * 1024
"""A longer lesson is not put into the store: it waits for companions at its own replica."""
_FIRST_CONTACT_S = 1.0
_CLOSING_S = 0.5


@dataclass(frozen=True, slots=True)
class Sharing:
    """How windows are shared. Replicas with the same secret and fingerprint share theirs.

    `fingerprint` covers what must be equal for a lesson to mean the same to each of them: the configuration.
    """

    url: str = field(repr=False)
    secret: bytes = field(repr=False)
    fingerprint: bytes
    timeout_s: float = 0.05
    """What takes longer has failed."""
    lease_s: float = 5.0
    """After so long without a sign of its leader a batch is given up."""
    keep_s: float = 30.0
    """So long an outcome waits to be fetched."""
    times: Times = field(default_factory=Times)


class RedisWindow:
    """Implements `interfaces.Window` over a Redis; times are those of the running loop.

    At most `max_waiting` own calls wait in at most `max_windows` windows. What `dispatch` raises goes to the loop's
    exception handler; `tell` is told what metrics and logs want to know.
    """

    def __init__(
        self, dispatch: Dispatch, sharing: Sharing, *, max_waiting: int, max_windows: int, tell: Callable[[Notice], None] = lambda _: None
    ) -> None:
        self._tell = tell
        self._me = ReplicaId(secrets.token_hex(8))
        self._codec = Codec(sharing.secret, sharing.fingerprint)
        self._callers = Callers()
        self._local = MemoryWindow(dispatch, max_waiting=max_waiting, max_windows=max_windows, new_id=lambda: secrets.token_hex(8))
        times = replace(sharing.times, grace_s=sharing.timeout_s, offer_s=sharing.lease_s)
        self._machine = Replica(self._me, times, random.random, max_waiting=max_waiting, max_windows=max_windows)
        self._batches = Batches(
            dispatch,
            self._callers,
            self._codec,
            self._me,
            wanted=self._machine.wanted,
            bring=lambda epoch, ticket, outcome: self._do(self._machine.brought(epoch, ticket, outcome, self._now())),
            ended=lambda epoch: self._do(self._machine.ended(epoch, self._now())),
        )
        self._courier = Courier(
            connect=lambda: connect(sharing.url, sharing.timeout_s),
            scripts=Scripts(lease_ms=round(sharing.lease_s * 1000), keep_ms=round(sharing.keep_s * 1000), name=self._codec.name),
            me=self._me,
            timeout_s=sharing.timeout_s,
            answered=self._answered,
            tell=tell,
        )
        self._ears = Ears(
            lambda: connect(sharing.url, sharing.timeout_s),
            CHANNEL + self._me,
            heard=self._heard,
            listening=lambda: self._do(self._machine.reconnected()),
        )
        self._todo: deque[Effect] = deque()
        self._doing = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None

    @property
    def waiting(self) -> int:
        """The number of own calls in open windows."""
        return self._machine.waiting + self._local.waiting

    @property
    def open_windows(self) -> int:
        """The number of open windows with own calls."""
        return self._machine.windows + self._local.open_windows

    @property
    def running_batches(self) -> int:
        """The number of batches that are under way from here."""
        return self._batches.running + self._local.running_batches

    @property
    def shared(self) -> bool:
        """Whether the store can be had, so that new calls join shared windows."""
        return self._courier.up.is_set()

    async def open(self) -> None:
        """Begin to reach for the store, and give it a moment to be there for the first call."""
        self._courier.open()
        self._ears.open()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_CONTACT_S):
                await self._courier.up.wait()
                await self._ears.open_ears.wait()

    async def join(self, lesson: Lesson, plan: Plan, caller: Caller) -> Held:
        """Wait for the outcome; see `interfaces.Window`. Raises ValueError if a call of this id waits already.

        A marked retry waits for the call that it repeats, where that is pending at this replica.
        """
        now = self._now()
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        seat = self._callers.repeated(lesson)
        if seat:
            seat.waiters.append(waiter)
            if ticket := self._callers.ticket(seat):
                self._do(self._machine.hasten(ticket, wait_bound_s(plan), now))
        else:
            ticket = Ticket(secrets.token_hex(8))
            sealed = self._sealed(lesson, plan, ticket)
            if sealed is None:
                return await self._local.join(lesson, plan, caller)
            seat = Seat(lesson, caller, [waiter])
            self._callers.add(ticket, seat)
            self._do(self._machine.join(self._command(lesson, plan, ticket, sealed), caller, now, bearer=caller.bearer is not None))
        try:
            outcome = await waiter
        finally:
            self._leave(seat, waiter)
        return Held(addressed(outcome, lesson.id), 0.0 if seat.sealed_s is None else max(0.0, seat.sealed_s - now))

    async def drain(self) -> None:
        """Close every open window at once, and withdraw from those of others; later calls are Alone("draining")."""
        self._do(self._machine.drain())
        await self._local.drain()

    async def settled(self) -> None:
        """Return when no batch is under way from here, whoever its callers are."""
        await self._batches.settled()
        await self._local.settled()

    async def aclose(self) -> None:
        """End every batch and await it; own calls that wait are Alone("draining"), those in own batches Failed."""
        self._do(self._machine.close())
        for ticket in self._callers.everyone():
            self._callers.settle(ticket, Alone("draining"), self._now())
        await self._batches.aclose()
        await self._local.aclose()
        await self._courier.aclose(_CLOSING_S)
        await self._ears.aclose()
        if self._timer:
            self._timer.cancel()

    def _sealed(self, lesson: Lesson, plan: Plan, ticket: Ticket) -> bytes | None:
        """Return what another replica would need of the lesson; None: it is this process's alone."""
        if not self.shared or refusal(plan):
            return None
        try:
            sealed = self._codec.seal_lesson(lesson, ticket)
        except UnreadableError:
            return None
        return sealed if len(sealed) <= _MOST_BYTES else None

    def _command(self, lesson: Lesson, plan: Plan, ticket: Ticket, sealed: bytes) -> Join:
        return Join(
            key=lesson.key,
            id=ticket,
            owner=self._me,
            epoch=Epoch(ticket),
            plan=plan,
            identity_digest=self._codec.twins(lesson),
            deterministic=lesson.deterministic,
            payload=sealed,
        )

    def _leave(self, seat: Seat, waiter: asyncio.Future[Outcome]) -> None:
        if quit_seat(seat, waiter) and (ticket := self._callers.ticket(seat)):
            self._callers.forget(seat)
            self._do(self._machine.left(ticket))

    # what happens, told to the machine

    def _answered(self, command: Command, reply: Reply | None) -> None:
        self._do(self._machine.answered(command, reply, self._now()))

    def _heard(self, message: Message) -> None:
        self._do(self._machine.woken(message, self._now()))

    def _due(self, armed_for: float) -> None:
        self._armed_for = None
        # a loop may ring up to its clock's resolution early; then it is due all the same
        self._do(self._machine.due(max(self._now(), armed_for)))

    def _set_timer(self) -> None:
        due = self._machine.next_due()
        if due == self._armed_for:
            return
        if self._timer:
            self._timer.cancel()
        self._timer = None if due is None else asyncio.get_running_loop().call_at(due, self._due, due)
        self._armed_for = due

    # what the machine asks for

    def _do(self, effects: Sequence[Effect]) -> None:
        """Do what the machine asks, in order; what it asks meanwhile comes after."""
        self._todo.extend(effects)
        if self._doing:
            return
        self._doing = True
        try:
            while self._todo:
                self._one(self._todo.popleft())
        finally:
            self._doing = False
        self._set_timer()

    def _one(self, effect: Effect) -> None:
        match effect:
            case Send(command, routine):
                self._courier.send(self._ready(command), routine=routine)
            case GoAlone(ticket, reason, closed_at):
                self._tell_taken_back(reason)
                self._callers.settle(ticket, Alone(reason), min(closed_at, self._now()))
            case Hand():
                self._hand(effect)
            case SendOff():
                self._send_off(effect)
            case Recount(epoch):
                self._batches.recount(epoch)
            case Note(what):
                self._tell(CameLate() if what == "late" else JoinedElsewhere())
            case _:
                assert_never(effect)

    def _ready(self, command: Command) -> Command:
        """Return the command as it can be sent: an outcome is sealed."""
        if not isinstance(command, Settle):
            return command
        try:
            sealed = self._codec.seal_outcome(command.payload, command.key, command.epoch, command.id)
        except UnreadableError:
            sealed = self._codec.seal_outcome(Alone(BACK + "unreadable"), command.key, command.epoch, command.id)
        return replace(command, payload=sealed)

    def _send_off(self, batch: SendOff) -> None:
        if size := self._batches.send_off(batch, self._now()):
            self._tell(WindowLed(size, sum(entry.owner != self._me for entry in batch.entries)))

    def _hand(self, hand: Hand) -> None:
        """Settle an own call with what another replica brought, if that is this call's."""
        seat = self._callers.get(hand.id)
        if seat is None:
            return
        lesson = seat.lesson
        try:
            outcome = self._codec.open_outcome(hand.payload, lesson.key, hand.epoch, hand.id)
        except UnreadableError:
            outcome = None
        if outcome is None or not is_for(outcome, lesson.id, hand.epoch):
            outcome = Alone(BACK + "unreadable")
        if isinstance(outcome, Alone):
            self._tell_taken_back(outcome.reason)
        self._callers.settle(hand.id, outcome, min(hand.closed_at, self._now()))

    def _tell_taken_back(self, reason: str) -> None:
        if reason.startswith(BACK):
            self._tell(TakenBack(reason.removeprefix(BACK)))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
