"""One length of the window replayed over the log: the proxy's own book and plan, under the log's clock. It reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from proxy.cli.estimate.prices import Prices
from proxy.model import CallId, Lesson
from proxy.settings import Bounds
from proxy.sites import Rest, Sites
from proxy.windows.book import Away, Book, Sealed


@dataclass(slots=True)
class Figures:
    """What one length of the window would have made of the lesson calls."""

    max_wait_ms: int
    sizes: Counter[int] = field(default_factory=Counter[int])
    """Batches by the number of their lessons."""
    alone: Counter[str] = field(default_factory=Counter[str])
    """Lesson calls that go alone, by reason."""
    input_tokens: int = 0
    """What all lesson calls together send."""
    waited_s: float = 0.0
    longest_wait_s: float = 0.0

    @property
    def merged(self) -> int:
        """The number of calls in batches."""
        return sum(size * batches for size, batches in self.sizes.items())

    @property
    def lessons(self) -> int:
        """The number of all lesson calls."""
        return self.merged + self.alone.total()

    @property
    def mean_wait_s(self) -> float:
        """What a lesson call waits on average, those that are not held at all included."""
        return self.waited_s / self.lessons if self.lessons else 0.0

    def waited(self, seconds: float) -> None:
        """Count one call's time in the window."""
        self.waited_s += seconds
        self.longest_wait_s = max(self.longest_wait_s, seconds)


@dataclass(frozen=True, slots=True)
class _Held:
    lesson: Lesson
    tokens: int
    at: float


class Replay:
    """Plays lesson calls in the order of their times, through one book."""

    def __init__(self, max_wait_ms: int, bounds: Bounds, prices: Prices) -> None:
        self.figures = Figures(max_wait_ms)
        self._prices = prices
        self._book = Book(bounds.waiting_calls, bounds.open_windows)
        self._sites = Sites()
        self._held: dict[CallId, _Held] = {}

    def join(self, lesson: Lesson, tokens: int, at: float) -> None:
        """Take one call in; `tokens`: its own prompt's. Times must not go back."""
        self._close_until(at)
        asked = replace(lesson, window=replace(lesson.window, max_wait_ms=self.figures.max_wait_ms, policy="fixed"))
        plan = self._sites.plan(asked, max_output_tokens=self._prices.output_limit(lesson.model), now=at)
        if isinstance(plan, Rest):
            self._goes_alone(tokens, plan.reason)
            return
        self._held[lesson.id] = _Held(lesson, tokens, at)
        step = self._book.join(asked, plan, at)
        if isinstance(step, Away):
            del self._held[lesson.id]
            self._goes_alone(tokens, step.reason)
        self._close(step.sealed, at)

    def finish(self) -> None:
        """Close what is still open: the log has ended."""
        self._close_until(None)

    def _close_until(self, now: float | None) -> None:
        """Close each window at its own time, not when the next call happens to come."""
        while (due := self._book.next_due()) is not None and (now is None or due <= now):
            self._close(self._book.due(due), due)

    def _close(self, sealed: Sequence[Sealed], at: float) -> None:
        for window in sealed:
            held = [self._held.pop(call) for call in window.calls]
            for one in held:
                self.figures.waited(at - one.at)
            price = self._prices.merged([one.lesson for one in held]) if len(held) > 1 else "alone"
            if isinstance(price, int):
                self.figures.sizes[len(held)] += 1
                self.figures.input_tokens += price
            else:
                for one in held:
                    self._goes_alone(one.tokens, price)

    def _goes_alone(self, tokens: int, reason: str) -> None:
        self.figures.alone[reason] += 1
        self.figures.input_tokens += tokens
