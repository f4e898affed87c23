"""Callers may leave at any moment: whichever turn of the loop they choose, nobody else notices and nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from proxy.interfaces import Delivery
from proxy.model import Alone, Batch, BatchKey, CallId, Completed, Failed, Held, Merged, Plan, Usage
from proxy.windows.memory import MemoryWindow
from tests.make import make_caller, make_lesson
from tests.virtual_time import VirtualLoop, run

NAMES = "abcd"
"""a, b and c are of one key, d is of another and alone; c's coming fills the first window in the second story."""


@dataclass
class Story:
    """Four callers come at different times; upstream takes a second a lesson."""

    max_size: int
    began: list[Batch] = field(default_factory=list[Batch])
    ended: list[Batch] = field(default_factory=list[Batch])
    wasted: int = 0
    calls: dict[str, asyncio.Task[Held]] = field(default_factory=dict[str, "asyncio.Task[Held]"])
    turns: int = 0

    def __post_init__(self) -> None:
        self.window = MemoryWindow(self.dispatch, max_waiting=10, max_windows=10)

    async def dispatch(self, batch: Batch, delivery: Delivery) -> None:
        self.began.append(batch)
        try:
            await asyncio.sleep(0)
            for one in batch.lessons:
                await asyncio.sleep(1)
                done = Completed(one.id, f"for {one.id}", "m", Usage(), False, 0, Merged(batch.id, len(batch.lessons)))
                was_waiting = delivery.waiting(one.id)
                assert delivery.deliver(done, one.id) == was_waiting
                self.wasted += not was_waiting
            await asyncio.sleep(0)
        finally:
            self.ended.append(batch)

    async def call(self, name: str) -> Held:
        await asyncio.sleep(0.03 * NAMES.index(name))
        one = make_lesson(id=CallId(name), identity_digest=name, key=BatchKey("other" if name == "d" else "key"))
        return await self.window.join(one, Plan(max_wait_s=0.1, max_size=self.max_size), make_caller())

    async def play(self, at_turn: int | None = None, act: Callable[[Story], object] = lambda _: None) -> dict[str, Held | BaseException]:
        """Let everybody come, and act once before the given turn of the loop; return what became of each caller."""
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.calls = {name: asyncio.create_task(self.call(name)) for name in NAMES}
        first = loop.turns
        if at_turn is not None:
            loop.at_turn(at_turn, lambda: act(self))
        held = await asyncio.gather(*self.calls.values(), return_exceptions=True)
        self.turns = loop.turns - first
        await asyncio.sleep(5)
        return dict(zip(NAMES, held, strict=True))

    def assert_nothing_is_left(self) -> None:
        assert (self.window.waiting, self.window.open_windows, self.window.running_batches) == (0, 0, 0)
        assert not self.window._seats
        assert not self.window._twins._pending
        assert self.window._armed_for is None
        assert self.ended == self.began


def turns_of(max_size: int) -> int:
    story = Story(max_size)
    held = run(story.play())
    assert [type(h.outcome) for h in held.values() if isinstance(h, Held)] == [Completed] * 3 + [Alone]
    story.assert_nothing_is_left()
    assert story.turns > 15
    return story.turns


@pytest.mark.parametrize("max_size", [9, 3], ids=["closed by time", "closed by size"])
@pytest.mark.parametrize("leaving", ["a", "b", "c", "d", "ab", "bc", "abc", "abcd"])
def test_at_any_turn_callers_may_leave_and_the_others_get_their_own(max_size: int, leaving: str) -> None:
    fates: set[str] = set()
    for turn in range(1, turns_of(max_size) + 1):
        story = Story(max_size)
        held = run(story.play(turn, lambda s: [s.calls[name].cancel() for name in leaving]))
        story.assert_nothing_is_left()
        for name, result in held.items():
            match result:
                case Held(outcome=Completed() as done):
                    assert (done.id, done.content) == (name, f"for {name}")
                case Held(outcome=Alone(reason="alone")):
                    assert name == "d" or sum(other in leaving for other in "abc") == 2
                case asyncio.CancelledError():
                    assert name in leaving
                    fates.add(name)
                case _:
                    pytest.fail(f"{name}: {result}")
        in_time = [result for name, result in held.items() if name in "abc" and isinstance(result, Held)]
        if not in_time and story.began:
            assert len(story.ended) == 1
            fates.add("batch stopped")
    assert fates >= set(leaving)
    assert ("batch stopped" in fates) == (leaving in {"abc", "abcd"})


