"""Lessons that were asked for ahead: one call's own each, bounded, short-lived, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.interfaces import Delivery
from proxy.model import Alone, Batch, BatchKey, CallId, Completed, Failed, Lesson, Merged, Outcome, Usage
from proxy.windows.ahead import Ahead
from tests.make import make_caller, make_lesson
from tests.virtual_time import run

CALLER = make_caller()
KEEP_S = 10.0


def lesson(name: str, **overrides: Any) -> Lesson:
    return make_lesson(**({"id": CallId(name), "identity_digest": "same"} | overrides))


@dataclass
class Scene:
    """A dispatch that takes a second a lesson and numbers what it writes."""

    writes_s: float = 1.0
    fails: frozenset[int] = frozenset()
    content: str = "lesson"
    batches: list[Batch] = field(default_factory=list[Batch])
    wasted: list[str] = field(default_factory=list[str])
    cancelled: int = 0
    numbers: Iterator[int] = field(default_factory=count)
    forgets: bool = False

    def ahead(self, max_kept: int = 100, max_bytes: int = 10_000) -> Ahead:
        return Ahead(
            self.dispatch,
            wasted=lambda _, done: self.wasted.append(done.content),
            new_id=lambda: f"batch-{next(self.numbers)}",
            max_kept=max_kept,
            max_bytes=max_bytes,
            keep_s=KEEP_S,
        )

    async def dispatch(self, batch: Batch, delivery: Delivery) -> None:
        self.batches.append(batch)
        number = len(self.batches)
        told = Merged(batch.id, len(batch.lessons))
        try:
            for i, one in enumerate(batch.lessons):
                await asyncio.sleep(self.writes_s)
                if self.forgets and i:
                    raise ZeroDivisionError
                content = f"{self.content} {number}.{i}"
                done = Completed(one.id, content, "m", Usage(10, 10), estimated=False, input_tokens_saved=5, batch=told)
                delivery.deliver(Failed(one.id, "schema", Usage(), told) if i in self.fails else done, one.id)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def content(outcome: Outcome | None) -> str | None:
    return outcome.content if isinstance(outcome, Completed) else None if outcome is None else type(outcome).__name__


async def timed(ahead: Ahead, one: Lesson) -> tuple[str | None, str | None, float]:
    started = asyncio.get_running_loop().time()
    outcome = await ahead.take(one)
    name = outcome.id if outcome is not None and not isinstance(outcome, Alone) else None
    return content(outcome), name, asyncio.get_running_loop().time() - started


def test_the_first_lesson_is_the_callers_and_the_others_wait_for_its_next_calls() -> None:
    """In the order in which they were written, each under the name of the call that takes it, then no more."""
    scene = Scene()

    async def test() -> None:
        ahead = scene.ahead()
        first = await ahead.ask(lesson("a"), CALLER, 3)
        assert (content(first), first.id if isinstance(first, Completed) else "") == ("lesson 1.0", "a")
        assert ahead.kept == 2
        # the second is being written; the third is there by then
        assert await timed(ahead, lesson("b")) == ("lesson 1.1", "b", pytest.approx(1.0))
        await asyncio.sleep(2.0)
        assert await timed(ahead, lesson("c")) == ("lesson 1.2", "c", 0.0)
        assert await ahead.take(lesson("d")) is None
        assert ahead.kept == 0

    run(test())
    (batch,) = scene.batches
    assert (batch.closed_by, batch.caller, [one.body for one in batch.lessons]) == ("ahead", CALLER, [lesson("a").body] * 3)
    assert len({one.id for one in batch.lessons}) == 3
    assert scene.wasted == []


@pytest.mark.parametrize(
    "other",
    [{"key": BatchKey("another user's, or another API key's")}, {"identity_digest": "another request"}, {"token_limit": 5}],
    ids=["key", "request", "token limit"],
)
def test_nobody_else_gets_what_is_kept(other: dict[str, Any]) -> None:
    async def test() -> None:
        ahead = Scene().ahead()
        await ahead.ask(lesson("a"), CALLER, 2)
        await asyncio.sleep(2.0)
        assert await ahead.take(lesson("b", **other)) is None
        assert content(await ahead.take(lesson("c"))) == "lesson 1.1"

    run(test())


def test_what_nobody_comes_for_is_thrown_away_and_told() -> None:
    scene = Scene()

    async def test() -> None:
        ahead = scene.ahead()
        await ahead.ask(lesson("a"), CALLER, 3)
        await asyncio.sleep(1.0 + KEEP_S + 0.5)
        assert (scene.wasted, ahead.kept) == (["lesson 1.1"], 1)
        await asyncio.sleep(1.0)
        assert (scene.wasted, ahead.kept) == (["lesson 1.1", "lesson 1.2"], 0)
        assert await ahead.take(lesson("b")) is None
        assert not ahead._free
        assert not ahead._kept
        assert ahead._bytes == 0

    run(test())


def test_a_lesson_that_failed_is_not_kept_and_its_waiting_call_is_told() -> None:
    """Unclaimed it was no loss but its tokens; claimed, its caller sends its own request alone."""

    async def test(claims: int) -> list[str | None]:
        ahead = Scene(fails=frozenset({1})).ahead()
        await ahead.ask(lesson("a"), CALLER, 3)
        claimed = [asyncio.create_task(ahead.take(lesson(f"{i}"))) for i in range(claims)]
        await asyncio.sleep(5.0)
        return [content(await one) for one in claimed] + [content(await ahead.take(lesson("last")))]

    assert run(test(0)) == ["lesson 1.2"]
    assert run(test(2)) == ["Failed", "lesson 1.2", None]


def test_bounds_hold_in_number_and_bytes_and_the_eldest_goes_first() -> None:
    scene = Scene()

    async def test() -> None:
        ahead = scene.ahead(max_kept=3, max_bytes=25)
        await ahead.ask(lesson("a"), CALLER, 3)
        await ahead.ask(lesson("b", identity_digest="b"), CALLER, 5)
        assert [len(batch.lessons) for batch in scene.batches] == [3, 2]
        assert ahead.kept == 3
        assert await ahead.ask(lesson("c", identity_digest="c"), CALLER, 2) == Alone("alone")
        await asyncio.sleep(3.0)
        # ten bytes each: the third pushes the first out
        assert (scene.wasted, ahead.kept, ahead._bytes) == (["lesson 1.1"], 2, 20)

    run(test())


def test_one_lesson_is_no_batch() -> None:
    async def test() -> None:
        assert await Scene().ahead().ask(lesson("a"), CALLER, 1) == Alone("alone")

    run(test())


def test_when_the_caller_leaves_before_its_lesson_nothing_is_written_on() -> None:
    """The loop is gone with it; where the next call waits already, upstream goes on for that one."""
    scene = Scene()

    async def test(*, second: bool) -> int:
        ahead = scene.ahead()
        asking = asyncio.create_task(ahead.ask(lesson("a"), CALLER, 3))
        await asyncio.sleep(0.5)
        other = asyncio.create_task(ahead.take(lesson("b"))) if second else None
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0)
        if other:
            assert content(await other) == "lesson 2.1"
        await asyncio.sleep(5)
        return ahead.kept

    assert (run(test(second=False)), scene.cancelled) == (0, 1)
    assert (run(test(second=True)), scene.cancelled) == (1, 1)


def test_a_marked_retry_joins_the_lesson_that_its_call_waits_for() -> None:
    """It takes nothing of what is kept for the calls that follow."""

    async def test() -> None:
        ahead = Scene().ahead()
        asking = asyncio.create_task(ahead.ask(lesson("a"), CALLER, 2))
        await asyncio.sleep(0.5)
        assert await timed(ahead, lesson("a again", retry_count=1)) == ("lesson 1.0", "a again", pytest.approx(0.5))
        assert content(await asking) == "lesson 1.0"
        assert content(await ahead.take(lesson("b"))) == "lesson 1.1"

    run(test())


def test_a_dispatch_that_breaks_leaves_nobody_waiting() -> None:
    faults: list[dict[str, Any]] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        ahead = Scene(forgets=True).ahead()
        assert content(await ahead.ask(lesson("a"), CALLER, 3)) == "lesson 1.0"
        assert content(await ahead.take(lesson("b"))) == "Failed"
        assert (await ahead.take(lesson("c")), ahead.kept) == (None, 0)

    run(test())
    assert [type(context["exception"]) for context in faults] == [ZeroDivisionError]


def test_closing_ends_everything_and_counts_what_was_kept() -> None:
    """As at a reload: nothing outlives the configuration that it came by."""
    scene = Scene()

    async def test() -> None:
        ahead = scene.ahead()
        await ahead.ask(lesson("a"), CALLER, 3)
        await asyncio.sleep(1.5)
        waiting = asyncio.create_task(ahead.ask(lesson("b", identity_digest="b"), CALLER, 2))
        await asyncio.sleep(0.1)
        await ahead.aclose()
        assert content(await waiting) == "Failed"
        assert (scene.wasted, ahead.kept) == (["lesson 1.1"], 0)
        assert await ahead.ask(lesson("c"), CALLER, 3) == Alone("alone")
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run(test())


def test_what_is_another_calls_or_batchs_is_not_taken_in() -> None:
    async def lying(batch: Batch, delivery: Delivery) -> None:
        own, other = batch.lessons
        wrong = Completed(other.id, "wrong", "m", Usage(), estimated=False, input_tokens_saved=0, batch=Merged(batch.id, 2))
        assert not delivery.deliver(wrong, own.id)
        assert not delivery.deliver(Alone("x"), CallId("nobody"))
        assert not delivery.waiting(CallId("nobody"))
        assert delivery.deliver(wrong, other.id)
        assert not delivery.deliver(wrong, other.id)

    async def test() -> None:
        ahead = Ahead(lying, wasted=lambda _, __: None, new_id=lambda: "b", max_kept=9, max_bytes=99, keep_s=1.0)
        assert content(await ahead.ask(lesson("a"), CALLER, 2)) == "Failed"
        assert content(await ahead.take(lesson("b"))) == "wrong"

    run(test())


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "take", "leave", "wait"]), st.integers(0, 2), st.sampled_from([0.0, 0.6, 1.1, 12.0])), max_size=25
)


@settings(deadline=None, max_examples=150)
@given(steps=STEPS, fails=st.frozensets(st.integers(0, 3)))
def test_whatever_comes_each_lesson_is_handed_out_once_and_the_bounds_hold(
    steps: Sequence[tuple[str, int, float]], fails: frozenset[int]
) -> None:
    """Asked, taken, left, thrown away in any order: none twice, none to another request, nothing left over."""
    scene, given_out = Scene(fails=fails), list[str]()

    async def test() -> None:
        ahead, calls = scene.ahead(max_kept=5, max_bytes=40), list[asyncio.Task[Outcome | None]]()
        for number, (what, request, pause_s) in enumerate(steps):
            one = lesson(f"{number}", identity_digest=f"{request}")
            if what == "ask":
                calls.append(asyncio.create_task(ahead.ask(one, CALLER, 4)))
            elif what == "take":
                calls.append(asyncio.create_task(ahead.take(one)))
            elif what == "leave" and calls:
                calls[request % len(calls)].cancel()
            await asyncio.sleep(pause_s)
            assert 0 <= ahead.kept <= 5
            assert 0 <= ahead._bytes <= 40
        ended = await asyncio.gather(*calls, return_exceptions=True)
        given_out.extend(outcome.content for outcome in ended if isinstance(outcome, Completed))
        await asyncio.sleep(60)
        assert (ahead.kept, ahead._bytes, ahead._free, ahead._taken) == (0, 0, {}, {})
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run(test())
    assert len(given_out) == len(set(given_out))
    assert not set(given_out) & set(scene.wasted)
