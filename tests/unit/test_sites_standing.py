"""Merging rests where it doesn't pay or doesn't work, says so, and is tried again with a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import NO_COMPANY, BatchId, BatchKey, Failed, Merged, Plan, Price, Usage
from proxy.sites import BatchResult, Rest, Rested, Resumed, Sites
from proxy.sites.standing import Standing
from tests.make import make_lesson

APP, STRANGER = "a" * 16, "b" * 16
MODEL, SITE, OTHER = "m", f"{APP}site-1", f"{APP}site-2"
PRICE = Price(1e-6, 4e-6)


def result(**overrides: Any) -> BatchResult:
    values: dict[str, Any] = {"model": MODEL, "site": SITE, "key": BatchKey("k"), "lessons": 2, "saved": 600, "wasted": 0}
    return BatchResult(**(values | overrides))


def failed(**overrides: Any) -> BatchResult:
    return result(**({"lessons": 0, "saved": 0, "failure": "rejected"} | overrides))


def planned(sites: Sites, now: float, key: str = "k", **lesson: Any) -> Plan | Rest:
    made = make_lesson(**({"model": MODEL, "site": SITE, "key": BatchKey(key)} | lesson))
    return sites.plan(made, max_output_tokens=None, now=now)


def merges(sites: Sites, now: float, key: str = "k", **lesson: Any) -> bool:
    return isinstance(planned(sites, now, key, **lesson), Plan)


def rejected(times: int = 3, now: float = 100.0, **overrides: Any) -> Sites:
    sites = Sites()
    told = [step for _ in range(times) for step in sites.batch_finished(failed(**overrides), now)]
    assert len(told) == (1 if times >= 3 else 0)
    return sites


def test_after_three_batches_in_a_row_that_failed_the_site_rests_for_a_minute() -> None:
    """It says why; its neighbours and other models go on."""
    sites = Sites()
    told = [sites.batch_finished(failed(), 100.0) for _ in range(3)]
    assert told == [(), (), (Rested(MODEL, SITE, "rejected", 60.0, 1),)]
    assert planned(sites, 100.0) == planned(sites, 159.9) == Rest("site_rests")
    assert merges(sites, 100.0, site=OTHER)
    assert merges(sites, 100.0, model="another", site=f"{APP}site-3")
    assert merges(sites, 160.0)


def test_failures_of_several_sites_in_a_row_are_their_apps() -> None:
    """As where every learner has a system text of its own. Another API key's calls of the model go on."""
    sites = Sites()
    told = [sites.batch_finished(failed(site=f"{APP}site-{i}"), 100.0) for i in range(3)]
    assert told == [(), (), (Rested(MODEL, APP, "rejected", 60.0, 1),)]
    assert planned(sites, 100.0, site=f"{APP}site-9") == Rest("app_rests")
    assert merges(sites, 100.0, site=f"{STRANGER}site-9")


def test_failures_of_several_apps_in_a_row_are_the_models() -> None:
    """It can't be merged for, whoever asks."""
    sites = Sites()
    told = [sites.batch_finished(failed(site=f"{i:16}site"), 100.0) for i in range(3)]
    assert told == [(), (), (Rested(MODEL, None, "rejected", 60.0, 1),)]
    assert planned(sites, 100.0, site=SITE) == Rest("merging_rests")


def test_no_api_key_can_put_the_others_merging_to_rest() -> None:
    """However many system texts and failures it makes up, and how often the trials of its own fail."""
    sites, now = Sites(), 0.0
    for i in range(300):
        now += 10.0
        if merges(sites, now, f"{i}", site=f"{APP}site-{i}"):
            sites.batch_finished(failed(site=f"{APP}site-{i}", key=BatchKey(f"{i}")), now)
            sites.batch_finished(result(site=f"{APP}site-{i}", key=BatchKey(f"{i}"), saved=-9999), now)
        assert merges(sites, now, f"{i}", site=f"{STRANGER}site")


