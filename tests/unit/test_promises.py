"""Contract 9 under any interleaving: the real window, dispatcher and batcher over an upstream that lies, in virtual time.

A story is drawn: who comes when, for which learner, who leaves when, and what upstream does to each merged call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.batcher import Batcher
from proxy.budget import ResendBudget
from proxy.dispatch import Dispatcher
from proxy.errors import (
    ProxyError,
    UpstreamDeniedError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
)
from proxy.model import Batch, BatchKey, Call, Caller, CallId, Deployment, Json, Lesson, Piece, Reply, Usage
from proxy.observe.events import BatchFinished, CallFinished
from proxy.policy import MergePolicy, WindowPolicy
from proxy.sites import Sites
from proxy.windows.memory import MemoryWindow
from tests.fakes import FakeUpstream, Script, WordTokens, keys_of
from tests.make import make_body, make_call, make_lesson, make_user_text
from tests.virtual_time import run

MAX_WAIT_S = 0.1
POLICY = MergePolicy(first_token_seconds=5.0, idle_seconds=2.0)
WINDOW = WindowPolicy(max_wait_ms=100, max_size=4)
MERGED_USAGE = Usage(301, 157, 31, 17)

ERRORS: tuple[type[ProxyError], ...] = (
    UpstreamRateLimitedError,
    UpstreamTooLargeError,
    UpstreamQuotaError,
    UpstreamDeniedError,
    UpstreamRejectedError,
    UpstreamUnavailableError,
    UpstreamTimeoutError,
)


@dataclass(frozen=True)
class Coming:
    """One caller of the story; times in seconds."""

    at: float
    learner: int
    request: int
    leaves_after: float | None
    stream: bool
    retry: bool


@dataclass(frozen=True)
class Doing:
    """What upstream does to one merged call: the entries that it writes and how, then how it ends."""

    entries: tuple[str, ...]
    """By place: good, invalid, missing, doubled."""
    reverse: bool
    pause_s: float
    cut: int
    breaks_at: float
    """The part of its text after which `error` comes; above 1: never."""
    error: int
    ends: str
    """whole, no_usage, no_finish, length, silent."""


COMINGS = st.builds(
    Coming,
    at=st.sampled_from([0.0, 0.03, 0.06, 0.1, 0.13, 1.0]),
    learner=st.integers(0, 1),
    request=st.integers(0, 2),
    leaves_after=st.sampled_from([None, None, None, 0.0, 0.05, 0.1, 0.3, 1.0, 6.0]),
    stream=st.booleans(),
    retry=st.booleans(),
)
DOINGS = st.builds(
    Doing,
    entries=st.tuples(*[st.sampled_from(["good", "good", "good", "invalid", "missing", "doubled"])] * 4),
    reverse=st.booleans(),
    pause_s=st.sampled_from([0.0, 0.0, 0.1, 3.0]),
    cut=st.sampled_from([7, 40, 100_000]),
    breaks_at=st.sampled_from([0.0, 0.4, 0.9, 1.0, 2.0, 2.0, 2.0]),
    error=st.integers(0, len(ERRORS) - 1),
    ends=st.sampled_from(["whole", "whole", "no_usage", "no_finish", "length", "silent"]),
)


def lesson_of(request_text: str, key: str = "") -> Json:
    return {"title": f"for {request_text}", "content": f"written under {key}."}


def requests_by_key(body: Json) -> dict[str, str]:
    """Read as a model would which request stands behind which key; where all say the same it stands before the keys."""
    keys = keys_of(body)
    text = body["messages"][-1]["content"]
    found: dict[str, str] = {}
    for block in text.split("\n\n"):
        head, _, own = block.partition(":\n")
        for key in head.removesuffix(" (clearly distinct lessons)").split(", "):
            if key in keys:
                found[key] = asked_for(own)
    return {key: found.get(key) or asked_for(text) for key in keys}


def asked_for(text: str) -> str:
    return next((line for line in text.split("\n") if line.startswith("learner")), "")


def written(doing: Doing, body: Json) -> str:
    members: list[str] = []
    for place, (key, request) in enumerate(requests_by_key(body).items()):
        good = f'"{key}":{orjson.dumps(lesson_of(request, key)).decode()}'
        match doing.entries[place % 4]:
            case "good":
                members.append(good)
            case "invalid":
                members.append(f'"{key}":{{"title":7}}')
            case "doubled":
                members.append(f'{good},"{key}":{orjson.dumps(lesson_of("somebody else")).decode()}')
            case _:
                pass
    return '{"lessons":{' + ",".join(reversed(members) if doing.reverse else members) + "}}"


def played(doing: Doing, body: Json) -> Script:
    text = written(doing, body)
    breaks = int(doing.breaks_at * len(text)) if doing.breaks_at <= 1 else len(text) + 1
    script: list[Piece | BaseException | float] = []
    for at in range(0, min(len(text), breaks), doing.cut):
        script += [doing.pause_s, Piece("arguments", text[at : min(at + doing.cut, breaks)], opens=at == 0, model="upstream-model")]
    if breaks <= len(text):
        return [*script, ERRORS[doing.error]("upstream's word")]
    if doing.ends == "silent":
        return [*script, 86_400.0]
    if doing.ends != "no_finish":
        script.append(Piece(finish_reason="length" if doing.ends == "length" else "tool_calls"))
    return script if doing.ends == "no_usage" else [*script, Piece(usage=MERGED_USAGE)]


@dataclass
class Lying(FakeUpstream):
    """Plays the drawn deeds in turn, and counts how often each caller's prompt was written for."""

    doings: list[Doing] = field(default_factory=list[Doing])
    merged: Counter[str] = field(default_factory=Counter[str])
    alone: Counter[CallId] = field(default_factory=Counter[CallId])
    open_sends: int = 0

    def stream(self, deployment: Deployment, body: Json, caller: Caller) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        doing = self.doings[len(self.bodies) % len(self.doings)]
        learners = {request.split()[1] for request in requests_by_key(body).values()}
        assert learners == {caller.key_digest}, "a batch holds one learner's requests and goes with that learner's key"
        self.bodies.append(body)
        return self._counted(doing, body)

    @asynccontextmanager
    async def _counted(self, doing: Doing, body: Json) -> AsyncGenerator[AsyncIterator[Piece]]:
        async with self._played(played(doing, body)) as pieces:
            yield pieces

    async def send(self, call: Call, model: str, *, lesson: bool) -> Reply:
        self.alone[call.id] += 1
        self.open_sends += 1
        try:
            await asyncio.sleep(0.5)
        finally:
            self.open_sends -= 1
        told = {"id": "lone", "for": call.body["messages"][-1]["content"], "usage": {"prompt_tokens": 60, "completion_tokens": 30}}
        return Reply(200, (("content-type", "application/json"),), orjson.dumps(told))


