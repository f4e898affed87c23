"""Calls that came as one: those that belong together are announced to each other, and each is answered exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.batcher import Batcher
from proxy.budget import ResendBudget
from proxy.errors import OverloadedError, ProxyError
from proxy.interfaces import Delivery
from proxy.lessons.recognise import Recogniser
from proxy.model import Batch, Call, CallId, Completed, Lesson, Merged, Reply, Unbatchable, Usage
from proxy.observe.events import Faulted
from proxy.settings import load
from proxy.sites import Sites
from proxy.together import Outcome, Together
from proxy.windows.memory import MemoryWindow
from tests.fakes import FakeUpstream
from tests.make import make_body, make_call, make_lesson, make_user_text
from tests.unit.asgi import OK, Stream
from tests.virtual_time import run

POLICY = load(None).lesson_policy()
GROUP = {"x-lesson-group": "of-this-call"}


def ask(i: int, topic: str = "Linear equations", headers: dict[str, str] = GROUP, **more: Any) -> Call:
    text = make_user_text(topic=topic, request=f"Create a lesson about otter-{i}.")
    body = make_body(messages=[{"role": "user", "content": text}], **more)
    return make_call(id=CallId(f"call-{i}"), body=body, headers=headers)


@dataclass
class Scene:
    """The real recogniser, window and batcher; upstream answers at once, and batches are remembered."""

    batches: list[Batch] = field(default_factory=list[Batch])
    events: list[object] = field(default_factory=list[object])

    def __post_init__(self) -> None:
        self.upstream = FakeUpstream(replies=[OK] * 100, output_limit=1000)
        self.batcher = Batcher(
            judge=Recogniser(POLICY).judge,
            window=MemoryWindow(self._dispatch, max_waiting=500, max_windows=100),
            upstream=self.upstream,
            sites=Sites(),
            budget=ResendBudget(),
            publish=self.events.append,
        )
        self.together = Together(judge=self.batcher.judge, answer=self.batcher.answer, publish=self.events.append)

    async def _dispatch(self, batch: Batch, delivery: Delivery) -> None:
        self.batches.append(batch)
        for lesson in batch.lessons:
            done = Completed(lesson.id, "{}", "m", Usage(1, 1), False, 0, Merged(batch.id, len(batch.lessons)))
            delivery.deliver(done, lesson.id)

    async def answers(self, calls: Sequence[Call]) -> float:
        """Answer them all; return how long it took, in seconds."""
        began = asyncio.get_running_loop().time()
        found = dict([each async for each in self.together.answers(await self.together.judged(calls))])
        assert sorted(found) == list(range(len(calls)))
        assert all(isinstance(outcome, Reply) for outcome in found.values())
        return asyncio.get_running_loop().time() - began

    @property
    def sizes(self) -> list[tuple[int, str]]:
        return [(len(batch.lessons), batch.closed_by) for batch in self.batches]


def test_a_group_becomes_a_batch_at_once() -> None:
    scene = Scene()
    assert run(scene.answers([ask(i) for i in range(3)])) == 0.0
    assert scene.sizes == [(3, "expected")]
    assert scene.upstream.sent == []


@pytest.mark.parametrize(("calls", "sizes"), [(6, [3, 3]), (11, [4, 4, 3]), (13, [5, 4, 4])])
def test_a_group_beyond_the_batch_size_becomes_several_of_like_size_at_once(calls: int, sizes: list[int]) -> None:
    scene = Scene()
    assert run(scene.answers([ask(i) for i in range(calls)])) == 0.0
    assert [size for size, _ in scene.sizes] == sizes
    assert scene.upstream.sent == []


def test_what_has_no_companions_goes_alone_at_once() -> None:
    scene = Scene()
    calls = [ask(0), ask(1), ask(2, topic="Fractions"), ask(3, n=2), ask(4, headers=GROUP | {"x-user-id": "u"})]
    assert run(scene.answers(calls)) == 0.0
    assert scene.sizes == [(2, "expected")]
    assert sorted(call.id for call, _, _ in scene.upstream.sent) == ["call-2", "call-3", "call-4"]


def test_twins_at_temperature_0_expect_the_same_answer_and_only_one_of_them_is_merged() -> None:
    scene = Scene()
    twin = ask(0, temperature=0)
    calls = [twin, make_call(id=CallId("twin"), body=twin.body, headers=GROUP), ask(1, temperature=0)]
    assert run(scene.answers(calls)) == 0.0
    assert [[lesson.id for lesson in batch.lessons] for batch in scene.batches] == [["call-0", "call-1"]]
    assert [call.id for call, _, _ in scene.upstream.sent] == ["twin"]


@pytest.mark.parametrize(("waits", "most_s"), [({}, 0.1), ({"x-lesson-max-wait-ms": "20"}, 0.02), ({"x-lesson-max-wait-ms": "0"}, 0.001)])
def test_a_member_that_goes_another_way_after_all_holds_the_others_up_for_a_moment_only(waits: dict[str, str], most_s: float) -> None:
    """Its own limit leaves no room for a second lesson, which only the window finds out."""
    scene = Scene()
    calls = [ask(i, headers=GROUP | waits, max_tokens=1000 if i == 1 else 100) for i in range(3)]
    assert run(scene.answers(calls)) == pytest.approx(most_s)
    assert scene.sizes == [(2, "time")]


def test_a_caller_that_announces_more_than_it_brings_waits_for_them() -> None:
    scene = Scene()
    headers = GROUP | {"x-lesson-expect": "4"}

    async def test() -> float:
        first = asyncio.create_task(scene.answers([ask(i, headers=headers) for i in range(2)]))
        await asyncio.sleep(0.3)
        await asyncio.gather(scene.answers([ask(i, headers=headers) for i in range(2, 4)]), first)
        return first.result()

    assert run(test()) == pytest.approx(0.3)
    assert scene.sizes == [(4, "expected")]


def together(
    answer: Callable[[Call], Awaitable[Reply]],
    group: Callable[[Call], str],
    at_once: int = 3,
    publish: Callable[[object], None] = lambda _event: None,
) -> Together:
    def judge(call: Call) -> Lesson | Unbatchable:
        return make_lesson(id=call.id, key=key) if (key := group(call)) else Unbatchable("no_rule")

    async def answer_judged(call: Call, _verdict: Lesson | Unbatchable) -> Reply:
        return await answer(call)

    return Together(judge=judge, answer=answer_judged, publish=publish, at_once=at_once)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.floats(0, 9), st.sampled_from(["reply", "error", "fault"]))))
def test_every_call_has_exactly_one_outcome_which_is_its_own_and_no_more_groups_run_than_may(plan: list[tuple[str, float, str]]) -> None:
    running: list[str] = []
    most = 0

    def group(call: Call) -> str:
        return plan[int(call.id)][0]

    async def answer(call: Call) -> Reply:
        nonlocal most
        _, seconds, ending = plan[int(call.id)]
        running.append(group(call) or call.id)
        most = max(most, len(set(running)))
        await asyncio.sleep(seconds)
        running.remove(group(call) or call.id)
        if ending == "reply":
            return Reply(200, (), call.id.encode())
        raise OverloadedError(call.id) if ending == "error" else ZeroDivisionError

    async def test() -> list[tuple[int, Outcome]]:
        all_of_them = together(answer, group)
        return [
            each async for each in all_of_them.answers(await all_of_them.judged([make_call(id=CallId(f"{i}")) for i in range(len(plan))]))
        ]

    found = run(test())
    assert sorted(index for index, _ in found) == list(range(len(plan)))
    for index, outcome in found:
        match plan[index][2]:
            case "reply":
                assert isinstance(outcome, Reply)
                assert outcome.body == str(index).encode()
            case "error":
                assert isinstance(outcome, OverloadedError)
                assert outcome.message == str(index)
            case _:
                assert isinstance(outcome, ProxyError)
                assert outcome.code == "internal_error"
    assert most <= 3
    assert running == []


async def test_a_fault_in_one_is_told_and_touches_no_other() -> None:
    events: list[object] = []

    async def answer(call: Call) -> Reply:
        if call.id == "call-0":
            raise KeyError("a prompt")
        return OK

    all_of_them = together(answer, lambda _: "one group", publish=events.append)
    found = dict([each async for each in all_of_them.answers(await all_of_them.judged([ask(0), ask(1)]))])
    assert found[1] == OK
    assert isinstance(found[0], ProxyError)
    assert found[0].http_status == 500
    (told,) = events
    assert isinstance(told, Faulted)
    assert (told.where, told.call_id) == ("together", "call-0")


async def test_one_that_is_cancelled_by_nobody_is_answered_too() -> None:
    async def answer(call: Call) -> Reply:
        if call.id == "call-0":
            raise asyncio.CancelledError
        return OK

    all_of_them = together(answer, lambda _: "one group")
    found = dict([each async for each in all_of_them.answers(await all_of_them.judged([ask(0), ask(1)]))])
    assert isinstance(found[0], ProxyError)
    assert found[1] == OK


async def test_who_stops_listening_cancels_all_that_still_runs_and_nothing_is_left() -> None:
    ended: list[str] = []

    async def answer(call: Call) -> Reply:
        if call.id == "call-0":
            return OK
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5 * int(call.id[-1])):
                await asyncio.sleep(0)
            ended.append(call.id)
        return OK

    all_of_them = together(answer, lambda call: "" if call.id == "call-3" else "a group", at_once=2)
    async with aclosing(all_of_them.answers(await all_of_them.judged([ask(i) for i in range(6)]))) as answers:
        assert (await anext(answers))[0] == 0
    assert sorted(ended) == ["call-1", "call-2", "call-3", "call-4", "call-5"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_answer_in_chunks_is_read_and_closed_and_one_without_end_is_none() -> None:
    short, endless = Stream([b"{", b"}"]), Stream([b"x" * (1 << 20)] * 40)

    async def answer(call: Call) -> Reply:
        return (short if call.id == "call-0" else endless).reply()

    all_of_them = together(answer, lambda _: "")
    found = dict([each async for each in all_of_them.answers(await all_of_them.judged([ask(0), ask(1)]))])
    assert isinstance(found[0], Reply)
    assert (found[0].body, found[0].chunks) == (b"{}", None)
    assert isinstance(found[1], ProxyError)
    assert found[1].http_status == 502
    assert (short.closed, endless.closed) == (1, 1)
