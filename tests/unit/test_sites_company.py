"""How long a call is kept for the next one: as its site's calls have taught, whether they were held or not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.policies import ADAPTIVE_MS, adaptive, beaten_by, fixed, measure, play
from bench.traces import SCORING_SEEDS, TRACES, Arrival
from proxy.model import BatchKey, CallId
from proxy.sites.company import Company

SITE = "a" * 16 + "1" * 16
NEIGHBOUR = "a" * 16 + "2" * 16
STRANGER = "b" * 16 + "1" * 16
CAP_S = 0.1


class Scene:
    """A site whose runs of calls come every second, each of a key of its own."""

    def __init__(self, company: Company | None = None) -> None:
        self.company = company or Company(100, 100)
        self.now = 0.0
        self.runs = 0

    def run(self, *gaps_s: float, site: str = SITE, size: int = 5) -> list[float]:
        """Let a call come, and one more after each gap; returns how long each was to wait."""
        self.now += 1.0
        self.runs += 1
        key = BatchKey(f"key-{self.runs}")
        waits: list[float] = []
        for gap_s in (0.0, *gaps_s):
            self.now += gap_s
            self.company.arrived(site, key, CAP_S, self.now)
            waits.append(self.company.gap_s(CallId("call"), key, CAP_S, size, self.now))
        return waits

    def runs_of(self, times: int, *gaps_s: float, site: str = SITE) -> list[float]:
        return [self.run(*gaps_s, site=site) for _ in range(times)][-1]


def test_a_site_that_nobody_knows_waits_for_company() -> None:
    """As with a fixed window, until its calls tell more."""
    assert Scene().run() == [CAP_S]


def test_a_quiet_site_leaves_at_once_after_a_few_calls() -> None:
    """Who never has company pays a handful of waits, and then none."""
    scene = Scene()
    waits = [scene.run()[0] for _ in range(20)]
    assert sum(waits) <= 5 * CAP_S
    assert waits[5:] == [0.0] * 15


def test_a_bursty_site_waits_a_gap_and_not_the_cap() -> None:
    """Two or three calls 10 ms apart, or one: a little more than that is waited for the next, whatever the cap."""
    scene = Scene()
    for _ in range(20):
        scene.run()
        scene.run(0.010)
        waits = scene.run(0.010, 0.010)
    assert 0.010 < waits[0] <= 0.023  # pyright: ignore[reportPossiblyUnboundVariable]
    assert 0.010 < waits[1] <= 0.023  # pyright: ignore[reportPossiblyUnboundVariable]


def test_where_company_is_sure_the_cap_is_waited_for_it() -> None:
    """Waiting for what all but surely comes costs next to nothing: a slow one is not left behind."""
    assert Scene().runs_of(40, 0.010)[0] == pytest.approx(CAP_S)


def test_the_last_call_of_runs_that_are_always_as_long_waits_for_nobody() -> None:
    """An app that asks for three at a time is known by it: the third closes the window."""
    scene = Scene()
    assert scene.runs_of(30, 0.010, 0.010)[2] == 0.0
    assert scene.runs_of(60, 0.010, 0.010, 0.010)[2] > 0.010


def test_a_full_window_is_the_books_affair() -> None:
    """The call that fills a window waits no longer, and the next one opens another."""
    scene = Scene()
    for _ in range(30):
        waits = scene.run(*[0.005] * 6, size=3)
    assert waits[2] == 0.0  # pyright: ignore[reportPossiblyUnboundVariable]
    assert waits[3] > 0.005  # pyright: ignore[reportPossiblyUnboundVariable]


def test_company_that_was_missed_brings_a_quiet_site_back() -> None:
    """It left at once and companions came within the cap: a few dozen such runs, and it waits for them."""
    scene = Scene()
    assert scene.runs_of(40) == [0.0]
    waits = [scene.run(0.010, 0.010)[0] for _ in range(20)]
    assert waits[0] == 0.0
    assert waits[-1] > 0.010


def test_a_run_that_others_hide_is_learned_from_when_its_key_comes_again() -> None:
    """A key of a longer cap stands before it: that its call was not followed is known late, but not forgotten."""
    scene = Scene()
    scene.company.arrived(STRANGER, BatchKey("slow"), 60.0, scene.now)
    for _ in range(20):
        scene.now += 1.0
        scene.company.arrived(SITE, BatchKey("again"), CAP_S, scene.now)
    assert scene.company.gap_s(CallId("call"), BatchKey("again"), CAP_S, 5, scene.now) == 0.0


def test_a_gap_ends_where_the_windows_bound_does() -> None:
    """The first call came 90 ms ago: ten are left, however long the next one may take."""
    scene = Scene()
    waits = [scene.run(0.045, 0.045, 0.0095) for _ in range(30)][-1]
    assert waits[2] == pytest.approx(0.010)


def test_the_more_calls_wait_the_less_another_one_is_worth() -> None:
    """One in six goes on after 40 ms: worth the wait of one call, not of two."""
    scene = Scene()
    for i in range(120):
        (alone, *_) = scene.run(0.040, site=STRANGER) if i % 6 == 0 else scene.run(site=STRANGER)
        first, second, *_ = scene.run(0.040, 0.040) if i % 6 == 0 else scene.run(0.040)
    assert alone > 0.040  # pyright: ignore[reportPossiblyUnboundVariable]
    assert first > 0.040  # pyright: ignore[reportPossiblyUnboundVariable]
    assert second == 0.0  # pyright: ignore[reportPossiblyUnboundVariable]


def test_company_beyond_the_cap_is_none() -> None:
    """What no window could have brought together teaches nobody to wait."""
    assert Scene().runs_of(20, 0.150)[0] == 0.0


def test_nobody_waits_where_the_gaps_are_hardly_within_the_cap() -> None:
    """One in four comes in time, after nearly the whole cap: not worth it."""
    scene = Scene()
    for i in range(60):
        waits = scene.run(0.095 if i % 4 == 0 else 0.150)
    assert waits[0] == 0.0  # pyright: ignore[reportPossiblyUnboundVariable]


def test_an_app_is_known_by_its_sites_and_strangers_are_not() -> None:
    """A system text that no call had before: the same API key and model tell what to expect; another key's tell nothing."""
    scene = Scene()
    scene.runs_of(20)
    assert scene.run(site=NEIGHBOUR) == [0.0]
    assert scene.run(site=STRANGER) == [CAP_S]


