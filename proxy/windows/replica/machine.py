"""One replica's side of the shared windows, as a pure state machine: what it asks of the store, and what becomes of its calls.

It knows no loop, clock (`now` is an argument, in seconds of this replica's steady clock), randomness or network. Each
method changes the state at once and returns what is left to do, in order. Whoever runs it sends the commands in that
order, but for what is routine, and brings each one's reply, or its failure, exactly once; messages may come late, twice,
or never.

The rules
 1. The replica that holds a call's connection owns the call: whatever the store or another replica does, the call is
    settled here, once, by the first of an outcome and a taking back. What comes later is dropped and counted.
 2. The replica that opened a window leads it: it claims at the window's time, or when it hears that it is shut. With
    `bearer`, a batch goes with a caller's own credential: once the last own caller has gone the window is abandoned.
 3. A call in another's window waits until the window's time and a little longer (jittered). Then it is withdrawn: that
    either takes it out, and it goes alone, or tells that it is in a batch. It is looked at soon after the window's time
    where no message has come; when the store can't be asked then, it is taken back at once.
 4. A call in another's batch is looked at with every tick, and when a message says that its outcome is there. It is
    taken back when its batch is unknown (its leader's beat has stopped), when it is settled without an outcome, when
    the store can't be asked for too long, and when the time that its caller allows gets short.
 5. A window of one's own that the store doesn't give out (it failed, or has lost it) becomes a batch of one's own calls.
 6. What a leader has for others it offers until the store has taken it, and no longer than a lease.
 7. Over `max_waiting` own calls or `max_windows` windows a call goes alone. After `drain` every call does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, assert_never

from proxy.model import BatchKey, Outcome
from proxy.windows.entrants import refusal
from proxy.windows.protocol import (
    TOO_LATE,
    Abandon,
    Beat,
    Claim,
    Claimed,
    Command,
    Due,
    Epoch,
    Join,
    Message,
    Ready,
    ReplicaId,
    Reply,
    Seated,
    Settle,
    Thinned,
    Ticket,
    Turned,
    Watch,
    Withdraw,
)
from proxy.windows.replica.calls import BACK, Calls, OwnCall
from proxy.windows.replica.effects import Effect, GoAlone, Send, Times
from proxy.windows.replica.guests import Guests
from proxy.windows.replica.leading import Leading


class Replica:
    """The machine. `jitter` gives numbers from 0.0 to 1.0."""

    def __init__(self, me: ReplicaId, times: Times, jitter: Callable[[], float], *, max_waiting: int, max_windows: int) -> None:
        self._me = me
        self._tick_s = times.tick_s
        self._phase = jitter() * times.tick_s
        self._max_waiting = max_waiting
        self._max_windows = max_windows
        self._calls = Calls()
        self._guests = Guests(self._calls, times, jitter, self._tick)
        self._leading = Leading(me, self._calls, times, self._tick)
        self._joining: Counter[BatchKey] = Counter()
        self._opening: dict[Epoch, OwnCall] = {}
        """Calls on their way, by the windows that they would open."""
        self._draining = False

    @property
    def waiting(self) -> int:
        """The number of own calls in open windows."""
        return self._calls.waiting

    @property
    def windows(self) -> int:
        """The number of keys with an open window that holds own calls or is led here."""
        return len(self._calls.held)

    def next_due(self) -> float | None:
        """Return the moment at which `due` is to be called; None: nothing is timed."""
        moments = [at for at in (self._guests.alarms.next(), self._leading.alarms.next()) if at is not None]
        return min(moments, default=None)

    def wanted(self, epoch: Epoch, ticket: Ticket) -> bool:
        """Tell whether another's call waits for its outcome from this batch."""
        return self._leading.wanted(epoch, ticket)

    def join(self, join: Join, caller: Any, now: float, *, bearer: bool = False) -> list[Effect]:
        """Take an own call in; `bearer` as in rule 2."""
        if reason := self._refusal(join):
            return [GoAlone(join.id, reason)]
        self._opening[join.epoch] = call = OwnCall(join, now, caller, bearer)
        self._calls.add(call)
        self._joining[join.key] += 1
        return [Send(join)]

    def answered(self, command: Command, reply: Reply | None, now: float) -> list[Effect]:
        """Take the store's reply to a command; None: it failed, and may have been carried out or not."""
        match command:
            case Join():
                self._on_join(command, reply, now)
            case Claim():
                self._leading.on_claim(command, reply, now)
            case Withdraw():
                self._guests.on_withdraw(command.id, reply, now)
            case Watch():
                self._guests.on_watch(command, reply, now)
            case Beat():
                self._leading.on_beat(command, reply)
            case Settle():
                self._leading.on_settle(command, reply)
            case Abandon():
                pass
            case _:
                assert_never(command)
        return self._calls.taken()

    def woken(self, message: Message, now: float) -> list[Effect]:
        """Take a message: nothing but a reason to look."""
        match message:
            case Due():
                if call := self._opening.get(message.epoch):
                    call.due_at = now + message.in_s
                self._leading.due_at(message.epoch, now + message.in_s, now)
            case Claimed():
                self._guests.claimed(message.epoch, now)
                for call in self._opening.values():
                    # it may be of this window: the message can overtake the store's answer, which will tell
                    call.woken = True
            case Ready():
                if call := self._calls.get(message.id):
                    self._guests.ready(call)
                else:
                    self._calls.came_late(message.id)
            case Thinned():
                self._leading.thinned(message.epoch)
            case _:
                assert_never(message)
        return self._calls.taken()

    def left(self, ticket: Ticket) -> list[Effect]:
        """Let an own call go whose caller has gone."""
        if call := self._calls.get(ticket):
            self._let_go(call)
        return self._calls.taken()

    def hasten(self, ticket: Ticket, bound_s: float, now: float) -> list[Effect]:
        """Shorten the wait of an own call, for somebody who waits for the same with a bound of its own."""
        call = self._calls.get(ticket)
        if call and call.stage == "waiting" and now + bound_s < call.closes_at:
            call.closes_at = now + bound_s
            self._leading.hasten(call.epoch, call.closes_at)
            self._guests.hasten(call)
        return self._calls.taken()

    def brought(self, epoch: Epoch, ticket: Ticket, outcome: Outcome, now: float) -> list[Effect]:
        """Take what the dispatch of an own batch brought for another's call."""
        self._leading.brought(epoch, ticket, outcome, now)
        return self._calls.taken()

    def ended(self, epoch: Epoch, now: float) -> list[Effect]:
        """Note that the dispatch of an own batch is over."""
        self._leading.ended(epoch, now)
        return self._calls.taken()

    def due(self, now: float) -> list[Effect]:
        """Do what time asks for."""
        self._leading.due(now)
        self._guests.due(now)
        return self._calls.taken()

    def reconnected(self) -> list[Effect]:
        """Look at everything for which a message may have been missed."""
        self._guests.look_at_all()
        return self._calls.taken()

    def drain(self) -> list[Effect]:
        """Close every window at once; later calls go alone. Calls in windows of others are withdrawn."""
        self._draining = True
        for key in list(self._calls.held):
            self._drain(key)
        self._guests.drain()
        return self._calls.taken()

    def close(self) -> list[Effect]:
        """Let go of every own call and open window, for good; batches go on until their dispatch is ended."""
        self._draining = True
        self._leading.close()
        for call in self._calls.everyone():
            self._let_go(call)
        return self._calls.taken()

    def _refusal(self, join: Join) -> str | None:
        if self._draining:
            return "draining"
        held = self._calls.held
        full = self._calls.waiting >= self._max_waiting or (join.key not in held and len(held) >= self._max_windows)
        return refusal(join.plan) or ("windows_full" if full else None)

    def _on_join(self, join: Join, reply: Reply | None, now: float) -> None:
        self._joining[join.key] -= 1
        if not self._joining[join.key]:
            del self._joining[join.key]
        self._opening.pop(join.epoch, None)
        call = self._calls.get(join.id)
        if call:
            self._seat(call, reply, now)
        for epoch in reply.shut if isinstance(reply, Seated | Turned) else ():
            self._leading.due_at(epoch, now, now)
        if self._draining:
            self._drain(join.key)

    def _seat(self, call: OwnCall, reply: Reply | None, now: float) -> None:
        if not isinstance(reply, Seated):
            reason = reply.reason if isinstance(reply, Turned) else TOO_LATE
            self._calls.alone(call, BACK + "redis" if reason == TOO_LATE else reason)
            return
        # counted from the asking: the store's answer was on its way for a part of the time since
        call.epoch, call.closes_at = reply.epoch, call.joined + reply.bound_in_s
        if reply.leader != self._me:
            self._guests.seat(call, reply)
        elif not self._leading.seat(call, min(call.joined + reply.closes_in_s, call.due_at), now):
            # a window that was opened here and is not known any more: nobody will claim it
            self._guests.withdraw(call, "lost")
        if call.gone:
            self._let_go(call)
        elif self._draining and reply.leader != self._me:
            self._guests.withdraw(call, "draining")

    def _let_go(self, call: OwnCall) -> None:
        """Take a call out whose caller has gone; where the store hasn't answered yet, as soon as it has."""
        if call.stage == "joining":
            call.gone = True
            return
        self._guests.leave(call)
        self._leading.leave(call)

    def _drain(self, key: BatchKey) -> None:
        """Claim the key's window, once every own call on its way there has come."""
        if not self._joining[key]:
            self._leading.drain(key)

    def _tick(self, now: float) -> float:
        """Return the next tick: all of a replica's come together, so that one round trip serves them all."""
        tick = (math.floor((now - self._phase) / self._tick_s) + 1) * self._tick_s + self._phase
        # by a rounding it may come out as this very moment
        return tick if tick > now else tick + self._tick_s