def test_one_site_that_fails_is_not_the_models_fault() -> None:
    """What rests by itself counts against nobody else."""
    sites = rejected()
    assert sites.batch_finished(failed(site=OTHER), 101.0) == ()
    assert sites.batch_finished(failed(site=OTHER), 101.0) == ()
    assert merges(sites, 101.0, site=f"{APP}site-3")


def test_a_batch_with_a_lesson_begins_the_count_anew() -> None:
    """Salvaged or half broken off: it worked."""
    sites = Sites()
    for _ in range(5):
        told = [sites.batch_finished(one, 100.0) for one in (failed(), failed(), result(failure="rejected", lessons=1))]
        assert told == [(), (), ()]


def test_what_says_nothing_of_merging_counts_for_nothing() -> None:
    """Callers that left, rate limits, batches that were never sent."""
    sites = Sites()
    for _ in range(50):
        assert sites.batch_finished(failed(counts=False), 100.0) == ()
        assert sites.batch_finished(result(saved=-9, wasted=9999, counts=False), 100.0) == ()


def test_a_site_whose_batches_save_nothing_rests() -> None:
    """They bring lessons, but what one in four throws away costs four times as much as all of them save: 1800 for 1800."""
    sites = Sites()
    told = [sites.batch_finished(result(saved=600, wasted=450 if i % 4 == 3 else 0), 100.0) for i in range(32)]
    assert told == [()] * 32
    told = [sites.batch_finished(result(saved=450, wasted=450 if i % 4 == 3 else 0), 100.0) for i in range(32)]
    assert [step for steps in told for step in steps] == [Rested(MODEL, SITE, "no_saving", 60.0, 1)]


def test_nothing_saved_is_not_saved() -> None:
    """Not positive: zero is a reason to rest."""
    sites = Sites()
    told = [sites.batch_finished(result(saved=0), 100.0) for _ in range(12)]
    assert told[-1] == (Rested(MODEL, SITE, "no_saving", 60.0, 1),)


@pytest.mark.parametrize(("price", "rests"), [(None, True), (Price(1e-6, 4e-6), True), (Price(4e-6, 1e-6), False)])
def test_prices_decide_what_a_saving_is(price: Price | None, rests: bool) -> None:  # noqa: FBT001
    """600 tokens in against 200 out: a loss by the usual ratio of prices and by this model's, a gain where input is dearer."""
    sites = Sites()
    told = [sites.batch_finished(result(saved=600, wasted=200, price=price), 100.0) for _ in range(12)]
    assert bool(told[-1]) is rests


def test_money_is_summed_only_where_every_price_is_known() -> None:
    """A dear deployment's gain must not hide behind tokens, nor tokens be added to money."""
    sites = Sites()
    for i in range(12):
        told = sites.batch_finished(result(saved=600, wasted=200, price=Price(4e-6, 1e-6) if i % 2 else None), 100.0)
    assert told  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.mark.parametrize(("site", "rests"), [(APP + "site-{0}", APP), ("{0:16}site", None)])
def test_an_app_or_model_rests_whose_sites_together_save_nothing(site: str, rests: str | None) -> None:
    """None of them has enough batches to be judged by itself."""
    sites = Sites()
    told = [sites.batch_finished(result(site=site.format(i), saved=-100), 100.0) for i in range(32)]
    assert told[:-1] == [()] * 31
    assert told[-1] == (Rested(MODEL, rests, "no_saving", 60.0, 1),)


def test_a_site_that_rests_takes_its_losses_with_it() -> None:
    """A neighbour's good batches are not judged together with what is out of the way."""
    sites = Sites()
    for _ in range(12):
        told = sites.batch_finished(result(saved=-1000), 100.0)
    assert told  # pyright: ignore[reportPossiblyUnboundVariable]
    for _ in range(40):
        assert sites.batch_finished(result(site=OTHER, saved=10), 100.0) == ()


