"""One batch: every lesson is settled exactly once, whatever upstream says or doesn't say."""

from __future__ import annotations

import asyncio
from functools import partial

import orjson
import pytest

from proxy.dispatch import Dispatcher
from proxy.errors import (
    NotFoundError,
    OverloadedError,
    ProxyError,
    UpstreamDeniedError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
)
from proxy.model import Alone, CallId, Completed, Json, Piece, Refused, Usage
from proxy.observe.events import MergingRested
from proxy.policy import MergePolicy
from proxy.sites import Sites
from tests.fakes import FakeDelivery, FakeUpstream, Script, WordTokens, answer, keys_of, lesson_text
from tests.make import make_batch, make_lessons
from tests.unit.dispatching import Scene


async def test_each_caller_gets_the_entry_of_its_own_key() -> None:
    """An honest answer completes every caller with its own entry, whatever its order."""
    scene = Scene(FakeUpstream([lambda body: answer(body, only=[2, 0, 1])]))
    await scene.run(make_batch(3))
    for i in range(3):
        assert isinstance(scene.outcome(i), Completed)
        assert orjson.loads(scene.outcome(i).content) == lesson_text(f"entry-{i}")
    assert scene.finished.completed == 3
    assert len(scene.upstream.bodies) == 1
    assert scene.upstream.open_streams == 0


async def test_entries_are_handed_over_as_they_close() -> None:
    """The first lesson is out while upstream still writes the second."""
    scene = Scene()
    handed_over = asyncio.Event()
    scene.delivery.on_deliver = handed_over.set

    def script(body: Json) -> list[Piece | BaseException | float]:
        keys = keys_of(body)
        first = f'{{"lessons": {{"{keys[0]}": {orjson.dumps(lesson_text("entry-0")).decode()},'
        return [Piece("arguments", first), 3600.0]

    scene.upstream.scripts.append(script)
    running = asyncio.create_task(scene.run(make_batch(2)))
    await handed_over.wait()
    assert isinstance(scene.outcome(0), Completed)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert scene.upstream.closed_streams == 1


async def test_shares_and_unassigned_add_up_to_upstreams_usage() -> None:
    """Contract 8: what callers are told plus what remains is what upstream told."""
    scene = Scene(FakeUpstream([lambda body: answer(body, only=[0, 2], usage=Usage(101, 57, 9, 3))]))
    await scene.run(make_batch(3))
    shares = [scene.outcome(0).usage, scene.outcome(2).usage, scene.outcome(1).spent]
    total = scene.finished.unassigned
    for share in shares:
        assert min(share.prompt, share.completion, share.reasoning, share.cached) >= 0
        total += share
    assert total == scene.finished.usage == Usage(101, 57, 9, 3)
    assert scene.finished.failed == (("missing", 1),)


async def test_the_last_open_caller_gets_exact_usage() -> None:
    """The last lesson waits for upstream's usage and is not marked estimated; the first couldn't."""
    scene = Scene(FakeUpstream([lambda body: answer(body, usage=Usage(100, 40))]))
    await scene.run(make_batch(2))
    assert scene.outcome(0).estimated
    assert not scene.outcome(1).estimated
    assert scene.outcome(0).usage + scene.outcome(1).usage == Usage(100, 40)


async def test_a_stream_without_usage_is_counted_and_marked() -> None:
    """No usage from upstream: everything is counted here and says so."""
    scene = Scene(FakeUpstream([lambda body: answer(body, usage=None)]))
    await scene.run(make_batch(2))
    assert scene.finished.usage_estimated
    assert scene.outcome(0).estimated
    assert scene.outcome(1).estimated
    assert scene.finished.usage.prompt > 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UpstreamUnavailableError("down"), "upstream_error"),
        (UpstreamTimeoutError("slow"), "upstream_timeout"),
        (UpstreamRejectedError("no such tool"), "rejected"),
    ],
)
async def test_what_has_arrived_stays_and_the_rest_goes_alone(error: ProxyError, reason: str) -> None:
    """An error mid-stream keeps the finished lesson and fails the others by name."""
    scene = Scene()
    scene.upstream.scripts.append(lambda body: [*answer(body, only=[0], cut=10_000)[:1], error])
    await scene.run(make_batch(3))
    assert isinstance(scene.outcome(0), Completed)
    assert [scene.outcome(i).reason for i in (1, 2)] == [reason, reason]


@pytest.mark.parametrize("error", [UpstreamQuotaError("q"), UpstreamDeniedError("d"), OverloadedError("o"), NotFoundError("n")])
async def test_what_going_alone_would_not_change_is_everybodys_error(error: ProxyError) -> None:
    """Quota, denied, no slot, unknown model: the same error to each, no second call."""
    scene = Scene(FakeUpstream([[error]]))
    await scene.run(make_batch(3))
    assert all(isinstance(scene.outcome(i), Refused) and scene.outcome(i).error is error for i in range(3))
    assert len(scene.upstream.bodies) == 1


