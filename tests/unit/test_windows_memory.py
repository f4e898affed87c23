"""The memory window around its book: exact times, one timer, tasks of their own; in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, cast

import pytest

from proxy.interfaces import Delivery
from proxy.model import Alone, Batch, BatchKey, CallId, Completed, Failed, Held, Lesson, Merged, Plan, Usage
from proxy.windows.memory import MemoryWindow, _Ride
from proxy.windows.seats import Seat
from tests.make import make_batch, make_caller, make_lesson
from tests.virtual_time import run

CALLER = make_caller()
FIELD: contextvars.ContextVar[str] = contextvars.ContextVar("FIELD", default="unbound")


def lesson(name: str, **overrides: Any) -> Lesson:
    values: dict[str, Any] = {"id": CallId(name), "identity_digest": name}
    return make_lesson(**(values | overrides))


async def settle_all(batch: Batch, delivery: Delivery) -> None:
    for one in batch.lessons:
        delivery.deliver(Alone("settled"), one.id)


def window_of(dispatch: Any = settle_all, max_waiting: int = 5000) -> MemoryWindow:
    return MemoryWindow(dispatch, max_waiting=max_waiting, max_windows=5000)


async def after(seconds: float, window: MemoryWindow, one: Lesson, plan: Plan) -> tuple[Held, float]:
    """Join after a while; return what the window made of it and how long that took."""
    await asyncio.sleep(seconds)
    loop = asyncio.get_running_loop()
    began = loop.time()
    held = await window.join(one, plan, CALLER)
    return held, loop.time() - began


def test_each_call_waits_exactly_until_its_window_closes_and_is_told_so() -> None:
    async def test() -> list[tuple[Held, float]]:
        window = window_of()
        plan = Plan(max_wait_s=0.1, max_size=9)
        return await asyncio.gather(*(after(i * 0.03, window, lesson(f"{i}"), plan) for i in range(3)))

    results = run(test())
    assert [held.outcome for held, _ in results] == [Alone("settled")] * 3
    for (held, took_s), expected in zip(results, [0.1, 0.07, 0.04], strict=True):
        assert held.wait_s == pytest.approx(expected)
        assert took_s == pytest.approx(expected)


def test_the_time_upstream_is_not_the_windows() -> None:
    async def slow(batch: Batch, delivery: Delivery) -> None:
        await asyncio.sleep(20)
        await settle_all(batch, delivery)

    async def test() -> list[tuple[Held, float]]:
        window = window_of(slow)
        return await asyncio.gather(*(after(0, window, lesson(f"{i}"), Plan(max_wait_s=0.1, max_size=9)) for i in range(2)))

    for held, took_s in run(test()):
        assert held.wait_s == pytest.approx(0.1)
        assert took_s == pytest.approx(20.1)


def test_a_call_with_a_shorter_wait_brings_the_timer_forward() -> None:
    async def test() -> tuple[tuple[Held, float], tuple[Held, float]]:
        window = window_of()
        return await asyncio.gather(
            after(0.0, window, lesson("patient"), Plan(max_wait_s=1.0, max_size=9)),
            after(0.1, window, lesson("hasty"), Plan(max_wait_s=0.05, max_size=9)),
        )

    assert [held.wait_s for held, _ in run(test())] == pytest.approx([0.15, 0.05])


def test_two_hundred_windows_need_one_timer_and_close_on_time() -> None:
    async def test() -> list[tuple[Held, float]]:
        window = window_of()
        plan = Plan(max_wait_s=0.1, max_size=9)
        calls = [after(0.0001 * i, window, lesson(f"{i}", key=BatchKey(f"key {i % 200}")), plan) for i in range(400)]
        everyone = asyncio.gather(*calls)
        await asyncio.sleep(0.05)
        assert window.open_windows == 200
        assert window.waiting == 400
        scheduled = cast("list[asyncio.TimerHandle]", vars(asyncio.get_running_loop())["_scheduled"])
        assert sum(not timer.cancelled() for timer in scheduled) == 1
        return await everyone

    assert max(held.wait_s for held, _ in run(test())) == pytest.approx(0.1)


def test_a_timer_that_rings_a_little_early_closes_the_window_all_the_same() -> None:
    async def test() -> Held:
        window = window_of()
        call = asyncio.create_task(window.join(lesson("a"), Plan(max_wait_s=0.1, max_size=9), CALLER))
        await asyncio.sleep(0.0999)
        window._due(asyncio.get_running_loop().time() + 0.0001)
        assert window.open_windows == 0
        return await call

    assert run(test()).outcome == Alone("alone")


def test_a_batch_has_a_context_of_its_own() -> None:
    """What a caller bound for its log lines must not appear in those of the batch that it happened to close."""
    seen: list[str] = []

    async def look(batch: Batch, delivery: Delivery) -> None:
        seen.append(FIELD.get())
        await settle_all(batch, delivery)

    async def test() -> None:
        window = window_of(look)

        async def call(name: str) -> None:
            FIELD.set(name)
            await window.join(lesson(name), Plan(max_wait_s=1.0, max_size=2), CALLER)

        await asyncio.gather(call("a"), call("b"))

    run(test())
    assert seen == ["unbound"]


def test_a_batch_that_is_cancelled_before_its_first_step_settles_its_callers() -> None:
    async def never(batch: Batch, delivery: Delivery) -> None:
        pytest.fail("the batch was closed before it began")

    async def test() -> list[Held]:
        window = window_of(never)
        calls = [asyncio.create_task(window.join(lesson(name), Plan(max_wait_s=1.0, max_size=2), CALLER)) for name in "ab"]
        await asyncio.sleep(0)
        assert window.running_batches == 1
        await window.aclose()
        return await asyncio.gather(*calls)

    assert [type(held.outcome) for held in run(test())] == [Failed, Failed]


def test_a_dispatch_that_ends_in_an_error_is_told_to_the_loop_once() -> None:
    told: list[dict[str, Any]] = []

    async def broken(batch: Batch, delivery: Delivery) -> None:
        raise ZeroDivisionError

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        window = MemoryWindow(broken, max_waiting=9, max_windows=9, new_id=lambda: "batch-7")
        await asyncio.gather(*(window.join(lesson(name), Plan(max_wait_s=1.0, max_size=2), CALLER) for name in "ab"))

    run(test())
    assert [(type(c["exception"]), c["message"]) for c in told] == [(ZeroDivisionError, "dispatch of batch batch-7 failed")]


def test_the_same_call_cannot_wait_twice() -> None:
    async def test() -> None:
        window = window_of()
        first = asyncio.create_task(window.join(lesson("a"), Plan(max_wait_s=1.0, max_size=9), CALLER))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="waits already"):
            await window.join(lesson("a"), Plan(max_wait_s=1.0, max_size=9), CALLER)
        assert (await first).outcome == Alone("alone")

    run(test())


def test_a_retry_leaves_its_original_behind_and_the_original_a_retry() -> None:
    """Whoever of the two leaves, the other still gets the lesson; when both have left, the call is out of the window."""

    async def test(leaving: list[int]) -> tuple[list[Held | BaseException], int]:
        window = window_of()
        plan = Plan(max_wait_s=0.1, max_size=9)
        calls = [
            asyncio.create_task(window.join(one, plan, CALLER))
            for one in (lesson("a"), lesson("a again", identity_digest="a", retry_count=1), lesson("b"))
        ]
        await asyncio.sleep(0.05)
        for i in leaving:
            calls[i].cancel()
        await asyncio.sleep(0)
        waiting = window.waiting
        return await asyncio.gather(*calls, return_exceptions=True), waiting

    for leaving, waiting, outcome in [([0], 2, "settled"), ([1], 2, "settled"), ([0, 1], 1, "alone")]:
        held, now_waiting = run(test(leaving))
        assert now_waiting == waiting
        assert [h.outcome for h in held if isinstance(h, Held)] == [Alone(outcome)] * (3 - len(leaving))


def test_identical_retries_are_spread_over_the_identical_calls_they_repeat() -> None:
    async def number(batch: Batch, delivery: Delivery) -> None:
        for one in batch.lessons:
            delivery.deliver(Alone(one.id), one.id)

    async def test() -> list[Held]:
        window = window_of(number)
        same = {"identity_digest": "same"}
        calls = [lesson("a", **same), lesson("b", **same), lesson("c", **same, retry_count=1), lesson("d", **same, retry_count=2)]
        return await asyncio.gather(*(window.join(one, Plan(max_wait_s=0.1, max_size=9), CALLER) for one in calls))

    assert [held.outcome for held in run(test())] == [Alone("a"), Alone("b"), Alone("a"), Alone("b")]


def test_nothing_is_kept_of_calls_that_are_over() -> None:
    async def test() -> MemoryWindow:
        window = window_of()
        for key in range(300):
            plan = Plan(max_wait_s=0.1, max_size=2)
            await asyncio.gather(*(window.join(lesson(f"{key}{i}", key=BatchKey(f"{key}")), plan, CALLER) for i in range(3)))
        return window

    window = run(test())
    assert (window.waiting, window.open_windows, window.running_batches) == (0, 0, 0)
    assert not window._seats
    assert not window._twins._pending


@pytest.mark.parametrize("bound_s", [0.0, 0.02])
def test_a_retry_waits_no_longer_than_its_own_bound(bound_s: float) -> None:
    """It joins the call that it repeats, and the window of both then closes in its time."""

    async def test() -> tuple[tuple[Held, float], ...]:
        window = window_of()
        return await asyncio.gather(
            after(0.0, window, lesson("a"), Plan(max_wait_s=1.0, max_size=9)),
            after(0.0, window, lesson("b"), Plan(max_wait_s=1.0, max_size=9)),
            after(0.1, window, lesson("a again", identity_digest="a", retry_count=1), Plan(max_wait_s=bound_s, max_size=9)),
        )

    held = run(test())
    assert [took_s for _, took_s in held] == pytest.approx([0.1 + bound_s, 0.1 + bound_s, bound_s])
    assert [h.outcome for h, _ in held] == [Alone("settled")] * 3


def test_a_call_of_another_key_is_handed_nothing() -> None:
    """Key and call are checked at the hand-over: should a call ever stand in a batch of another key, it gets no lesson of it."""

    async def test() -> tuple[bool, bool]:
        seats = [Seat(lesson(key, key=BatchKey(key)), CALLER, [asyncio.get_running_loop().create_future()]) for key in ("own", "other")]
        batch = make_batch(lessons=tuple(seat.lesson for seat in seats), key=BatchKey("own"))
        ride = _Ride(batch, seats)
        done = [Completed(seat.lesson.id, "content", "m", Usage(), False, 0, Merged(batch.id, 2)) for seat in seats]
        own, other = [ride.deliver(one, one.id) for one in done]
        assert ride.waiting(done[1].id)
        return own, other

    assert run(test()) == (True, False)


def test_a_retry_that_may_not_wait_joins_its_pending_call_and_opens_nothing() -> None:
    """What a resting site's retry asks for: its own call, from before the rest, in a batch that is under way; else nothing."""

    async def slowly(batch: Batch, delivery: Delivery) -> None:
        await asyncio.sleep(1.0)
        for one in batch.lessons:
            delivery.deliver(Alone("settled"), one.id)

    async def test() -> tuple[tuple[Held, float], ...]:
        window = window_of(slowly)
        joins = Plan(max_wait_s=0.0, max_size=1)
        return await asyncio.gather(
            after(0.0, window, lesson("a"), Plan(max_wait_s=1.0, max_size=2)),
            after(0.0, window, lesson("b"), Plan(max_wait_s=1.0, max_size=2)),
            after(0.5, window, lesson("a again", identity_digest="a", retry_count=1), joins),
            after(0.5, window, lesson("c again", identity_digest="c", retry_count=1), joins),
        )

    held = run(test())
    assert [(h.outcome, took_s) for h, took_s in held[2:]] == [(Alone("settled"), pytest.approx(0.5)), (Alone("alone"), 0.0)]
