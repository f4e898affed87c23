"""Loops that await each call: what asking ahead saves in input tokens and time, and what it wastes.

The merging core under a virtual clock, in front of the provider of `bench day` with sound entries only. Each loop is one
user's, asks for the same lesson N times, and thinks a little between two calls; `irregular` goes on with a chance of one half.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from bench.day import LESSON_WORDS, PRICE, Provider, words
from bench.harness import conditions
from proxy.batcher import Batcher
from proxy.budget import ResendBudget
from proxy.dispatch import Dispatcher
from proxy.model import BatchKey, CallId, Lesson
from proxy.observe.events import LessonWasted
from proxy.policy import WindowPolicy
from proxy.sites import Sites
from proxy.windows.ahead import Ahead
from proxy.windows.memory import MemoryWindow
from tests.fakes import WordTokens
from tests.make import make_body, make_call, make_lesson
from tests.virtual_time import run

LOOPS, SEED, THINKS_S, KEEP_S = 100, 7, 0.5, 30.0
SYSTEM = " ".join(["sound", *["Explain"] * 900])
"""Nine hundred words of prompt for four hundred of lesson: with output four times as dear, a kept lesson must be rather sure."""

Sizes = Callable[[random.Random], int]


@dataclass(slots=True)
class Figures:
    """What the loops of one kind came to."""

    calls: int = 0
    prompt: int = 0
    lone_prompt: int = 0
    wasted: int = 0
    """Lessons that no call came for."""
    seconds: float = 0.0
    """A loop, in the mean."""
    saved_usd: float = 0.0

    @property
    def saved_share(self) -> float:
        """Return the saved part of the input tokens."""
        return 1 - self.prompt / self.lone_prompt


def irregular(rng: random.Random) -> int:
    """Return how often a loop asks that goes on with a chance of one half."""
    times = 1
    while rng.random() < 0.5:
        times += 1
    return times


KINDS: dict[str, Sizes] = {"2 calls": lambda _: 2, "3 calls": lambda _: 3, "5 calls": lambda _: 5, "irregular": irregular}


async def _loops(sizes: Sizes, *, ahead: bool, loops: int) -> Figures:
    rng, figures = random.Random(SEED), Figures()
    loop = asyncio.get_running_loop()
    provider, sites, lessons = Provider(rng, 1.0, bad=0.0), Sites(), dict[CallId, Lesson]()

    def listen(event: object) -> None:
        figures.wasted += isinstance(event, LessonWasted)

    dispatcher = Dispatcher(upstream=provider, sites=sites, tokens=WordTokens(), publish=listen, num_retries=0, clock=loop.time)
    window = MemoryWindow(dispatcher, max_waiting=100, max_windows=100)
    keeper = Ahead(
        dispatcher, wasted=dispatcher.wasted, new_id=lambda: f"ahead-{rng.random()}", max_kept=100, max_bytes=10**7, keep_s=KEEP_S
    )
    batcher = Batcher(
        judge=lambda call: lessons.pop(call.id),
        window=window,
        upstream=provider,
        sites=sites,
        budget=ResendBudget(),
        publish=listen,
        ahead=keeper if ahead else None,
        clock=loop.time,
    )
    for number in range(loops):
        asked = f"Subject: Maths\nTopic: Ratios\nWrite the lesson for {number}."
        body = make_body(messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}])
        started, size = loop.time(), sizes(rng)
        for turn in range(size):
            call = make_call(id=CallId(f"{number}-{turn}"), body=body)
            key = BatchKey(f"{number}")
            lessons[call.id] = make_lesson(
                id=call.id, body=body, key=key, identity_digest=key, site=f"{'app':>16}{'loop':>16}", window=WindowPolicy()
            )
            await batcher.answer(call)
            figures.calls += 1
            figures.lone_prompt += words(body)
            if turn + 1 < size:
                await asyncio.sleep(THINKS_S)
        figures.seconds += (loop.time() - started) / loops
        await asyncio.sleep(2 * KEEP_S)
    await keeper.aclose()
    meter = provider.meter
    figures.prompt = meter.prompt
    figures.saved_usd = PRICE.of(figures.lone_prompt - meter.prompt, figures.calls * LESSON_WORDS - meter.completion)
    return figures


def measure(kind: str, *, ahead: bool, loops: int = LOOPS) -> Figures:
    """Run loops of one kind, with or without asking ahead."""
    return run(_loops(KINDS[kind], ahead=ahead, loops=loops))


def main() -> None:
    """Print a row a kind."""
    print(f"loops: {conditions()}; virtual clock, {LOOPS} loops each from the first one on, {THINKS_S} s between calls, no bad entries")
    print(f"{'':<12}{'calls':>6}{'saved input':>12}{'wasted lessons':>16}{'s a loop':>10}{'without':>9}{'net saved USD':>15}")
    for kind in KINDS:
        with_it, without = measure(kind, ahead=True), measure(kind, ahead=False)
        assert without.saved_usd == 0
        print(
            f"{kind:<12}{with_it.calls:>6}{with_it.saved_share:>12.1%}{with_it.wasted:>16}"
            f"{with_it.seconds:>10.1f}{without.seconds:>9.1f}{with_it.saved_usd:>15.5f}"
        )


if __name__ == "__main__":
    main()
