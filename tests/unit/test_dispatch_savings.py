"""What a batch is found to have saved, and what it teaches of whether merging pays."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import (
    ProxyError,
    UpstreamDeniedError,
    UpstreamQuotaError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from proxy.model import CallId, Completed, Json, Price, Usage
from proxy.observe.events import BatchFinished, LessonWasted, MergingRested, MergingResumed
from proxy.sites import BatchResult, Rest, Rested, Resumed, Sites
from tests.fakes import FakeDelivery, FakeUpstream, Script, answer
from tests.make import make_batch, make_body, make_lessons
from tests.unit.dispatching import Scene, prompt_words, with_one_invalid

LONG = make_batch(lessons=tuple(make_lessons(2, body=make_body(messages=[{"role": "user", "content": "Explain it. " * 100}]))))
"""Two identical calls of which one prompt is saved; the prompts of the others here are too short to save anything."""
PRICE = Price(input_usd=1e-6, output_usd=4e-6)


def told_usage(body: Json, prompt: int, completion: int, **only: Any) -> Script:
    return answer(body, usage=Usage(prompt, completion), **only)


async def test_savings_are_net_in_tokens_and_money() -> None:
    """Upstream counts twice as many tokens as we do: what the prompts would have been alone is told in its counting."""
    scene = Scene(FakeUpstream([lambda body: told_usage(body, 2 * prompt_words(body), 100)], price=PRICE))
    batch = make_batch(3)
    await scene.run(batch)
    alone = sum(prompt_words(lesson.body) for lesson in batch.lessons)
    merged = prompt_words(scene.upstream.bodies[0])
    assert scene.finished.input_tokens_saved == pytest.approx(2 * (alone - merged), abs=2)
    assert scene.finished.wasted_completion == 0
    assert scene.finished.saved_usd == pytest.approx(scene.finished.input_tokens_saved * 1e-6)


async def test_a_resent_lesson_counts_against_the_savings() -> None:
    """Its prompt is paid again, and its entry was for nothing: a third of what upstream wrote."""
    scene = Scene(FakeUpstream([lambda body: with_one_invalid(body, Usage(prompt_words(body), 300))], price=PRICE))
    batch = make_batch(3)
    await scene.run(batch)
    assert scene.reasons().count("Completed") == 2
    alone = sum(prompt_words(lesson.body) for lesson in batch.lessons[:2])
    assert scene.finished.input_tokens_saved == alone - prompt_words(scene.upstream.bodies[0])
    assert scene.finished.wasted_completion == pytest.approx(100, abs=25)
    net_usd = scene.finished.input_tokens_saved * 1e-6 - scene.finished.wasted_completion * 4e-6
    assert scene.finished.saved_usd == pytest.approx(net_usd)


async def test_a_lesson_kept_in_vain_takes_its_saving_back() -> None:
    """What its batch counted for it, in tokens and money, and its output; it speaks against the site."""
    told: list[BatchResult] = []

    class Listening(Sites):
        def batch_finished(self, result: BatchResult, now: float) -> tuple[Rested | Resumed, ...]:
            told.append(result)
            return super().batch_finished(result, now)

    scene = Scene(FakeUpstream([answer], price=PRICE), sites=Listening())
    await scene.run(LONG)
    kept: Completed = scene.outcome(1)
    scene.dispatcher.wasted(LONG.lessons[1], kept)
    (lost,) = [e for e in scene.events if isinstance(e, LessonWasted)]
    prompt = kept.input_tokens_saved + kept.usage.prompt
    assert (lost.usage, lost.input_tokens_saved) == (kept.usage, -prompt)
    assert lost.saved_usd == pytest.approx(-prompt * 1e-6 - kept.usage.completion * 4e-6)
    assert (told[-1].saved, told[-1].wasted, told[-1].price) == (-prompt, kept.usage.completion, PRICE)


async def test_without_a_price_no_money_is_told() -> None:
    scene = Scene(FakeUpstream([answer]))
    await scene.run(make_batch(2))
    assert scene.finished.saved_usd is None


async def test_a_lesson_whose_caller_left_is_waste_but_does_not_speak_against_merging() -> None:
    """Alone it would have cost as much; the account of the site takes it as it would a delivered one."""
    told: list[BatchResult] = []

    class Listening(Sites):
        def batch_finished(self, result: BatchResult, now: float) -> tuple[Rested | Resumed, ...]:
            told.append(result)
            return super().batch_finished(result, now)

    scene = Scene(FakeUpstream([answer, answer]), sites=Listening())
    await scene.run(make_batch(3))
    scene.delivery = FakeDelivery()
    scene.delivery.on_deliver = lambda: scene.delivery.left.add(CallId("call-1"))
    await scene.run(make_batch(3))
    whole, left = told
    assert (left.lessons, left.saved, left.wasted) == (whole.lessons, whole.saved, whole.wasted)
    event = [e for e in scene.events if isinstance(e, BatchFinished)][-1]
    assert event.wasted_completion > 0
    assert event.input_tokens_saved < whole.saved


@pytest.mark.parametrize(
    "error", [UpstreamUnavailableError("500"), UpstreamTimeoutError("silent"), UpstreamRejectedError("400")], ids=lambda e: type(e).__name__
)
async def test_a_site_whose_batches_keep_failing_rests_and_says_so(error: ProxyError) -> None:
    """Whatever the failure: a server may answer 500 to a schema that is too large for it, and then lone calls do better."""
    sites, events = Sites(), list[object]()
    for _ in range(3):
        scene = Scene(FakeUpstream([[error]]), sites=sites, events=events)
        await scene.run(make_batch(2))
    rested = [e for e in events if isinstance(e, MergingRested)]
    assert [(e.site, e.seconds) for e in rested] == [("", 60.0)]


@pytest.mark.parametrize("error", [UpstreamQuotaError("q"), UpstreamDeniedError("d"), UpstreamRateLimitedError("r", retry_after_s=99.0)])
async def test_what_upstream_refuses_to_everybody_does_not_speak_against_merging(error: ProxyError) -> None:
    sites = Sites()
    for _ in range(20):
        scene = Scene(FakeUpstream([[error]]), sites=sites)
        await scene.run(make_batch(2))
    assert not isinstance(sites.plan(make_lessons(1)[0], max_output_tokens=None, now=0.0), Rest)


async def test_a_rest_ends_with_a_trial_that_is_told() -> None:
    """Four good batches after the rest, and merging is back for all."""
    sites, events = Sites(), list[object]()
    for _ in range(3):
        await Scene(FakeUpstream([[UpstreamRejectedError("400")]]), sites=sites, events=events).run(make_batch(2))
    for _ in range(4):
        assert not isinstance(sites.plan(LONG.lessons[0], max_output_tokens=None, now=100.0), Rest)
        await Scene(FakeUpstream([answer]), sites=sites, events=events, now=100.0).run(LONG)
    assert [e for e in events if isinstance(e, MergingResumed)] == [MergingResumed(LONG.lessons[0].model, "")]
