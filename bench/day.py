"""A day of mixed traffic under a virtual clock: 100,000 calls, 30 % of them in company, 5 % of the merged entries bad.

The house's own batcher, window, dispatcher and sites, in front of a simulated provider with a meter of its own: what the
day cost is compared with what the same calls would have cost alone. One site is sick for some hours (most of its merged
entries are bad), and for some minutes the provider refuses every merged call: both must rest, and come back.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from bench.harness import conditions
from bench.traces import SIZES
from proxy.batcher import Batcher
from proxy.budget import ResendBudget
from proxy.dispatch import Dispatcher
from proxy.errors import UpstreamRejectedError
from proxy.model import BatchKey, Call, Caller, CallId, Capability, Deployment, Json, Lesson, Piece, Price, Reply, Usage
from proxy.observe.events import BatchFinished, CallFinished, MergingRested, MergingResumed
from proxy.policy import WindowPolicy
from proxy.sites import Sites
from proxy.windows.memory import MemoryWindow
from tests.fakes import WordTokens, keys_of
from tests.make import make_body, make_call, make_lesson
from tests.virtual_time import run

CALLS, DAY_S, SEED = 100_000, 86_400.0, 7
PRICE = Price(1.5e-7, 6e-7)
"""Of a small hosted model; output costs four times as much as input."""
SYSTEM_WORDS, LESSON_WORDS, WORDS_PER_S = 600, 400, 60.0
BAD, SICK_BAD = 0.05, 0.7
SICK_S = (0.3, 0.4)
REFUSING_S = (0.6, 0.605)
"""Parts of the day in which the sick site is sick, and in which merged calls are refused."""
NEAR_S = 0.015
WINDOW = WindowPolicy()

SITES: dict[str, tuple[float, float]] = {"quiet": (0.42, 0.0), "lively": (0.12, 1.0), "mixed": (0.4, 0.3), "sick": (0.06, 1.0)}
"""Each site's share of the calls, and the share of its calls that come in company: 30 % of all."""
_TEXT = {name: " ".join([name, *["Explain"] * SYSTEM_WORDS]) for name in SITES}


@dataclass(slots=True)
class Meter:
    """Tokens that the provider billed, and what the same calls would have been billed alone."""

    prompt: int = 0
    completion: int = 0
    lone_prompt: int = 0
    lone_completion: int = 0

    @property
    def saved_usd(self) -> float:
        """Return the day's net saving."""
        return PRICE.of(self.lone_prompt - self.prompt, self.lone_completion - self.completion)

    @property
    def saved_share(self) -> float:
        """Return the same as a part of what the day would have cost."""
        return self.saved_usd / PRICE.of(self.lone_prompt, self.lone_completion)


class Provider:
    """Writes lessons of a fixed length at a fixed speed; some entries of merged calls are bad. Implements `interfaces.Upstream`."""

    def __init__(self, rng: random.Random, day_s: float, bad: float = BAD) -> None:
        self.meter = Meter()
        self._rng = rng
        self._day_s = day_s
        self._bad = bad

    def knows(self, model: str) -> bool:
        return True

    def models(self) -> tuple[Json, ...]:
        return ()

    def max_output_tokens(self, model: str) -> int | None:
        return None

    async def pick(self, model: str, caller: Caller) -> Deployment:
        return Deployment("simulated#0", model, "simulated", Capability(), PRICE)

    def stream(self, deployment: Deployment, body: Json, caller: Caller) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        return self._written(body)

    @asynccontextmanager
    async def _written(self, body: Json) -> AsyncGenerator[AsyncIterator[Piece]]:
        now = self._part_of_day()
        if REFUSING_S[0] <= now < REFUSING_S[1]:
            raise UpstreamRejectedError("no tools today")
        site = body["messages"][0]["content"].split(maxsplit=1)[0]
        bad = SICK_BAD if site == "sick" and SICK_S[0] <= now < SICK_S[1] else self._bad
        yield self._pieces(body, bad)

    async def _pieces(self, body: Json, bad: float) -> AsyncIterator[Piece]:
        prompt, completion = words(body), 0
        self.meter.prompt += prompt
        opened = False
        for key in keys_of(body):
            await asyncio.sleep(LESSON_WORDS / WORDS_PER_S)
            lesson = {"title": "Ratios", "content": "word " * LESSON_WORDS}
            if self._rng.random() < bad:
                del lesson["title"]
            completion += LESSON_WORDS
            self.meter.completion += LESSON_WORDS
            opening = "," if opened else '{"lessons": {'
            yield Piece("arguments", f"{opening}{orjson.dumps(key).decode()}: {orjson.dumps(lesson).decode()}", opens=not opened)
            opened = True
        yield Piece("arguments", "}}")
        yield Piece(finish_reason="tool_calls")
        yield Piece(usage=Usage(prompt, completion))

    async def send(self, call: Call, model: str, *, lesson: bool) -> Reply:
        prompt = words(call.body)
        await asyncio.sleep(LESSON_WORDS / WORDS_PER_S)
        self.meter.prompt += prompt
        self.meter.completion += LESSON_WORDS
        told = {"usage": {"prompt_tokens": prompt, "completion_tokens": LESSON_WORDS, "total_tokens": prompt + LESSON_WORDS}}
        return Reply(200, (), orjson.dumps(told))

    def _part_of_day(self) -> float:
        return (asyncio.get_running_loop().time() - 1000.0) / self._day_s


@dataclass
class Day:
    """What the day came to."""

    meter: Meter
    calls: int = 0
    merged: int = 0
    resent: int = 0
    failed: int = 0
    longest_wait_ms: float = 0.0
    lone_wait_ms: float = 0.0
    """The mean of the quiet site's calls."""
    told_usd: float = 0.0
    """The net saving as the events tell it."""
    rested: Counter[str] = field(default_factory=Counter[str])
    resumed: Counter[str] = field(default_factory=Counter[str])
    resting_at_the_end: int = 0
    still_waiting: int = 0


