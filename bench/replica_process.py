"""One replica of the bench `replicas`: the shared window alone, no HTTP, in a process of its own; it plays what it is told.

Reads jobs as lines of JSON and answers each with one. Moments are those of the machine's steady clock, which all
processes of one machine share.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Coroutine
from typing import Any

import orjson
import uvloop

from proxy.interfaces import Delivery
from proxy.model import Alone, Batch, BatchKey, Caller, CallId, Completed, Held, Lesson, Merged, Plan, Usage
from proxy.windows.notices import Notice, RoundTrip, StoreDown
from proxy.windows.protocol import Claim, Command, Join, Reply, Ticket
from proxy.windows.redis import RedisWindow, Sharing
from proxy.windows.replica import Effect, Send
from tests.make import make_body, make_lesson, make_user_text

LESSON_BYTES = 4096
_CALLER = Caller("digest")
_BODY = make_body(messages=[{"role": "system", "content": "You write lessons. " * 190}, {"role": "user", "content": make_user_text()}])
_CONTENT = orjson.dumps({"title": "Lines", "content": "A line has a slope. " * 200}).decode()
assert abs(len(orjson.dumps(_BODY)) - LESSON_BYTES) < 500 > abs(len(_CONTENT) - LESSON_BYTES)


class Watched(RedisWindow):
    """The window as the proxy runs it, with its commands and their times noted on their way."""

    def __init__(self, url: str, secret: str) -> None:
        self.lesson_s = 0.0
        self.trips = 0
        self.downs = 0
        self.join_ms: dict[str, float] = {}
        self.claim_ms: dict[str, float] = {}
        self._asked: dict[tuple[type[Command], str], float] = {}
        sharing = Sharing(url, secret.encode(), b"bench")
        super().__init__(self._write, sharing, max_waiting=100_000, max_windows=100_000, tell=self._told)

    def begin(self, lesson_s: float) -> None:
        """Forget what was noted; an upstream call takes so long from now on."""
        self.lesson_s, self.trips, self.downs = lesson_s, 0, 0
        self.join_ms.clear()
        self.claim_ms.clear()

    async def _write(self, batch: Batch, delivery: Delivery) -> None:
        await asyncio.sleep(self.lesson_s)
        merged = Merged(batch.id, len(batch.lessons))
        for lesson in batch.lessons:
            delivery.deliver(Completed(lesson.id, _CONTENT, "m", Usage(900, 700), False, 0, merged), lesson.id)

    def _told(self, notice: Notice) -> None:
        self.trips += isinstance(notice, RoundTrip)
        self.downs += isinstance(notice, StoreDown)

    def _sealed(self, lesson: Lesson, plan: Plan, ticket: Ticket) -> bytes | None:
        # a join begins here: what it takes to encrypt the lesson is part of it
        self._asked[Join, ticket] = time.perf_counter()
        return super()._sealed(lesson, plan, ticket)

    def _one(self, effect: Effect) -> None:
        if isinstance(effect, Send) and isinstance(effect.command, Claim):
            self._asked[Claim, effect.command.epoch] = time.perf_counter()
        super()._one(effect)

    def _answered(self, command: Command, reply: Reply | None) -> None:
        if isinstance(command, Join | Claim):
            # a window is named by the call that opened it
            took_ms = (time.perf_counter() - self._asked.pop((type(command), command.epoch))) * 1000
            if reply is not None:
                (self.join_ms if isinstance(command, Join) else self.claim_ms)[command.epoch] = took_ms
        super()._answered(command, reply)


class Played:
    """What became of one job's calls."""

    def __init__(self, window: Watched, job: dict[str, Any]) -> None:
        self._window = window
        self._plan = Plan(max_wait_s=job["window_s"], max_size=job["size"])
        self._number = 0
        self.calls: list[tuple[str, float, str, float, str]] = []
        """Of each: its learner, when it came, its batch (or nothing), when it was answered, why it went alone."""

    async def join(self, learner: str) -> Held:
        """Ask for one lesson of this learner."""
        self._number += 1
        name = CallId(f"{learner} {self._number} {id(self._window)}")
        lesson = make_lesson(id=name, key=BatchKey(learner), identity_digest=name, body=_BODY, user=learner)
        came = time.monotonic()
        held = await self._window.join(lesson, self._plan, _CALLER)
        outcome = held.outcome
        batch = outcome.batch.batch_id if isinstance(outcome, Completed) else ""
        self.calls.append((learner, came, batch, time.monotonic(), outcome.reason if isinstance(outcome, Alone) else ""))
        return held


async def play(played: Played, job: dict[str, Any]) -> None:
    """Let calls come at their moments, whatever becomes of those before."""

    async def one(at: float, learner: str) -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        await played.join(learner)

    await asyncio.gather(*(one(at, learner) for at, learner in job["arrivals"]))


async def race(played: Played, job: dict[str, Any]) -> None:
    """On each lane ask for one learner's lessons, and when they are there for the next one's, until time is up."""

    async def lane(name: str) -> None:
        turn = 0
        while time.monotonic() < job["ends"]:
            turn += 1
            await asyncio.gather(*(played.join(f"{name} {turn}") for _ in range(job["together"])))

    await asyncio.sleep(max(0.0, job["begins"] - time.monotonic()))
    await asyncio.gather(*map(lane, job["lanes"]))


def cpu_s() -> float:
    """Return what this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def carry_out(window: Watched, job: dict[str, Any]) -> dict[str, Any]:
    """Carry out a job; returns what was noted."""
    window.begin(job["lesson_s"])
    played, before = Played(window, job), cpu_s()
    steps: Coroutine[Any, Any, None] = play(played, job) if "arrivals" in job else race(played, job)
    await steps
    return {
        "calls": played.calls,
        "cpu_s": cpu_s() - before,
        "trips": window.trips,
        "downs": window.downs,
        "join_ms": list(window.join_ms.values()),
        "claim_ms": list(window.claim_ms.values()),
        "both_ms": [window.join_ms[epoch] + claim for epoch, claim in window.claim_ms.items() if epoch in window.join_ms],
    }


async def main(url: str, secret: str) -> None:
    """Carry out jobs until there are no more."""
    window = Watched(url, secret)
    await window.open()
    assert window.shared
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(orjson.dumps(await carry_out(window, orjson.loads(line))).decode(), flush=True)
    await window.aclose()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
