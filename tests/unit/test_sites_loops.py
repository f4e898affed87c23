"""How many lessons of one request are worth asking for at once, as its loops have taught."""

from __future__ import annotations

from typing import Any

import pytest

from bench.loops import measure
from proxy.model import Price
from proxy.sites import Sites
from proxy.sites.loops import Loops
from tests.make import make_lesson

SITE, STRANGER = "a" * 16 + "1" * 16, "b" * 16 + "1" * 16
NEIGHBOUR = "a" * 16 + "2" * 16
PRICE = Price(1.0, 4.0)
WITHIN_S = 30.0


class Scene:
    """An app that awaits each call: two seconds until the answer, one until the next call."""

    def __init__(self, loops: Loops | None = None) -> None:
        self.loops = loops or Loops(100, 100)
        self.now = 0.0
        self.requests = 0

    def loop(self, calls: int, *, site: str = SITE, pause_s: float = 1.0, answered: bool = True, **wanted: Any) -> list[int]:
        """Let a user ask so often; returns how many were worth asking for at each call."""
        self.requests += 1
        request, worth = f"request {self.requests}", list[int]()
        for _ in range(calls):
            self.loops.began(site, request, WITHIN_S, self.now)
            values: dict[str, Any] = {"most": 5, "prompt": 850, "completion": 400.0, "price": PRICE}
            worth.append(self.loops.worth(request, **(values | wanted)))
            self.now += 2.0
            self.loops.ended(request, self.now, answered=answered)
            self.now += pause_s
        self.now += 100.0
        return worth

    def loops_of(self, times: int, calls: int, **options: Any) -> list[int]:
        return [self.loop(calls, **options) for _ in range(times)][-1]


def test_nothing_is_asked_ahead_before_loops_were_seen() -> None:
    """A user's first call, and the first loops of a site, are as if this were not there."""
    scene = Scene()
    assert [scene.loop(3) for _ in range(3)] == [[1, 1, 1]] * 3
    assert scene.loops.worth("unknown", 5, 850, 400.0, PRICE) == 1


@pytest.mark.parametrize("calls", [2, 3, 5])
def test_loops_that_are_always_as_long_are_known_by_their_length(calls: int) -> None:
    """The first call asks for all of them, the last for none beyond itself."""
    worth = Scene().loops_of(40, calls)
    assert worth[0] == calls
    assert worth[-1] == 1


def test_loops_are_asked_for_up_to_the_most_that_a_batch_may_have() -> None:
    assert Scene().loops_of(40, 5, most=3)[0] == 3


def test_loops_that_go_on_by_chance_are_not_worth_it() -> None:
    """Every second call is the last: what is kept in vain costs more than what is saved."""
    scene = Scene()
    for i in range(60):
        worth = scene.loop(1 + i % 2)
    assert worth[0] == 1  # pyright: ignore[reportPossiblyUnboundVariable]


def test_prices_decide_how_sure_a_kept_lesson_must_be() -> None:
    """Three of four loops go on: too few where output is dear, enough where the prompt is what costs."""
    scene = Scene()
    for i in range(80):
        dear, cheap = scene.loop(1 if i % 4 == 0 else 2)[0], scene.loop(1 if i % 4 == 0 else 2, price=Price(1.0, 0.5))[0]
    assert (dear, cheap) == (1, 2)  # pyright: ignore[reportPossiblyUnboundVariable]


def test_a_site_whose_loops_end_is_given_up() -> None:
    """What is learned fades: a few dozen single calls, and nothing is asked ahead any more."""
    scene = Scene()
    assert scene.loops_of(40, 3)[0] == 3
    assert scene.loops_of(20, 1)[0] == 1


def test_of_calls_side_by_side_nothing_is_asked_ahead() -> None:
    """A known loop's request that comes twice at a time: the second has its own lesson to wait for."""
    scene = Scene()
    scene.loops_of(40, 3)
    for expected in (3, 1):
        scene.loops.began(SITE, "both", WITHIN_S, scene.now)
        assert scene.loops.worth("both", 5, 850, 400.0, PRICE) == expected


def test_calls_side_by_side_are_no_loop() -> None:
    """Those are the window's affair."""
    loops = Loops(100, 100)
    for i in range(40):
        for _ in range(3):
            loops.began(SITE, f"{i}", WITHIN_S, float(i * 100))
        for _ in range(3):
            loops.ended(f"{i}", i * 100 + 2.0, answered=True)
    loops.began(SITE, "new", WITHIN_S, 1e6)
    assert loops.worth("new", 5, 850, 400.0, PRICE) == 1


def test_what_comes_long_after_the_answer_is_no_loop() -> None:
    assert Scene().loops_of(40, 3, pause_s=WITHIN_S + 1)[0] == 1


def test_repeating_a_call_that_failed_is_no_loop() -> None:
    """Clients try again without a mark: nothing was answered."""
    assert Scene().loops_of(40, 3, answered=False)[0] == 1


def test_an_app_is_known_by_its_sites_and_strangers_are_not() -> None:
    """A system text for each learner: the same key and model tell; another key's tell nothing."""
    scene = Scene()
    scene.loops_of(40, 3)
    assert scene.loop(1, site=NEIGHBOUR)[0] == 3
    assert scene.loop(1, site=STRANGER)[0] == 1


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene(Loops(max_sites=10, max_runs=5))
    for i in range(100):
        scene.loop(2, site=f"{i:032d}")
        scene.loops.began(SITE, f"never answered {i}", WITHIN_S, scene.now)
    assert len(scene.loops._habits) <= 10
    assert len(scene.loops._runs) <= 5


def test_the_room_asks_ahead_only_where_length_is_known_and_output_has_room() -> None:
    """Before a lesson was measured nothing is; afterwards as many as the model's output limit takes."""
    sites, now = Sites(), 0.0

    def ahead(number: int, calls: int, limit: int | None = None) -> int:
        nonlocal now
        lesson, first = make_lesson(site=SITE, identity_digest=f"{number}"), 0
        for _ in range(calls):
            sites.loop_began(lesson, WITHIN_S, now)
            first = first or sites.ahead(lesson, 4000, limit, now)
            sites.loop_ended(lesson, now + 2, answered=True)
            now += 3
        now += 100
        return first

    assert [ahead(i, 3) for i in range(40)][-1] == 1
    sites.lesson_finished("gpt-oss-120b", 400)
    sites.prompt_counted("gpt-oss-120b", 900, 4000)
    assert (ahead(100, 1), ahead(101, 3, limit=1300)) == (3, 2)
    sites.batch_too_large("gpt-oss-120b", 5, now)
    assert ahead(102, 1) == 2


@pytest.mark.parametrize(("kind", "saved"), [("2 calls", 0.35), ("3 calls", 0.5), ("5 calls", 0.45)])
def test_loops_save_most_of_what_they_repeat(kind: str, saved: float) -> None:
    """Through the merging core, learning included: of 40 loops each, and no lesson is kept in vain."""
    with_it, without = measure(kind, ahead=True, loops=40), measure(kind, ahead=False, loops=40)
    assert with_it.saved_share >= saved
    assert with_it.saved_usd > 0
    assert with_it.wasted == 0
    assert with_it.seconds < without.seconds


def test_irregular_loops_lose_nothing() -> None:
    """A chance of one half is not enough, and the proxy keeps off it."""
    figures = measure("irregular", ahead=True, loops=40)
    assert figures.saved_usd >= 0
