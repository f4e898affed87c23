"""What is learned of a model, and the plans that come of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import NO_COMPANY, BatchId, BatchKey, CallId, Failed, Merged, Plan, Usage
from proxy.policy import AddedSeconds, MergePolicy, WindowPolicy
from proxy.sites import Rest, Sites
from tests.make import make_lesson

MODEL = "m"
WINDOW = WindowPolicy(max_wait_ms=100, max_size=5, policy="fixed", hinted_max_wait_ms=1000)
ADAPTIVE = replace(WINDOW, policy="adaptive")
MERGE = MergePolicy(max_added_seconds=AddedSeconds(json=45.0, stream=15.0))


def planned(sites: Sites, *, now: float = 0.0, max_output_tokens: int | None = None, **lesson: Any) -> Plan | Rest:
    values: dict[str, Any] = {"model": MODEL, "window": WINDOW, "merge": MERGE}
    return sites.plan(make_lesson(**(values | lesson)), max_output_tokens=max_output_tokens, now=now)


def plan(sites: Sites, **lesson: Any) -> Plan:
    result = planned(sites, **lesson)
    assert isinstance(result, Plan)
    return result


def taught(tokens: int = 600, speed: float = 60.0) -> Sites:
    sites = Sites()
    for _ in range(5):
        sites.lesson_finished(MODEL, tokens)
    sites.decoded(MODEL, tokens, tokens / speed)
    return sites


def test_before_anything_is_measured_there_is_no_time_bound() -> None:
    assert plan(Sites(), max_output_tokens=4096) == Plan(
        max_wait_s=0.1, max_size=5, lesson_s=0.0, max_added_s=45.0, tokens=0, max_tokens=4096, streaming=False
    )


@pytest.mark.parametrize(("stream", "size"), [(False, 5), (True, 2)])
def test_where_answers_come_whole_everybody_waits_for_all_and_batches_are_bounded_so(*, stream: bool, size: int) -> None:
    """A lesson takes ten seconds; a streaming caller may wait fifteen for others' and any other forty-five."""
    sites = taught()
    assert plan(sites, stream=stream).max_size == 5
    sites.comes_whole(MODEL)
    assert plan(sites, stream=stream).max_size == size
    assert plan(sites, stream=stream, model="another").max_size == 5


@pytest.mark.parametrize(
    ("lesson", "wait_s"),
    [
        ({}, 0.1),
        ({"expect": 3}, 1.0),
        ({"max_wait_ms": 40}, 0.04),
        ({"max_wait_ms": 4000}, 0.1),
        ({"expect": 3, "max_wait_ms": 400}, 0.4),
        ({"max_wait_ms": 0}, 0.0),
    ],
)
def test_a_hint_lengthens_the_wait_and_a_header_only_shortens_it(lesson: dict[str, Any], wait_s: float) -> None:
    assert plan(Sites(), **lesson).max_wait_s == wait_s


def test_the_hint_goes_on_to_the_window() -> None:
    assert plan(Sites(), expect=3).expect == 3


def test_an_adaptive_window_waits_as_the_site_has_taught_and_a_hint_as_announced() -> None:
    """Within the same bound; a site that nobody comes to behind leaves at once, but for what is announced or comes again."""
    sites = Sites()
    assert plan(sites, window=ADAPTIVE).idle_s == pytest.approx(0.1)
    for i in range(10):
        plan(sites, window=ADAPTIVE, key=BatchKey(f"{i}"), now=1.0 + i)
    quiet = plan(sites, window=ADAPTIVE, key=BatchKey("quiet"), now=20.0)
    assert (quiet.idle_s, quiet.max_wait_s) == (0.0, 0.1)
    assert plan(sites, window=ADAPTIVE, key=BatchKey("hint"), now=20.0, expect=3).idle_s is None
    assert plan(sites, window=WINDOW, key=BatchKey("fixed"), now=20.0).idle_s is None
    assert plan(sites, window=replace(ADAPTIVE, max_wait_ms=0), now=20.0).max_wait_s == 0.0


def test_a_retry_is_nobodys_company() -> None:
    """It comes behind its own call, and must not teach that others do."""
    sites = Sites()
    for i in range(20):
        plan(sites, window=ADAPTIVE, key=BatchKey(f"{i}"), now=float(i))
        plan(sites, window=ADAPTIVE, key=BatchKey(f"{i}"), now=i + 0.01, retry_count=1)
    assert plan(sites, window=ADAPTIVE, key=BatchKey("quiet"), now=30.0).idle_s == 0.0


def test_announced_calls_do_not_teach_those_that_announce_nothing() -> None:
    """An app that hints where it asks for several: what it doesn't hint at is alone, and waits for nobody."""
    sites = Sites()
    for i in range(40):
        for at in (0.0, 0.01, 0.02):
            plan(sites, window=ADAPTIVE, key=BatchKey(f"group {i}"), now=i + at, expect=3)
        quiet = plan(sites, window=ADAPTIVE, key=BatchKey(f"lone {i}"), now=i + 0.5)
    assert quiet.idle_s == 0.0  # pyright: ignore[reportPossiblyUnboundVariable]


def test_streaming_callers_have_their_own_patience() -> None:
    streaming = plan(Sites(), stream=True)
    assert (streaming.max_added_s, streaming.streaming) == (15.0, True)


def test_the_expected_time_is_length_by_speed() -> None:
    assert plan(taught(600, 60.0)).lesson_s == pytest.approx(10.0)


def test_a_named_limit_cuts_the_expectation() -> None:
    assert plan(taught(600, 60.0), token_limit=300).lesson_s == pytest.approx(5.0)
    assert plan(taught(600, 60.0), token_limit=4000).lesson_s == pytest.approx(10.0)


