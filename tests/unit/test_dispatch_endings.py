"""How a merged call may end or fall silent: what has arrived stays, the accounts add up, and the right things are learned."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from proxy.dispatch import Dispatcher
from proxy.errors import (
    OverloadedError,
    ProxyError,
    UpstreamDeniedError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
)
from proxy.model import CallId, Capability, Completed, Json, Piece, Plan, Usage
from proxy.sites import Rest, Sites
from tests.fakes import FakeDelivery, FakeUpstream, Script, answer, keys_of
from tests.make import make_batch, make_lessons
from tests.unit.dispatching import Scene
from tests.virtual_time import run

MID_STREAM: list[type[ProxyError]] = [UpstreamRateLimitedError, UpstreamQuotaError, UpstreamDeniedError, OverloadedError]


@pytest.mark.parametrize("error", MID_STREAM)
async def test_a_refusal_in_the_middle_keeps_what_has_arrived_and_its_accounts(error: type[ProxyError]) -> None:
    """429, quota and the like after the first lesson: that one stays, the rest get the error and make no single calls."""
    scene = Scene()
    scene.upstream.scripts.append(lambda body: [*answer(body, only=[0], cut=10_000)[:1], error("enough")])
    await scene.run(make_batch(3))
    assert scene.reasons() == ["Completed", "Refused", "Refused"]
    assert len(scene.upstream.bodies) == 1
    assert scene.finished.usage.completion > 0
    assert scene.outcome(0).usage + scene.finished.unassigned == scene.finished.usage
    assert (scene.finished.refused, scene.finished.left) == (2, 0)


async def test_a_refusal_behind_the_last_lesson_takes_it_from_nobody() -> None:
    """All entries are here and only the usage is missing: an error in its place costs nobody the lesson."""
    scene = Scene()
    scene.upstream.scripts.append(lambda body: [*answer(body, usage=None)[:-1], UpstreamQuotaError("enough")])
    await scene.run(make_batch(2))
    assert scene.reasons() == ["Completed"] * 2


async def test_too_large_in_the_middle_sends_the_rest_alone() -> None:
    """What closed before stays; the rest is not halved, since it has been written for once."""
    scene = Scene()
    scene.upstream.scripts.append(lambda body: [*answer(body, only=[0], cut=10_000)[:1], UpstreamTooLargeError("context")])
    await scene.run(make_batch(4))
    assert scene.reasons() == ["Completed", "too_large", "too_large", "too_large"]
    assert len(scene.upstream.bodies) == 1


async def test_a_stream_that_ends_without_a_word_of_its_end_is_an_upstream_failure() -> None:
    """The connection broke off cleanly: the rest counts as failed by upstream, so that the resend budget holds."""
    scene = Scene(FakeUpstream([lambda body: answer(body, only=[0], cut=10_000)[:1]]))
    await scene.run(make_batch(2))
    assert scene.reasons() == ["Completed", "upstream_broken_off"]


async def test_an_invalid_entry_keeps_its_own_reason_when_upstream_fails_later() -> None:
    """A model's bad entry is no failure of the provider, and takes nothing from the resend budget."""
    scene = Scene()

    def script(body: Json) -> Script:
        first, _ = keys_of(body)
        return [Piece("arguments", f'{{"lessons":{{"{first}":{{"title":7}},'), UpstreamUnavailableError("down")]

    scene.upstream.scripts.append(script)
    await scene.run(make_batch(2))
    assert scene.reasons() == ["schema", "upstream_error"]


async def test_a_failed_caller_pays_for_its_own_entry_and_no_more() -> None:
    """Contract 8: a resent caller's usage is its share of the prompt and its failed entry's tokens, also where it is the last."""
    scene = Scene(FakeUpstream([lambda body: answer(body, only=[0], usage=Usage(100, 5000, 4000))]))
    await scene.run(make_batch(2))
    assert scene.outcome(1).spent.completion == 0
    assert scene.outcome(1).spent.prompt > 0
    assert scene.outcome(0).usage + scene.outcome(1).spent + scene.finished.unassigned == Usage(100, 5000, 4000)
    assert scene.finished.unassigned.completion > 4000


async def test_a_running_count_is_not_taken_for_the_usage() -> None:
    """Usage told at the beginning and a stream that breaks off: what was written since is counted."""
    scene = Scene()
    begun = Piece(usage=Usage(90, 1))
    scene.upstream.scripts.append(lambda body: [begun, *answer(body, only=[0], cut=10_000)[:1], UpstreamUnavailableError("down")])
    await scene.run(make_batch(2))
    assert scene.finished.usage.prompt == 90
    assert scene.finished.usage.completion > 1
    assert scene.finished.usage_estimated
    assert scene.outcome(0).usage + scene.outcome(1).spent + scene.finished.unassigned == scene.finished.usage


@pytest.mark.parametrize("told", [Usage(100, 0), Usage(0, 40)])
async def test_a_usage_that_leaves_something_out_is_completed_and_marked(told: Usage) -> None:
    """No batch is written without a prompt or without tokens; what upstream did tell stays."""
    scene = Scene(FakeUpstream([partial(answer, usage=told)]))
    await scene.run(make_batch(2))
    assert scene.reasons() == ["Completed"] * 2
    usage = scene.finished.usage
    assert scene.finished.usage_estimated
    assert (usage.prompt == 100, usage.completion >= 40) == (told.prompt == 100, told.completion == 40)
    assert min(usage.prompt, usage.completion) > 0
    assert scene.outcome(0).usage + scene.outcome(1).usage + scene.finished.unassigned == usage