class House:
    """The merging core, wired as the app wires it."""

    def __init__(self, provider: Provider) -> None:
        self.day = Day(provider.meter)
        self.sites = Sites()
        self._quiet_waits: list[float] = []
        self._lessons: dict[CallId, Lesson] = {}
        clock = asyncio.get_running_loop().time
        dispatcher = Dispatcher(
            upstream=provider, sites=self.sites, tokens=WordTokens(), publish=self._listen, num_retries=2, clock=clock, jitter=lambda: 0.5
        )
        self._window = MemoryWindow(dispatcher, max_waiting=10_000, max_windows=2_000)
        self._meter = provider.meter
        self._batcher = Batcher(
            judge=lambda call: self._lessons.pop(call.id),
            window=self._window,
            upstream=provider,
            sites=self.sites,
            budget=ResendBudget(),
            publish=self._listen,
            clock=clock,
        )

    async def call(self, number: int, site: str, key: str) -> None:
        """Answer one call."""
        messages = [
            {"role": "system", "content": _TEXT[site]},
            {"role": "user", "content": f"Subject: Maths\nTopic: Ratios\nWay {number}."},
        ]
        body = make_body(messages=messages)
        call = make_call(id=CallId(f"{number}"), body=body, raw=b"")
        self._lessons[call.id] = make_lesson(
            id=call.id, body=body, key=BatchKey(key), identity_digest=f"{number}", site=f"{'app':>16}{site:>16}", window=WINDOW
        )
        self._meter.lone_prompt += words(body)
        self._meter.lone_completion += LESSON_WORDS
        await self._batcher.answer(call)

    def finish(self) -> Day:
        """Return the figures, once every call is answered."""
        now = asyncio.get_running_loop().time()
        self.day.still_waiting = self._window.waiting + self._window.running_batches
        self.day.lone_wait_ms = sum(self._quiet_waits) / max(1, len(self._quiet_waits))
        # one of the longest rests later nobody rests any more
        standings: Any = self.sites._standings._known  # noqa: SLF001 - the figure is of the inside  # pyright: ignore[reportPrivateUsage]
        self.day.resting_at_the_end = sum(standing.until > now for standing in standings.values())
        return self.day

    def _listen(self, event: object) -> None:
        day = self.day
        match event:
            case CallFinished():
                day.calls += 1
                day.merged += event.way == "merged"
                day.resent += event.way == "resent"
                day.failed += event.status != 200
                day.longest_wait_ms = max(day.longest_wait_ms, event.wait_ms)
                if event.key and event.key.startswith("quiet"):
                    self._quiet_waits.append(event.wait_ms)
            case BatchFinished():
                day.told_usd += event.saved_usd or 0.0
            case MergingRested():
                day.rested[f"{_whose(event)}: {event.reason}"] += 1
            case MergingResumed():
                day.resumed[_whose(event)] += 1
            case _:
                pass


def _whose(event: MergingRested | MergingResumed) -> str:
    return event.site.split()[-1] if event.site else "model"


def traffic(calls: int, day_s: float, rng: random.Random) -> list[tuple[float, str, str]]:
    """Return time, site and batch key of each call, in order."""
    arrivals: list[tuple[float, str, str]] = []
    for site, (share, company) in SITES.items():
        left = round(calls * share)
        while left > 0:
            in_company = rng.random() < company / (company + (1 - company) * sum(SIZES) / len(SIZES)) if company else False
            size = min(left, rng.choice(SIZES)) if in_company else 1
            at = rng.uniform(0, day_s)
            for _ in range(size):
                arrivals.append((at, site, f"{site}-{left}"))
                at += rng.expovariate(1 / NEAR_S)
            left -= size
    return sorted(arrivals)


async def _day(calls: int, day_s: float, seed: int) -> Day:
    rng = random.Random(seed)
    arrivals = traffic(calls, day_s, rng)
    house, loop = House(Provider(rng, day_s)), asyncio.get_running_loop()
    started, running = loop.time(), set[asyncio.Task[None]]()
    for number, (at, site, key) in enumerate(arrivals):
        if (pause_s := started + at - loop.time()) > 0:
            await asyncio.sleep(pause_s)
        task = asyncio.create_task(house.call(number, site, key))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return house.finish()


def measure(calls: int = CALLS, day_s: float = DAY_S, seed: int = SEED) -> Day:
    """Run a day of so many calls."""
    return run(_day(calls, day_s, seed))


def words(body: Json) -> int:
    """Return the words of a body that a model reads: this provider's tokens."""
    texts: Sequence[str] = [message["content"] for message in body["messages"]]
    return sum(len(text.split()) for text in (*texts, orjson.dumps(body["tools"]).decode()))


def main(calls: int = CALLS) -> Day:
    """Print the day."""
    day = measure(calls, DAY_S * calls / CALLS)
    print(f"day: {conditions()}; virtual clock, {day.calls} calls, 30 % in company, {BAD:.0%} bad entries, window {WINDOW}")
    print(f"net saving: {day.meter.saved_usd:.4f} USD by the provider's meter ({day.meter.saved_share:.1%} of the bill)")
    print(f"            {day.told_usd:.4f} USD by the events")
    print(f"merged {day.merged}, resent {day.resent}, not answered {day.failed}, still waiting {day.still_waiting}")
    print(f"longest wait {day.longest_wait_ms:.1f} ms, mean wait of the quiet site {day.lone_wait_ms:.2f} ms")
    print(f"rested {dict(day.rested)}, resumed {dict(day.resumed)}, resting at the end {day.resting_at_the_end}")
    return day


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
