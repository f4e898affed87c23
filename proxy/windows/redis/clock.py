"""What the store's clock shows, as far as a replica can know: never later than it really does."""

from __future__ import annotations

_DRIFT = 0.001
"""Two clocks go apart by no more than so many seconds a second."""


class StoreClock:
    """Learns from replies. A reply shows a moment before it was received, so what is known is a lower bound.

    `longest_s`: no reply takes longer on its way; a clock that seems to be off by more was set anew.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._ahead: float | None = None
        self._at = 0.0

    def learn(self, shown: float, received: float) -> None:
        """Take what the store's clock showed in a reply, and when that was received by the own clock."""
        ahead = shown - received
        known = self._ahead
        if known is not None:
            known -= _DRIFT * (received - self._at)
            if known - self._longest_s < ahead < known:
                ahead = known
        self._ahead, self._at = ahead, received

    def shows(self, moment: float) -> float | None:
        """Return what it shows at a moment of the own clock, or a little before; None: nothing is known."""
        return None if self._ahead is None else moment + self._ahead - _DRIFT * max(0.0, moment - self._at)