@pytest.mark.parametrize("known", ["length", "speed"])
def test_with_one_half_measured_there_is_no_time_bound(known: str) -> None:
    sites = Sites()
    if known == "length":
        sites.lesson_finished(MODEL, 600)
    else:
        sites.decoded(MODEL, 600, 10.0)
    assert plan(sites).lesson_s == 0.0


def test_a_model_that_takes_too_long_for_anybody_to_stand_second_is_not_held() -> None:
    assert planned(taught(600, 10.0)) == Rest("too_slow")
    # 20 seconds: too long to stream behind, but a caller of JSON may still stand second
    assert plan(taught(600, 30.0), stream=True).lesson_s == pytest.approx(20.0)


def test_part_of_the_deadline_is_kept_for_what_is_not_measured() -> None:
    assert plan(Sites(), deadline_s=60.0).deadline_s == pytest.approx(48.0)
    assert plan(Sites()).deadline_s is None


def test_models_are_learned_apart() -> None:
    sites = taught()
    assert plan(sites, model="another").lesson_s == 0.0
    assert sites.learned_tokens("another") is None


def test_the_room_for_a_lesson_is_its_length_with_a_margin() -> None:
    sites = Sites()
    assert sites.learned_tokens(MODEL) is None
    for tokens in [500, 600, 700, 650]:
        sites.lesson_finished(MODEL, tokens)
        assert sites.learned_tokens(MODEL) is None
    sites.lesson_finished(MODEL, 550)
    assert sites.learned_tokens(MODEL) == 1050
    assert plan(sites).tokens == 1050


@pytest.mark.parametrize(("limit", "tokens"), [(None, 900), (800, 800), (16_384, 900)])
def test_of_a_named_limit_and_the_learned_length_the_smaller_takes_the_room(limit: int | None, tokens: int) -> None:
    assert plan(taught(600), token_limit=limit).tokens == tokens


def test_before_lengths_are_learned_a_named_limit_takes_its_room() -> None:
    assert plan(Sites(), token_limit=800).tokens == 800


def test_stray_measurements_change_nothing() -> None:
    sites = Sites()
    for i in range(20):
        stray = i % 4 == 3
        sites.decoded(MODEL, 600, 1e-6 if stray else 10.0)
        sites.lesson_finished(MODEL, 30_000 if stray and i < 7 else 600)
    assert plan(sites).lesson_s == pytest.approx(10.0)
    assert sites.learned_tokens(MODEL) == 900


def test_a_lasting_change_is_followed() -> None:
    sites = taught(600, 60.0)
    for _ in range(40):
        sites.decoded(MODEL, 600, 20.0)
    assert plan(sites).lesson_s == pytest.approx(20.0)


def test_what_is_no_lesson_and_what_came_at_once_teaches_nothing() -> None:
    sites = Sites()
    sites.lesson_finished(MODEL, 0)
    sites.lesson_finished(MODEL, 7)
    sites.decoded(MODEL, 600, 0.0)
    sites.decoded(MODEL, 600, -1.0)
    sites.decoded(MODEL, 3, 1.0)
    assert not sites._paces


def test_only_the_models_taught_last_are_remembered_and_planning_teaches_nothing() -> None:
    sites = Sites(max_models=3)
    for i in range(10):
        sites.lesson_finished(f"{i}", 600)
        plan(sites, model=f"never taught {i}")
    assert list(sites._paces) == ["7", "8", "9"]
    sites.lesson_finished("7", 600)
    sites.lesson_finished("10", 600)
    assert list(sites._paces) == ["9", "7", "10"]


def test_a_long_history_is_not_kept() -> None:
    sites = Sites()
    for _ in range(1000):
        sites.lesson_finished(MODEL, 600)
    assert len(sites._paces[MODEL].length.samples) <= 31


@given(st.lists(st.integers(8, 5000), min_size=1, max_size=60), st.lists(st.floats(1, 500), min_size=1, max_size=60))
def test_expectations_stay_within_what_was_measured(lengths: list[int], speeds: list[float]) -> None:
    sites = Sites()
    for length in lengths:
        sites.lesson_finished(MODEL, length)
    for speed in speeds:
        sites.decoded(MODEL, 600, 600 / speed)
    lesson_s = min(lengths) / max(speeds), max(lengths) / min(speeds)
    result = planned(sites)
    if isinstance(result, Plan):
        assert lesson_s[0] * 0.999 <= result.lesson_s <= min(45.0, lesson_s[1] * 1.001)
    else:
        assert lesson_s[1] > 45.0
    learned = sites.learned_tokens(MODEL)
    assert (learned is None) == (len(lengths) < 5)
    assert learned is None or min(lengths) * 1.5 <= learned <= max(lengths) * 1.5 + 1


def test_shared_windows_are_learned_of_by_what_became_of_the_calls() -> None:
    """Company that came to another process is company: a site all of whose calls were merged there waits for it."""
    batch = Merged(BatchId("b"), 2)
    for shared, met, wait_s in ((True, True, 0.1), (True, False, 0.0), (False, True, 0.0)):
        sites = Sites()
        sites.share_windows(shared=shared)
        for i in range(60):
            lesson = make_lesson(id=CallId(f"{i}"), key=BatchKey(f"{i}"), window=ADAPTIVE)
            held = sites.plan(lesson, max_output_tokens=None, now=float(i))
            assert isinstance(held, Plan)
            sites.left_window(lesson, Failed(lesson.id, "schema", Usage(), batch) if held.idle_s and met else NO_COMPANY)
        assert held.idle_s == pytest.approx(wait_s)  # pyright: ignore[reportPossiblyUnboundVariable, reportAttributeAccessIssue, reportUnknownMemberType]
