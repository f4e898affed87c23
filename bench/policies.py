"""Fixed, adaptive and hinted windows on the same traces: what each saves, and what each costs a call in waiting.

The window's own book decides who goes with whom, under a virtual clock. Tokens are those of `bench tokens`: of two
different requests of one prompt, so much is shared, and each entry of a batch adds its key.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from bench.traces import SCORING_SEEDS, TRACES, Arrival
from proxy.model import BatchKey, CallId, Lesson, Plan
from proxy.sites.company import Company
from proxy.windows.book import Away, Book, Sealed
from tests.make import make_lesson

LONE_TOKENS, SHARED_TOKENS, KEY_TOKENS = 850, 700, 30
"""Input tokens of a lone call; what calls of one prompt share; what a batch adds for each of its entries."""
MAX_SIZE = 5
HINTED_S = 1.0
FIXED_MS = (10, 15, 20, 30, 40, 50, 75, 100, 150, 250, 500, 1000)
ADAPTIVE_MS = (100, 250, 1000)
REPLICAS = 3

Planner = Callable[[CallId, Arrival], Plan]


@dataclass
class Figures:
    """What one policy made of one trace."""

    waits: list[float] = field(default_factory=list[float])
    lone_waits: list[float] = field(default_factory=list[float])
    saved: int = 0
    tokens: int = 0

    @property
    def saved_share(self) -> float:
        return self.saved / self.tokens

    @property
    def wait_ms(self) -> float:
        return 1000 * fmean(self.waits)

    @property
    def lone_wait_ms(self) -> float:
        return 1000 * fmean(self.lone_waits) if self.lone_waits else 0.0


def fixed(window_ms: float) -> Planner:
    """Wait so long for company, always."""
    return lambda _, __: Plan(max_wait_s=window_ms / 1000, max_size=MAX_SIZE)


def adaptive(cap_ms: float, replicas: int = 1) -> Planner:
    """Wait as the site's calls have taught; with `replicas` each call comes to one of them, and they share the windows alone."""
    return Adaptive(cap_ms / 1000, [Company(2000, 10_000) for _ in range(replicas)])


@dataclass
class Adaptive:
    """A planner that learns."""

    cap_s: float
    replicas: list[Company]
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    held: dict[CallId, Company] = field(default_factory=dict[CallId, Company])

    def __post_init__(self) -> None:
        for company in self.replicas:
            company.shared = len(self.replicas) > 1

    def __call__(self, call: CallId, arrival: Arrival) -> Plan:
        company = self.held[call] = self.rng.choice(self.replicas)
        key, now = BatchKey(arrival.key), arrival.at
        company.arrived(arrival.site, key, self.cap_s, now)
        return Plan(max_wait_s=self.cap_s, max_size=MAX_SIZE, idle_s=company.gap_s(call, key, self.cap_s, MAX_SIZE, now))

    def ended(self, call: CallId, *, merged: bool) -> None:
        self.held.pop(call).ended(call, merged=merged)


def hinted() -> Planner:
    """Wait for the calls that the app announces."""
    return lambda _, arrival: Plan(max_wait_s=HINTED_S, max_size=MAX_SIZE, expect=arrival.group)


def play(trace: Sequence[Arrival], planner: Planner) -> Figures:
    """Send a trace through the book."""
    return _Play(trace, planner).run()


