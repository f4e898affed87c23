"""How long one merged call may stay silent, and how long it took to write; it knows no lesson and decides no outcome."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.model import Carrier, Deployment, Piece
from proxy.policy import MergePolicy

USAGE_GRACE_S = 1.0
"""How long a stream whose lessons are all here may still take to tell its usage."""
LONGEST_S = 1800.0
"""No call is listened to for longer, however often it shows that it is alive."""


@dataclass(slots=True)
class Silence:
    """When a silent upstream is given up: moments are seconds of the loop's clock.

    Until the first text its limit for the first token counts; signs of life (reasoning) can only lengthen that.
    """

    policy: MergePolicy
    size: int
    """Lessons of the call."""
    began: float
    written: bool = False

    def first(self, deployment: Deployment, carrier: Carrier) -> float:
        """Return when the first piece must be here; an answer that comes whole is first written in silence."""
        silent_s = self.size * self.policy.idle_seconds if deployment.capability.comes_whole(carrier) else 0.0
        return self.began + min(self.policy.first_token_seconds + silent_s, LONGEST_S)

    def after(self, piece: Piece, until: float, now: float) -> float:
        """Return when the next piece must be here; `until` is when this one had to be."""
        self.written = self.written or bool(piece.text)
        alive = now + self.policy.idle_seconds
        return min(alive if self.written else max(until, alive), self.began + LONGEST_S)


@dataclass(slots=True)
class Pace:
    """When upstream wrote: moments are seconds of the dispatcher's clock."""

    began: float
    first: float | None = None
    """The first text's moment."""
    last: float = field(default=0.0)
    _first_chars: int = 0
    _chars: int = 0

    def note(self, piece: Piece, now: float) -> None:
        """Take one piece that came now."""
        if not piece.text:
            return
        if self.first is None:
            self.first, self._first_chars = now, len(piece.text)
        self.last = now
        self._chars += len(piece.text)

    @property
    def first_token_s(self) -> float | None:
        """Return the seconds to the first text; None: there was none."""
        return None if self.first is None else self.first - self.began

    @property
    def writing_s(self) -> float:
        """Return the seconds that upstream wrote for; 0.0: it wrote nothing.

        Where most of the text came at once it had been written before: then all the time since the call began counts,
        which errs to the safe side.
        """
        if self.first is None:
            return 0.0
        return self.last - (self.began if self._first_chars * 2 >= self._chars else self.first)
