"""What shared windows tell of themselves, for whoever counts and logs; nothing here holds a key, a prompt or an address."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreUp:
    """The store that windows are shared through can be had (again)."""


@dataclass(frozen=True, slots=True)
class StoreDown:
    """It can't; until it can, every replica has its windows for itself."""

    why: str


@dataclass(frozen=True, slots=True)
class WindowLed:
    """A window that was opened here went off as a batch."""

    size: int
    others: int
    """Calls of other replicas in it."""


@dataclass(frozen=True, slots=True)
class JoinedElsewhere:
    """A call waits in a window that another replica opened."""


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A call goes alone that a shared window did not serve."""

    why: str


@dataclass(frozen=True, slots=True)
class CameLate:
    """An outcome was brought for a call that had been taken back: it was dropped."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The store was asked, and answered."""

    commands: int
    seconds: float


Notice = StoreUp | StoreDown | WindowLed | JoinedElsewhere | TakenBack | CameLate | RoundTrip