class _Play:
    def __init__(self, trace: Sequence[Arrival], planner: Planner) -> None:
        self._trace = trace
        self._planner = planner
        self._book = Book(len(trace), len(trace))
        self._came: dict[CallId, Arrival] = {}
        self._figures = Figures(tokens=LONE_TOKENS * len(trace))

    def run(self) -> Figures:
        for number, arrival in enumerate(self._trace):
            while (due := self._book.next_due()) is not None and due <= arrival.at:
                self._sealed(self._book.due(due), due)
            self._join(CallId(str(number)), arrival)
        while (due := self._book.next_due()) is not None:
            self._sealed(self._book.due(due), due)
        assert len(self._figures.waits) == len(self._trace)
        return self._figures

    def _join(self, call: CallId, arrival: Arrival) -> None:
        lesson: Lesson = make_lesson(id=call, key=BatchKey(arrival.key), identity_digest=call)
        self._came[call] = arrival
        step = self._book.join(lesson, self._planner(call, arrival), arrival.at)
        if isinstance(step, Away):
            self._ended([call], arrival.at)
        self._sealed(step.sealed, arrival.at)

    def _sealed(self, windows: Iterable[Sealed], now: float) -> None:
        for window in windows:
            self._ended(window.calls, now)

    def _ended(self, calls: Sequence[CallId], now: float) -> None:
        if len(calls) > 1:
            self._figures.saved += (len(calls) - 1) * SHARED_TOKENS - len(calls) * KEY_TOKENS
        for call in calls:
            arrival = self._came[call]
            if isinstance(self._planner, Adaptive):
                self._planner.ended(call, merged=len(calls) > 1)
            self._figures.waits.append(now - arrival.at)
            if arrival.group == 1:
                self._figures.lone_waits.append(now - arrival.at)


def policies() -> dict[str, Callable[[], Planner]]:
    """Return what is compared, by name; each makes a planner that has learned nothing."""
    table: dict[str, Callable[[], Planner]] = {f"fixed {ms}": lambda ms=ms: fixed(ms) for ms in FIXED_MS}
    table |= {f"adaptive {ms}": lambda ms=ms: adaptive(ms) for ms in ADAPTIVE_MS}
    table |= {f"{REPLICAS} x adaptive {ms}": lambda ms=ms: adaptive(ms, REPLICAS) for ms in ADAPTIVE_MS}
    return table | {"hinted": hinted}


def measure(seeds: Sequence[int] = SCORING_SEEDS) -> dict[str, dict[str, Figures]]:
    """Return figures by trace and policy, pooled over the seeds; `all` is every trace together."""
    table: dict[str, dict[str, Figures]] = {"all": {name: Figures() for name in policies()}}
    for kind, make in TRACES.items():
        table[kind] = {name: Figures() for name in policies()}
        for seed in seeds:
            trace = make(seed)
            for name, planner in policies().items():
                figures = play(trace, planner())
                for pooled in (table[kind][name], table["all"][name]):
                    _pool(pooled, figures)
    return table


def _pool(pooled: Figures, one: Figures) -> None:
    pooled.waits += one.waits
    pooled.lone_waits += one.lone_waits
    pooled.saved += one.saved
    pooled.tokens += one.tokens


def beaten_by(table: dict[str, dict[str, Figures]], kind: str, name: str) -> list[str]:
    """Return the fixed windows that save at least as much with no longer a wait, in the mean and for lone calls, and one of them better."""
    me = _scores(table[kind][name])
    return [
        other
        for other, figures in table[kind].items()
        if other.startswith("fixed") and _scores(figures) != me and all(a >= b for a, b in zip(_scores(figures), me, strict=True))
    ]


def _scores(figures: Figures) -> tuple[float, float, float]:
    return figures.saved_share, -figures.wait_ms, -figures.lone_wait_ms


def main(seeds: Sequence[int] = SCORING_SEEDS) -> None:
    """Print a table a trace."""
    table = measure(seeds)
    print(f"policies: {LONE_TOKENS} input tokens a call, {SHARED_TOKENS} shared; at most {MAX_SIZE} a batch; seeds {seeds}")
    for kind, rows in table.items():
        print(f"\n{kind:<18}{'saved':>8}{'wait ms':>9}{'lone ms':>9}")
        for name, figures in rows.items():
            beaten = beaten_by(table, kind, name) if "adaptive" in name else []
            note = f"   beaten by {', '.join(beaten)}" if beaten else ""
            print(f"{name:<18}{figures.saved_share:>8.1%}{figures.wait_ms:>9.1f}{figures.lone_wait_ms:>9.1f}{note}")


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SCORING_SEEDS)
