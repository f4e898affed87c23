"""Plays every case of a client and tells what came of it; what should come of it is the tests' to say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

from tests.clients.clients import Client
from tests.clients.driving import WAIT_S, Case, Driven, Result, driven
from tests.clients.stage import TOGETHER, Pace, Side, Stage

Form = Literal["JSON", "stream"]
Company = Literal["alone", "merged"]
IDENTICAL = "the same call three times, no user"
"""Stands in a way's place."""
Failure = Literal["429", "500", "broken", "cut", "timeout"]

COMPANIES: tuple[Company, ...] = ("alone", "merged")
FORMS: tuple[Form, ...] = ("JSON", "stream")
WORDS = ("otter-11", "maple-22", "comet-33")
"""What the callers of a case ask about, in their order."""
PATIENCE_S = 7.0
"""A client's own timeout, where it is to run out: longer than the window."""
_AT_ONCE = 2
_ONCE_RETRIED = 1
_TWICE_RETRIED = 2
_SUFFIXES: Mapping[Failure, Mapping[Company, str]] = {
    "429": {"alone": "429@first", "merged": "429@first"},
    "500": {"alone": "500_once", "merged": "500_once"},
    "broken": {"alone": "broken", "merged": "broken@batch"},
    "cut": {"alone": "half", "merged": "half@batch"},
    "timeout": {"alone": "slow_first@first", "merged": "slow_first@first"},
}
"""The faults of the provider that stand for each failure."""
_STREAMED_ONLY = ("broken", "cut")


class Order:
    """Who may run when: two at a time; and what measures time comes when all have done the rest, one after the other."""

    def __init__(self, clients: int) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._all_done = asyncio.Barrier(clients)
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def busy(self) -> AsyncGenerator[None]:
        """Take a turn, and at its end wait for everybody's."""
        try:
            async with self._turns:
                yield
        except BaseException:
            # nobody waits for one that will not come
            await self._all_done.abort()
            raise
        await self._all_done.wait()

    def quiet(self) -> asyncio.Lock:
        """Be the only one that runs."""
        return self._alone


class Place(NamedTuple):
    """Where an outcome stands in the tables."""

    what: str
    """A way's name, or a failure's."""
    company: Company
    form: Form


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    results: Sequence[Result]
    upstream: int
    """Requests that reached the provider for it."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Departure:
    """What came of a case whose callers left in the middle."""

    stayed: Sequence[Result]
    upstream: int
    stopped_after_s: float | None
    """From the last one's leaving until the provider was left; None: some stayed."""


@dataclass(frozen=True, slots=True)
class Played:
    """All outcomes of one client."""

    ways: Mapping[Place, Outcome]
    failures: Mapping[Place, Outcome]
    departures: Mapping[Place, Departure]


async def play(client: Client, stage: Stage, order: Order) -> Played:
    """Run a client's program through all its cases."""
    async with AsyncExitStack() as stack:
        async with order.busy():
            program = await stack.enter_async_context(driven(client))
            player = _Player(client, program, stage.process.url + "/v1", stage.sides[client.name])
            ways = await player.ways()
            failures, one_left = await asyncio.gather(player.failures(), player.one_leaves())
        async with order.quiet():
            return Played(ways, failures, one_left | await player.all_leave())