def test_after_a_rest_three_keys_are_tried_and_four_good_results_bring_all_back() -> None:
    """Told as an event; the others rest on meanwhile."""
    sites = rejected()
    assert [merges(sites, 160.0, key) for key in "abcd"] == [True, True, True, False]
    assert merges(sites, 160.0, "a")
    told: list[object] = []
    for key in "abcd":
        assert merges(sites, 161.0, key)
        told += sites.batch_finished(result(key=BatchKey(key)), 161.0)
    assert told == [Resumed(MODEL, SITE)]
    assert all(merges(sites, 161.0, f"{i}") for i in range(20))


def test_a_failure_on_trial_sends_it_back_for_twice_as_long() -> None:
    """Up to a quarter of an hour."""
    sites, now = rejected(), 100.0
    seconds: list[float] = [60.0]
    for _ in range(8):
        now += seconds[-1]
        assert merges(sites, now)
        (rested,) = sites.batch_finished(failed(), now)
        assert isinstance(rested, Rested)
        seconds.append(rested.seconds)
    assert seconds == [60.0, 120.0, 240.0, 480.0] + [900.0] * 5


def test_a_trial_that_saves_nothing_sends_it_back() -> None:
    """Lessons came, and again they cost more than they saved."""
    sites, told = rejected(), list[object]()
    for key in "abcd":
        assert merges(sites, 160.0, key)
        told += sites.batch_finished(result(key=BatchKey(key), saved=-1), 160.0)
    assert told == [Rested(MODEL, SITE, "no_saving", 120.0, 1)]


def test_a_key_that_found_no_company_gives_its_place_back() -> None:
    """Else a trial would wait for lone calls."""
    sites = rejected()
    for i in range(20):
        lesson = make_lesson(model=MODEL, site=SITE, key=BatchKey(f"{i}"))
        assert isinstance(sites.plan(lesson, max_output_tokens=None, now=160.0), Plan)
        sites.left_window(lesson, NO_COMPANY)


def test_a_key_that_found_company_keeps_its_place_until_its_batch_is_done() -> None:
    """Its caller may have its lesson long before; the result of the batch decides."""
    sites = rejected()
    assert [merges(sites, 160.0, key) for key in "abc"] == [True] * 3
    first = make_lesson(model=MODEL, site=SITE, key=BatchKey("a"))
    sites.left_window(first, Failed(first.id, "schema", Usage(), Merged(BatchId("b"), 2)))
    assert not merges(sites, 160.0, "d")


def test_a_place_on_trial_is_not_kept_for_ever() -> None:
    """Its process or caller may be gone without a word."""
    sites = rejected()
    assert [merges(sites, 160.0, key) for key in "abcd"] == [True, True, True, False]
    assert merges(sites, 281.0, "d")


def test_batches_under_way_when_the_rest_begins_change_nothing() -> None:
    """They were sent before, in good or bad faith."""
    sites = rejected()
    for now in (110.0, 161.0):
        for _ in range(5):
            assert sites.batch_finished(failed(key=BatchKey("old")), now) == ()
            assert sites.batch_finished(result(key=BatchKey("old")), now) == ()
    assert merges(sites, 161.0)


def test_a_site_that_pays_for_long_is_forgiven() -> None:
    """The next rest is a short one again."""
    sites = rejected()
    for i in range(40):
        assert merges(sites, 160.0, f"{i}")
        sites.batch_finished(result(key=BatchKey(f"{i}")), 160.0)
    told = [sites.batch_finished(failed(), 300.0) for _ in range(3)]
    assert told[-1] == (Rested(MODEL, SITE, "rejected", 60.0, 1),)


def test_a_model_and_a_site_on_trial_both_admit_a_key() -> None:
    """A place that the model refuses is not taken from the site."""
    sites = rejected()
    for i in range(3):
        sites.batch_finished(failed(site=f"{i:16}other"), 100.0)
    assert [merges(sites, 160.0, key, site=f"{9:16}other") for key in "xyz"] == [True] * 3
    assert planned(sites, 160.0, "refused") == Rest("merging_rests")
    for key in "xyz":
        sites.left_window(make_lesson(model=MODEL, site=f"{9:16}other", key=BatchKey(key)), NO_COMPANY)
    assert [merges(sites, 160.0, key) for key in "abcd"] == [True, True, True, False]


