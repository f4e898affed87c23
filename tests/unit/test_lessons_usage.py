"""Shares of a batch's usage are non-negative, and together with what is unassigned they are the batch's usage, always."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lessons.usage import Accounts
from proxy.model import Usage

COUNTS = st.integers(0, 5_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(COUNTS), draw(COUNTS)
    return Usage(prompt, completion, draw(st.integers(0, completion)), draw(st.integers(0, prompt)))


def total(shares: list[Usage]) -> Usage:
    return sum(shares, Usage())


def minus(a: Usage, b: Usage) -> Usage:
    return Usage(a.prompt - b.prompt, a.completion - b.completion, a.reasoning - b.reasoning, a.cached - b.cached)


@given(data=st.data(), size=st.integers(1, 6), estimate=COUNTS, usage=usages())
def test_shares_and_unassigned_are_the_batchs_usage(data: st.DataObject, size: int, estimate: int, usage: Usage) -> None:
    """In any order of claims, departures and upstream's word."""
    accounts, shares = Accounts(size, estimate), list[Usage]()
    settles_at = data.draw(st.integers(0, size))
    for turn in range(size):
        if turn == settles_at:
            accounts.settle(usage)
        completion = data.draw(COUNTS)
        match data.draw(st.sampled_from(["claim", "own", "forgo"])):
            case "forgo":
                accounts.forgo(completion)
            case kind:
                shares.append(accounts.claim(completion, rest=kind == "claim"))
        told = usage if accounts.settled else Usage()
        assert minus(told, total(shares)) == accounts.unassigned
    accounts.settle(usage)
    assert accounts.open == 0
    assert minus(usage, total(shares)) == accounts.unassigned
    for share in shares:
        assert min(share.prompt, share.completion, share.reasoning, share.cached) >= 0
        assert share.reasoning <= share.completion
        assert share.cached <= share.prompt


@given(size=st.integers(1, 6), usage=usages(), completions=st.lists(COUNTS, min_size=6, max_size=6))
def test_the_last_open_call_gets_the_rest(size: int, usage: Usage, completions: list[int]) -> None:
    """Where upstream told its usage first, nothing is left unassigned."""
    accounts = Accounts(size, 1)
    accounts.settle(usage)
    shares = [accounts.claim(completion) for completion in completions[:size]]
    assert total(shares) == usage
    assert accounts.unassigned == Usage()
    assert max(share.prompt for share in shares) - min(share.prompt for share in shares) <= 1


@given(size=st.integers(1, 6), estimate=COUNTS)
def test_an_estimated_prompt_is_divided_evenly_and_whole(size: int, estimate: int) -> None:
    accounts = Accounts(size, estimate)
    shares = [accounts.claim(7) for _ in range(size)]
    assert sum(share.prompt for share in shares) == estimate
    assert max(share.prompt for share in shares) - min(share.prompt for share in shares) <= 1
    assert {share.completion for share in shares} == {7}


def test_an_example_of_the_usual_course() -> None:
    """Two lessons close before upstream tells its usage, the third takes the rest, reasoning included."""
    accounts = Accounts(3, 900)
    assert accounts.claim(100) == Usage(300, 100)
    assert accounts.claim(120) == Usage(300, 120)
    accounts.settle(Usage(prompt=930, completion=500, reasoning=150, cached=60))
    assert accounts.claim(110) == Usage(330, 280, 150, 60)
    assert accounts.unassigned == Usage()


def test_a_failed_call_pays_for_its_own_entry_only() -> None:
    accounts = Accounts(2, 100)
    accounts.claim(50)
    accounts.settle(Usage(110, 400, 200))
    assert accounts.claim(10, rest=False) == Usage(60, 10, 5)
    assert accounts.unassigned == Usage(0, 340, 195)


def test_who_left_pays_nothing() -> None:
    """The share of a caller that left stays unassigned; the last one left doesn't get it."""
    accounts = Accounts(3, 0)
    accounts.settle(Usage(90, 300))
    accounts.forgo(100)
    assert accounts.claim(100) == Usage(30, 100)
    assert accounts.claim(1) == Usage(30, 100)
    assert accounts.unassigned == Usage(30, 100)


def test_estimates_that_were_too_high_leave_less_than_nothing_unassigned() -> None:
    accounts = Accounts(2, 1000)
    accounts.claim(100)
    accounts.settle(Usage(400, 50))
    assert accounts.claim(30) == Usage(0, 0)
    assert accounts.unassigned == Usage(-100, -50)


def test_nobody_has_two_shares() -> None:
    accounts = Accounts(1, -5)
    assert accounts.claim(-1) == Usage()
    with pytest.raises(ValueError, match="share"):
        accounts.claim(1)
    with pytest.raises(ValueError, match="share"):
        accounts.forgo(1)
