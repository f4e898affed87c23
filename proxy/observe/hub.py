"""Where events are published: every listener is told each one, and none of them can harm a call."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.interfaces import Listener
from proxy.observe.faults import fault


class Hub:
    """A listener that tells several. One that raises is counted, and told of once to the others."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        self._broken: set[int] = set()
        self.failures = 0

    def __call__(self, event: object) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - the border behind which a stranger's listener runs: a call must not fail for it
                self._failed(listener, error)

    def _failed(self, listener: Listener, error: Exception) -> None:
        self.failures += 1
        if id(listener) in self._broken:
            return
        self._broken.add(id(listener))
        # the broken one is told too: it may have stumbled over the one event only
        self(fault("listener", error))