def test_a_key_on_an_apps_trial_gives_its_place_back_when_its_site_rests_by_itself() -> None:
    """What the site's account decides is not the app's to judge, and nobody waits for it."""
    sites = rejected()
    for i in range(3):
        sites.batch_finished(failed(site=f"{APP}other-{i}"), 100.0)
    assert merges(sites, 160.0, "a")
    assert [merges(sites, 160.0, key, site=OTHER) for key in "bcd"] == [True, True, False]
    assert sites.batch_finished(failed(key=BatchKey("a")), 160.0) == (Rested(MODEL, SITE, "rejected", 120.0, 1),)
    assert merges(sites, 160.0, "d", site=OTHER)


def test_after_a_batch_that_was_too_large_the_models_are_half_as_large_for_five_minutes() -> None:
    """Whoever's site it was."""
    sites = Sites()
    assert sites.batch_too_large(MODEL, 5, 100.0) == Rested(MODEL, None, "too_large", 300.0, 2)
    small, usual = planned(sites, 399.0), planned(sites, 400.0)
    assert isinstance(small, Plan)
    assert isinstance(usual, Plan)
    assert (small.max_size, usual.max_size) == (2, 5)


def test_the_smallest_batch_that_was_too_large_counts() -> None:
    """Others of the same wave change nothing but the time."""
    sites = Sites()
    assert sites.batch_too_large(MODEL, 9, 100.0) == Rested(MODEL, None, "too_large", 300.0, 4)
    assert sites.batch_too_large(MODEL, 20, 105.0) is None
    assert sites.batch_too_large(MODEL, 9, 110.0) is None
    small = planned(sites, 405.0)
    assert isinstance(small, Plan)
    assert small.max_size == 4


def test_when_two_are_too_large_merging_rests_and_is_tried_as_after_any_rest() -> None:
    """One mechanism for all reasons."""
    sites = Sites()
    assert sites.batch_too_large(MODEL, 2, 100.0) == Rested(MODEL, None, "too_large", 300.0, 1)
    assert planned(sites, 399.0) == Rest("merging_rests")
    assert [merges(sites, 400.0, key) for key in "abcd"] == [True, True, True, False]


def test_what_is_remembered_is_bounded() -> None:
    """The standings that were taught longest ago are forgotten."""
    sites = Sites(max_sites=10)
    for i in range(100):
        sites.batch_finished(result(site=f"{i}", model=f"{i}"), 1.0)
    assert len(sites._standings) <= 10


RESULTS = st.builds(
    BatchResult,
    model=st.just(MODEL),
    site=st.sampled_from([SITE, OTHER]),
    key=st.sampled_from([BatchKey(key) for key in "abcde"]),
    lessons=st.integers(0, 2),
    saved=st.integers(-2000, 2000),
    wasted=st.integers(0, 2000),
    price=st.none() | st.just(PRICE),
    failure=st.none() | st.just("rejected"),
    counts=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(st.tuples(RESULTS, st.sampled_from([0.0, 1.0, 70.0, 1000.0])), max_size=80))
def test_whatever_happens_no_rest_is_longer_than_a_quarter_of_an_hour_and_every_one_ends_in_a_trial(
    history: Sequence[tuple[BatchResult, float]],
) -> None:
    """A resting site comes back: whatever was brought to its account, after the longest rest some key is let in."""
    standing, now = Standing(), 0.0
    for one, pause_s in history:
        now += pause_s
        standing.admits(one.key, now)
        turn = standing.take(one, now)
        assert turn is None or turn.seconds <= 900.0
        assert standing.until <= now + 900.0
        assert len(standing.samples) <= 32
        assert len(standing.trials) <= 3
        assert len(standing.failures) < 3
    assert standing.admits(BatchKey("new"), now + 900.0 + 120.0)
