"""Bounds how many calls are upstream at one time; nobody queues: a full house is said at once."""

from __future__ import annotations

from typing import Self

from proxy.errors import OverloadedError


class Slots:
    """A counter with a ceiling; whoever takes a slot gives it back exactly once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self) -> Slot:
        """Return a slot; raises OverloadedError where all are taken."""
        if self.taken >= self.limit:
            raise OverloadedError("All upstream slots of the proxy are taken; try again shortly.", retry_after_s=1)
        self.taken += 1
        return Slot(self)


class Slot:
    """One call's place; giving it back twice does nothing."""

    __slots__ = ("_slots",)

    def __init__(self, slots: Slots) -> None:
        self._slots: Slots | None = slots

    def release(self) -> None:
        """Give the place back."""
        if self._slots is not None:
            self._slots.taken -= 1
            self._slots = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
