"""Several lessons in one HTTP call: a real process, OpenAI's own client, and a provider that fails as the model's name says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import orjson
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletion

from proxy.model import Json
from proxy.simulated import Provider
from tests.acceptance.conftest import OPERATORS_KEY, Failing, Process, Served
from tests.acceptance.learners import Got, ask
from tests.acceptance.test_departures import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

BATCH = "/v1/lessons/batch"
VARIANTS = "/v1/lessons/variants"


UNHURRIED = """
model_list:
  - {{model_name: "*", litellm_params: {{model: "openai/*", api_base: "{url}", api_key: any}}}}
router_settings: {{num_retries: 0, timeout: 60}}
lessons: {{merge: {{first_token_seconds: 60, idle_seconds: 60}}}}
"""
_TOKENS_PER_SECOND = 100.0


@dataclass
class Unhurried:
    """A proxy before a provider that takes seconds for a lesson, however busy the machine is; nothing times out."""

    served: Served
    provider: Provider

    async def events(self, body: Json) -> AsyncGenerator[Any]:
        """Yield the events of a stream; one that is read to its end must end as streams do."""
        last = ""
        async with self.served.client.stream("POST", BATCH, json=body | {"stream": True}) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line and (last := line) != "data: [DONE]":
                    yield orjson.loads(line.removeprefix("data: "))
        assert last == "data: [DONE]"

    async def nothing_runs(self) -> None:
        await self.served.until("lesson_proxy_upstream_slots_taken", 0)
        await until(lambda: self.provider.stats.open_requests == 0)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_unhurried(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Unhurried]:
    folder = tmp_path_factory.mktemp("unhurried")
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(Provider.running(tokens_per_second=_TOKENS_PER_SECOND))
        file = folder / "proxy.yaml"
        file.write_text(UNHURRIED.format(url=provider.url))
        process = await asyncio.to_thread(Process.start, folder, "--config", str(file))
        stack.callback(process.kill)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=process.url, timeout=60.0))
        yield Unhurried(Served(process, client), provider)


@pytest_asyncio.fixture(loop_scope="session")
async def unhurried(standing_unhurried: Unhurried) -> Unhurried:
    standing_unhurried.provider.stats.reset()
    return standing_unhurried


def nobodys(model: str, i: int, **more: Any) -> Json:
    """The request of a group's caller `i`, which names no user."""
    return {name: value for name, value in ask(model, i, **more).items() if name != "user"}


def group(model: str, **more: Any) -> list[Json]:
    return [nobodys(model, i, **more) for i in range(3)]


async def results(failing: Failing, requests: Sequence[Json], **headers: str) -> list[Json]:
    answer = await failing.served.client.post(BATCH, json={"requests": requests}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert OPERATORS_KEY not in answer.text
    return answer.json()["results"]


def check_own(told: Json, i: int) -> None:
    """The result is a lesson, and the one that request `i` of a group asked for."""
    assert told["success"], told
    Got(i, 200, httpx.Headers({"content-type": "application/json"}), orjson.dumps(told["response"])).check_own()
    assert told["usage"] == told["response"]["usage"]


def ways(told: Sequence[Json]) -> Counter[str]:
    return Counter("merged" if one["lesson"]["merged"] else one["lesson"]["reason"] for one in told)


async def test_openais_client_gets_a_groups_lessons_out_of_one_batch_without_waiting(failing: Failing) -> None:
    """No item names a user, and the window would stand open for five seconds."""
    async with openai.AsyncOpenAI(base_url=failing.served.url + "/v1", api_key="any", max_retries=0) as client:
        answer: Any = await client.post("/lessons/batch", body={"requests": group("m")}, cast_to=object)
    for i, told in enumerate(answer["results"]):
        check_own(told, i)
        completion = ChatCompletion.model_validate(told["response"])
        assert completion.choices[0].message.tool_calls
        assert (told["lesson"]["batch_size"], told["lesson"]["wait_ms"]) == (3, pytest.approx(0, abs=50))
    assert (failing.provider.stats.requests, failing.provider.stats.batches, failing.provider.stats.entries) == (1, 1, 3)
    assert len({told["response"]["id"] for told in answer["results"]}) == 3
    line = await failing.served.logged("call", call=answer["results"][2]["lesson"]["request_id"])
    assert (line["way"], line["path"], line["batch_size"]) == ("merged", "/v1/chat/completions", 3)


async def test_what_belongs_to_others_goes_in_batches_of_its_own_or_alone(failing: Failing) -> None:
    own, other = group("m"), [ask("m", i) for i in range(2)]
    chat: Json = {"model": "m", "messages": [{"role": "user", "content": "Good morning."}]}
    conflict = ask("m", 2, safety_identifier="learner-2")
    found = await results(failing, [own[0], other[0], chat, own[1], conflict, other[1], own[2]])
    for place, i in ((0, 0), (1, 0), (3, 1), (4, 2), (5, 1), (6, 2)):
        check_own(found[place], i)
    batches = [told["lesson"]["batch_id"] for told in found]
    assert batches[0] == batches[3] == batches[6] != batches[1] == batches[5]
    assert batches[2] == batches[4] is None
    assert found[4]["lesson"]["reason"] == "identity_conflict"
    assert (failing.provider.stats.requests, failing.provider.stats.batches) == (4, 2)


async def test_two_calls_that_name_no_user_share_nothing(failing: Failing) -> None:
    first, second = await asyncio.gather(*(results(failing, group("m")) for _ in range(2)))
    assert {told["lesson"]["batch_id"] for told in first}.isdisjoint(told["lesson"]["batch_id"] for told in second)
    assert failing.provider.stats.batches == 2


async def test_the_outer_calls_headers_are_its_items(failing: Failing) -> None:
    assert ways(await results(failing, group("m"), **{"x-lesson-merge": "off"})) == {"header_off": 3}
    found = await results(failing, [ask("m", 0), nobodys("m", 1), nobodys("m", 2)], **{"x-user-id": "learner-1"})
    assert ways(found) == {"merged": 3}
    found = await results(failing, [ask("m", 0), nobodys("m", 1), nobodys("m", 2)], **{"x-user-id": "learner-2"})
    assert ways(found) == {"identity_conflict": 1, "merged": 2}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("missing@batch", {"merged": 2, "resent:missing": 1}),
        ("half@batch", {"merged": 1, "resent:upstream_broken_off": 2}),
        ("400@batch", {"resent:rejected": 3}),
        ("413@batch", {"too_large": 3}),
        ("content_filter@batch", {"resent:refused": 3}),
    ],
)
async def test_what_a_batch_lacks_is_made_up_for_item_by_item(failing: Failing, fault: str, expected: dict[str, int]) -> None:
    found = await results(failing, group(f"items+{fault}"))
    for i, told in enumerate(found):
        check_own(told, i)
    assert ways(found) == expected


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("400", 400, "invalid_function_parameters"),
        ("401", 401, "upstream_denied"),
        ("429", 429, "rate_limit_exceeded"),
        ("quota", 429, "insufficient_quota"),
        ("503", 503, "overloaded"),
        ("html", 502, "upstream_error"),
    ],
)
async def test_items_that_fail_are_told_so_beside_those_that_succeed(failing: Failing, fault: str, status: int, code: str) -> None:
    found = await results(failing, [*group(f"some+{fault}"), *group("fine")])
    for i, told in enumerate(found[3:]):
        check_own(told, i)
    for told in found[:3]:
        assert (told["success"], told["status"], told["error"]["code"], told["usage"]) == (False, status, code, None)
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert (told["retry_after"] is not None) == (status in (429, 503))
        assert told["lesson"]["merged"] is False


