"""An event loop whose clock jumps to the next timer instead of waiting: seconds pass at once, and exactly."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.turns = 0
        self.at_turn: dict[int, Callable[[], object]] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        act = self.at_turn.pop(self.turns, None)
        if act:
            act()
        elif timeout is None:
            raise RuntimeError("everything waits and no timer is set: this would hang for ever")
        else:
            self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for code that waits on futures and timers only; it counts its turns and can act between two of them."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    @property
    def turns(self) -> int:
        return self._jumping.turns

    def at_turn(self, turn: int, act: Callable[[], object]) -> None:
        """Act before this turn of the loop, counted from now; no time passes in that turn."""
        self._jumping.at_turn[self.turns + turn] = act


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time; raises RuntimeError where it would wait for ever."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(test)