def test_what_must_be_answered_alike_is_no_company() -> None:
    """Identical calls with temperature 0 never share a batch: a site of such doubles is a quiet one."""
    scene = Scene()
    for i in range(20):
        for _ in range(2):
            scene.now += 0.005
            scene.company.arrived(SITE, BatchKey(f"{i}"), CAP_S, scene.now, twin="same")
        scene.now += 1.0
    assert scene.run() == [0.0]


def test_a_call_that_did_not_come_anew_waits_for_nobody() -> None:
    """A retry is not taken in; where its key is not followed there is nothing to expect."""
    assert Company(10, 10).gap_s(CallId("call"), BatchKey("unknown"), CAP_S, 5, 0.0) == 0.0


def test_what_is_remembered_is_bounded() -> None:
    """Sites, apps and keys of which the oldest are forgotten."""
    scene = Scene(Company(max_sites=10, max_runs=5))
    for i in range(200):
        scene.run(0.001, site=f"{i:032d}")
    assert len(scene.company._habits) <= 10
    for i in range(200):
        scene.company.arrived(SITE, BatchKey(f"{i}"), 60.0, scene.now)
    assert len(scene.company._runs) <= 5


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.003, 0.04, 0.11, 5.0]), st.sampled_from("kl"), st.sampled_from([0.02, 0.1, 1.0])), max_size=60
    ),
    size=st.integers(2, 5),
)
def test_no_wait_leads_past_the_bound_of_the_window(steps: Sequence[tuple[float, str, float]], size: int) -> None:
    """Whatever comes when: each wait is within the call's own cap."""
    company, now = Company(5, 5), 0.0
    for gap_s, key, cap_s in steps:
        now += gap_s
        company.arrived(SITE, BatchKey(key), 0.1, now)
        assert 0.0 <= company.gap_s(CallId("call"), BatchKey(key), cap_s, size, now) <= min(cap_s, 0.1)


