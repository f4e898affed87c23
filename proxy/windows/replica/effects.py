"""What a replica's machine asks of whoever runs it, and the times by which it decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from proxy.model import BatchKey, Closed
from proxy.windows.protocol import Command, Entry, Epoch, Ticket


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `tick_s` must be well below the store's lease."""

    tick_s: float = 1.0
    """How often batches are renewed, and calls in others' batches looked at."""
    grace_s: float = 0.05
    """How long after a window's time its leader may still claim it; up to twice that, by jitter."""
    spread_s: float = 0.25
    """Calls that are taken back for one cause go within so long, not all at once."""
    patience_s: float = 2.0
    """How long the store may fail while a call rides in another's batch."""
    offer_s: float = 5.0
    """How long an outcome is offered to a store that fails: its lease."""
    longest_s: float = 1800.0
    """No call rides longer."""


@dataclass(frozen=True, slots=True)
class Send:
    """Ask the store."""

    command: Command
    routine: bool = False
    """A tick's look or renewal, for which no caller waits: what is not routine may overtake it."""


@dataclass(frozen=True, slots=True)
class GoAlone:
    """Settle an own call: its caller's request goes alone."""

    id: Ticket
    reason: str
    closed_at: float = inf
    """When the call's window closed; inf: it has been in an open one until now, or in none."""


@dataclass(frozen=True, slots=True)
class Hand:
    """Settle an own call with the outcome that another replica brought."""

    id: Ticket
    epoch: Epoch
    payload: Any = field(repr=False)
    closed_at: float
    """When the call's window closed, as far as is known here."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send these as one batch (two or more). The own calls among them are no longer the machine's."""

    epoch: Epoch
    key: BatchKey
    entries: tuple[Entry, ...]
    closed_by: Closed
    caller: Any = field(repr=False)
    """As it was handed in with the call that opened the window."""


@dataclass(frozen=True, slots=True)
class Recount:
    """Calls of others have left this batch: stop it if nobody waits for it."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Note:
    """Count: `elsewhere`: a call waits in another's window; `late`: an outcome came for a call that had been taken back."""

    what: Literal["elsewhere", "late"]


Effect = Send | GoAlone | Hand | Dispatch | Recount | Note