@dataclass(frozen=True, slots=True)
class _Player:
    client: Client
    program: Driven
    url: str
    side: Side

    def case(self, way: str, place: Place, what: str, *, pace: Pace = "fast", retries: int = 0, timeout_s: float = 30.0) -> Case:
        """Build a case: a model of its own, a learner of its own."""
        name = f"{place.company}-{place.form.lower()}-{what}"
        callers = 1 if place.company == "alone" else TOGETHER
        model = self.side.model(name, pace)
        calls = [{"word": word, "user": f"learner of {name}"} for word in WORDS[:callers]]
        return Case(name, way, place.form == "stream", self.url, model, calls, retries, timeout_s)

    async def outcome(self, case: Case) -> Outcome:
        started = time.monotonic()
        results = await self.program.run(case)
        return Outcome(results, self.side.requests(case.model), time.monotonic() - started)

    async def all_at_once(self, cases: Mapping[Place, Case]) -> dict[Place, Outcome]:
        outcomes = await asyncio.gather(*map(self.outcome, cases.values()))
        return dict(zip(cases, outcomes, strict=True))

    async def ways(self) -> dict[Place, Outcome]:
        places = way_places(self.client)
        cases = {place: self.case(place.what, place, f"way-{i}") for i, place in enumerate(places)}
        for form in FORMS:
            place = Place(IDENTICAL, "merged", form)
            calls = [{"word": WORDS[0], "user": None}] * TOGETHER
            cases[place] = replace(self.case(self.client.usual, place, "same"), calls=calls)
        return await self.all_at_once(cases)

    async def failures(self) -> dict[Place, Outcome]:
        cases: dict[Place, Case] = {}
        for place in failure_places():
            failure = cast("Failure", place.what)
            name = f"{failure}+{_SUFFIXES[failure][place.company]}"
            match failure:
                case "429" | "500":
                    cases[place] = self.case(self.client.usual, place, name, retries=_TWICE_RETRIED)
                case "timeout":
                    cases[place] = self.case(self.client.usual, place, name, retries=_ONCE_RETRIED, timeout_s=PATIENCE_S)
                case _:
                    cases[place] = self.case(self.client.usual, place, name)
        return await self.all_at_once(cases)

    async def one_leaves(self) -> dict[Place, Departure]:
        """Let the first of three leave once the provider is at it, and wait for the others."""
        places = [place for place in departure_places() if place.what == "one leaves"]
        return dict(zip(places, await asyncio.gather(*map(self._one_leaves, places)), strict=True))

    async def _one_leaves(self, place: Place) -> Departure:
        case = self.case(self.client.usual, place, "left", pace="slow")
        first, *others = self.program.begin(case)
        await _until(lambda: self.side.requests(case.model) > 0)
        await self._leave(case, [first])
        return Departure(await asyncio.wait_for(asyncio.gather(*others), WAIT_S), self.side.requests(case.model), None)

    async def all_leave(self) -> dict[Place, Departure]:
        """Let all leave once the provider is at it, one case after the other: what is open there is then the case's own."""
        return {place: await self._all_leave(place) for place in departure_places() if place.what == "all leave"}

    async def _all_leave(self, place: Place) -> Departure:
        case = self.case(self.client.usual, place, "gone", pace="slower")
        stats = self.side.providers["slower"].stats
        calls = self.program.begin(case)
        await _until(lambda: stats.open_requests > 0)
        await self._leave(case, calls)
        left = time.monotonic()
        await _until(lambda: stats.open_requests == 0)
        return Departure([], self.side.requests(case.model), time.monotonic() - left)

    async def _leave(self, case: Case, calls: Sequence[asyncio.Future[Result]]) -> None:
        self.program.leave(case, range(len(calls)))
        gone = await asyncio.wait_for(asyncio.gather(*calls), WAIT_S)
        assert [result.error for result in gone] == ["left"] * len(calls), gone


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - counts have no event
            await asyncio.sleep(0.01)


def way_places(client: Client) -> list[Place]:
    """All ways of a client, alone and merged."""
    return [Place(way.name, company, form) for way in client.ways for company in COMPANIES for form in way.forms]


def failure_places() -> list[Place]:
    """All failures, in the order of the tables."""
    return [
        Place(failure, company, form)
        for failure in _SUFFIXES
        for company in COMPANIES
        for form in FORMS
        if form == "stream" or failure not in _STREAMED_ONLY
    ]


def departure_places() -> list[Place]:
    """Who leaves, in the order of the tables."""
    who: tuple[tuple[str, Company], ...] = (("one leaves", "merged"), ("all leave", "alone"), ("all leave", "merged"))
    return [Place(what, company, form) for what, company in who for form in FORMS]