async def test_a_bad_item_costs_nobody_anything(failing: Failing) -> None:
    answer = await failing.served.client.post(BATCH, json={"requests": [*group("m"), {"model": "m"}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "requests[3].messages")
    assert failing.provider.stats.requests == 0


async def test_variants_of_one_request_are_different_lessons_of_one_batch(failing: Failing) -> None:
    request = nobodys("m", 1)
    answer = await failing.served.client.post(VARIANTS, json={"request": request, "count": 3})
    found = answer.json()["results"]
    for told in found:
        check_own(told, 1)
    assert ways(found) == {"merged": 3}
    assert len({Got(1, 200, answer.headers, orjson.dumps(told["response"])).lesson()["content"] for told in found}) == 3
    assert (failing.provider.stats.requests, failing.provider.stats.entries) == (1, 3)
    assert (await failing.served.client.post(VARIANTS, json={"request": request, "count": 4})).json()["error"]["param"] == "count"


async def test_one_variant_goes_alone_as_it_is(failing: Failing) -> None:
    answer = await failing.served.client.post(VARIANTS, json={"request": nobodys("m", 0), "count": 1})
    (told,) = answer.json()["results"]
    check_own(told, 0)
    assert (told["lesson"]["reason"], failing.provider.stats.batches) == ("alone", 0)
    assert failing.provider.stats.recorded[-1].body == nobodys("m", 0)


async def test_a_stream_brings_each_lesson_when_it_is_written(unhurried: Unhurried) -> None:
    found: list[Any] = []
    still_writing: list[int] = []
    async for event in unhurried.events({"requests": group("m")}):
        found.append(event)
        still_writing.append(unhurried.provider.stats.open_requests)
    *told, last = found
    assert [one["index"] for one in told] == [0, 1, 2]
    for one in told:
        check_own(one, one["index"])
    assert still_writing[0] == 1, "the first came while the others were written"
    assert unhurried.provider.stats.requests == 1
    totals = last["totals"]
    assert (totals["requests"], totals["succeeded"], totals["failed"], totals["merged"], totals["batches"]) == (3, 3, 0, 3, 1)
    for name, count in totals["usage"].items():
        assert count == sum(one["usage"][name] for one in told)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_a_caller_that_leaves_ends_its_batch_and_its_lone_calls(unhurried: Unhurried, *, stream: bool) -> None:
    requests = [*group("m"), *(nobodys("m", i, n=2) for i in range(2))]
    task = asyncio.create_task(unhurried.served.client.post(BATCH, json={"requests": requests, "stream": stream}))
    await until(lambda: unhurried.provider.stats.open_requests == 3)
    task.cancel()
    await unhurried.nothing_runs()
    assert (unhurried.provider.stats.requests, unhurried.provider.stats.left) == (3, 3), "all three were left, and none was sent again"


async def test_a_caller_that_leaves_after_the_first_lesson_ends_the_rest(unhurried: Unhurried) -> None:
    async with aclosing(unhurried.events({"requests": group("m")})) as events:
        check_own(await anext(events), 0)
    await unhurried.nothing_runs()
    assert (unhurried.provider.stats.requests, unhurried.provider.stats.left) == (1, 1)


async def test_more_topics_than_may_run_at_once_are_all_answered(failing: Failing) -> None:
    requests = [{**nobodys("m", i % 3), "n": 1, "metadata": {"topic": f"Topic {i}"}} for i in range(40)]
    found = await results(failing, requests)
    for i, told in enumerate(found):
        check_own(told, i % 3)
    assert (ways(found), failing.provider.stats.requests) == ({"alone": 40}, 40)
