"""Own calls in windows and batches of other replicas: watched, and taken back when that is right. Pure, as the whole machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from proxy.windows.alarms import Alarms
from proxy.windows.protocol import Epoch, Reply, Seated, Slot, Standing, Ticket, Watch, Withdraw
from proxy.windows.replica.calls import BACK, Calls, OwnCall
from proxy.windows.replica.effects import Hand, Note, Times

_SOON = 0.1
"""Of the grace: so long after a window's time it is looked whether it was claimed, where nobody has said so."""


class Guests:
    """Rules 3 and 4 of the machine. `tick` gives the moment of the next tick."""

    def __init__(self, calls: Calls, times: Times, jitter: Callable[[], float], tick: Callable[[float], float]) -> None:
        self._calls = calls
        self._times = times
        self._jitter = jitter
        self._tick = tick
        self._by_epoch: dict[Epoch, dict[Ticket, OwnCall]] = {}
        self.alarms: Alarms[Ticket] = Alarms()

    def seat(self, call: OwnCall, seated: Seated) -> None:
        """Begin to watch a call that waits in another's window."""
        self._calls.do(Note("elsewhere"))
        self._by_epoch.setdefault(seated.epoch, {})[call.id] = call
        self._calls.move(call, "waiting")
        self._await_claim(call)
        if call.woken:
            self._ask(call)

    def withdraw(self, call: OwnCall, why: str) -> None:
        """Begin to take back a call that waits: it goes alone unless it turns out to ride."""
        self._calls.move(call, "leaving")
        call.why = why
        self._calls.send(Withdraw(call.join.key, call.epoch, call.id, leave=False))

    def hasten(self, call: OwnCall) -> None:
        """Watch the call by a `closes_at` that has come nearer, where it is in another's window."""
        if call.stage == "waiting" and call.id in self._by_epoch.get(call.epoch, {}):
            self._await_claim(call)

    def leave(self, call: OwnCall) -> None:
        """Let the call go: its caller has gone, or goes alone; its leader is told."""
        self._forget(call)
        self._calls.drop(call)
        self._calls.send(Withdraw(call.join.key, call.epoch, call.id, leave=True))

    def claimed(self, epoch: Epoch, now: float) -> None:
        """Note that a window was claimed, as is said; the next tick asks whether it is true."""
        for call in self._waiting(epoch):
            self._ride(call, now)

    def ready(self, call: OwnCall) -> None:
        """Look at a call of which is said that its outcome is there."""
        if call.stage == "joining":
            call.woken = True
        else:
            self._ask(call)

    def look_at_all(self) -> None:
        """Ask for every call: messages may have been missed."""
        for guests in self._by_epoch.values():
            for call in guests.values():
                self._look(call)

    def drain(self) -> None:
        """Begin to take back every call that waits."""
        for epoch in list(self._by_epoch):
            for call in self._waiting(epoch):
                self.withdraw(call, "draining")

    def on_withdraw(self, ticket: Ticket, reply: Reply | None, now: float) -> None:
        """Take the answer to a withdrawal; those of calls that are settled already only told the leader."""
        call = self._calls.get(ticket)
        if call is None or call.stage != "leaving":
            return
        match reply:
            case Standing("riding"):
                self._ride(call, now)
            case Standing("settled"):
                self._ride(call, now)
                self._ask(call)
            case Standing():
                self._take_back(call, call.why)
            case _:
                # where the store carries this out after all, the leader is told not to bring anything
                self._calls.send(Withdraw(call.join.key, call.epoch, call.id, leave=True))
                self._take_back(call, "redis")

    def on_watch(self, watch: Watch, reply: Reply | None, now: float) -> None:
        """Take the answer to a look: the outcome, or where the call is."""
        call = self._calls.get(watch.id)
        if isinstance(reply, Slot):
            if call and call.epoch == watch.epoch:
                self._forget(call)
                self._calls.drop(call)
                self._calls.do(Hand(call.id, call.epoch, reply.payload, call.closes_at))
            else:
                self._calls.came_late(watch.id)
        elif call:
            call.asking = False
            if call.stage not in {"leaving", "lost"}:
                self._stands(call, reply if isinstance(reply, Standing) else None, now)

    def due(self, now: float) -> None:
        """Do what time asks for."""
        for ticket in self.alarms.ring(now):
            call = self._calls.get(ticket)
            if call is None:
                continue
            match call.stage:
                case "waiting":
                    self._overdue(call, now)
                case "riding" if now >= self._give_up_at(call):
                    self._calls.send(Withdraw(call.join.key, call.epoch, call.id, leave=True))
                    self._take_back(call, "deadline")
                case "riding":
                    self._look(call)
                    self._next_look(call, now)
                case "lost":
                    self._calls.send(Withdraw(call.join.key, call.epoch, call.id, leave=True))
                    self._take_back(call, call.why)
                case "joining" | "leaving":
                    pass
                case _:
                    assert_never(call.stage)

    def _overdue(self, call: OwnCall, now: float) -> None:
        """Look at a call whose window's time has come, and withdraw it when nobody claims that."""
        if now >= call.withdraw_at:
            self.withdraw(call, "unclaimed")
        else:
            self._ask(call)
            self.alarms.set(call.id, call.withdraw_at)

    def _stands(self, call: OwnCall, standing: Standing | None, now: float) -> None:
        """Go by what the store says of a call without an outcome; None: it couldn't be asked."""
        if standing is None:
            self._unanswered(call, now)
            return
        match standing.where:
            case "riding":
                self._ride(call, now)
            case "settled":
                self._lose(call, "no_slot", now)
            case "unknown" if call.stage == "waiting" and now >= call.closes_at:
                self.withdraw(call, "unclaimed")
            case "unknown" | "out":
                self._lose(call, "leader_lost", now)
            case "waiting" if call.stage == "riding":
                # it was said to be claimed, and is not
                self.withdraw(call, "unclaimed")
            case "waiting":
                pass
            case _:
                assert_never(standing.where)

    def _unanswered(self, call: OwnCall, now: float) -> None:
        """Go by oneself where the store can't be asked: out of a window whose time has come, out of a batch after a while."""
        if call.stage == "riding" and now - call.known_at > self._times.patience_s:
            self._lose(call, "redis", now)
        elif call.stage == "waiting" and now >= call.closes_at:
            # its leader can hardly claim it; where it has, it is told not to bring anything
            self._calls.send(Withdraw(call.join.key, call.epoch, call.id, leave=True))
            self._take_back(call, "redis")

    def _ride(self, call: OwnCall, now: float) -> None:
        call.rode, call.closes_at = True, min(call.closes_at, now)
        call.known_at = now
        self._calls.move(call, "riding")
        self._next_look(call, now)

    def _lose(self, call: OwnCall, why: str, now: float) -> None:
        call.why = why
        self._calls.move(call, "lost")
        self.alarms.set(call.id, now + self._jitter() * self._times.spread_s)

    def _take_back(self, call: OwnCall, why: str) -> None:
        self._forget(call)
        self._calls.alone(call, BACK + why)

    def _forget(self, call: OwnCall) -> None:
        self.alarms.clear(call.id)
        if guests := self._by_epoch.get(call.epoch):
            guests.pop(call.id, None)
            if not guests:
                del self._by_epoch[call.epoch]

    def _ask(self, call: OwnCall, *, routine: bool = False) -> None:
        # also while a look is under way: that may have come to the store before the outcome did
        call.asking = True
        self._calls.send(Watch(call.join.key, call.epoch, call.id), routine=routine)

    def _look(self, call: OwnCall) -> None:
        if not call.asking:
            self._ask(call, routine=True)

    def _waiting(self, epoch: Epoch) -> list[OwnCall]:
        return [call for call in self._by_epoch.get(epoch, {}).values() if call.stage == "waiting"]

    def _await_claim(self, call: OwnCall) -> None:
        call.withdraw_at = call.closes_at + self._times.grace_s * (1 + self._jitter())
        self.alarms.set(call.id, call.closes_at + self._times.grace_s * _SOON)

    def _next_look(self, call: OwnCall, now: float) -> None:
        self.alarms.set(call.id, min(self._tick(now), max(now, self._give_up_at(call))))

    def _give_up_at(self, call: OwnCall) -> float:
        return min(call.give_up_at, call.joined + self._times.longest_s)
