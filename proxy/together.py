"""Several calls that came as one: who is announced to whose window, and each answer the moment that it is there.

Every one of them goes the way of a single call, through the batcher. It knows no HTTP, and no form of the answers together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from proxy.errors import InternalError, ProxyError, UpstreamUnavailableError
from proxy.interfaces import Listener
from proxy.model import Call, Lesson, Reply, Unbatchable
from proxy.observe.faults import fault

AT_ONCE = 16
"""Groups under way at a time (a call without companions is one): more would take the slots upstream from everybody else."""
_GATHER_MS = 100
"""What a group waits for a member that takes another way after all (a deadline, no room): the others are in at once."""
_LONGEST_ANSWER = 16 * 1024 * 1024

Outcome = Reply | ProxyError
"""A whole answer (no chunks), or the error in place of one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A call, what it was recognised as, and with whom it goes."""

    call: Call
    verdict: Lesson | Unbatchable
    group: str


class Together:
    """Answers calls that came as one, `at_once` groups at a time. `judge` and `answer` are the batcher's."""

    def __init__(
        self,
        *,
        judge: Callable[[Call], Lesson | Unbatchable],
        answer: Callable[[Call, Lesson | Unbatchable], Awaitable[Reply]],
        publish: Listener,
        at_once: int = AT_ONCE,
    ) -> None:
        self._judge = judge
        self._answer = answer
        self._publish = publish
        self._at_once = at_once

    async def judged(self, calls: Sequence[Call]) -> list[Judged]:
        """Judge every call, and announce those that belong together to each other: nothing is sent yet."""
        found: list[Judged] = []
        for call in calls:
            verdict = self._judge(call)
            found.append(Judged(call, verdict, verdict.key if isinstance(verdict, Lesson) and verdict.mode == "on" else call.id))
            # every prompt is read here: other callers' windows must not wait for all of them
            await asyncio.sleep(0)
        sizes, places = Counter(one.group for one in found), Counter[str]()
        announced: list[Judged] = []
        for one in found:
            announced.append(replace(one, verdict=_announced(one.verdict, sizes[one.group], places[one.group])))
            places[one.group] += 1
        return announced

    async def answers(self, judged: Sequence[Judged]) -> AsyncGenerator[tuple[int, Outcome]]:
        """Yield place and outcome of every call, each exactly once, as they come; closing this cancels what still runs."""
        groups: dict[str, list[int]] = {}
        for index, one in enumerate(judged):
            groups.setdefault(one.group, []).append(index)
        done: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        free = asyncio.Semaphore(self._at_once)
        tasks = [asyncio.create_task(self._run(group, judged, free, done)) for group in groups.values()]
        try:
            for _ in judged:
                yield await done.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self, group: Sequence[int], judged: Sequence[Judged], free: asyncio.Semaphore, done: asyncio.Queue[tuple[int, Outcome]]
    ) -> None:
        """Answer one group: all its calls begin in the same turn of the loop, so none waits for another's turn."""
        async with free:
            await asyncio.gather(*(self._one(index, judged[index], done) for index in group), return_exceptions=True)

    async def _one(self, index: int, judged: Judged, done: asyncio.Queue[tuple[int, Outcome]]) -> None:
        call = judged.call
        outcome: Outcome = InternalError(f"The proxy failed on this request; its log tells more under {call.id}.")
        try:
            outcome = await _whole(await self._answer(call, judged.verdict))
        except ProxyError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - as at the edge, whose call this would be: its siblings' answers are none of its business
            self._publish(fault("together", error, call.id))
        finally:
            done.put_nowait((index, outcome))


def _announced(verdict: Lesson | Unbatchable, size: int, place: int) -> Lesson | Unbatchable:
    """Return the verdict at this place of `size` that come together; a larger number that the caller announced itself is kept."""
    if isinstance(verdict, Unbatchable) or verdict.mode != "on" or (verdict.expect or 0) > size:
        return verdict
    wait_ms = _GATHER_MS if verdict.max_wait_ms is None else max(1, min(verdict.max_wait_ms, _GATHER_MS))
    return replace(verdict, expect=_batch_size(size, place, verdict.window.max_size), max_wait_ms=wait_ms)


def _batch_size(size: int, place: int, most: int) -> int:
    """Return how many go together with the call at this place: as few batches as can be, of like size.

    They come in order and in one turn of the loop, so each batch is in before the next begins, and nobody is left over who waits.
    """
    smaller, larger = divmod(size, -(-size // most))
    return smaller + 1 if place < larger * (smaller + 1) else smaller


async def _whole(reply: Reply) -> Reply:
    """Read an answer that comes in chunks to its end."""
    try:
        if reply.chunks is None:
            return reply
        parts: list[bytes] = []
        size = 0
        async for chunk in reply.chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > _LONGEST_ANSWER:
                raise UpstreamUnavailableError("The provider's answer has no end.")
        return replace(reply, body=b"".join(parts), chunks=None)
    finally:
        await reply.close()
