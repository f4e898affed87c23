"""What every window promises, whatever holds its state: one suite over all of them.

Times are real here (a window may live on a server), so no test depends on how short they are: what must not close by
time waits `LONG_S`, what must does so after `SHORT_S`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

import pytest

from proxy.errors import UpstreamQuotaError
from proxy.interfaces import Delivery, Dispatch, Window
from proxy.model import (
    Alone,
    Batch,
    BatchId,
    BatchKey,
    CallId,
    Completed,
    Failed,
    Held,
    Lesson,
    Merged,
    Outcome,
    Plan,
    Refused,
    Secret,
    Usage,
)
from proxy.windows.memory import MemoryWindow
from proxy.windows.redis import RedisWindow, Sharing
from tests.make import make_caller, make_lesson

SHORT_S = 0.02
LONG_S = 30.0


class MakeWindow(Protocol):
    def __call__(self, dispatch: Dispatch, *, max_waiting: int = 5000, max_windows: int = 5000) -> AbstractAsyncContextManager[Window]: ...


@asynccontextmanager
async def memory(dispatch: Dispatch, *, max_waiting: int = 5000, max_windows: int = 5000) -> AsyncGenerator[Window]:
    ids = count()
    window = MemoryWindow(dispatch, max_waiting=max_waiting, max_windows=max_windows, new_id=lambda: f"batch-{next(ids)}")
    try:
        yield window
    finally:
        await window.aclose()


def shared(url: str) -> MakeWindow:
    """Windows over a real Redis; each test has a secret, and so windows, of its own."""

    @asynccontextmanager
    async def make(dispatch: Dispatch, *, max_waiting: int = 5000, max_windows: int = 5000) -> AsyncGenerator[Window]:
        # a machine that runs the tests of many must not fail a round trip for being slow
        sharing = Sharing(url, secrets.token_bytes(16), b"", timeout_s=2.0)
        window = RedisWindow(dispatch, sharing, max_waiting=max_waiting, max_windows=max_windows)
        try:
            await window.open()
            assert window.shared
            yield window
        finally:
            await window.aclose()

    return make


@pytest.fixture(params=["memory", "redis", "cluster"])
def make_window(request: pytest.FixtureRequest) -> MakeWindow:
    match request.param:
        case "memory":
            return memory
        case "redis":
            return shared(request.getfixturevalue("redis_server").url)
        case _:
            return shared(request.getfixturevalue("redis_cluster").url.replace("redis:", "redis+cluster:"))


def lesson(name: str, **overrides: Any) -> Lesson:
    values: dict[str, Any] = {"id": CallId(name), "identity_digest": name}
    return make_lesson(**(values | overrides))


def plan(**overrides: Any) -> Plan:
    values: dict[str, Any] = {"max_wait_s": LONG_S, "max_size": 5}
    return Plan(**(values | overrides))


def completed(call: CallId, batch: Batch) -> Completed:
    return Completed(call, f"content of {call}", "m", Usage(1, 1), False, 0, Merged(batch.id, len(batch.lessons)))


@dataclass
class Answering:
    """Completes each lesson of each batch, and remembers the batches."""

    batches: list[Batch] = field(default_factory=list[Batch])

    async def __call__(self, batch: Batch, delivery: Delivery) -> None:
        self.batches.append(batch)
        for one in batch.lessons:
            await asyncio.sleep(0)
            delivery.deliver(completed(one.id, batch), one.id)


@dataclass
class ByHand:
    """Begins each batch and leaves the rest to the test."""

    begun: asyncio.Queue[tuple[Batch, Delivery]] = field(default_factory=asyncio.Queue[tuple[Batch, Delivery]])
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: list[Batch] = field(default_factory=list[Batch])

    async def __call__(self, batch: Batch, delivery: Delivery) -> None:
        self.begun.put_nowait((batch, delivery))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(batch)
            raise


def joining(window: Window, name: str, lesson_overrides: dict[str, Any] | None = None, **plan_overrides: Any) -> asyncio.Task[Held]:
    return asyncio.create_task(window.join(lesson(name, **(lesson_overrides or {})), plan(**plan_overrides), make_caller()), name=name)


async def settled(*tasks: asyncio.Task[Held]) -> list[Outcome]:
    return [held.outcome for held in await asyncio.gather(*tasks)]


def names(batch: Batch) -> list[str]:
    return [one.id for one in batch.lessons]


async def test_each_call_of_a_batch_gets_its_own_lesson(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        outcomes = await settled(*(joining(window, name, max_size=3) for name in "abc"))
    (batch,) = dispatch.batches
    assert outcomes == [completed(CallId(name), batch) for name in "abc"]
    assert (names(batch), batch.closed_by, batch.key) == (["a", "b", "c"], "full", "key-0")


async def test_a_window_closes_by_time(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        calls = [joining(window, name, max_wait_s=SHORT_S) for name in "ab"]
        held = await asyncio.gather(*calls)
    assert [b.closed_by for b in dispatch.batches] == ["time"]
    assert all(0 < h.wait_s < LONG_S for h in held)


async def test_a_lone_call_is_sent_as_it_is(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        held = await joining(window, "a", max_wait_s=SHORT_S)
    assert held.outcome == Alone("alone")
    assert held.wait_s >= SHORT_S / 2
    assert dispatch.batches == []


async def test_calls_of_different_keys_never_share_a_batch(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        await settled(*(joining(window, f"{key}{i}", {"key": BatchKey(key)}, max_size=2) for i in "01" for key in "kl"))
    assert sorted((b.key, names(b)) for b in dispatch.batches) == [("k", ["k0", "k1"]), ("l", ["l0", "l1"])]


async def test_streaming_callers_stand_first(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        await settled(joining(window, "json", max_size=2), joining(window, "stream", max_size=2, streaming=True))
    assert names(dispatch.batches[0]) == ["stream", "json"]


async def test_the_announced_calls_close_the_window(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        await settled(*(joining(window, name, expect=3) for name in "abc"))
    assert dispatch.batches[0].closed_by == "expected"


async def test_a_call_that_does_not_fit_sends_the_others_and_opens_the_next_window(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        first = [joining(window, name, tokens=400, max_tokens=1000, max_wait_s=1.0) for name in "ab"]
        late = joining(window, "c", tokens=400, max_tokens=1000, max_wait_s=SHORT_S)
        await settled(*first)
        assert (await late).outcome == Alone("alone")
    assert [(names(b), b.closed_by) for b in dispatch.batches] == [(["a", "b"], "no_room")]


async def test_twins_that_expect_one_answer_are_apart(make_window: MakeWindow) -> None:
    dispatch = Answering()
    same = {"identity_digest": "same", "deterministic": True}
    async with make_window(dispatch) as window:
        outcomes = await settled(*(joining(window, name, same, max_wait_s=SHORT_S) for name in "ab"))
    assert outcomes == [Alone("alone"), Alone("identical_temperature_0")]


async def test_over_its_bounds_a_window_sends_calls_alone(make_window: MakeWindow) -> None:
    async with make_window(Answering(), max_waiting=2, max_windows=1) as window:
        first = joining(window, "a", {"key": BatchKey("k")}, max_size=3, max_wait_s=1.0)
        await asyncio.sleep(0)
        assert (await joining(window, "b", {"key": BatchKey("l")})).outcome == Alone("windows_full")
        second = joining(window, "c", {"key": BatchKey("k")}, max_size=3)
        await asyncio.sleep(0)
        assert (await joining(window, "d", {"key": BatchKey("k")}, max_size=3)).outcome == Alone("windows_full")
        await window.drain()
        assert all(isinstance(outcome, Completed) for outcome in await settled(first, second))


async def test_a_batch_goes_with_the_credential_of_its_first_call(make_window: MakeWindow) -> None:
    dispatch = Answering()
    callers = [make_caller(bearer=Secret(name)) for name in "ab"]
    async with make_window(dispatch) as window:
        joins = [window.join(lesson(c.bearer.value), plan(max_size=2, streaming=c is callers[1]), c) for c in callers if c.bearer]
        await asyncio.gather(*joins)
    assert dispatch.batches[0].caller is callers[1]
    assert names(dispatch.batches[0]) == ["b", "a"]


async def test_a_caller_that_leaves_the_window_is_in_no_batch(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        calls = {name: joining(window, name) for name in "abc"}
        await asyncio.sleep(0)
        await cancel(calls["a"])
        await window.drain()
        await settled(calls["b"], calls["c"])
    assert names(dispatch.batches[0]) == ["b", "c"]


async def test_a_call_whose_only_companion_left_is_sent_as_it_is(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        leaving, staying = joining(window, "a"), joining(window, "b")
        await asyncio.sleep(0)
        await cancel(leaving)
        await window.drain()
        assert await settled(staying) == [Alone("alone")]
    assert dispatch.batches == []


async def test_a_caller_that_leaves_a_batch_takes_nobody_along(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        leaving, staying = joining(window, "a", max_size=2), joining(window, "b", max_size=2)
        batch, delivery = await dispatch.begun.get()
        assert delivery.waiting(CallId("a"))
        await cancel(leaving)
        assert not delivery.waiting(CallId("a"))
        assert not delivery.deliver(completed(CallId("a"), batch), CallId("a"))
        assert delivery.waiting(CallId("b"))
        assert delivery.deliver(completed(CallId("b"), batch), CallId("b"))
        assert await settled(staying) == [completed(CallId("b"), batch)]
        assert dispatch.cancelled == []


async def test_when_the_last_caller_has_left_the_batch_is_stopped(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        calls = [joining(window, name, max_size=3) for name in "abc"]
        batch, delivery = await dispatch.begun.get()
        delivery.deliver(completed(CallId("a"), batch), CallId("a"))
        await cancel(calls[1])
        assert dispatch.cancelled == []
        await cancel(calls[2])
        await asyncio.sleep(0)
        assert dispatch.cancelled == [batch]
        assert await settled(calls[0]) == [completed(CallId("a"), batch)]


async def test_the_first_outcome_counts(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        calls = [joining(window, name, max_size=2) for name in "ab"]
        batch, delivery = await dispatch.begun.get()
        a, b = CallId("a"), CallId("b")
        merged = Merged(batch.id, 2)
        refused = Refused(b, UpstreamQuotaError("none left"), merged)
        assert delivery.deliver(completed(a, batch), a)
        assert not delivery.waiting(a)
        assert not delivery.deliver(Failed(a, "late", Usage(), merged), a)
        assert delivery.deliver(refused, b)
        dispatch.go.set()
        assert await settled(*calls) == [completed(a, batch), refused]


async def test_nobody_is_handed_another_calls_outcome(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        calls = [joining(window, name, max_size=2) for name in "ab"]
        batch, delivery = await dispatch.begun.get()
        other = [joining(window, name, {"key": BatchKey("other")}, max_size=2) for name in "cd"]
        await dispatch.begun.get()
        assert not delivery.deliver(completed(CallId("a"), batch), CallId("b"))
        assert not delivery.deliver(completed(CallId("c"), batch), CallId("c"))
        assert not delivery.deliver(completed(CallId("nobody"), batch), CallId("nobody"))
        another = replace(batch, id=BatchId("another batch"))
        assert not delivery.deliver(completed(CallId("a"), another), CallId("a"))
        assert not delivery.waiting(CallId("c"))
        assert not delivery.waiting(CallId("nobody"))
        assert not any(call.done() for call in [*calls, *other])
        dispatch.go.set()
        assert {outcome.reason for outcome in await settled(*calls, *other) if isinstance(outcome, Failed)} == {"dispatch_error"}


@pytest.mark.parametrize("way", ["returns", "raises", "is cancelled", "settles one and raises"])
async def test_whatever_a_dispatch_does_its_callers_are_settled_and_other_batches_go_on(make_window: MakeWindow, way: str) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    answering = Answering()

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        if batch.key == "good":
            await asyncio.sleep(SHORT_S)
            return await answering(batch, delivery)
        if way == "settles one and raises":
            delivery.deliver(completed(CallId("a"), batch), CallId("a"))
        if way == "is cancelled":
            raise asyncio.CancelledError
        if way != "returns":
            raise RuntimeError("broken")
        return None

    async with make_window(dispatch) as window:
        good = [joining(window, name, {"key": BatchKey("good")}, max_size=2) for name in "cd"]
        bad = await settled(*(joining(window, name, max_size=2) for name in "ab"))
        assert all(isinstance(outcome, Completed) for outcome in await settled(*good))
    expected = [(Completed if way.startswith("settles") else Failed), Failed]
    assert [type(outcome) for outcome in bad] == expected
    failed = bad[1]
    assert isinstance(failed, Failed)
    assert (failed.id, failed.reason, failed.spent, failed.batch.size) == ("b", "dispatch_error", Usage(), 2)
    assert [type(context["exception"]) for context in told] == ([RuntimeError] if "raises" in way else [])


async def test_drain_closes_every_window_and_sends_later_calls_alone(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        calls = [joining(window, f"{key}{i}", {"key": BatchKey(key)}) for key in "kl" for i in "01"]
        lone = joining(window, "m", {"key": BatchKey("m")})
        await asyncio.sleep(0)
        await window.drain()
        assert all(isinstance(outcome, Completed) for outcome in await settled(*calls))
        assert await settled(lone) == [Alone("alone")]
        assert {b.closed_by for b in dispatch.batches} == {"drain"}
        assert await settled(joining(window, "late")) == [Alone("draining")]


async def test_a_window_is_settled_when_its_last_batch_is_over(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        await window.settled()
        riding = [joining(window, name, max_size=2) for name in "ab"]
        await dispatch.begun.get()
        over = asyncio.create_task(window.settled())
        await asyncio.sleep(0)
        assert not over.done()
        dispatch.go.set()
        await over
        assert [type(outcome) for outcome in await settled(*riding)] == [Failed, Failed]


async def test_closing_ends_every_batch_and_settles_everybody(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        riding = [joining(window, name, max_size=2) for name in "ab"]
        waiting = joining(window, "c", {"key": BatchKey("other")})
        batch, _ = await dispatch.begun.get()
        await window.aclose()
        assert dispatch.cancelled == [batch]
        assert [type(outcome) for outcome in await settled(*riding)] == [Failed, Failed]
        assert await settled(waiting) == [Alone("draining")]
        assert await settled(joining(window, "late")) == [Alone("draining")]
        await window.aclose()


async def test_a_marked_retry_of_a_pending_call_waits_for_that_calls_lesson(make_window: MakeWindow) -> None:
    dispatch = ByHand()
    async with make_window(dispatch) as window:
        first, other = joining(window, "a", max_size=2), joining(window, "b", max_size=2)
        batch, delivery = await dispatch.begun.get()
        retry = joining(window, "a again", {"identity_digest": "a", "retry_count": 1})
        await asyncio.sleep(0)
        await cancel(first)
        assert delivery.waiting(CallId("a"))
        assert delivery.deliver(completed(CallId("a"), batch), CallId("a"))
        dispatch.go.set()
        (outcome,) = await settled(retry)
        assert isinstance(outcome, Completed)
        assert (outcome.id, outcome.content) == ("a again", "content of a")
        await other
    assert dispatch.begun.empty()


@pytest.mark.parametrize(
    "overrides",
    [{}, {"retry_count": 1, "scope": "identical", "user": None}, {"retry_count": 1, "key": BatchKey("another user's")}],
    ids=["unmarked", "no user", "another user"],
)
async def test_unmarked_or_unknown_callers_identical_calls_are_separate_lessons(make_window: MakeWindow, overrides: dict[str, Any]) -> None:
    scope = {"scope": overrides.get("scope", "user")}
    async with make_window(Answering()) as window:
        pending = [joining(window, name, scope, max_size=3, max_wait_s=SHORT_S) for name in "ac"]
        again = joining(window, "b", {"identity_digest": "a"} | overrides, max_size=3, max_wait_s=SHORT_S)
        outcomes = await settled(*pending, again)
    assert all(isinstance(o, Alone) or (isinstance(o, Completed) and o.content == f"content of {o.id}") for o in outcomes)


async def test_of_two_thousand_callers_none_is_lost(make_window: MakeWindow) -> None:
    dispatch = Answering()
    async with make_window(dispatch) as window:
        calls = [joining(window, f"{i}", {"key": BatchKey(f"key {i % 250}")}, max_wait_s=1.0) for i in range(2000)]
        await asyncio.sleep(0)
        leaving = calls[::7]
        for call in leaving:
            call.cancel()
        held = await asyncio.gather(*calls, return_exceptions=True)
    fates = Counter(type(h.outcome) if isinstance(h, Held) else type(h) for h in held)
    assert fates[asyncio.CancelledError] == len(leaving)
    assert fates[Completed] + fates[Alone] == 2000 - len(leaving)
    assert all(h.outcome.id == f"{i}" for i, h in enumerate(held) if isinstance(h, Held) and isinstance(h.outcome, Completed))
    assert max(len(b.lessons) for b in dispatch.batches) <= 5


async def cancel(task: asyncio.Task[Held]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
