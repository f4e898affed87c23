"""The whole estimate: every call judged once, the lessons put in the order of time and played through each window."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from proxy.cli.estimate.log import Past
from proxy.cli.estimate.prices import Prices
from proxy.cli.estimate.replay import Figures, Replay
from proxy.cli.explaining import judge
from proxy.lessons.recognise import Recogniser
from proxy.model import Lesson, Unbatchable
from proxy.policy import LessonPolicy
from proxy.settings import Settings

_SORTED_CALLS = 1_000
"""Logs are written when calls end, and times tell when they began: so many lessons are held back to be put in order."""
_SORTED_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Estimate:
    """What the log holds, and what each window would have made of it."""

    calls: int = 0
    lessons: int = 0
    input_tokens: int = 0
    """Of all chat calls as they were made."""
    lesson_tokens: int = 0
    """Of the lesson calls as they were made."""
    single: Counter[str] = field(default_factory=Counter[str])
    """Why calls are never merged, whatever the window."""
    looked_like_lessons: Counter[str] = field(default_factory=Counter[str])
    """Those of them that some rule took for a lesson."""
    disordered: int = 0
    """Lessons whose time was too far back to be put in order; they count as coming late."""
    first_s: float | None = None
    last_s: float = 0.0
    windows: list[Figures] = field(default_factory=list[Figures])

    def see(self, at: float) -> None:
        """Note a moment of the log."""
        self.first_s = at if self.first_s is None else min(self.first_s, at)
        self.last_s = max(self.last_s, at)


def estimate(past: Iterable[Past], settings: Settings, waits_ms: Sequence[int], prices: Prices) -> Estimate:
    """Replay the calls through a window of each length."""
    recogniser = Recogniser(_awake(settings.lesson_policy()))
    found = Estimate()
    order = _Order([Replay(wait_ms, settings.bounds, prices) for wait_ms in waits_ms], found)
    for one in past:
        tokens = prices.lone(one.call.body)
        found.calls += 1
        found.input_tokens += tokens
        found.see(one.at)
        verdict = judge(one.call, recogniser)
        if isinstance(verdict, Lesson) and verdict.mode != "off":
            found.lessons += 1
            found.lesson_tokens += tokens
            order.add(verdict, tokens, one.at, len(one.call.raw))
        else:
            _count_single(verdict, found)
    found.windows = order.finish()
    return found


def _awake(policy: LessonPolicy) -> LessonPolicy:
    """Return the policy as it would be tried out: where merging is off, this is the question."""
    return replace(policy, mode="dry_run") if policy.mode == "off" else policy


def _count_single(verdict: Lesson | Unbatchable, found: Estimate) -> None:
    reason = verdict.reason if isinstance(verdict, Unbatchable) else "share"
    found.single[reason] += 1
    if verdict.rule is not None:
        found.looked_like_lessons[reason] += 1


class _Order:
    """Holds lessons back until those before them have come, and plays them through every window; bounded."""

    def __init__(self, replays: Sequence[Replay], found: Estimate) -> None:
        self._replays = replays
        self._found = found
        self._heap: list[tuple[float, int, Lesson, int, int]] = []
        self._bytes = 0
        self._added = 0
        self._now = float("-inf")

    def add(self, lesson: Lesson, tokens: int, at: float, size: int) -> None:
        self._added += 1
        self._bytes += size
        heapq.heappush(self._heap, (at, self._added, lesson, tokens, size))
        while len(self._heap) > _SORTED_CALLS or self._bytes > _SORTED_BYTES:
            self._play()

    def finish(self) -> list[Figures]:
        while self._heap:
            self._play()
        for replay in self._replays:
            replay.finish()
        return [replay.figures for replay in self._replays]

    def _play(self) -> None:
        at, _, lesson, tokens, size = heapq.heappop(self._heap)
        self._bytes -= size
        self._found.disordered += at < self._now
        self._now = max(self._now, at)
        for replay in self._replays:
            replay.join(lesson, tokens, self._now)
