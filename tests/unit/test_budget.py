"""The resend budget's promise: never more than max(floor, share of the calls) resends in any ten seconds, by name."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.budget import ResendBudget

WINDOW_S = 10.0


def take(budget: ResendBudget, times: int, now: float, name: str = "m") -> int:
    return sum(budget.take(name, now) for _ in range(times))


def test_without_calls_the_floor_is_free() -> None:
    assert take(ResendBudget(), 50, 100.0) == 10


def test_a_fifth_of_many_calls_may_be_resent() -> None:
    budget = ResendBudget()
    for i in range(200):
        budget.called("m", 100.0 + i / 100)
    assert take(budget, 100, 103.0) == 40


def test_names_are_apart() -> None:
    budget = ResendBudget()
    assert take(budget, 11, 0.0, "a") == take(budget, 11, 0.0, "b") == 10


def test_the_budget_is_whole_again_after_the_window() -> None:
    budget = ResendBudget()
    take(budget, 10, 100.2)
    assert take(budget, 10, 110.1) == 0
    assert take(budget, 50, 111.0) == 10


def test_retry_after_is_nothing_while_there_is_budget() -> None:
    budget = ResendBudget()
    assert budget.retry_after_s("unknown", 5.0) == 0.0
    take(budget, 9, 5.0)
    assert budget.retry_after_s("m", 5.0) == 0.0


def test_retry_after_names_the_first_moment_when_a_resend_is_possible() -> None:
    budget = ResendBudget()
    take(budget, 4, 100.0)
    take(budget, 6, 104.0)
    wait_s = budget.retry_after_s("m", 105.0)
    assert WINDOW_S - 5.0 <= wait_s <= WINDOW_S - 5.0 + 0.5
    assert not budget.take("m", 105.0 + wait_s - 0.01)
    assert budget.take("m", 105.0 + wait_s + 0.001)


def test_retry_after_foresees_that_calls_grow_old_too() -> None:
    budget = ResendBudget()
    for _ in range(100):
        budget.called("m", 100.0)
    assert take(budget, 99, 104.0) == 20
    # at 110 the calls are gone: the floor has no room before the resends of 104 are gone as well
    assert 9.0 <= budget.retry_after_s("m", 104.5) <= 10.0


def test_only_the_names_used_last_are_remembered() -> None:
    budget = ResendBudget(max_names=3)
    for i in range(100):
        budget.called(f"{i}", 0.0)
    assert list(budget._tallies) == ["97", "98", "99"]


def test_a_long_history_is_not_kept() -> None:
    budget = ResendBudget()
    for i in range(10_000):
        budget.called("m", i / 10)
    assert len(budget._tallies["m"].slices) <= 21


def test_a_clock_that_steps_back_breaks_nothing() -> None:
    budget = ResendBudget()
    take(budget, 10, 100.0)
    assert not budget.take("m", 50.0)


HISTORY = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40), st.integers(0, 20)), max_size=30)


@given(HISTORY, st.integers(0, 12), st.sampled_from([0.0, 0.2, 0.5]))
@settings(max_examples=200, deadline=None)
def test_no_window_ever_holds_more_resends_than_allowed(history: list[tuple[float, int, int]], floor: int, share: float) -> None:
    budget, now = ResendBudget(floor, share, WINDOW_S), 50.0
    calls: list[float] = []
    resends: list[float] = []
    for step_s, called, wanted in history:
        now += step_s
        for _ in range(called):
            budget.called("m", now)
            calls.append(now)
        for _ in range(wanted):
            before = sum(t > now - WINDOW_S for t in resends)
            if budget.take("m", now):
                resends.append(now)
                assert before + 1 <= max(floor, share * sum(t > now - WINDOW_S for t in calls))
            else:
                # refusing is only safe, never wanton: with a window half a second longer and calls half a second fewer, it was full
                full = sum(t > now - WINDOW_S - 0.51 for t in resends)
                assert full >= max(floor, int(share * sum(t > now - WINDOW_S + 0.51 for t in calls)))
                assert floor == 0 or budget.retry_after_s("m", now) > 0