@pytest.mark.parametrize("companions", [1, 2])
def test_a_caller_that_leaves_in_the_very_moment_of_closing_is_in_no_batch(companions: int) -> None:
    """Its cancellation is known, but its own code has not run yet when the last companion fills the window."""
    batches: list[Batch] = []

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        batches.append(batch)

    async def test() -> Held:
        window = MemoryWindow(dispatch, max_waiting=9, max_windows=9)
        plan = Plan(max_wait_s=1.0, max_size=companions + 1)
        lessons = [make_lesson(id=CallId(name), identity_digest=name) for name in "abc"[: companions + 1]]
        first, *others = [asyncio.create_task(window.join(one, plan, make_caller(name=one.id))) for one in lessons[:-1]]
        await asyncio.sleep(0)
        first.cancel()
        last = await window.join(lessons[-1], plan, make_caller(name=lessons[-1].id))
        await asyncio.gather(first, *others, return_exceptions=True)
        return last

    last = run(test())
    if companions == 1:
        assert (last.outcome, batches) == (Alone("alone"), [])
    else:
        assert isinstance(last.outcome, Failed)
        assert last.outcome.batch.size == 2
        assert [([one.id for one in b.lessons], b.caller.name) for b in batches] == [(["b", "c"], "b")]


def test_upstream_is_stopped_in_the_turn_after_the_last_caller_left() -> None:
    async def test() -> float:
        story = Story(3)
        playing = asyncio.create_task(story.play())
        await asyncio.sleep(1.5)
        loop = asyncio.get_running_loop()
        left_at = loop.time()
        for name in "abc":
            story.calls[name].cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert story.ended == story.began != []
        ended_after = loop.time() - left_at
        await playing
        return ended_after

    assert run(test()) == 0.0


def test_a_batch_that_has_settled_everybody_may_finish_its_accounts() -> None:
    """A caller that hangs up after its lesson was handed over has not left its batch."""
    finished: list[bool] = []

    async def dispatch(batch: Batch, delivery: Delivery) -> None:
        for one in batch.lessons:
            delivery.deliver(Alone("settled"), one.id)
        for name in "ab":
            calls[name].cancel()
        await asyncio.sleep(1)
        finished.append(True)

    calls: dict[str, asyncio.Task[Held]] = {}

    async def test() -> None:
        window = MemoryWindow(dispatch, max_waiting=9, max_windows=9)
        for name in "ab":
            one = make_lesson(id=CallId(name), identity_digest=name)
            calls[name] = asyncio.create_task(window.join(one, Plan(max_wait_s=1.0, max_size=2), make_caller()))
        await asyncio.gather(*calls.values(), return_exceptions=True)
        await asyncio.sleep(2)

    run(test())
    assert finished == [True]


@pytest.mark.parametrize("max_size", [9, 3], ids=["closed by time", "closed by size"])
def test_at_any_turn_dispatch_may_be_cancelled_from_outside(max_size: int) -> None:
    for turn in range(1, turns_of(max_size) + 1):
        story = Story(max_size)
        held = run(story.play(turn, lambda s: [task.cancel() for task in s.window._tasks]))
        story.assert_nothing_is_left()
        for name, result in held.items():
            assert isinstance(result, Held)
            assert not isinstance(result.outcome, Failed) or (result.outcome.id, result.outcome.reason) == (name, "dispatch_error")


@pytest.mark.parametrize("max_size", [9, 3], ids=["closed by time", "closed by size"])
@pytest.mark.parametrize("impatient", [False, True], ids=["awaited", "itself cancelled"])
def test_at_any_turn_the_window_may_be_closed(max_size: int, *, impatient: bool) -> None:
    def close(story: Story) -> None:
        closing = asyncio.get_running_loop().create_task(story.window.aclose())
        kept.append(closing)
        if impatient:
            closing.get_loop().call_soon(lambda: closing.get_loop().call_soon(closing.cancel))

    kept: list[asyncio.Task[None]] = []
    outcomes: set[str] = set()
    for turn in range(1, turns_of(max_size) + 1):
        story = Story(max_size)
        held = run(story.play(turn, close))
        story.assert_nothing_is_left()
        for result in held.values():
            assert isinstance(result, Held)
            outcomes.add(result.outcome.reason if isinstance(result.outcome, Alone | Failed) else "completed")
    assert outcomes == {"completed", "alone", "draining", "dispatch_error"}


@pytest.mark.parametrize("max_size", [9, 3], ids=["closed by time", "closed by size"])
def test_at_any_turn_the_window_may_be_drained(max_size: int) -> None:
    kept: list[asyncio.Task[None]] = []
    for turn in range(1, turns_of(max_size) + 1):
        story = Story(max_size)
        held = run(story.play(turn, lambda s: kept.append(asyncio.get_running_loop().create_task(s.window.drain()))))
        story.assert_nothing_is_left()
        for name, result in held.items():
            assert isinstance(result, Held)
            assert isinstance(result.outcome, Alone) or (isinstance(result.outcome, Completed) and result.outcome.id == name)
