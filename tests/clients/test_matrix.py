"""Real client libraries, with nothing changed but their base URL: each in its own ways and through the failures that it may meet.

What every client does stands in docs/clients.md, which `make clients` writes and the last test here compares.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from tests.clients.clients import CLIENTS, Client, Way
from tests.clients.conftest import is_there
from tests.clients.driving import Result
from tests.clients.environments import NO_NODE
from tests.clients.matrix import COMPANIES, FORMS, IDENTICAL, WORDS, Failure, Outcome, Place, departure_places
from tests.clients.running import Run
from tests.clients.stage import TOGETHER
from tests.clients.table import AT_ONCE_S, DOCUMENT, section

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

FIELDS = {"title": str, "objectives": list, "content": str, "duration_minutes": int}
RETRY_AFTER_S = 1.0
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.slug)
each_way = pytest.mark.parametrize(
    ("client", "way"), [pytest.param(client, way, id=f"{client.slug}-{way.name}") for client in CLIENTS for way in client.ways]
)


@pytest.fixture(autouse=True)
def there(client: Client) -> None:
    """A machine may lack Node, and nothing else; where CI runs nothing may be missing."""
    if is_there(client):
        return
    assert (client.environment, os.environ.get("CI")) == ("node", None), f"the environment of {client.name} is not there: run make clients"
    pytest.skip(f"{client.name} did not run: {NO_NODE}")


def check_own(results: Sequence[Result], words: Sequence[str] = WORDS, *, text: bool = False) -> None:
    """Each caller has a lesson about its own word and no other's, with the fields that it asked for."""
    for result, own in zip(results, words, strict=False):
        assert (result.error, result.told) == (None, "")
        told = orjson.dumps(result.lesson).decode()
        assert [word for word in WORDS if word in told] == [own]
        if text:
            assert isinstance(result.lesson, str)
        else:
            assert {name: type(value) for name, value in result.lesson.items()} == FIELDS
        assert result.tokens is None or result.tokens > 0


def answered(outcome: Outcome) -> bool:
    return all(result.error is None for result in outcome.results)


@each_way
async def test_every_caller_gets_its_own_lesson_alone_and_three_for_one_call_upstream(run: Run, client: Client, way: Way) -> None:
    played = await run.of(client)
    for company in COMPANIES:
        for form in way.forms:
            outcome = played.ways[Place(way.name, company, form)]
            assert len(outcome.results) == (1 if company == "alone" else TOGETHER)
            check_own(outcome.results, text=way.text)
            assert outcome.upstream == 1, (company, form)


@each_client
async def test_identical_calls_without_a_user_get_different_lessons_for_one_call_upstream(run: Run, client: Client) -> None:
    played = await run.of(client)
    for form in FORMS:
        outcome = played.ways[Place(IDENTICAL, "merged", form)]
        check_own(outcome.results, [WORDS[0]] * TOGETHER)
        assert len({result.lesson["content"] for result in outcome.results}) == TOGETHER
        assert outcome.upstream == 1, form


async def failures(run: Run, client: Client, failure: Failure) -> dict[Any, Outcome]:
    return {place[1:]: outcome for place, outcome in (await run.of(client)).failures.items() if place.what == failure}


@each_client
async def test_a_rate_limit_is_repeated_as_retry_after_says_and_three_are_merged_again(run: Run, client: Client) -> None:
    for outcome in (await failures(run, client, "429")).values():
        check_own(outcome.results)
        assert outcome.upstream == 2
        assert outcome.seconds >= RETRY_AFTER_S


@each_client
async def test_a_server_error_is_repeated_by_the_client_itself(run: Run, client: Client) -> None:
    """Merged: the batch fails, then each alone; of the repeated calls the batch fails again, or each is alone at once."""
    for (company, form), outcome in (await failures(run, client, "500")).items():
        check_own(outcome.results)
        assert outcome.upstream in ((2,) if company == "alone" else (7, 8)), form


@pytest.mark.parametrize("failure", ["broken", "cut"])
@each_client
async def test_a_stream_that_breaks_is_an_error_and_costs_a_batch_no_lesson(run: Run, client: Client, failure: Failure) -> None:
    """Merged: the first lesson has arrived when the stream breaks, the other two are asked for alone."""
    outcomes = await failures(run, client, failure)
    (alone,), merged = outcomes["alone", "stream"].results, outcomes["merged", "stream"]
    assert alone.error not in (None, "no end", "left")
    assert alone.lesson is None
    check_own(merged.results)
    assert (outcomes["alone", "stream"].upstream, merged.upstream) == (1, 3)


@each_client
async def test_a_timeout_is_the_clients_own_and_its_retry_is_merged_again(run: Run, client: Client) -> None:
    """But a lone stream had begun: nobody repeats one of those."""
    for place, outcome in (await failures(run, client, "timeout")).items():
        if client.repeats_timeouts and place != ("alone", "stream"):
            check_own(outcome.results)
            assert outcome.upstream == 2, place
        else:
            assert {result.error for result in outcome.results}.isdisjoint({None, "no end", "left"}), place
            assert outcome.upstream == 1, place


@each_client
async def test_who_leaves_frees_only_its_slot_and_the_last_one_stops_the_call_upstream(run: Run, client: Client) -> None:
    played = await run.of(client)
    for place in departure_places():
        departure = played.departures[place]
        assert departure.upstream == 1, place
        if departure.stopped_after_s is None:
            assert len(departure.stayed) == TOGETHER - 1
            check_own(departure.stayed, WORDS[1:])
        else:
            assert departure.stopped_after_s <= AT_ONCE_S, place


@each_client
async def test_the_page_says_what_the_run_gave(run: Run, client: Client) -> None:
    assert section(client, await run.of(client)) in DOCUMENT.read_text(), "make clients writes it anew"