@dataclass
class House:
    """The merging core as the app wires it, over a lying upstream."""

    doings: list[Doing]
    events: list[Any] = field(default_factory=list[Any])
    begun: dict[CallId, Batch] = field(default_factory=dict[CallId, Batch])

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.upstream = Lying(doings=self.doings)
        sites = Sites()
        self.dispatcher = Dispatcher(
            upstream=self.upstream,
            sites=sites,
            tokens=WordTokens(),
            publish=self.events.append,
            num_retries=2,
            clock=loop.time,
            jitter=lambda: 0.5,
        )
        self.window = MemoryWindow(self.dispatcher, max_waiting=100, max_windows=100)
        self.lessons: dict[CallId, Lesson] = {}
        self.batcher = Batcher(
            judge=lambda call: self.lessons[call.id],
            window=self.window,
            upstream=self.upstream,
            sites=sites,
            budget=ResendBudget(),
            publish=self.events.append,
            clock=loop.time,
        )

    async def come(self, number: int, coming: Coming) -> Reply:
        await asyncio.sleep(coming.at)
        request = f"learner {coming.learner} wants {coming.request}"
        system = {"role": "system", "content": "You write lessons."}
        user = {"role": "user", "content": f"{make_user_text(request='As told:')}\n{request}"}
        body = make_body(messages=[system, user])
        call = make_call(id=CallId(f"call-{number}"), body=body, caller=Caller(f"{coming.learner}"))
        self.lessons[call.id] = make_lesson(
            id=call.id,
            body=body,
            user=f"{coming.learner}",
            key=BatchKey(f"key {coming.learner}"),
            identity_digest=request,
            stream=coming.stream,
            retry_count=int(coming.retry),
            window=WINDOW,
            merge=POLICY,
        )
        answering = asyncio.create_task(self.batcher.answer(call))
        if coming.leaves_after is not None:
            asyncio.get_running_loop().call_later(coming.leaves_after, answering.cancel)
        return await answering