async def test_a_rate_limit_is_waited_out_by_the_batch() -> None:
    """429 with Retry-After: the batch comes back as told, once for all; never single calls."""
    scene = Scene(FakeUpstream([[UpstreamRateLimitedError("slow down", retry_after_s=3.0)], answer]))
    await scene.run(make_batch(3))
    assert scene.slept == [3.0]
    assert scene.reasons() == ["Completed"] * 3
    assert scene.finished.retries == 1


@pytest.mark.parametrize(("retry_after_s", "calls"), [(1.0, 3), (None, 3), (9.0, 3), (30.0, 1)])
async def test_a_rate_limit_that_stays_is_told_to_each_with_retry_after(retry_after_s: float | None, calls: int) -> None:
    """After num_retries, or where upstream asks for more than 20 s, each caller gets 429 and how long to wait."""
    errors = [[UpstreamRateLimitedError("slow down", retry_after_s=retry_after_s)] for _ in range(5)]
    scene = Scene(FakeUpstream([*errors]))
    await scene.run(make_batch(2))
    assert len(scene.upstream.bodies) == calls
    assert sum(scene.slept) <= 20
    for i in range(2):
        assert isinstance(scene.outcome(i), Refused)
        assert scene.outcome(i).error.http_status == 429
        assert scene.outcome(i).error.retry_after_s > 0


async def test_a_group_in_cooldown_counts_as_a_rate_limit() -> None:
    """`pick` may say that all deployments cool down: wait as for a 429."""
    upstream = FakeUpstream([answer], picks=[UpstreamRateLimitedError("cooling", retry_after_s=2.0)])
    scene = Scene(upstream)
    await scene.run(make_batch(2))
    assert scene.reasons() == ["Completed"] * 2
    assert scene.slept == [2.0]


async def test_callers_that_left_while_waiting_are_not_asked_for() -> None:
    """A retried batch is built anew for those who still wait; one alone is no batch."""
    scene = Scene(FakeUpstream([[UpstreamRateLimitedError("slow down", retry_after_s=1.0)], answer]))
    scene.on_sleep = lambda: scene.delivery.left.add(CallId("call-0"))
    await scene.run(make_batch(3))
    assert [len(keys_of(body)) for body in scene.upstream.bodies] == [3, 2]
    scene = Scene(FakeUpstream([[UpstreamRateLimitedError("slow down", retry_after_s=1.0)]]))
    scene.on_sleep = lambda: scene.delivery.left.add(CallId("call-0"))
    await scene.run(make_batch(2))
    assert scene.outcome(1) == Alone("companions_left")


async def test_a_batch_too_large_is_halved_then_alone() -> None:
    """Too large: two halves; a half that is still too large goes alone; the model's batches are smaller afterwards."""
    too_large = UpstreamTooLargeError("context")
    scene = Scene(FakeUpstream([[too_large], answer, [too_large]]))
    await scene.run(make_batch(4))
    assert [len(keys_of(body)) for body in scene.upstream.bodies] == [4, 2, 2]
    assert sorted(scene.reasons()) == ["Completed", "Completed", "too_large", "too_large"]
    assert any(isinstance(e, MergingRested) for e in scene.events)


async def test_salvage_of_a_rejected_call_is_read() -> None:
    """Groq sends the failed text along: its valid lessons reach their callers, the others go alone."""
    scene = Scene()

    def script(body: Json) -> list[Piece | BaseException | float]:
        error = UpstreamRejectedError("tool_use_failed")
        error.salvage = "".join(p.text for p in answer(body, only=[1]))
        return [error]

    scene.upstream.scripts.append(script)
    await scene.run(make_batch(2))
    assert isinstance(scene.outcome(1), Completed)
    assert scene.outcome(0).reason == "rejected"


async def test_refusals_that_bring_lessons_all_the_same_bring_no_rest() -> None:
    """One bad lesson in each batch costs a resend each, and is no reason to stop merging."""
    scene = Scene()

    def script(body: Json) -> list[Piece | BaseException | float]:
        error = UpstreamRejectedError("tool_use_failed")
        error.salvage = "".join(p.text for p in answer(body, only=[1]))
        return [error]

    scene.upstream.scripts.extend([script] * 4)
    for _ in range(4):
        scene.delivery = FakeDelivery()
        await scene.run(make_batch(2))
    assert not [event for event in scene.events if isinstance(event, MergingRested)]


