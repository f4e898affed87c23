"""The words between replicas and the store that they share: commands, replies, and messages that only wake.

A ticket is a call's name in the store and on the wire, an epoch that of one opening of a window; both are random and
mean nothing outside. Payloads are opaque here. Seconds in replies are counted by the store's clock from the moment of
the reply, since no two machines agree on the time of day.

The store carries out one command at a time, and knows of a window
 - open: calls join; the replica that opened it leads it, and it alone may claim it;
 - shut: full, or complete, or past its time: nobody joins, the leader is to claim;
 - riding: claimed; a record says who is in the batch, who was settled and who left; it ends with its lease, which the
   leader renews while the batch is under way;
 - and an outcome for each settled call, kept for a while in a slot of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from proxy.model import BatchKey, CallId, Closed, Plan

Epoch = NewType("Epoch", str)
"""One opening of a window, named by who opens it; the batch that it becomes has the same name."""
Ticket = CallId
"""A call in the store."""
ReplicaId = NewType("ReplicaId", str)

TOO_LATE = "too_late"
"""Why a call is turned away that its owner had given up before the store came to it."""


@dataclass(frozen=True, slots=True)
class Join:
    """Take the call into the key's window, or open one as `epoch` led by `owner`. The store takes it up until `valid_until`.

    Answered by Seated or Turned.
    """

    key: BatchKey
    id: Ticket
    owner: ReplicaId
    epoch: Epoch
    plan: Plan
    identity_digest: str = field(repr=False)
    deterministic: bool = False
    payload: Any = field(default=b"", repr=False)
    """The lesson, for a leader elsewhere."""
    valid_until: float | None = None
    """A moment of the store's clock: a call that is carried out later has been given up by its owner."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Drain the window for good, as the one who opened it. Answered by Drained or Void."""

    key: BatchKey
    epoch: Epoch
    leader: ReplicaId
    closed_by: Closed
    """What to note where the window is still open."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the call out of the window. Where it rides already, with `leave` it is marked as left. Answered by Standing."""

    key: BatchKey
    epoch: Epoch
    id: Ticket
    leave: bool


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget the window or batch: its leader will not bring anything. Answered by Done."""

    key: BatchKey
    epoch: Epoch
    leader: ReplicaId


@dataclass(frozen=True, slots=True)
class Beat:
    """Renew the batch's lease. Answered by Beaten or Void."""

    key: BatchKey
    epoch: Epoch
    leader: ReplicaId


@dataclass(frozen=True, slots=True)
class Settle:
    """Put the call's outcome into its slot and wake the owner. Answered by Kept."""

    key: BatchKey
    epoch: Epoch
    id: Ticket
    owner: ReplicaId
    payload: Any = field(repr=False)
    """The outcome."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for the call's slot, and where there is none for its standing. Answered by Slot or Standing."""

    key: BatchKey
    epoch: Epoch
    id: Ticket


Command = Join | Claim | Withdraw | Abandon | Beat | Settle | Watch


@dataclass(frozen=True, slots=True)
class Seated:
    """The call waits in window `epoch`; it is the leader's to claim in `closes_in_s`, at once where that is 0.

    Who comes may push that out, never past `bound_in_s`. `shut`: windows of the owner's own that the call's coming shut.
    """

    epoch: Epoch
    leader: ReplicaId
    closes_in_s: float
    bound_in_s: float
    shut: tuple[Epoch, ...] = ()


@dataclass(frozen=True, slots=True)
class Turned:
    """The call is not held. `shut` as in Seated."""

    reason: str
    shut: tuple[Epoch, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of a drained window."""

    id: Ticket
    owner: ReplicaId
    payload: Any = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Drained:
    """The window's calls, in the order in which lessons are asked for; the leader is bound to settle those of others."""

    entries: tuple[Entry, ...]
    closed_by: Closed


@dataclass(frozen=True, slots=True)
class Void:
    """There is no such window or batch of this leader (any more)."""


@dataclass(frozen=True, slots=True)
class Beaten:
    """The lease is renewed; `left` are all calls of the batch whose owners want nothing any more."""

    left: frozenset[Ticket]


@dataclass(frozen=True, slots=True)
class Kept:
    """The outcome lies in its slot; not `wanted`: the owner has gone, and it was dropped."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """The call's outcome."""

    payload: Any = field(repr=False)


Where = Literal["waiting", "out", "riding", "settled", "unknown"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the call is: waiting in its window, out of it, riding, settled (whatever became of the slot), or unknown."""

    where: Where


@dataclass(frozen=True, slots=True)
class Done:
    """It was done, or there was nothing to do."""


Reply = Seated | Turned | Drained | Void | Beaten | Kept | Slot | Standing | Done


@dataclass(frozen=True, slots=True)
class Due:
    """To the leader: its window is to be claimed in `in_s`; what was said before is out of date."""

    epoch: Epoch
    in_s: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """To an owner: a window was claimed in which it has calls."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Ready:
    """To an owner: look at the call's slot."""

    id: Ticket


@dataclass(frozen=True, slots=True)
class Thinned:
    """To the leader: a call left its batch."""

    epoch: Epoch


Message = Due | Claimed | Ready | Thinned
"""May come late, twice, or never; says nothing that the store would not say again when asked."""

Mail = tuple[tuple[ReplicaId, Message], ...]
