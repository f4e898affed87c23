"""The room's face: it gives the batcher a plan for one lesson, and is taught by whoever saw a lesson or a batch end.

`now` is in seconds of any steady clock. It knows no provider and publishes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from proxy.model import NO_COMPANY, Alone, Lesson, Outcome, Plan, Price
from proxy.sites.company import Company
from proxy.sites.continued import Continued
from proxy.sites.loops import Loops
from proxy.sites.pace import Pace, tells_length, tells_speed
from proxy.sites.standing import USUAL_PRICE, BatchResult
from proxy.sites.standings import Rest, Rested, Resumed, Standings

T = TypeVar("T")

_DEADLINE_SHARE = 0.8
"""The part of a caller's time that a plan uses up: speeds are medians, and the time to the first token is not in them."""


class Sites:
    """What is learned, of the `max_models` model aliases and `max_sites` call sites that were taught last.

    At most `max_runs` batch keys are followed for who comes after whom.
    """

    def __init__(self, max_models: int = 1000, max_sites: int = 2000, max_runs: int = 10_000) -> None:
        self._max_models = max_models
        self._company = Company(max_sites, max_runs)
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._loops = Loops(max_sites, max_runs)
        self._prices: OrderedDict[str, Price] = OrderedDict()
        self._standings = Standings(max_sites)
        self._continued = Continued()

    def builds_on(self, site: str) -> None:
        """Learn that a call went on from an answer of this site (`Lesson.site`), which a merged answer can't bear."""
        self._continued.add(site)

    def is_built_on(self, site: str) -> bool:
        """Tell whether answers of this site are gone on from, so that they must not be merged."""
        return site in self._continued

    def share_windows(self, *, shared: bool) -> None:
        """Say whether other processes hold calls in the same windows: then company may come where it is not seen coming."""
        self._company.shared = shared

    def plan(self, lesson: Lesson, *, max_output_tokens: int | None, now: float) -> Plan | Rest:
        """Say what the window should do for this lesson, which has just come, or why it should not be held at all."""
        self._notice(lesson, now)
        pace = self._paces.get(lesson.model) or Pace()
        added = lesson.merge.max_added_seconds
        lesson_s = pace.lesson_s(lesson.token_limit)
        # callers of one key differ in whether they stream: the more patient kind might still stand second
        if lesson_s > max(added.json, added.stream):
            return Rest("too_slow")
        if rest := self._standings.resting(lesson, now):
            return rest
        max_added_s = added.stream if lesson.stream else added.json
        size = self._standings.largest(lesson.model, lesson.window.max_size, now)
        max_size = int(min(size, pace.largest(lesson_s, max_added_s)))
        return Plan(
            max_wait_s=_max_wait_ms(lesson) / 1000,
            max_size=max_size,
            idle_s=self._idle_s(lesson, max_size, now),
            expect=lesson.expect,
            lesson_s=lesson_s,
            max_added_s=max_added_s,
            tokens=_tokens(lesson.token_limit, pace.learned_tokens()),
            max_tokens=max_output_tokens,
            streaming=lesson.stream,
            deadline_s=None if lesson.deadline_s is None else lesson.deadline_s * _DEADLINE_SHARE,
        )

    def _notice(self, lesson: Lesson, now: float) -> None:
        """Learn from the call's coming, held or not.

        One that comes again is nobody's company; one that announces its own tells nothing of those that don't.
        """
        cap_s = lesson.window.max_wait_ms / 1000
        if lesson.window.policy == "adaptive" and lesson.retry_count == 0 and lesson.expect is None and cap_s > 0:
            twin = lesson.identity_digest if lesson.deterministic else None
            self._company.arrived(lesson.site, lesson.key, cap_s, now, twin=twin)

    def _idle_s(self, lesson: Lesson, max_size: int, now: float) -> float | None:
        """Return how long the call waits for the next one; an announced group has its own end."""
        if lesson.window.policy == "fixed" or lesson.expect is not None:
            return None
        return self._company.gap_s(lesson.id, lesson.key, _max_wait_ms(lesson) / 1000, max_size, now)

    def learned_tokens(self, model: str) -> int | None:
        """Return the token limit that one lesson of this model should get where its caller names none; None: unknown."""
        pace = self._paces.get(model)
        return pace.learned_tokens() if pace else None

    def lesson_finished(self, model: str, completion_tokens: int) -> None:
        """Learn the length of one whole lesson (reasoning included; not one that was cut off)."""
        if tells_length(completion_tokens):
            _of(self._paces, model, Pace, self._max_models).length.add(completion_tokens)

    def decoded(self, model: str, completion_tokens: int, seconds: float) -> None:
        """Learn the speed: so many tokens came in `seconds` after the first; an answer that came at once says nothing."""
        if tells_speed(completion_tokens, seconds):
            _of(self._paces, model, Pace, self._max_models).speed.add(completion_tokens / seconds)

    def comes_whole(self, model: str) -> None:
        """Learn that answers of this model arrive when all is written."""
        _of(self._paces, model, Pace, self._max_models).whole = True

    def prompt_counted(self, model: str, prompt_tokens: int, request_bytes: int) -> None:
        """Learn how many tokens a lone request of this size was."""
        if prompt_tokens > 0 and request_bytes > 0:
            _of(self._paces, model, Pace, self._max_models).density.add(prompt_tokens / request_bytes)

    def batch_finished(self, result: BatchResult, now: float) -> tuple[Rested | Resumed, ...]:
        """Learn whether merging pays and works; returns whose merging rests from now on, or is back."""
        if result.price:
            self._prices[result.model] = result.price
            self._prices.move_to_end(result.model)
            if len(self._prices) > self._max_models:
                self._prices.popitem(last=False)
        return self._standings.take(result, now)

    def batch_too_large(self, model: str, size: int, now: float) -> Rested | None:
        """Make batches at most half of this one's size for a while; None: they are so small already."""
        return self._standings.shrink(model, size, now)

    def left_window(self, lesson: Lesson, outcome: Outcome) -> None:
        """Take in what the window made of this lesson."""
        if outcome == NO_COMPANY:
            self._standings.release(lesson)
        self._company.ended(lesson.id, merged=not isinstance(outcome, Alone))

    def loop_began(self, lesson: Lesson, within_s: float, now: float) -> None:
        """Take in that a call came which may be one of a loop: the next comes within so many seconds of its answer."""
        self._loops.began(lesson.site, _request(lesson), within_s, now)

    def loop_ended(self, lesson: Lesson, now: float, *, answered: bool) -> None:
        """Take in that such a call ended, with its lesson or without."""
        self._loops.ended(_request(lesson), now, answered=answered)

    def ahead(self, lesson: Lesson, request_bytes: int, max_output_tokens: int | None, now: float) -> int:
        """Return how many of this lesson are worth asking for at once; 1: this one alone."""
        pace = self._paces.get(lesson.model) or Pace()
        if not pace.length.typical:
            return 1
        completion = min(pace.length.typical, lesson.token_limit or pace.length.typical)
        room = lesson.window.max_size if max_output_tokens is None else int(max_output_tokens // max(completion * 1.5, 1))
        most = min(room, self._standings.largest(lesson.model, lesson.window.max_size, now))
        price = self._prices.get(lesson.model) or USUAL_PRICE
        return self._loops.worth(_request(lesson), most, pace.prompt_tokens(request_bytes), completion, price)

    def price(self, model: str) -> Price | None:
        """Return what the model's tokens cost, as the last batch told it."""
        return self._prices.get(model)


def _of(known: OrderedDict[str, T], name: str, make: Callable[[], T], most: int) -> T:
    """Return what is known under this name, made new where nothing is; the one that was taught longest ago is forgotten."""
    found = known.get(name)
    if found is None:
        found = known[name] = make()
        if len(known) > most:
            known.popitem(last=False)
    known.move_to_end(name)
    return found


def _request(lesson: Lesson) -> str:
    return f"{lesson.key}{lesson.identity_digest}"


def _max_wait_ms(lesson: Lesson) -> int:
    usual = lesson.window.max_wait_ms if lesson.expect is None else lesson.window.hinted_max_wait_ms
    return usual if lesson.max_wait_ms is None else min(usual, lesson.max_wait_ms)


def _tokens(named: int | None, learned: int | None) -> int:
    """Return what one lesson takes of the output limit: a named limit is a cap, and callers name far more than they use."""
    return min(named or learned or 0, learned or named or 0)