async def test_a_rejection_that_brought_every_lesson_is_none() -> None:
    """Groq refuses the call and hands its text over: where nothing is lost, merging needs no rest."""

    def script(body: Json) -> Script:
        error = UpstreamRejectedError("tool_use_failed")
        error.salvage = "".join(piece.text for piece in answer(body))
        return [error]

    sites = Sites()
    for _ in range(4):
        scene = Scene(FakeUpstream([script]), sites=sites)
        await scene.run(make_batch(2))
        assert scene.reasons() == ["Completed"] * 2
    assert isinstance(sites.plan(make_lessons(1)[0], max_output_tokens=None, now=0.0), Plan)


async def test_a_cancelled_batch_tells_what_it_used() -> None:
    """The last caller left in the middle: upstream's work is paid for, so it stands in the figures."""
    scene = Scene()
    scene.upstream.scripts.append(lambda body: [*answer(body, only=[0], cut=10_000)[:1], 3600.0])
    delivered = asyncio.Event()
    scene.delivery.on_deliver = delivered.set
    running = asyncio.create_task(scene.run(make_batch(2)))
    await delivered.wait()
    scene.delivery.left.add(CallId("call-1"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert scene.finished.usage.completion > 0
    assert scene.outcome(0).usage + scene.finished.unassigned == scene.finished.usage


async def test_batches_that_their_callers_left_are_no_rejections() -> None:
    """Whoever's lesson nobody waited for must not make merging rest."""
    sites = Sites()
    for _ in range(4):
        scene = Scene(sites=sites)

        def script(body: Json, left: set[CallId] = scene.delivery.left) -> Script:
            left.update([CallId("call-0"), CallId("call-1")])
            return answer(body)

        scene.upstream.scripts.append(script)
        await scene.run(make_batch(2))
        assert scene.delivery.outcomes == {}
        assert scene.upstream.closed_streams == 1
    assert not isinstance(sites.plan(make_lessons(1)[0], max_output_tokens=None, now=0.0), Rest)


async def test_a_provider_that_can_carry_no_batch_is_not_asked_again_and_again() -> None:
    """No window where merging can't happen: after a few batches that nothing carries, merging rests."""
    sites = Sites()
    nothing = Capability(force="none", json_schema=False, json_object=False)
    for _ in range(3):
        scene = Scene(FakeUpstream(capability=nothing), sites=sites)
        await scene.run(make_batch(2))
        assert scene.reasons() == ["unmergeable:no_carrier"] * 2
    assert isinstance(sites.plan(make_lessons(1)[0], max_output_tokens=None, now=0.0), Rest)


async def test_batches_that_may_come_back_at_once_come_back_apart() -> None:
    """`Retry-After: 0` to many batches must not bring all of them in the same moment."""
    scene = Scene(FakeUpstream([[UpstreamRateLimitedError("now", retry_after_s=0.0)], answer]), jitter=0.5)
    await scene.run(make_batch(2))
    assert 0 < scene.slept[0] < 1


async def test_a_fault_in_one_half_leaves_the_other_its_time() -> None:
    """Two halves run side by side; a fault of our own in one is told after the other has delivered."""
    scene = Scene()
    scene.upstream.scripts = [[UpstreamTooLargeError("context")], [ZeroDivisionError()], lambda body: [0.01, *answer(body)]]
    with pytest.raises(ZeroDivisionError):
        await scene.run(make_batch(4))
    assert [type(scene.outcome(i)) for i in (2, 3)] == [Completed] * 2
    assert scene.upstream.open_streams == 0


def slow(body: Json, *, before_text: Sequence[Piece | float]) -> Script:
    return [*before_text, *answer(body)]


@pytest.mark.parametrize(
    ("before_text", "streams", "reason"),
    [
        ([Piece(), 50.0], True, "Completed"),
        ([Piece(), 61.0], True, "upstream_timeout"),
        ([step for _ in range(20) for step in (29.0, Piece())], True, "Completed"),
        ([step for _ in range(400) for step in (29.0, Piece())], True, "upstream_timeout"),
        ([100.0], False, "Completed"),
        ([130.0], False, "upstream_timeout"),
    ],
    ids=["first token", "first token late", "reasoning", "for ever", "whole", "whole late"],
)
def test_how_long_upstream_may_be_silent(before_text: list[Piece | float], streams: bool, reason: str) -> None:  # noqa: FBT001
    """Signs of life never shorten the time to the first token, nor lengthen a call for ever; a whole answer is written in silence."""

    async def test() -> list[str]:
        scene = Scene(FakeUpstream([partial(slow, before_text=before_text)], capability=Capability(stream=streams)))
        await scene.run(make_batch(2))
        return scene.reasons()

    assert run(test()) == [reason] * 2


class Letters:
    """Counts characters: more than the few words of the tests' lessons."""

    def count(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize(("cut", "reckoned_s"), [(10_000, 10.0), (7, 4.0)], ids=["at once", "streamed"])
def test_the_speed_is_of_the_time_that_upstream_wrote_in(cut: int, reckoned_s: float) -> None:
    """An answer that comes at once after ten seconds was written in them; reasoning before the first text counts for neither."""

    async def test() -> Sites:
        sites, loop = Sites(), asyncio.get_running_loop()

        def script(body: Json) -> Script:
            first, *others = answer(body, cut=cut, usage=Usage(10, 9000, 8000))
            return [10.0, first, *([4.0] if cut < 100 else []), *others]

        upstream = FakeUpstream([script])
        dispatcher = Dispatcher(upstream=upstream, sites=sites, tokens=Letters(), publish=lambda _: None, num_retries=0, clock=loop.time)
        await dispatcher(make_batch(2), FakeDelivery())
        return sites

    sites = run(test())
    plan = sites.plan(make_lessons(1)[0], max_output_tokens=None, now=0.0)
    assert isinstance(plan, Plan)
    assert plan.lesson_s == pytest.approx(reckoned_s / 2)
