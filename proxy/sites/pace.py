"""How fast a model writes, and how long its lessons are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, inf

_SAMPLES = 31
"""Measurements that are remembered. Medians of the last ones follow a change in half of them and ignore stray ones,
where a mean would carry a buffered stream's absurd speed along for a hundred lessons."""
_LEAST_TOKENS = 8
"""Fewer tokens than these are no lesson, and their timing says nothing of the speed."""
_DENSITY = 0.2
"""Prompt tokens a byte of a request, before it was measured: on the low side of English text."""
_LENGTH_MARGIN = 1.5
"""Room above the longest of the usual lessons: a limit that cuts one off costs a call, a generous one costs nothing."""
_ENOUGH = 5
"""Lessons that must have been seen before their length limits anything: one short lesson must not cut off the next."""


@dataclass(slots=True)
class _Measure:
    """The last samples of one quantity, and what is read from them; 0.0: nothing yet."""

    samples: deque[float] = field(default_factory=lambda: deque[float](maxlen=_SAMPLES))
    typical: float = 0.0
    high: float = 0.0
    """Nine of ten samples are no higher."""

    def add(self, sample: float) -> None:
        """Take one sample in."""
        self.samples.append(sample)
        ordered = sorted(self.samples)
        # the median; `statistics` would bring fractions, decimals and random numbers along
        self.typical = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        self.high = ordered[ceil(0.9 * len(ordered)) - 1]


@dataclass(slots=True)
class Pace:
    """What was measured of one model."""

    speed: _Measure = field(default_factory=_Measure)
    """Tokens a second after the first."""
    length: _Measure = field(default_factory=_Measure)
    """Completion tokens of one lesson."""
    density: _Measure = field(default_factory=_Measure)
    """Prompt tokens a byte of a request."""
    whole: bool = False
    """Answers were seen that arrive when all is written: everybody waits for every lesson, not only for those before theirs."""

    def lesson_s(self, token_limit: int | None) -> float:
        """Return the expected seconds to write one lesson; 0.0: not measured."""
        if not self.speed.typical or not self.length.typical:
            return 0.0
        return min(self.length.typical, token_limit or self.length.typical) / self.speed.typical

    def largest(self, lesson_s: float, max_added_s: float) -> float:
        """Return how many lessons of so many seconds may be in one answer, so that nobody waits longer than that for others'."""
        return 1 + max_added_s // lesson_s if self.whole and lesson_s else inf

    def learned_tokens(self) -> int | None:
        """Return the length that a lesson should have room for; None: not enough were seen."""
        return ceil(self.length.high * _LENGTH_MARGIN) if len(self.length.samples) >= _ENOUGH else None

    def prompt_tokens(self, request_bytes: int) -> float:
        """Return what a request of this size is expected to be counted as."""
        return request_bytes * (self.density.typical or _DENSITY)


def tells_length(completion_tokens: int) -> bool:
    """Tell whether so many tokens are a lesson's."""
    return completion_tokens >= _LEAST_TOKENS


def tells_speed(completion_tokens: int, seconds: float) -> bool:
    """Tell whether this much in this time says how fast a model writes; an answer that came at once does not."""
    return completion_tokens >= _LEAST_TOKENS and seconds > 0
