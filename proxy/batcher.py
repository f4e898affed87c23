"""The use case: recognise a call, hold it for its companions or pass it through, and go alone when that is right.

A failed item's retry runs here, in its waiting caller's own coroutine: that caller has its body, its key, its deadline
and its cancellation. Knows the window and upstream by their protocols only, and no HTTP server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import assert_never

from proxy.budget import ResendBudget
from proxy.errors import NotFoundError, OverloadedError, ProxyError
from proxy.interfaces import Ahead, Listener, Upstream, Window
from proxy.lessons.forms import FORMS
from proxy.lessons.forms.continuing import site_of
from proxy.lessons.spent import UsageCorrector, correct_usage_json, read_usage_json
from proxy.model import NO_COMPANY, Alone, Call, Completed, Failed, Held, Lesson, Outcome, Plan, Refused, Reply, Unbatchable, Usage
from proxy.sites import Rest, Sites
from proxy.story import Story, alias_of

CLIENT_LEFT = 499
"""What a call is counted as whose caller left before its answer (nginx's code; nobody receives it)."""

_OK = 200
_JSON = (("content-type", "application/json"),)
_SSE = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
_JOINS_ITS_OWN = Plan(max_wait_s=0.0, max_size=1)
"""What a retry asks of the window while merging rests: its call may be pending from before; else it goes alone."""
_UPSTREAM_FAILED = "upstream_"
"""Reasons of `Failed` that begin so are counted against the resend budget: a storm must not double itself."""


class Batcher:
    """Answers calls. `judge` is a Recogniser's; None: nothing is ever merged. `clock` is monotonic, in seconds."""

    def __init__(  # noqa: PLR0913 - the use case's neighbours, named
        self,
        *,
        judge: Callable[[Call], Lesson | Unbatchable] | None,
        window: Window,
        upstream: Upstream,
        sites: Sites,
        budget: ResendBudget,
        publish: Listener,
        ahead: Ahead | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._judge_lesson = judge
        self._window = window
        self._upstream = upstream
        self._sites = sites
        self._budget = budget
        self._publish = publish
        self._ahead = ahead
        self._clock = clock

    async def answer(self, call: Call, verdict: Lesson | Unbatchable | None = None) -> Reply:
        """Return the caller's terminal answer; raises ProxyError where that is an error of ours.

        `verdict`: what `judge` said, where the call was judged before.
        """
        story = Story(self._clock())
        try:
            reply = await self._route(call, verdict, story)
        except ProxyError as error:
            story.reason, story.error = story.reason or error.code, error.code or error.type
            self._tell(call, story, error.http_status)
            raise error.told(story.headers()) from error
        except asyncio.CancelledError:
            self._tell(call, story, CLIENT_LEFT)
            raise
        return self._watched(call, story, reply)

    def judge(self, call: Call) -> Lesson | Unbatchable:
        """Tell what is made of a call, without answering it."""
        if call.path not in FORMS:
            return Unbatchable("not_chat")
        return self._judge_lesson(call) if self._judge_lesson else Unbatchable("off")

    async def _route(self, call: Call, verdict: Lesson | Unbatchable | None, story: Story) -> Reply:
        self._check_continued(call, story)
        verdict = verdict or self.judge(call)
        match verdict:
            case Unbatchable():
                story.reason, story.rule = verdict.reason, verdict.rule
                reply = await self._upstream.send(call, alias_of(call), lesson=False)
                return _with(reply, story.headers())
            case Lesson():
                story.lesson, story.rule, story.way = verdict, verdict.rule, "alone"
                self._budget.called(verdict.model, story.started_s)
                return await self._lesson(call, verdict, story)
            case _:
                assert_never(verdict)

    def _check_continued(self, call: Call, story: Story) -> None:
        """Refuse a call that goes on from a merged answer, of which nothing was stored, and remember the site that does so."""
        form = FORMS.get(call.path)
        named = form.builds_on(call.body) if form and form.builds_on else None
        if named is not None:
            field_name, answer = named
            story.way = "refused"
            self._sites.builds_on(site_of(answer) or "")
            raise NotFoundError(
                f"{answer!r} was not stored: it is one of several lessons that were written in one call (`store: false`). Send what "
                "it said along instead of its id. From now on calls like the one that it answered are sent unmerged.",
                code="previous_response_not_found" if field_name == "previous_response_id" else "item_not_found",
                param=field_name,
            )

    def _kept_alone(self, call: Call, lesson: Lesson) -> str | None:
        """Return why this lesson goes alone, whoever comes beside it."""
        if lesson.mode != "on":
            return "dry_run" if lesson.mode == "dry_run" else "share"
        built_on = FORMS[call.path].builds_on and self._sites.is_built_on(lesson.site)
        return "previous_response_id" if built_on else None

    async def _lesson(self, call: Call, lesson: Lesson, story: Story) -> Reply:
        if (reason := self._kept_alone(call, lesson)) is not None:
            return await self._alone(call, lesson, story, reason)
        held = await self._held(call, lesson)
        story.wait_s = held.wait_s
        outcome = held.outcome
        if not isinstance(outcome, Alone) and outcome.id != lesson.id:
            return await self._alone(call, lesson, story, "misdelivered")
        return await self._settled(call, lesson, outcome, story)

    async def _held(self, call: Call, lesson: Lesson) -> Held:
        """Find the call a lesson that was asked for ahead, or hold it for its companions, where that is worth it."""
        if self._ahead and _may_loop(lesson):
            if lesson.retry_count == 0:
                self._sites.loop_began(lesson, self._ahead.keep_s, self._clock())
            if kept := await self._ahead.take(lesson):
                return Held(kept)
        limit = self._upstream.max_output_tokens(lesson.model)
        plan = self._sites.plan(lesson, max_output_tokens=limit, now=self._clock())
        rest = plan if isinstance(plan, Rest) else None
        if rest and lesson.retry_count == 0:
            return Held(Alone(rest.reason))
        held = await self._window.join(lesson, _JOINS_ITS_OWN if isinstance(plan, Rest) else plan, call.caller)
        self._sites.left_window(lesson, held.outcome)
        if held.outcome != NO_COMPANY:
            return held
        if rest:
            return replace(held, outcome=Alone(rest.reason))
        if self._ahead and _may_loop(lesson):
            count = self._sites.ahead(lesson, len(call.raw), limit, self._clock())
            return replace(held, outcome=await self._ahead.ask(lesson, call.caller, count))
        return held

    async def _settled(self, call: Call, lesson: Lesson, outcome: Outcome, story: Story) -> Reply:
        match outcome:
            case Alone():
                return await self._alone(call, lesson, story, outcome.reason)
            case Completed():
                return self._merged(call, lesson, outcome, story)
            case Failed():
                return await self._resend(call, lesson, outcome, story)
            case Refused():
                story.way, story.batch = "refused", outcome.batch
                raise outcome.error
            case _:
                assert_never(outcome)

    def _merged(self, call: Call, lesson: Lesson, done: Completed, story: Story) -> Reply:
        story.way, story.batch, story.saved = "merged", done.batch, done.input_tokens_saved
        story.usage, story.estimated = done.usage, done.estimated
        form, created = FORMS[call.path], int(time.time())
        if lesson.stream:
            return Reply(200, _SSE + story.headers(), form.render_sse(call.body, lesson, done, created))
        return Reply(200, _JSON + story.headers(), form.render_json(call.body, lesson, done, created))

    async def _alone(self, call: Call, lesson: Lesson, story: Story, reason: str) -> Reply:
        """Send the caller's own request, and learn from what its answer says of itself."""
        story.reason = reason
        sent_s = self._clock()
        reply = await self._upstream.send(call, lesson.model, lesson=True)
        usage = read_usage_json(reply.body) if reply.chunks is None and reply.status == _OK else None
        if usage:
            story.usage = usage + story.spent
            self._sites.prompt_counted(lesson.model, usage.prompt, len(call.raw))
            if not lesson.stream:
                if not FORMS[call.path].was_cut_off(reply.body):
                    self._sites.lesson_finished(lesson.model, usage.completion)
                # the time before the first token counts too: the speed comes out a little low, which errs to the safe side
                self._sites.decoded(lesson.model, usage.completion, self._clock() - sent_s)
        return _with(reply, story.headers())

    async def _resend(self, call: Call, lesson: Lesson, failed: Failed, story: Story) -> Reply:
        """Send a failed item alone, once, with its share of the batch added to its usage."""
        story.way, story.batch, story.spent = "resent", failed.batch, failed.spent
        now = self._clock()
        if failed.reason.startswith(_UPSTREAM_FAILED) and not self._budget.take(lesson.model, now):
            story.way = "refused"
            raise OverloadedError(
                f"The provider of {lesson.model!r} is failing and too many calls are being repeated; try again shortly.",
                code="resend_budget",
                retry_after_s=self._budget.retry_after_s(lesson.model, now),
            )
        return _corrected(await self._alone(call, lesson, story, f"resent:{failed.reason}"), failed.spent)

    def _watched(self, call: Call, story: Story, reply: Reply) -> Reply:
        """Tell the call's end when it is known: now for a whole body, at `close` for a stream."""
        if reply.chunks is None:
            self._tell(call, story, reply.status)
            return reply
        close = reply.close

        async def close_and_tell() -> None:
            try:
                await close()
            finally:
                self._tell(call, story, reply.status)

        return replace(reply, close=close_and_tell)

    def _tell(self, call: Call, story: Story, status: int) -> None:
        lesson = story.lesson
        if self._ahead and lesson and lesson.retry_count == 0:
            self._sites.loop_ended(lesson, self._clock(), answered=status == _OK)
        self._publish(story.finished(call, status, self._clock()))


def _may_loop(lesson: Lesson) -> bool:
    """Tell whether more lessons of this very request may be kept: a known user's, of whom several are different ones."""
    return lesson.scope == "user" and not lesson.deterministic and lesson.expect is None


def _with(reply: Reply, headers: tuple[tuple[str, str], ...]) -> Reply:
    return replace(reply, headers=reply.headers + headers) if headers else reply


def _corrected(reply: Reply, spent: Usage) -> Reply:
    """Add what the batch spent on this caller to the usage that its lone answer reports."""
    if reply.chunks is None:
        return replace(reply, body=correct_usage_json(reply.body, spent))
    corrector, chunks = UsageCorrector(spent), reply.chunks

    async def corrected() -> AsyncIterator[bytes]:
        async for chunk in chunks:
            if out := corrector.feed(chunk):
                yield out
        if rest := corrector.finish():
            yield rest

    return replace(reply, chunks=corrected())
