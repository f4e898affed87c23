"""What to do with a batch when upstream answers, and when it doesn't: the table of contract 7.

Never raises for what upstream does: whatever fails becomes an outcome of the lessons that it concerns. Knows upstream
and delivery by their protocols, and no provider.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from proxy.dispatch.course import Course
from proxy.dispatch.ledger import Ledger
from proxy.dispatch.listening import USAGE_GRACE_S, Pace, Silence
from proxy.errors import (
    ProxyError,
    UpstreamRateLimitedError,
    UpstreamRejectedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
    UpstreamUnavailableError,
    UpstreamUnreadableError,
)
from proxy.interfaces import Delivery, Listener, Tokens, Upstream
from proxy.lessons.merge import MergedBody, Unmergeable, merge
from proxy.model import Alone, Batch, Completed, Deployment, Lesson, Merged, Outcome, Piece, Refused
from proxy.observe.events import LessonWasted, MergingRested, MergingResumed
from proxy.sites import BatchResult, Rested, Resumed, Sites

MAX_RETRY_S = 20.0
"""The most seconds that a batch waits for upstream's rate limit, all retries together."""


@dataclass(frozen=True, slots=True)
class _Job:
    batch: Batch
    delivery: Delivery
    ledger: Ledger

    @property
    def model(self) -> str:
        return self.batch.lessons[0].model

    def waiting(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        return [lesson for lesson in lessons if self.delivery.waiting(lesson.id)]

    def alone(self, lessons: Sequence[Lesson], reason: str) -> None:
        for lesson in self.waiting(lessons):
            self.delivery.deliver(Alone(reason), lesson.id)
            self.ledger.failed[reason] += 1

    def refuse(self, lessons: Sequence[Lesson], error: ProxyError) -> None:
        self.ledger.error = error.code or error.type
        told = Merged(self.batch.id, len(self.batch.lessons))
        for lesson in self.waiting(lessons):
            outcome: Outcome = Refused(lesson.id, error, told)
            self.delivery.deliver(outcome, lesson.id)
            self.ledger.refused += 1


class Dispatcher:
    """Implements `interfaces.Dispatch`. `clock`, `sleep` and `jitter` (0.0 to 1.0) are injected by tests."""

    def __init__(  # noqa: PLR0913 - neighbours and injected time, named
        self,
        *,
        upstream: Upstream,
        sites: Sites,
        tokens: Tokens,
        publish: Listener,
        num_retries: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._upstream = upstream
        self._sites = sites
        self._tokens = tokens
        self._publish = publish
        self._num_retries = num_retries
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    async def __call__(self, batch: Batch, delivery: Delivery) -> None:
        """Settle every lesson of the batch; cancelled when the last caller has left."""
        job = _Job(batch, delivery, Ledger(batch, self._clock()))
        try:
            await self._portion(job, batch.lessons, may_halve=True)
        finally:
            job.ledger.left = len(batch.lessons) - job.ledger.completed - job.ledger.failed.total() - job.ledger.refused
            now = self._clock()
            self._publish(job.ledger.event(now))
            for told in self._sites.batch_finished(job.ledger.result(), now):
                self._tell(told)

    async def _portion(self, job: _Job, lessons: Sequence[Lesson], *, may_halve: bool) -> None:
        """Settle some of the batch's lessons in one merged call, or in two of half the size."""
        if len(lessons) == 1:
            # half of what was too large, and no batch by itself
            job.alone(lessons, "too_large")
            return
        try:
            await self._retrying(job, lessons)
        except UpstreamTooLargeError:
            if smaller := self._sites.batch_too_large(job.model, len(lessons), self._clock()):
                self._tell(smaller)
            middle = (len(lessons) + 1) // 2
            if may_halve and middle > 1:
                await self._in_halves(job, lessons, middle)
            else:
                job.alone(lessons, "too_large")
        except ProxyError as error:
            job.refuse(lessons, error)

    async def _in_halves(self, job: _Job, lessons: Sequence[Lesson], middle: int) -> None:
        """Send both halves side by side. Neither ends the other: what one raises is told when both are over."""
        halves = (lessons[:middle], lessons[middle:])
        ended = await asyncio.gather(*(self._portion(job, half, may_halve=False) for half in halves), return_exceptions=True)
        for fault in filter(None, ended):
            raise fault

    async def _retrying(self, job: _Job, lessons: Sequence[Lesson]) -> None:
        """Try one merged call again while upstream only asks for patience; never N single calls instead."""
        waited_s = 0.0
        for attempt in range(self._num_retries + 1):
            here = job.waiting(lessons)
            if len(here) < 2:  # noqa: PLR2004 - one lesson is no batch
                job.alone(here, "companions_left")
                return
            try:
                await self._attempt(job, here)
            except UpstreamRateLimitedError as error:
                asked_s = 2.0**attempt if error.retry_after_s is None else error.retry_after_s
                # batches that were refused together must not come back together, not even where they may come at once
                delay_s = asked_s + max(asked_s, 1.0) * self._jitter() / 4
                waited_s += delay_s
                if attempt == self._num_retries or waited_s > MAX_RETRY_S:
                    error.retry_after_s = asked_s
                    raise
                job.ledger.retries += 1
                await self._sleep(delay_s)
            else:
                return

    async def _attempt(self, job: _Job, lessons: Sequence[Lesson]) -> None:
        """Send one merged call; raises only what came before any lesson could be lost."""
        try:
            deployment = await self._upstream.pick(job.model, job.batch.caller)
        except (UpstreamUnavailableError, UpstreamRejectedError):
            job.alone(lessons, "no_deployment")
            return
        job.ledger.deployment = deployment
        merged = merge(
            lessons,
            deployment.capability,
            seed=job.batch.id,
            carrier=lessons[0].merge.carrier,
            learned_tokens=[self._sites.learned_tokens(job.model)] * len(lessons),
        )
        if isinstance(merged, Unmergeable):
            job.alone(lessons, f"unmergeable:{merged.reason}")
            job.ledger.failure = merged.reason
            return
        job.ledger.carrier = merged.carrier
        if deployment.capability.comes_whole(merged.carrier):
            self._sites.comes_whole(job.model)
        await self._run(job, Course(lessons, merged, job.delivery, self._tokens, job.ledger), deployment, merged)

    async def _run(self, job: _Job, course: Course, deployment: Deployment, merged: MergedBody) -> None:
        pace = Pace(self._clock())
        try:
            await self._listen(job, course, (deployment, merged), pace)
        except ProxyError as error:
            self._broke_off(job, course, error)
        except asyncio.CancelledError:
            # nobody waits any more, or the house closes: what was used counts all the same
            job.ledger.abandoned = True
            course.finish("cancelled")
            raise
        else:
            self._learn(job, course, pace)
        finally:
            job.ledger.first_token_s = pace.first_token_s

    def _broke_off(self, job: _Job, course: Course, error: ProxyError) -> None:
        """Keep what has arrived and settle the rest; raises the error where nothing came before it."""
        match error:
            case UpstreamRejectedError():
                if error.salvage:
                    course.take(Piece(text=error.salvage))
                job.ledger.failure, job.ledger.error = "rejected", error.code
                course.finish("rejected")
            case UpstreamUnavailableError():
                # lone calls may fail too, but then nothing is lost by a rest; and some servers fail over a large schema
                failure = "upstream_unreadable" if isinstance(error, UpstreamUnreadableError) else "upstream_error"
                job.ledger.failure = "upstream_timeout" if isinstance(error, UpstreamTimeoutError) else failure
                job.ledger.error = error.code
                course.finish(job.ledger.failure)
            case _ if not course.started:
                raise error
            case UpstreamTooLargeError():
                course.finish("too_large")
            case _:
                course.finish(error=error)

    async def _listen(self, job: _Job, course: Course, sent: tuple[Deployment, MergedBody], pace: Pace) -> None:
        silence = Silence(job.batch.lessons[0].merge, len(sent[1].keys), asyncio.get_running_loop().time())
        try:
            async with (
                asyncio.timeout_at(silence.first(sent[0], sent[1].carrier)) as limit,
                self._upstream.stream(sent[0], sent[1].body, job.batch.caller) as pieces,
            ):
                await self._hear(course, pieces, (silence, limit), pace)
        except TimeoutError:
            if not course.complete:
                raise UpstreamTimeoutError("The provider stopped writing.") from None

    async def _hear(self, course: Course, pieces: AsyncIterator[Piece], watch: tuple[Silence, asyncio.Timeout], pace: Pace) -> None:
        (silence, limit), loop = watch, asyncio.get_running_loop()
        async for piece in pieces:
            was_complete = course.complete
            course.take(piece)
            pace.note(piece, self._clock())
            if course.pointless:
                return
            if not was_complete:
                now = loop.time()
                limit.reschedule(now + USAGE_GRACE_S if course.complete else silence.after(piece, limit.when() or now, now))

    def _learn(self, job: _Job, course: Course, pace: Pace) -> None:
        """End a call that upstream ended by itself, and learn from it."""
        job.ledger.abandoned |= course.pointless
        course.finish()
        for length in course.lengths:
            self._sites.lesson_finished(job.model, length)
        self._sites.decoded(job.model, sum(course.lengths), pace.writing_s)
        if not course.lengths:
            # an answer without a single lesson is as good as a refusal
            job.ledger.failure = "refused" if course.refused else "no_lesson"

    def wasted(self, lesson: Lesson, done: Completed) -> None:
        """Take back what a batch counted for a lesson that was asked for ahead, and that nobody came for."""
        price, prompt = self._sites.price(lesson.model), done.input_tokens_saved + done.usage.prompt
        lost = BatchResult(lesson.model, lesson.site, lesson.key, lessons=1, saved=-prompt, wasted=done.usage.completion, price=price)
        self._publish(LessonWasted(lesson.model, done.usage, -prompt, lost.net_usd))
        for told in self._sites.batch_finished(lost, self._clock()):
            self._tell(told)

    def _tell(self, told: Rested | Resumed) -> None:
        match told:
            case Rested():
                self._publish(MergingRested(told.model, told.site, told.reason, told.seconds, told.max_size))
            case Resumed():
                self._publish(MergingResumed(told.model, told.site))
            case _:
                assert_never(told)