def test_no_fixed_window_saves_as_much_with_as_little_waiting() -> None:
    """The reason why `adaptive` is the default: on the committed traces nothing fixed is as good on both."""
    table = measure(SCORING_SEEDS[:1])
    for kind in ("all", *TRACES):
        for ms in ADAPTIVE_MS:
            assert beaten_by(table, kind, f"adaptive {ms}") == []


def test_the_comparison_can_find_the_better_one() -> None:
    """A policy that waits and merges nothing is beaten: the comparison above can fail."""
    trace = [Arrival(float(i), SITE, f"{i}", 1) for i in range(100)]
    rows = {"fixed 10": play(trace, fixed(10)), "fixed 50": play(trace, fixed(50)), "adaptive": play(trace, adaptive(100))}
    assert beaten_by({"x": rows}, "x", "fixed 50") == ["fixed 10"]
    assert beaten_by({"x": rows}, "x", "adaptive") == []
    assert rows["fixed 10"].lone_wait_ms == pytest.approx(10)


class Elsewhere(Scene):
    """One of several processes: of every run only the first call comes here, its company to the others."""

    def __init__(self) -> None:
        super().__init__()
        self.company.shared = True

    def first(self, *, met: bool, late: bool = True) -> float:
        """Let a call come; `met`: others came to it in the shared window. It ends `late`, when its run has long been over, or at once."""
        self.now += 1.0
        self.runs += 1
        call, key = CallId(f"{self.runs}"), BatchKey(f"{self.runs}")
        self.company.arrived(SITE, key, CAP_S, self.now)
        wait_s = self.company.gap_s(call, key, CAP_S, 5, self.now)
        if late:
            self.now += 1.0
            self.company.arrived(STRANGER, BatchKey("else"), CAP_S, self.now)
        # who leaves at once meets nobody
        self.company.ended(call, merged=met and wait_s > 0)
        return wait_s


@pytest.mark.parametrize("late", [True, False])
def test_company_in_other_processes_is_known_by_what_became_of_the_calls(late: bool) -> None:  # noqa: FBT001
    """Nobody ever follows here, and yet all that waited went in a batch: they go on waiting."""
    scene = Elsewhere()
    assert [scene.first(met=True, late=late) for _ in range(60)][-20:] == [CAP_S] * 20
    habit = scene.company._habits[SITE]
    assert habit.followed[0] > 0.95 * habit.seen[0]


def test_where_windows_are_shared_a_quiet_site_holds_a_call_now_and_then() -> None:
    """Else it could never find out that company comes elsewhere: one in sixteen, and what those find counts."""
    scene = Elsewhere()
    waits = [scene.first(met=False) for _ in range(100)]
    assert 4 <= sum(wait_s > 0 for wait_s in waits[20:]) <= 6
    assert set(waits[20:]) == {0.0, CAP_S}
    seen = scene.company._habits[SITE].seen[0]
    while scene.first(met=True) == 0.0:
        assert scene.company._habits[SITE].seen[0] == seen, "a call that left at once tells nothing of company elsewhere"
    # the one that was held met somebody: the next is held too, and soon all of them
    assert [scene.first(met=True) for _ in range(20)] == [CAP_S] * 20


def test_what_became_of_calls_counts_only_where_windows_are_shared() -> None:
    """In one process every call is seen coming; an outcome would count it twice."""
    scene = Elsewhere()
    scene.company.shared = False
    assert [scene.first(met=True) for _ in range(40)][-1] == 0.0
    assert not scene.company._held


def test_calls_whose_end_is_never_told_are_forgotten() -> None:
    scene = Elsewhere()
    for i in range(300):
        scene.now += 1.0
        scene.company.arrived(SITE, BatchKey(f"{i}"), CAP_S, scene.now)
        scene.company.gap_s(CallId(f"{i}"), BatchKey(f"{i}"), CAP_S, 5, scene.now)
    assert len(scene.company._held) <= 100


def test_three_processes_that_share_their_windows_save_nearly_what_one_does() -> None:
    """Each sees a third of the calls."""
    for kind in ("near", "mixed"):
        trace = [arrival for seed in SCORING_SEEDS[:2] for arrival in TRACES[kind](seed)]
        trace = sorted(trace, key=lambda arrival: arrival.at)
        one, three = play(trace, adaptive(100)), play(trace, adaptive(100, 3))
        assert three.saved_share > 0.75 * one.saved_share
