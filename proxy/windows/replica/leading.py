"""Windows that this replica opened, and the batches that they became: claimed, renewed, settled. Pure, as the whole machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from proxy.model import Alone, BatchKey, Closed, Outcome
from proxy.windows.alarms import Alarms
from proxy.windows.protocol import (
    Abandon,
    Beat,
    Beaten,
    Claim,
    Drained,
    Entry,
    Epoch,
    Kept,
    ReplicaId,
    Reply,
    Settle,
    Ticket,
    Void,
)
from proxy.windows.replica.calls import BACK, Calls, OwnCall
from proxy.windows.replica.effects import Dispatch, Note, Recount, Times


@dataclass(slots=True)
class _Offer:
    """An outcome that the store has not taken yet."""

    settle: Settle
    since: float
    asking: bool = True


@dataclass(slots=True)
class Led:
    """A window of one's own, or the batch that it became."""

    epoch: Epoch
    key: BatchKey
    caller: Any
    bearer: bool
    bound: float
    """When it is claimed at the latest, as far as is known here."""
    own: dict[Ticket, OwnCall] = field(default_factory=dict[Ticket, OwnCall])
    """Own calls, until it is claimed."""
    asked: bool = False
    """The claim is under way."""
    riding: bool = False
    others: dict[Ticket, ReplicaId] = field(default_factory=dict[Ticket, ReplicaId])
    """Calls of others that have no outcome yet."""
    offers: dict[Ticket, _Offer] = field(default_factory=dict[Ticket, _Offer])