async def test_merging_rests_after_repeated_refusals() -> None:
    """Several refused batches in a row are told as a rest of the model's merging."""
    scene = Scene()
    dispatcher_sites = Sites()
    for _ in range(3):
        scene.upstream.scripts.append([UpstreamRejectedError("unsupported")])
        scene.delivery = FakeDelivery()
        dispatcher = Dispatcher(
            upstream=scene.upstream,
            sites=dispatcher_sites,
            tokens=WordTokens(),
            publish=scene.events.append,
            num_retries=0,
            clock=lambda: 0.0,
        )
        await dispatcher(make_batch(2), scene.delivery)
    assert [e.max_size for e in scene.events if isinstance(e, MergingRested)] == [1]


async def test_a_caller_that_left_gets_nothing_and_is_counted() -> None:
    """Its entry is waste, its share unassigned, the others unharmed."""
    scene = Scene(FakeUpstream([answer]))
    scene.delivery.on_deliver = lambda: scene.delivery.left.add(CallId("call-1"))
    await scene.run(make_batch(3))
    assert set(scene.delivery.outcomes) == {"call-0", "call-2"}
    assert scene.finished.left == 1
    assert scene.finished.unassigned.prompt > 0


async def test_writing_on_for_callers_that_left_is_stopped() -> None:
    """When everybody who still waited has a lesson, the call upstream ends at once."""
    scene = Scene()
    scene.delivery.on_deliver = lambda: scene.delivery.left.add(CallId("call-1"))
    scene.upstream.scripts.append(lambda body: [*answer(body, only=[0], cut=10_000)[:1], Piece("arguments", ", "), 3600.0])
    await asyncio.wait_for(scene.run(make_batch(2)), 5)
    assert isinstance(scene.outcome(0), Completed)
    assert scene.upstream.open_streams == 0


async def test_an_upstream_that_never_begins_or_stops_writing_times_out() -> None:
    """First-token and idle timeouts end the call upstream; what has arrived stays."""
    policy = MergePolicy(first_token_seconds=0.01, idle_seconds=0.01)
    lessons = tuple(make_lessons(2, merge=policy))
    silent = Scene(FakeUpstream([[3600.0]]))
    await silent.run(make_batch(lessons=lessons))
    assert silent.reasons() == ["upstream_timeout"] * 2
    stalled = Scene()
    stalled.upstream.scripts.append(lambda body: [*answer(body, only=[0], cut=10_000)[:1], 3600.0])
    await stalled.run(make_batch(lessons=lessons))
    assert isinstance(stalled.outcome(0), Completed)
    assert stalled.outcome(1).reason == "upstream_timeout"
    assert stalled.upstream.open_streams == 0


async def test_a_lying_stream_that_never_ends_does_not_hold_the_last_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries are here but no usage and no end: the last caller gets its lesson after a short grace."""
    monkeypatch.setattr("proxy.dispatch.dispatcher.USAGE_GRACE_S", 0.01)
    scene = Scene()
    scene.upstream.scripts.append(lambda body: [*answer(body, usage=None), 3600.0])
    await scene.run(make_batch(2))
    assert scene.reasons() == ["Completed"] * 2


async def test_a_cut_off_answer_fails_only_what_was_cut() -> None:
    """`finish_reason: length` with half an entry: that caller goes alone as `cut_off`."""
    scene = Scene()

    def script(body: Json) -> list[Piece | BaseException | float]:
        text = "".join(p.text for p in answer(body))
        return [Piece("arguments", text[: len(text) - 20]), Piece(finish_reason="length"), Piece(usage=Usage(10, 10))]

    scene.upstream.scripts.append(script)
    await scene.run(make_batch(2))
    assert isinstance(scene.outcome(0), Completed)
    assert scene.outcome(1).reason == "cut_off"


def broken_off(pieces: int, error: type[ProxyError], body: Json) -> Script:
    """Answer with the first pieces, then fail."""
    return [*answer(body)[:pieces], error("boom")]


async def test_every_lesson_is_settled_whatever_is_raised() -> None:
    """For each error of the tree and each moment, no lesson stays open."""

    def subclasses(cls: type[ProxyError]) -> list[type[ProxyError]]:
        return [cls, *(s for c in cls.__subclasses__() for s in subclasses(c))]

    for error in subclasses(ProxyError):
        for pieces in (0, 1, 3):
            scene = Scene()
            scene.upstream.scripts += [partial(broken_off, pieces, error) for _ in range(7)]
            await scene.run(make_batch(4), num_retries=0)
            assert len(scene.delivery.outcomes) == 4, error


@pytest.mark.parametrize("error", [UpstreamUnavailableError, UpstreamRejectedError])
async def test_where_no_deployment_can_be_picked_each_goes_alone(error: type[ProxyError]) -> None:
    scene = Scene(FakeUpstream([], picks=[error("none")]))
    await scene.run(make_batch(3))
    assert set(scene.delivery.outcomes.values()) == {Alone("no_deployment")}