async def story(comings: list[Coming], doings: list[Doing]) -> tuple[House, list[Reply | BaseException]]:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    house = House(doings)
    told = await asyncio.gather(*(house.come(number, coming) for number, coming in enumerate(comings)), return_exceptions=True)
    if all(coming.leaves_after is not None for coming in comings):
        await asyncio.sleep(0.01)
        assert house.upstream.open_streams == 0 or any(isinstance(one, Reply) for one in told)
    await asyncio.sleep(60)
    assert faults == []
    assert (house.window.waiting, house.window.open_windows, house.window.running_batches) == (0, 0, 0)
    assert (house.upstream.open_streams, house.upstream.open_sends) == (0, 0)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    return house, told


def assert_own(coming: Coming, reply: Reply) -> None:
    request = f"learner {coming.learner} wants {coming.request}"
    assert reply.status == 200
    if dict(reply.headers)["x-lesson-merged"] == "true":
        assert f"for {request}".encode() in reply.body
    else:
        assert orjson.loads(reply.body)["for"].endswith(request)


@settings(max_examples=150, deadline=None)
@given(comings=st.lists(COMINGS, min_size=1, max_size=8), doings=st.lists(DOINGS, min_size=1, max_size=4))
def test_every_caller_gets_one_answer_that_is_its_own_whatever_upstream_does(comings: list[Coming], doings: list[Doing]) -> None:
    """Promises 1, 2, 3, 4 and 6: one end each, its own content, in time, no third generation, usage that adds up, nothing left over."""
    house, told = run(story(comings, doings))
    for coming, end in zip(comings, told, strict=True):
        match end:
            case Reply():
                assert_own(coming, end)
            case asyncio.CancelledError():
                assert coming.leaves_after is not None
            case _:
                assert isinstance(end, ProxyError), repr(end)
    finished = [event for event in house.events if isinstance(event, CallFinished)]
    assert Counter(event.call_id for event in finished) == Counter(f"call-{number}" for number in range(len(comings)))
    assert all(event.wait_ms <= MAX_WAIT_S * 1000 + 0.001 for event in finished)
    assert all(times == 1 for times in house.upstream.alone.values())
    assert {event.call_id for event in finished if event.way == "merged"}.isdisjoint(house.upstream.alone)
    for batch in (event for event in house.events if isinstance(event, BatchFinished)):
        assert batch.completed + sum(count for _, count in batch.failed) + batch.refused + batch.left == batch.size
        assert batch.left >= 0


@settings(max_examples=100, deadline=None)
@given(requests=st.integers(2, 4), doing=DOINGS, leaves=st.sampled_from([None, 0.3, 1.0]))
def test_shares_and_unassigned_are_the_usage_also_where_a_batch_ends_early(requests: int, doing: Doing, leaves: float | None) -> None:
    """Promise 6: what callers were told of the batch and what is unassigned is the batch's usage, cancelled batches included."""
    comings = [Coming(0.0, 0, n, leaves, stream=False, retry=False) for n in range(requests)]
    house, _ = run(story(comings, [doing]))
    lone = Usage(60, 30)
    shares = Usage()
    for event in (event for event in house.events if isinstance(event, CallFinished)):
        if event.usage and event.way == "merged":
            shares += event.usage
        elif event.usage and event.way == "resent":
            shares += Usage(
                event.usage.prompt - lone.prompt, event.usage.completion - lone.completion, event.usage.reasoning, event.usage.cached
            )
    for batch in (event for event in house.events if isinstance(event, BatchFinished)):
        if not any(isinstance(event, CallFinished) and event.status == 499 for event in house.events):
            assert shares + batch.unassigned == batch.usage
        if leaves is None and doing.ends == "whole" and doing.breaks_at > 1 and doing.pause_s < 1:
            assert batch.usage == MERGED_USAGE


def test_a_batch_that_everybody_left_is_paid_for_all_the_same() -> None:
    """What upstream wrote before the last caller left stands in the figures: else they would claim a saving."""
    doing = Doing(("good",) * 4, reverse=False, pause_s=0.2, cut=40, breaks_at=2.0, error=0, ends="whole")
    house, told = run(story([Coming(0.0, 0, n, 1.0, stream=False, retry=False) for n in range(3)], [doing]))
    (batch,) = [event for event in house.events if isinstance(event, BatchFinished)]
    assert any(isinstance(end, asyncio.CancelledError) for end in told)
    assert batch.usage_estimated
    assert batch.usage.prompt > 0
    assert batch.usage.completion > 0
