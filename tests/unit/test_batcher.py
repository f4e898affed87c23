"""The use case: who waits, who goes alone, and what each caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from proxy.batcher import Batcher
from proxy.budget import ResendBudget
from proxy.errors import NotFoundError, OverloadedError, UpstreamQuotaError
from proxy.model import (
    Alone,
    BatchId,
    BatchKey,
    Caller,
    CallId,
    Completed,
    Failed,
    Lesson,
    Merged,
    Outcome,
    Refused,
    Reply,
    Unbatchable,
    Usage,
)
from proxy.observe.events import CallFinished
from proxy.sites import BatchResult, Sites
from tests.fakes import FakeUpstream, FakeWindow, lesson_text
from tests.make import make_call, make_lesson, make_responses_body

BATCH = Merged(BatchId("batch-1"), 3)
CONTENT = orjson.dumps(lesson_text("own")).decode()
DONE = Completed(CallId("call-0"), CONTENT, "upstream-model", Usage(40, 20), estimated=False, input_tokens_saved=90, batch=BATCH)
LONE_BODY: dict[str, Any] = {
    "id": "chatcmpl-lone",
    "object": "chat.completion",
    "model": "upstream-model",
    "choices": [],
    "usage": {"prompt_tokens": 130, "completion_tokens": 30, "total_tokens": 160},
}
LONE = Reply(200, (("content-type", "application/json"),), orjson.dumps(LONE_BODY))


@dataclass
class Scene:
    verdict: Lesson | Unbatchable = field(default_factory=make_lesson)
    outcomes: list[Outcome | BaseException] = field(default_factory=list[Any])
    replies: list[Reply | BaseException] = field(default_factory=lambda: [LONE])
    sites: Sites = field(default_factory=Sites)
    budget: ResendBudget = field(default_factory=ResendBudget)
    events: list[object] = field(default_factory=list[object])
    now: float = 5.0

    def __post_init__(self) -> None:
        self.upstream = FakeUpstream(replies=self.replies)
        self.window = FakeWindow(self.outcomes)
        self.batcher = Batcher(
            judge=lambda _: self.verdict,
            window=self.window,
            upstream=self.upstream,
            sites=self.sites,
            budget=self.budget,
            publish=self.events.append,
            clock=lambda: self.now,
        )

    async def answer(self, **call: Any) -> Reply:
        return await self.batcher.answer(make_call(**call))

    @property
    def told(self) -> CallFinished:
        (event,) = self.events
        assert isinstance(event, CallFinished)
        return event


def headers(reply: Reply) -> dict[str, str]:
    return dict(reply.headers)


async def test_what_is_no_lesson_goes_through_untouched() -> None:
    """Bytes up, bytes down, no header of ours, no retry, and nothing is held."""
    scene = Scene(verdict=Unbatchable("no_topic"))
    reply = await scene.answer()
    assert reply is LONE or reply == LONE
    assert scene.upstream.sent[0][2] is False
    assert scene.window.plans == []
    assert (scene.told.way, scene.told.reason) == ("passed", "no_topic")


async def test_what_looked_like_a_lesson_says_why_it_was_not_merged() -> None:
    """A matched rule with a reason against merging stands in the headers."""
    reply = await Scene(verdict=Unbatchable("seed", rule="tool")).answer()
    assert headers(reply) | {"x-lesson-merged": "false", "x-lesson-reason": "seed"} == headers(reply)


async def test_a_merged_lesson_is_rendered_as_if_alone() -> None:
    """The caller's JSON carries its lesson and usage; the headers tell of the batch."""
    scene = Scene(outcomes=[DONE])
    reply = await scene.answer()
    body = orjson.loads(reply.body)
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == CONTENT
    assert body["usage"]["total_tokens"] == 60
    told = headers(reply)
    assert told["x-lesson-merged"] == "true"
    assert (told["x-lesson-batch-id"], told["x-lesson-batch-size"]) == ("batch-1", "3")
    assert (told["x-lesson-wait-ms"], told["x-lesson-input-tokens-saved"]) == ("50", "90")
    assert scene.upstream.sent == []
    assert (scene.told.way, scene.told.usage, scene.told.input_tokens_saved) == ("merged", Usage(40, 20), 90)