class Leading:
    """Rules 2, 5 and 6 of the machine. `tick` gives the moment of the next tick."""

    def __init__(self, me: ReplicaId, calls: Calls, times: Times, tick: Callable[[float], float]) -> None:
        self._me = me
        self._calls = calls
        self._times = times
        self._tick = tick
        self._led: dict[Epoch, Led] = {}
        self.alarms: Alarms[Epoch] = Alarms()

    def wanted(self, epoch: Epoch, ticket: Ticket) -> bool:
        """Tell whether another's call waits for its outcome from this batch."""
        led = self._led.get(epoch)
        return led is not None and ticket in led.others

    def seat(self, call: OwnCall, closes_at: float, now: float) -> bool:
        """Take an own call into an own window, which closes then; False: this window is not known here (any more)."""
        led = self._led.get(call.epoch)
        if led is None and call.epoch == call.join.epoch:
            led = self._led[call.epoch] = Led(call.epoch, call.join.key, call.caller, call.bearer, call.closes_at)
            self._calls.hold(led.key, 1)
        if led is None or led.riding:
            return False
        self._calls.move(call, "waiting")
        led.own[call.id] = call
        led.bound = min(led.bound, call.closes_at)
        self.due_at(led.epoch, closes_at, now)
        return True

    def due_at(self, epoch: Epoch, at: float, now: float) -> None:
        """Claim a window then, in place of when it was to be claimed; never after its bound."""
        led = self._led.get(epoch)
        if led is None or led.asked or led.riding:
            return
        at = min(at, led.bound)
        if at <= now:
            self._claim(led, "time")
        else:
            self.alarms.set(epoch, at)

    def hasten(self, epoch: Epoch, bound: float) -> None:
        """Claim a window by then."""
        led = self._led.get(epoch)
        if led and not led.asked and not led.riding:
            led.bound = min(led.bound, bound)
            at = self.alarms.at(epoch)
            self.alarms.set(epoch, bound if at is None else min(at, bound))

    def leave(self, call: OwnCall) -> bool:
        """Let an own call go whose caller has gone; False: it is in no window that is led here."""
        led = self._led.get(call.epoch)
        if led is None or led.own.pop(call.id, None) is None:
            return False
        if led.bearer and not led.own and not led.asked:
            self._abandon(led)
        return True

    def drain(self, key: BatchKey | None = None) -> None:
        """Claim every window that is open, or those of one key."""
        for led in list(self._led.values()):
            if key in {None, led.key} and not led.asked and not led.riding:
                self._claim(led, "drain")

    def close(self) -> None:
        """Abandon every window that is not a batch yet."""
        for led in [led for led in self._led.values() if not led.riding]:
            self._abandon(led)

    def on_claim(self, claim: Claim, reply: Reply | None, now: float) -> None:
        """Take what the store gives out; Void: it knows no such window; None: it could not be asked."""
        led = self._led.get(claim.epoch)
        if led is None:
            return
        self._calls.hold(led.key, -1)
        led.riding = True
        match reply:
            case Drained():
                self._take(led, reply, now)
            case Void():
                self._go_by_oneself(led, "lost")
            case _:
                # it may have been carried out: nobody is to wait for what will not come
                self._calls.send(Abandon(led.key, led.epoch, self._me))
                self._go_by_oneself(led, "redis")

    def brought(self, epoch: Epoch, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Offer an outcome to the store; nothing, if it is not wanted any more."""
        led = self._led.get(epoch)
        if led and (owner := led.others.pop(ticket, None)):
            settle = Settle(led.key, led.epoch, ticket, owner, outcome)
            led.offers[ticket] = _Offer(settle, now)
            self._calls.send(settle)

    def ended(self, epoch: Epoch, now: float) -> None:
        """Note that a dispatch is over: whom it forgot goes alone."""
        for ticket in self._others(epoch):
            self.brought(epoch, ticket, Alone(BACK + "forgotten"), now)

    def on_settle(self, settle: Settle, reply: Reply | None) -> None:
        """Take the store's word on an offer; where it failed, the next tick offers again."""
        led = self._led.get(settle.epoch)
        offer = led.offers.get(settle.id) if led else None
        if led is None or offer is None:
            return
        offer.asking = False
        if isinstance(reply, Kept):
            del led.offers[settle.id]
            if not reply.wanted:
                self._calls.do(Note("late"))
            self._forget_settled(led)

    def thinned(self, epoch: Epoch) -> None:
        """Ask who has left."""
        if self._others(epoch):
            self._beat(self._led[epoch], routine=False)

    def on_beat(self, beat: Beat, reply: Reply | None) -> None:
        """Take who has left; where the batch is unknown, its other owners take their calls back."""
        led = self._led.get(beat.epoch)
        if led is None:
            return
        match reply:
            case Beaten():
                gone = reply.left & led.others.keys()
            case Void():
                gone = frozenset(led.others)
            case _:
                gone = frozenset[Ticket]()
        for ticket in gone:
            del led.others[ticket]
        if gone:
            self._calls.do(Recount(led.epoch))
            self._forget_settled(led)

    def due(self, now: float) -> None:
        """Do what time asks for."""
        for epoch in self.alarms.ring(now):
            led = self._led.get(epoch)
            if led and led.riding:
                self._renew(led, now)
            elif led and not led.asked:
                self._claim(led, "time")

    def _claim(self, led: Led, closed_by: Closed) -> None:
        self.alarms.clear(led.epoch)
        if led.bearer and not led.own:
            self._abandon(led)
            return
        led.asked = True
        self._calls.send(Claim(led.key, led.epoch, self._me, closed_by))

    def _abandon(self, led: Led) -> None:
        self._calls.hold(led.key, -1)
        self._forget(led)
        self._calls.send(Abandon(led.key, led.epoch, self._me))

    def _take(self, led: Led, drained: Drained, now: float) -> None:
        here = [entry for entry in drained.entries if entry.owner != self._me or entry.id in led.own]
        own = [entry for entry in here if entry.owner == self._me]
        led.others = {entry.id: entry.owner for entry in here if entry.owner != self._me}
        for missing in [call for ticket, call in led.own.items() if ticket not in {entry.id for entry in own}]:
            self._calls.alone(missing, BACK + "lost")
        if led.bearer and not own:
            self._nobody_goes(led, BACK + "leader_left", now)
        elif len(here) == 1:
            self._nobody_goes(led, "alone", now)
        else:
            self._dispatch(led, here, drained.closed_by)
            self._renew_later(led, now)

    def _nobody_goes(self, led: Led, reason: str, now: float) -> None:
        for call in list(led.own.values()):
            self._calls.alone(call, reason)
        led.own.clear()
        for ticket in list(led.others):
            self.brought(led.epoch, ticket, Alone(reason), now)
        self._renew_later(led, now)

    def _go_by_oneself(self, led: Led, why: str) -> None:
        """Make a batch of the own calls alone: fewer than fitted together still fit."""
        calls = sorted(led.own.values(), key=_order)
        if len(calls) == 1:
            self._calls.alone(calls[0], BACK + why)
        else:
            self._dispatch(led, [Entry(call.id, self._me) for call in calls], "time")
        self._forget(led)

    def _dispatch(self, led: Led, entries: Sequence[Entry], closed_by: Closed) -> None:
        for call in led.own.values():
            self._calls.drop(call)
        led.own.clear()
        if entries:
            self._calls.do(Dispatch(led.epoch, led.key, tuple(entries), closed_by, led.caller))

    def _renew(self, led: Led, now: float) -> None:
        for ticket, offer in list(led.offers.items()):
            if now - offer.since > self._times.offer_s:
                del led.offers[ticket]
                self._calls.do(Note("late"))
            elif not offer.asking:
                offer.asking = True
                self._calls.send(offer.settle)
        if led.others:
            self._beat(led, routine=True)
        self._renew_later(led, now)

    def _renew_later(self, led: Led, now: float) -> None:
        self.alarms.set(led.epoch, self._tick(now))
        self._forget_settled(led)

    def _beat(self, led: Led, *, routine: bool) -> None:
        self._calls.send(Beat(led.key, led.epoch, self._me), routine=routine)

    def _others(self, epoch: Epoch) -> list[Ticket]:
        led = self._led.get(epoch)
        return list(led.others) if led else []

    def _forget_settled(self, led: Led) -> None:
        if not led.others and not led.offers:
            self._forget(led)

    def _forget(self, led: Led) -> None:
        self._led.pop(led.epoch, None)
        self.alarms.clear(led.epoch)


def _order(call: OwnCall) -> tuple[bool, float, float]:
    plan = call.join.plan
    return (not plan.streaming, inf if plan.deadline_s is None else call.joined + plan.deadline_s, call.joined)
