"""The book's promises: who is held with whom, until when, in which order; by examples, then by arbitrary histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from proxy.model import BatchKey, CallId, Lesson, Plan
from proxy.windows.book import Away, Book, Joined, Sealed
from tests.make import make_lesson


def call(name: str, **overrides: Any) -> Lesson:
    return make_lesson(**({"id": CallId(name), "identity_digest": name, "key": BatchKey("k")} | overrides))


def plan(**overrides: Any) -> Plan:
    values: dict[str, Any] = {"max_wait_s": 0.1, "max_size": 5}
    return Plan(**(values | overrides))


def about(moment: float) -> float:
    return cast("float", pytest.approx(moment))


def book(max_waiting: int = 100, max_windows: int = 10) -> Book:
    return Book(max_waiting, max_windows)


def join(held: Book, name: str, now: float = 0.0, *, key: str = "k", **overrides: Any) -> Joined | Away:
    return held.join(call(name, key=BatchKey(key)), plan(**overrides), now)


def sealed(closed_by: str, *names: str, key: str = "k") -> tuple[Sealed, ...]:
    return (Sealed(BatchKey(key), tuple(CallId(n) for n in names), closed_by),)  # pyright: ignore[reportArgumentType]


def test_the_clock_starts_with_the_first_call() -> None:
    held = book()
    assert join(held, "a", 1.0) == Joined(1.1)
    assert join(held, "b", 1.05) == Joined(1.1)
    assert held.next_due() == 1.1
    assert held.due(1.0999) == ()
    assert held.due(1.1) == sealed("time", "a", "b")
    assert held.next_due() is None


def test_a_larger_wait_does_not_extend_the_window() -> None:
    held = book()
    join(held, "a", max_wait_s=0.1)
    assert join(held, "b", 0.05, max_wait_s=1.0) == Joined(0.1)


def test_a_shorter_wait_pulls_the_closing_forward() -> None:
    held = book()
    join(held, "a", max_wait_s=1.0)
    assert join(held, "b", 0.1, max_wait_s=0.05) == Joined(about(0.15))
    assert held.due(0.149) == ()
    assert held.due(0.151) == sealed("time", "a", "b")


def test_windows_of_other_keys_are_apart() -> None:
    held = book()
    join(held, "a", 0.0, key="k")
    join(held, "b", 0.01, key="l")
    assert held.windows == held.waiting == 2
    assert held.due(0.1) == sealed("time", "a", key="k")
    assert held.due(0.2) == sealed("time", "b", key="l")


def test_a_full_window_closes_at_once() -> None:
    held = book()
    join(held, "a", max_size=2)
    assert join(held, "b", max_size=2) == Joined(0.1, sealed("full", "a", "b"))
    assert held.waiting == held.windows == 0


def test_the_smallest_size_of_its_calls_counts() -> None:
    held = book()
    join(held, "a", max_size=5)
    assert join(held, "b", max_size=2) == Joined(0.1, sealed("full", "a", "b"))


def test_a_call_with_a_size_that_is_exceeded_opens_the_next_window() -> None:
    held = book()
    join(held, "a")
    join(held, "b")
    assert join(held, "c", 0.05, max_size=2) == Joined(about(0.15), sealed("no_room", "a", "b"))


def test_the_announced_calls_close_the_window() -> None:
    held = book()
    join(held, "a", expect=3)
    join(held, "b", expect=3)
    assert join(held, "c", expect=3) == Joined(0.1, sealed("expected", "a", "b", "c"))


def test_of_mixed_announcements_the_largest_counts_and_unannounced_calls_do_not() -> None:
    held = book()
    join(held, "a", expect=2)
    assert join(held, "b") == Joined(0.1)
    assert join(held, "c", expect=3) == Joined(0.1)
    assert join(held, "d", expect=2) == Joined(0.1, sealed("expected", "a", "b", "c", "d"))


def test_a_full_window_leaves_the_rest_of_the_announcement_to_the_next() -> None:
    held = book()
    for name in "abcde":
        last = join(held, name, expect=7, max_wait_s=1.0)
    assert last == Joined(1.0, sealed("full", *"abcde"))  # pyright: ignore[reportPossiblyUnboundVariable]
    join(held, "f", 0.2, expect=7, max_wait_s=1.0)
    assert join(held, "g", 0.3, expect=7, max_wait_s=1.0) == Joined(1.2, sealed("expected", "f", "g"))


def test_the_rest_of_an_announcement_is_forgotten_with_its_time() -> None:
    held = book()
    for name in "abcde":
        join(held, name, expect=7, max_wait_s=1.0)
    join(held, "f", 1.0, expect=7, max_wait_s=1.0)
    assert join(held, "g", 1.0, expect=7, max_wait_s=1.0) == Joined(2.0)


def test_a_call_that_left_has_come_all_the_same() -> None:
    held = book()
    join(held, "a", expect=3)
    join(held, "b", expect=3)
    assert held.leave(CallId("a"))
    assert join(held, "c", expect=3) == Joined(0.1, sealed("expected", "b", "c"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"max_size": 1}, "alone"),
        ({"max_wait_s": 0.0}, "alone"),
        ({"max_wait_s": -1.0}, "alone"),
        ({"expect": 1}, "alone"),
        ({"expect": 0}, "alone"),
        ({"deadline_s": 0.0}, "deadline"),
        ({"deadline_s": 5.0, "lesson_s": 5.0}, "deadline"),
        ({"tokens": 4096, "max_tokens": 4096}, "output_limit"),
    ],
)
def test_no_window_where_merging_cannot_happen(overrides: dict[str, Any], reason: str) -> None:
    held = book()
    assert join(held, "a", **overrides) == Away(reason)
    assert held.windows == held.waiting == 0


def test_the_wait_leaves_time_to_be_written_before_the_deadline() -> None:
    held = book()
    assert join(held, "a", 2.0, deadline_s=10.0, lesson_s=9.95) == Joined(about(2.05))


def test_a_call_joins_only_within_its_added_seconds() -> None:
    held = book()
    join(held, "a", lesson_s=8.0, max_added_s=15.0)
    join(held, "b", lesson_s=8.0, max_added_s=15.0)
    assert join(held, "c", 0.01, lesson_s=8.0, max_added_s=15.0) == Joined(about(0.11), sealed("no_room", "a", "b"))
    assert held.due(1.0) == sealed("time", "c")


def test_a_call_joins_only_within_everyone_elses_added_seconds() -> None:
    held = book()
    join(held, "a", lesson_s=8.0, max_added_s=45.0)
    join(held, "b", lesson_s=8.0, max_added_s=10.0)
    # streaming, so it would stand before both, and b would start after 16 seconds
    late = join(held, "c", lesson_s=8.0, max_added_s=10.0, streaming=True)
    assert late == Joined(0.1, sealed("no_room", "a", "b"))


def test_an_unmeasured_lesson_has_no_bound() -> None:
    held = book()
    for name in "abcd":
        assert join(held, name, lesson_s=0.0, max_added_s=0.0) == Joined(0.1)


def test_a_call_joins_only_within_everyones_deadline() -> None:
    held = book()
    join(held, "a", lesson_s=5.0, deadline_s=11.0)
    # earlier deadlines stand first: a would be done after 0.1 + 10 seconds
    assert join(held, "b", lesson_s=5.0, deadline_s=10.0) == Joined(0.1)
    assert join(held, "c", lesson_s=5.0, deadline_s=10.0) == Joined(0.1, sealed("no_room", "b", "a"))


def test_a_call_joins_only_within_the_output_limit() -> None:
    held = book()
    join(held, "a", tokens=2000, max_tokens=4096)
    join(held, "b", tokens=2000, max_tokens=4096)
    assert join(held, "c", tokens=97, max_tokens=4096) == Joined(0.1, sealed("no_room", "a", "b"))


def test_streaming_callers_stand_first_then_earliest_deadlines_then_arrival() -> None:
    held = book()
    join(held, "i", 2.0)
    join(held, "j30", 2.0, deadline_s=30.0)
    join(held, "s", 2.0, streaming=True)
    join(held, "s60", 2.0, streaming=True, deadline_s=60.0)
    last = join(held, "j", 2.0)
    assert last == Joined(2.1, sealed("full", "s60", "s", "j30", "i", "j"))


def test_identical_calls_that_expect_one_answer_are_never_together() -> None:
    held = book()
    held.join(call("a", deterministic=True, identity_digest="same"), plan(), 0.0)
    assert held.join(call("b", deterministic=True, identity_digest="same"), plan(), 0.0) == Away("identical_temperature_0")
    assert held.join(call("c", deterministic=True, identity_digest="other"), plan(), 0.0) == Joined(0.1)
    assert held.due(1.0) == sealed("time", "a", "c")


def test_a_twin_that_goes_alone_counts_as_come() -> None:
    held = book()
    held.join(call("a", deterministic=True, identity_digest="same"), plan(expect=2), 0.0)
    away = held.join(call("b", deterministic=True, identity_digest="same"), plan(expect=2), 0.0)
    assert away == Away("identical_temperature_0", sealed("expected", "a"))


def test_identical_calls_with_a_temperature_are_separate_lessons() -> None:
    held = book()
    held.join(call("a", identity_digest="same"), plan(), 0.0)
    assert held.join(call("b", identity_digest="same"), plan(), 0.0) == Joined(0.1)


def test_over_max_waiting_a_call_goes_alone_and_nobody_else_notices() -> None:
    held = book(max_waiting=2)
    join(held, "a")
    join(held, "b")
    assert join(held, "c") == join(held, "d", key="l") == Away("windows_full")
    assert held.due(0.1) == sealed("time", "a", "b")
    assert isinstance(join(held, "c"), Joined)


def test_over_max_windows_only_new_keys_go_alone() -> None:
    held = book(max_windows=1)
    join(held, "a", key="k")
    assert join(held, "b", key="l") == Away("windows_full")
    assert join(held, "c", key="k") == Joined(0.1)


def test_a_window_that_makes_room_for_the_next_is_no_window_too_many() -> None:
    held = book(max_windows=1)
    join(held, "a", tokens=9, max_tokens=10)
    assert join(held, "b", tokens=9, max_tokens=10) == Joined(0.1, sealed("no_room", "a"))


def test_who_leaves_is_in_no_batch() -> None:
    held = book()
    join(held, "a")
    join(held, "b")
    assert held.leave(CallId("a"))
    assert not held.leave(CallId("a"))
    assert not held.leave(CallId("nobody"))
    assert held.due(0.1) == sealed("time", "b")
    assert not held.leave(CallId("b"))


def test_an_empty_window_is_gone() -> None:
    held = book()
    join(held, "a")
    held.leave(CallId("a"))
    assert held.windows == 0
    assert held.next_due() is None
    assert join(held, "b", 0.05) == Joined(about(0.15))


def test_a_window_past_its_time_takes_nobody_in() -> None:
    held = book()
    join(held, "a")
    assert join(held, "b", 0.1) == Joined(about(0.2), sealed("time", "a"))


def test_drain_closes_everything_for_good() -> None:
    held = book()
    join(held, "a", key="k")
    join(held, "b", key="l")
    assert held.drain(0.01) == sealed("drain", "a", key="k") + sealed("drain", "b", key="l")
    assert join(held, "c", 0.02) == Away("draining")
    assert held.drain(0.03) == ()


def test_one_call_waits_once() -> None:
    held = book()
    join(held, "a")
    with pytest.raises(ValueError, match="waits already"):
        join(held, "a", key="l")


def test_a_window_closes_when_nobody_has_come_for_the_gap() -> None:
    held = book()
    assert join(held, "a", 1.0, idle_s=0.02) == Joined(about(1.02))
    assert held.due(1.019) == ()
    assert held.due(1.021) == sealed("idle", "a")


def test_each_call_pushes_the_closing_out_by_its_gap_but_never_past_the_bound_of_the_first() -> None:
    held = book()
    join(held, "a", 1.0, idle_s=0.04)
    assert join(held, "b", 1.03, idle_s=0.05) == Joined(about(1.08))
    assert held.due(1.05) == ()
    assert join(held, "c", 1.07, idle_s=0.05) == Joined(1.1)
    assert held.due(1.1) == sealed("time", "a", "b", "c")


def test_a_call_that_expects_nobody_behind_it_closes_its_window_now() -> None:
    held = book()
    join(held, "a", 1.0, idle_s=0.04)
    assert join(held, "b", 1.03, idle_s=0.0) == Joined(1.03, sealed("idle", "a", "b"))
    assert join(held, "c", 1.03, idle_s=0.0) == Away("alone")
    assert join(held, "d", 1.03, idle_s=0.0, expect=2) == Joined(about(1.13))


def test_a_call_without_a_gap_waits_for_the_bound() -> None:
    held = book()
    join(held, "a", 1.0, idle_s=0.02)
    assert join(held, "b", 1.01) == Joined(1.1)


def test_where_companions_are_announced_the_bound_alone_counts() -> None:
    held = book()
    join(held, "a", 1.0, expect=3, idle_s=0.02)
    assert join(held, "b", 1.01, idle_s=0.02) == Joined(1.1)


def test_a_retry_of_a_waiting_call_shortens_the_bound_and_never_lengthens_the_gap() -> None:
    held = book()
    join(held, "a", 1.0, idle_s=0.04)
    held.hasten(CallId("a"), plan(), 1.01)
    assert held.next_due() == about(1.04)
    held.hasten(CallId("a"), plan(max_wait_s=0.05), 1.01)
    assert join(held, "b", 1.03, idle_s=0.09) == Joined(about(1.06))
    assert held.due(1.07) == sealed("time", "a", "b")


def test_who_joins_must_fit_though_later_calls_keep_the_window_open_to_its_bound() -> None:
    held = book()
    join(held, "a", lesson_s=5.0, deadline_s=10.05, idle_s=0.01)
    assert join(held, "b", lesson_s=5.0, deadline_s=30.0, idle_s=0.01) == Joined(0.01)
    # by the gap it would still be in time, by the bound it is not
    assert join(held, "c", lesson_s=5.0, deadline_s=10.05, idle_s=0.01) == Joined(0.01, sealed("no_room", "a", "b"))


def test_outdated_closings_and_groups_do_not_pile_up() -> None:
    held = book(max_waiting=10, max_windows=3)
    for i in range(2000):
        join(held, f"{i}", i / 1e4, key=f"k{i}", max_wait_s=1e9, max_size=2, expect=9)
        join(held, f"{i}'", i / 1e4, key=f"k{i}", max_wait_s=1e9, max_size=2, expect=9)
    assert len(held._closings) <= 2 * 3 + 64 + 1
    assert len(held._rest_of_group) <= 3


PLANS = st.builds(
    Plan,
    max_wait_s=st.sampled_from([0.0, 0.05, 0.1, 1.0]),
    max_size=st.integers(1, 4),
    expect=st.none() | st.integers(1, 6),
    lesson_s=st.sampled_from([0.0, 2.0, 5.0]),
    max_added_s=st.sampled_from([0.0, 4.0, 10.0, inf]),
    tokens=st.sampled_from([0, 100, 700, 2000]),
    max_tokens=st.sampled_from([None, 1500, 2000]),
    streaming=st.booleans(),
    deadline_s=st.none() | st.sampled_from([0.05, 3.0, 6.0, 30.0]),
    idle_s=st.none() | st.sampled_from([0.0, 0.02, 0.3]),
)


@dataclass
class Known:
    lesson: Lesson
    plan: Plan
    joined: float
    fates: list[str] = field(default_factory=list[str])

    @property
    def must_close_by(self) -> float:
        spare_s = inf if self.plan.deadline_s is None else self.plan.deadline_s - self.plan.lesson_s
        return self.joined + min(self.plan.max_wait_s, spare_s)


class Histories(RuleBasedStateMachine):
    """Any order of joins, leaves, late timers and a drain."""

    calls: Bundle[CallId] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(max_waiting=7, max_windows=3)
        self.now = 100.0
        self.known: dict[CallId, Known] = {}
        self.waiting: set[CallId] = set()
        self.drained = False

    @rule(target=calls, wanted=PLANS, key=st.sampled_from("klmn"), twin=st.integers(0, 2), deterministic=st.booleans())
    def join(self, wanted: Plan, key: str, twin: int, *, deterministic: bool) -> CallId:
        name = CallId(f"call {len(self.known)}")
        # calls whose bodies are identical have the same temperature
        lesson = call(name, key=BatchKey(key), identity_digest=f"{key}{twin}{deterministic}", deterministic=deterministic)
        self.known[name] = me = Known(lesson, wanted, self.now)
        step = self.book.join(lesson, wanted, self.now)
        match step:
            case Joined():
                self.waiting.add(name)
                assert self.now <= step.closes_at <= self.now + wanted.max_wait_s
                assert self.now < step.closes_at or step.sealed
            case Away():
                me.fates.append(step.reason)
        self.seal(step.sealed, late_s=0.0)
        if self.drained:
            assert me.fates == ["draining"]
        return name

    @rule(name=consumes(calls))
    def leave(self, name: CallId) -> None:
        assert self.book.leave(name) == (name in self.waiting)
        if name in self.waiting:
            self.waiting.discard(name)
            self.known[name].fates.append("left")

    @rule(seconds=st.sampled_from([0.001, 0.04, 0.3]))
    def time_passes(self, seconds: float) -> None:
        """The timer rings at the next closing, as often as there is one."""
        until = self.now + seconds
        while (due := self.book.next_due()) is not None and due <= until:
            self.now = due
            ringing = self.book.due(self.now)
            assert ringing
            self.seal(ringing, late_s=0.0)
        self.now = until

    @rule(seconds=st.sampled_from([0.02, 0.5]))
    def the_loop_is_busy(self, seconds: float) -> None:
        """The timer rings late; until then calls may come (the next rule's choice)."""
        self.now += seconds

    @rule()
    def the_timer_rings(self) -> None:
        self.seal(self.book.due(self.now), late_s=inf)

    @rule(sure=st.integers(0, 9))
    def drain(self, sure: int) -> None:
        if sure == 0:
            self.drained = True
            self.seal(self.book.drain(self.now), late_s=inf)
            assert not self.waiting

    def seal(self, windows: tuple[Sealed, ...], late_s: float) -> None:
        for window in windows:
            assert window.calls
            self.within_bounds(window, late_s)
            for name in window.calls:
                self.waiting.remove(name)
                self.known[name].fates.append("batch" if len(window.calls) > 1 else "alone")

    def within_bounds(self, window: Sealed, late_s: float) -> None:
        members = [self.known[name] for name in window.calls]
        plans = [m.plan for m in members]
        assert {m.lesson.key for m in members} == {window.key}
        assert len(members) <= min(p.max_size for p in plans)
        digests = [m.lesson.identity_digest for m in members]
        assert all(not m.lesson.deterministic or digests.index(d) == i for i, (m, d) in enumerate(zip(members, digests, strict=True)) if i)
        order = [(not m.plan.streaming, inf if m.plan.deadline_s is None else m.joined + m.plan.deadline_s, m.joined) for m in members]
        assert order == sorted(order)
        if len(members) > 1:
            limits = [p.max_tokens for p in plans if p.max_tokens is not None]
            assert not limits or sum(p.tokens for p in plans) <= min(limits)
        before_s = 0.0
        # a late timer, or a call that comes before it rings, finds the window past the time at which it was to close
        closed_at = self.now if window.closed_by not in {"time", "idle"} else min(m.must_close_by for m in members)
        for m in members:
            assert before_s == 0 or before_s <= m.plan.max_added_s
            if m.plan.deadline_s is not None and late_s == 0:
                assert min(closed_at, self.now) - m.joined + before_s + m.plan.lesson_s <= m.plan.deadline_s + 1e-3
            before_s += m.plan.lesson_s

    @invariant()
    def everybody_has_one_fate(self) -> None:
        for name, known in self.known.items():
            assert len(known.fates) == (0 if name in self.waiting else 1)
        assert self.book.waiting == len(self.waiting) <= 7
        assert self.book.windows == len({self.known[name].lesson.key for name in self.waiting}) <= 3

    @invariant()
    def nobody_is_to_wait_past_the_bound(self) -> None:
        due = self.book.next_due()
        assert (due is None) == (not self.waiting)
        if due is not None:
            assert due <= min(self.known[name].joined + self.known[name].plan.max_wait_s for name in self.waiting) + 1e-9

    def teardown(self) -> None:
        self.seal(self.book.due(inf), late_s=inf)
        assert not self.waiting
        assert all(len(known.fates) == 1 for known in self.known.values())


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