async def test_a_streaming_caller_gets_a_stream() -> None:
    """A stream was asked: SSE with the caller's content, and no estimate header."""
    scene = Scene(verdict=make_lesson(stream=True), outcomes=[DONE])
    reply = await scene.answer()
    assert headers(reply)["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert "x-lesson-input-tokens-saved" not in headers(reply)


async def test_a_failed_lesson_goes_alone_once_with_its_share_added() -> None:
    """The lone answer's usage holds what the batch spent on this caller; JSON says why it was resent."""
    scene = Scene(outcomes=[Failed(CallId("call-0"), "schema", Usage(40, 25), BATCH)])
    reply = await scene.answer()
    assert orjson.loads(reply.body)["usage"]["total_tokens"] == 160 + 65
    assert headers(reply)["x-lesson-reason"] == "resent:schema"
    assert headers(reply)["x-lesson-merged"] == "false"
    assert len(scene.upstream.sent) == 1
    assert (scene.told.way, scene.told.usage) == ("resent", Usage(170, 55))


async def test_a_failed_stream_goes_alone_with_its_usage_chunk_corrected() -> None:
    """The usage chunk of the lone stream is corrected, everything else passes as it came."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        yield b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}\n\ndata: [DONE]\n\n'

    scene = Scene(
        verdict=make_lesson(stream=True, include_usage=True),
        outcomes=[Failed(CallId("call-0"), "missing", Usage(40, 0), BATCH)],
        replies=[Reply(200, (("content-type", "text/event-stream"),), chunks=chunks())],
    )
    reply = await scene.answer()
    assert reply.chunks
    text = b"".join([chunk async for chunk in reply.chunks])
    assert b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n' in text
    usage = orjson.loads(text.split(b"data: ")[2])["usage"]
    assert usage == {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55}
    assert scene.events == []
    await reply.close()
    assert scene.told.status == 200


async def test_a_batch_wide_error_is_the_callers() -> None:
    """Refused: the error reaches the caller as it is, no second call."""
    error = UpstreamQuotaError("out of quota", should_retry=False)
    scene = Scene(outcomes=[Refused(CallId("call-0"), error, BATCH)])
    with pytest.raises(UpstreamQuotaError):
        await scene.answer()
    assert scene.upstream.sent == []
    assert (scene.told.way, scene.told.status) == ("refused", 429)


async def test_alone_goes_as_the_caller_wrote_it() -> None:
    """No companions: the caller's own call, and the model's speed and length are learned from it."""
    calls = 5  # the fewest that something is learned from
    scene = Scene(outcomes=[Alone("alone")] * calls, replies=[LONE] * calls)
    for _ in range(calls):
        reply = await scene.answer()
        assert reply.body == LONE.body
        assert headers(reply)["x-lesson-reason"] == "alone"
    assert scene.upstream.sent[0][2] is True
    assert scene.sites.learned_tokens("gpt-oss-120b")


@pytest.mark.parametrize(("mode", "reason"), [("dry_run", "dry_run"), ("off", "share")])
async def test_trials_are_recognised_and_counted_but_never_held(mode: Any, reason: str) -> None:
    """dry_run and the keys outside a share go alone at once and are told as such."""
    scene = Scene(verdict=make_lesson(mode=mode))
    reply = await scene.answer()
    assert headers(reply)["x-lesson-reason"] == reason
    assert scene.window.plans == []
    assert scene.told.would_merge


async def test_a_resting_site_is_not_held() -> None:
    """While merging rests the lessons go alone without a wait."""
    sites = Sites()
    for _ in range(3):
        sites.batch_finished(BatchResult("gpt-oss-120b", "", BatchKey("k"), 0, 0, 0, failure="rejected"), 5.0)
    reply = await Scene(sites=sites).answer()
    assert headers(reply)["x-lesson-reason"] == "site_rests"


@pytest.mark.parametrize(("pending", "reason"), [(DONE, None), (Alone("alone"), "site_rests")])
async def test_a_marked_retry_joins_its_pending_call_also_while_merging_rests(pending: Outcome, reason: str | None) -> None:
    """The rest began after its call was sent: a second generation would be waste. Where nothing is pending it goes alone, unheld."""
    sites = Sites()
    for _ in range(3):
        sites.batch_finished(BatchResult("gpt-oss-120b", "", BatchKey("k"), 0, 0, 0, failure="rejected"), 5.0)
    scene = Scene(verdict=make_lesson(retry_count=1), outcomes=[pending], sites=sites)
    told = headers(await scene.answer())
    assert told.get("x-lesson-reason") == reason
    assert [plan.max_wait_s for plan in scene.window.plans] == [0.0]
    assert len(scene.upstream.sent) == (0 if reason is None else 1)


async def test_a_call_that_found_no_company_gives_its_place_on_trial_to_the_next() -> None:
    """After a rest few keys are tried; lone ones must not use the trial up."""
    sites = Sites()
    for _ in range(3):
        sites.batch_finished(BatchResult("gpt-oss-120b", "", BatchKey("k"), 0, 0, 0, failure="rejected"), -100.0)
    for i in range(10):
        scene = Scene(verdict=make_lesson(key=BatchKey(f"{i}")), outcomes=[Alone("alone")], sites=sites)
        assert headers(await scene.answer())["x-lesson-reason"] == "alone"


async def test_resends_after_upstream_failures_are_bounded() -> None:
    """Past the budget a caller gets 503 with retry-after instead of one more call on a failing provider."""
    budget = ResendBudget(floor=1)
    failed = Failed(CallId("call-0"), "upstream_error", Usage(), BATCH)
    scene = Scene(outcomes=[failed, failed], budget=budget)
    assert (await scene.answer()).status == 200
    with pytest.raises(OverloadedError) as caught:
        await scene.answer()
    assert caught.value.http_status == 503
    assert caught.value.retry_after_s
    assert caught.value.retry_after_s > 0


async def test_resends_for_bad_entries_are_not_counted_against_the_budget() -> None:
    """A model's bad entry is no failing provider."""
    failed = Failed(CallId("call-0"), "missing", Usage(), BATCH)
    scene = Scene(outcomes=[failed] * 3, replies=[LONE] * 3, budget=ResendBudget(floor=1))
    for _ in range(3):
        assert (await scene.answer()).status == 200


async def test_a_caller_that_leaves_is_told_of_once() -> None:
    """A cancelled call ends as 499 in the events, and the cancellation goes on."""
    scene = Scene(outcomes=[asyncio.CancelledError()])
    with pytest.raises(asyncio.CancelledError):
        await scene.answer()
    assert scene.told.status == 499


async def test_an_unknown_model_is_an_error_and_told() -> None:
    """Errors of ours are events too."""
    scene = Scene(verdict=Unbatchable("no_lesson"), replies=[NotFoundError("no such model", code="model_not_found")])
    with pytest.raises(NotFoundError):
        await scene.answer()
    assert scene.told.status == 404


async def test_a_path_that_names_no_model_goes_to_the_alias_that_opens_it() -> None:
    """A configured path's alias decides, whatever the body says or leaves out."""
    scene = Scene(verdict=Unbatchable("not_chat"))
    await scene.answer(path="/v1/files", body={}, alias="opened")
    assert scene.upstream.sent[0][1] == "opened"
    assert scene.told.model == "opened"


async def test_what_is_another_calls_is_never_handed_over() -> None:
    """Whatever the window brings: an outcome of another call is dropped, and the caller's own request goes alone."""
    for outcome in (replace(DONE, id=CallId("call-9")), Failed(CallId("call-9"), "schema", Usage(9, 9), BATCH)):
        scene = Scene(outcomes=[outcome])
        reply = await scene.answer()
        assert reply.body == LONE.body
        assert headers(reply)["x-lesson-reason"] == "misdelivered"


async def test_a_lesson_that_was_cut_off_teaches_no_length() -> None:
    """`finish_reason: length`: how long lessons are is not known from it; the words inside a lesson are no finish reason."""
    cut_off = LONE_BODY | {"choices": [{"finish_reason": "length", "message": {"content": "The"}}]}
    quoted = LONE_BODY | {"choices": [{"finish_reason": "stop", "message": {"content": '"finish_reason":"length"'}}]}
    for body, learned in ((cut_off, False), (quoted, True)):
        scene = Scene(outcomes=[Alone("alone")] * 5, replies=[replace(LONE, body=orjson.dumps(body))] * 5)
        for _ in range(5):
            await scene.answer()
        assert (scene.sites.learned_tokens("gpt-oss-120b") is not None) is learned


# The Responses API

RESPONSES = "/v1/responses"


async def test_a_merged_lesson_is_answered_in_the_api_that_asked() -> None:
    """The same lesson by the other path is a `response`, JSON or SSE, with what its caller asked for said back."""
    body = make_responses_body(metadata={"a": "b"})
    scene = Scene(outcomes=[DONE])
    told = orjson.loads((await scene.answer(path=RESPONSES, body=body)).body)
    assert (told["object"], told["metadata"], told["store"]) == ("response", {"a": "b"}, False)
    assert told["output"][0]["arguments"] == CONTENT
    assert told["usage"]["total_tokens"] == 60
    streaming = Scene(verdict=make_lesson(stream=True), outcomes=[DONE])
    reply = await streaming.answer(path=RESPONSES, body=body)
    assert headers(reply)["content-type"].startswith("text/event-stream")
    assert reply.body.startswith(b"event: response.created\n")


async def test_a_lone_response_tells_its_usage_and_what_the_batch_spent() -> None:
    lone = {"object": "response", "status": "completed", "usage": {"input_tokens": 130, "output_tokens": 30, "total_tokens": 160}}
    reply = Reply(200, (("content-type", "application/json"),), orjson.dumps(lone))
    scene = Scene(outcomes=[Failed(CallId("call-0"), "schema", Usage(40, 25), BATCH)], replies=[reply])
    told = orjson.loads((await scene.answer(path=RESPONSES)).body)["usage"]
    assert told == {"input_tokens": 170, "output_tokens": 55, "total_tokens": 225}
    assert scene.told.usage == Usage(170, 55)


async def test_going_on_from_a_merged_answer_is_a_clear_404_and_its_site_merges_no_more() -> None:
    """Nothing of it was stored; calls of that site go alone from then on, and other sites are not touched."""
    lesson = make_lesson(site="0123456789abcdef" * 2)
    scene = Scene(verdict=lesson, outcomes=[DONE, DONE, DONE], replies=[LONE])
    first = orjson.loads((await scene.answer(path=RESPONSES)).body)
    with pytest.raises(NotFoundError) as refused:
        await scene.answer(path=RESPONSES, body=make_responses_body(previous_response_id=first["id"]))
    error = refused.value.body()["error"]
    assert (refused.value.http_status, error["code"], error["param"]) == (404, "previous_response_not_found", "previous_response_id")
    assert first["id"] in error["message"]
    assert scene.upstream.sent == [], "upstream never heard of that id"
    reply = await scene.answer(path=RESPONSES)
    assert headers(reply)["x-lesson-reason"] == "previous_response_id"
    assert headers(await scene.answer())["x-lesson-merged"] == "true", "chat has no later call that could name an answer"
    assert len(scene.window.plans) == 2
    scene.verdict = make_lesson(site="0123456789abcdef" + "f" * 16)
    assert headers(await scene.answer(path=RESPONSES))["x-lesson-merged"] == "true"


async def test_a_reference_to_an_item_of_a_merged_answer_is_one_too() -> None:
    """Some clients send back ids of items in place of the items; upstream's own ids go through."""
    scene = Scene(outcomes=[DONE])
    item = orjson.loads((await scene.answer(path=RESPONSES)).body)["output"][0]["id"]
    follow_up = {"role": "user", "content": "And a quiz."}
    with pytest.raises(NotFoundError) as refused:
        await scene.answer(path=RESPONSES, body=make_responses_body(input=[{"type": "item_reference", "id": item}, follow_up]))
    assert (refused.value.code, refused.value.param) == ("item_not_found", "input")
    scene.verdict = Unbatchable("previous_response_id")
    assert (await scene.answer(path=RESPONSES, body=make_responses_body(previous_response_id="resp_68af"))).status == 200


@dataclass
class FakeAhead:
    """Keeps one outcome for the next call that takes, and remembers what it was asked."""

    kept: Outcome | None = None
    asked: list[int] = field(default_factory=list[int])
    taken: int = 0
    keep_s: float = 30.0

    async def take(self, lesson: Lesson) -> Outcome | None:
        self.taken += 1
        return self.kept

    async def ask(self, lesson: Lesson, caller: Caller, count: int) -> Outcome:
        self.asked.append(count)
        return Alone("alone")


async def asked_ahead(scene: Scene, *, retries: bool = False, **lesson: Any) -> FakeAhead:
    """Let loops of two calls of one site go by, the way that `lesson` says; returns what was asked ahead of them."""
    ahead = FakeAhead()
    for _ in range(5):
        scene.sites.lesson_finished("gpt-oss-120b", 30)
    scene.outcomes.extend([Alone("alone")] * 60)
    scene.replies.extend([LONE] * 60)
    scene.batcher._ahead = ahead
    for i in range(30):
        for turn in range(2):
            retried = {"retry_count": turn} if retries else {}
            scene.verdict = make_lesson(**({"identity_digest": f"{i}"} | retried | lesson))
            scene.now += 100.0 if turn == 0 else 1.0
            await scene.answer(raw=b"x" * 4000)
    return ahead


async def test_a_loop_is_asked_for_ahead_once_it_is_known() -> None:
    """Each first call asks for two, each second for itself alone; before that, for nothing."""
    asked = (await asked_ahead(Scene())).asked
    assert asked[:2] == [1, 1]
    assert asked[-2:] == [2, 1]


@pytest.mark.parametrize(
    "lesson",
    [{"scope": "identical", "user": None}, {"deterministic": True}, {"expect": 2}, {"retry_count": 1}, {"mode": "dry_run"}],
    ids=str,
)
async def test_nothing_is_asked_ahead_where_that_could_be_wrong(lesson: dict[str, Any]) -> None:
    """Nobody known, one answer expected, a group announced, a repetition, a dry run."""
    ahead = await asked_ahead(Scene(), **lesson)
    assert set(ahead.asked) <= {1}
    if "retry_count" not in lesson:
        assert (ahead.asked, ahead.taken) == ([], 0)


async def test_calls_that_were_not_answered_are_no_loop() -> None:
    """Clients repeat what failed, some with a mark and some without."""
    assert set((await asked_ahead(Scene(replies=[replace(LONE, status=500)] * 60))).asked) == {1}
    assert set((await asked_ahead(Scene(), retries=True)).asked) == {1}


async def test_what_was_kept_is_handed_out_without_a_wait() -> None:
    """As merged as any other lesson; the window isn't asked."""
    scene = Scene()
    scene.batcher._ahead = FakeAhead(kept=DONE)
    told = headers(await scene.answer())
    assert (told["x-lesson-merged"], told["x-lesson-wait-ms"]) == ("true", "0")
    assert scene.window.plans == []
    assert scene.upstream.sent == []
