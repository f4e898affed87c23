"""What the shared store does, as a pure model: the scripts must behave as this does, and the simulation runs it.

It is the book for what is open, and beside it what the book forgets: windows that wait for their leader's claim,
batches under way, outcomes. No clock (`now` is the store's own), no I/O. Things vanish with their time, as in Redis.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, assert_never

from proxy.model import BatchKey, Closed
from proxy.windows.book import Away, Book, Joined, Sealed
from proxy.windows.protocol import (
    TOO_LATE,
    Abandon,
    Beat,
    Beaten,
    Claim,
    Claimed,
    Command,
    Done,
    Drained,
    Due,
    Entry,
    Epoch,
    Join,
    Kept,
    Mail,
    Message,
    Ready,
    ReplicaId,
    Reply,
    Seated,
    Settle,
    Slot,
    Standing,
    Thinned,
    Ticket,
    Turned,
    Void,
    Watch,
    Withdraw,
)


@dataclass(slots=True)
class _Window:
    key: BatchKey
    epoch: Epoch
    leader: ReplicaId
    closes_at: float
    bound: float
    """When it closes at the latest; kept for its leader for a while after that."""
    entries: dict[Ticket, Entry] = field(default_factory=dict[Ticket, Entry])
    sealed: Sealed | None = None
    """None: open."""


@dataclass(slots=True)
class _Batch:
    leader: ReplicaId
    owners: dict[Ticket, ReplicaId]
    expires: float
    settled: set[Ticket] = field(default_factory=set[Ticket])
    left: set[Ticket] = field(default_factory=set[Ticket])


class Store:
    """Everything that replicas share.

    `lease_s`: a batch lives so long without a beat. `keep_s`: so long an outcome lies in its slot, and a window waits
    for its leader after its time.
    """

    def __init__(self, *, lease_s: float, keep_s: float) -> None:
        self._lease_s = lease_s
        self._keep_s = keep_s
        self._book = Book(sys.maxsize, sys.maxsize)
        self._open: dict[BatchKey, Epoch] = {}
        self._windows: dict[Epoch, _Window] = {}
        self._batches: dict[Epoch, _Batch] = {}
        self._slots: dict[tuple[Epoch, Ticket], tuple[Any, float]] = {}

    def apply(self, command: Command, now: float) -> tuple[Reply, Mail]:
        """Carry out one command, whole; return what it answers and what it tells whom."""
        mail: list[tuple[ReplicaId, Message]] = []
        tell = mail.append
        match command:
            case Join():
                reply = self._join(command, now, tell)
            case Claim():
                reply = self._claim(command, now, tell)
            case Withdraw():
                reply = self._withdraw(command, now, tell)
            case Abandon():
                reply = self._abandon(command, now, tell)
            case Beat():
                reply = self._beat(command, now)
            case Settle():
                reply = self._settle(command, now, tell)
            case Watch():
                reply = self._watch(command, now)
            case _:
                assert_never(command)
        return reply, tuple(mail)

    def forget(self) -> None:
        """Lose everything, as a failover to an empty replica does."""
        self.__init__(lease_s=self._lease_s, keep_s=self._keep_s)  # pyright: ignore[reportUnknownMemberType]

    def _join(self, join: Join, now: float, tell: Callable[[tuple[ReplicaId, Message]], None]) -> Seated | Turned:
        if join.valid_until is not None and now > join.valid_until:
            return Turned(TOO_LATE)
        before = self._window(self._open.get(join.key), now)
        step = self._book.join(join, join.plan, now)
        shut: list[Epoch] = []
        for sealed in step.sealed:
            if join.id not in sealed.calls and before:
                self._shut(before, sealed)
                self._report(before, join, 0.0, shut, tell)
        match step:
            case Away():
                return Turned(step.reason, tuple(shut))
            case Joined():
                return self._seat(join, step, now, shut, tell)
            case _:
                assert_never(step)

    def _seat(self, join: Join, step: Joined, now: float, shut: list[Epoch], tell: Callable[[tuple[ReplicaId, Message]], None]) -> Seated:
        window = self._windows.get(self._open.get(join.key, join.epoch))
        if window is None:
            window = _Window(join.key, join.epoch, join.owner, step.closes_at, step.closes_at)
            self._open[join.key] = join.epoch
            self._windows[join.epoch] = window
        moved = step.closes_at != window.closes_at
        window.closes_at = step.closes_at
        # a window that was sealed at once is due now
        window.bound = self._book.bound(join.key) or now
        # the leader keeps its own lessons itself
        window.entries[join.id] = Entry(join.id, join.owner, b"" if join.owner == window.leader else join.payload)
        own = [sealed for sealed in step.sealed if join.id in sealed.calls]
        for sealed in own:
            self._shut(window, sealed)
        closes_in_s = 0.0 if own else step.closes_at - now
        if own or moved:
            self._report(window, join, closes_in_s, shut if own else [], tell)
        return Seated(window.epoch, window.leader, closes_in_s, window.bound - now, tuple(shut))

    def _shut(self, window: _Window, sealed: Sealed) -> None:
        window.sealed = sealed
        self._open.pop(window.key, None)

    def _report(
        self, window: _Window, join: Join, in_s: float, shut: list[Epoch], tell: Callable[[tuple[ReplicaId, Message]], None]
    ) -> None:
        """Tell the leader when to claim: in the reply where it is the one who joins, else by mail."""
        if window.leader == join.owner:
            shut.append(window.epoch)
        else:
            tell((window.leader, Due(window.epoch, in_s)))

    def _claim(self, claim: Claim, now: float, tell: Callable[[tuple[ReplicaId, Message]], None]) -> Drained | Void:
        window = self._window(claim.epoch, now)
        if window is None or window.leader != claim.leader:
            return Void()
        sealed = window.sealed or self._close(window, claim.closed_by, now)
        del self._windows[claim.epoch]
        entries = tuple(window.entries[ticket] for ticket in sealed.calls if ticket in window.entries)
        others = {entry.id: entry.owner for entry in entries if entry.owner != window.leader}
        if others:
            self._batches[claim.epoch] = _Batch(window.leader, others, now + self._lease_s)
        for owner in dict.fromkeys(others.values()):
            tell((owner, Claimed(claim.epoch)))
        return Drained(entries, sealed.closed_by)

    def _close(self, window: _Window, closed_by: Closed, now: float) -> Sealed:
        sealed = self._book.close(window.key, closed_by, now) or Sealed(window.key, (), closed_by)
        self._shut(window, sealed)
        return sealed

    def _withdraw(self, withdraw: Withdraw, now: float, tell: Callable[[tuple[ReplicaId, Message]], None]) -> Standing:
        window = self._window(withdraw.epoch, now)
        if window and withdraw.id in window.entries:
            self._take_out(window, withdraw.id)
            return Standing("out")
        batch = self._batch(withdraw.epoch, now)
        if batch is None or withdraw.id not in batch.owners:
            return Standing("unknown")
        if withdraw.id in batch.settled:
            return Standing("settled")
        if withdraw.leave and withdraw.id not in batch.left:
            batch.left.add(withdraw.id)
            tell((batch.leader, Thinned(withdraw.epoch)))
        return Standing("riding")

    def _take_out(self, window: _Window, ticket: Ticket) -> None:
        del window.entries[ticket]
        if window.sealed is None:
            self._book.leave(ticket)
        if not window.entries:
            del self._windows[window.epoch]
            if window.sealed is None:
                del self._open[window.key]

    def _abandon(self, abandon: Abandon, now: float, tell: Callable[[tuple[ReplicaId, Message]], None]) -> Done:
        window = self._window(abandon.epoch, now)
        batch = self._batch(abandon.epoch, now)
        owners: dict[Ticket, ReplicaId] = {}
        if window and window.leader == abandon.leader:
            if window.sealed is None:
                self._close(window, "drain", now)
            del self._windows[abandon.epoch]
            owners = {entry.id: entry.owner for entry in window.entries.values()}
        elif batch and batch.leader == abandon.leader:
            del self._batches[abandon.epoch]
            owners = {ticket: owner for ticket, owner in batch.owners.items() if ticket not in batch.left | batch.settled}
        for ticket, owner in owners.items():
            if owner != abandon.leader:
                tell((owner, Ready(ticket)))
        return Done()

    def _beat(self, beat: Beat, now: float) -> Beaten | Void:
        batch = self._batch(beat.epoch, now)
        if batch is None or batch.leader != beat.leader:
            return Void()
        batch.expires = now + self._lease_s
        return Beaten(frozenset(batch.left))

    def _settle(self, settle: Settle, now: float, tell: Callable[[tuple[ReplicaId, Message]], None]) -> Kept:
        batch = self._batch(settle.epoch, now)
        if batch and settle.id in batch.left:
            return Kept(wanted=False)
        if batch:
            batch.settled.add(settle.id)
        # also where the record is lost: its owner may not have noticed yet
        self._slots[settle.epoch, settle.id] = (settle.payload, now + self._keep_s)
        tell((settle.owner, Ready(settle.id)))
        return Kept(wanted=True)

    def _watch(self, watch: Watch, now: float) -> Slot | Standing:
        slot = (watch.epoch, watch.id)
        payload, expires = self._slots.get(slot, (None, now))
        if now < expires:
            return Slot(payload)
        self._slots.pop(slot, None)
        window = self._window(watch.epoch, now)
        if window and watch.id in window.entries:
            return Standing("waiting")
        batch = self._batch(watch.epoch, now)
        if batch is None or watch.id not in batch.owners:
            return Standing("unknown")
        return Standing("settled" if watch.id in batch.settled else "riding")

    def _window(self, epoch: Epoch | None, now: float) -> _Window | None:
        """Return a window that waits for its claim; one that has waited too long is gone."""
        window = self._windows.get(epoch) if epoch else None
        if window and now >= window.bound + self._keep_s:
            if window.sealed is None:
                self._close(window, "time", now)
            del self._windows[window.epoch]
            return None
        return window

    def _batch(self, epoch: Epoch, now: float) -> _Batch | None:
        batch = self._batches.get(epoch)
        if batch and now >= batch.expires:
            del self._batches[epoch]
            return None
        return batch
