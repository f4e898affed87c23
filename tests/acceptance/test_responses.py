"""The Responses API by OpenAI's own client over a real proxy: alone, three at a time, beside chat callers, and on from an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import openai
import orjson
import pytest
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict

from proxy.model import Json
from tests.acceptance.conftest import Failing, Served
from tests.acceptance.learners import LESSON, LEVELS, TOOL, WORDS
from tests.acceptance.learners import ask as chat_ask
from tests.acceptance.learners import call as chat_call
from tests.make import make_user_text

PATH = "/v1/responses"
Form = Literal["function", "schema", "object", "text"]
Way = Literal["create", "parse", "stream", "helper"]
FORMS: tuple[Form, ...] = ("function", "schema", "object", "text")
MIXES: tuple[tuple[Way, Way, Way], ...] = (
    *((way, way, way) for way in ("create", "parse", "stream", "helper")),
    ("create", "stream", "helper"),
)
FUNCTION: Json = {"type": "function", **TOOL["tools"][0]["function"], "strict": True}


class Lesson(BaseModel):
    """One lesson."""

    model_config = ConfigDict(extra="forbid")
    title: str
    content: str


@dataclass(frozen=True)
class Ask:
    """One caller: what it asks for, and by which of the client's methods."""

    form: Form
    way: Way
    word: str
    user: str
    together: bool = True
    model: str = "lesson-model"

    def arguments(self) -> dict[str, Any]:
        text = make_user_text(request=f"Level: {LEVELS[WORDS.index(self.word)]}\nCreate a lesson about {self.word}.")
        if self.form == "object":
            text += '\nAnswer with JSON: {"title": string, "content": string}'
        asked: dict[str, Any] = {"model": self.model, "input": text, "instructions": "You teach.", "user": self.user}
        if self.together:
            asked["extra_headers"] = {"x-lesson-expect": "3"}
        match self.form:
            case "function":
                asked |= {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "create_lesson"}}
            case "object":
                asked["text"] = {"format": {"type": "json_object"}}
            case "schema" if self.way in ("parse", "helper"):
                asked["text_format"] = Lesson
            case "schema":
                # as the client itself writes it
                schema = Lesson.model_json_schema()
                asked["text"] = {"format": {"type": "json_schema", "strict": True, "name": "Lesson", "schema": schema}}
            case "text":
                pass
        return asked


@dataclass(frozen=True)
class Got:
    ask: Ask
    headers: Mapping[str, str]
    answer: Response
    events: Sequence[Any] = ()

    def check(self) -> None:
        """An answer is whole, its caller's own, and in the form that was asked for."""
        answer, form = self.answer, self.ask.form
        assert (answer.status, answer.object, answer.error, answer.incomplete_details) == ("completed", "response", None, None)
        (item,) = answer.output
        if form == "function":
            assert item.type == "function_call"
            assert (item.name, item.call_id[:5]) == ("create_lesson", "call_")
            text = item.arguments
        else:
            assert item.type == "message"
            text = answer.output_text
        assert [word for word in WORDS if word in text] == [self.ask.word]
        if form == "schema":
            assert Lesson.model_validate_json(text).content
        if form == "schema" and self.ask.way in ("parse", "helper"):
            parsed: Any = getattr(answer, "output_parsed", None)
            assert isinstance(parsed, Lesson)
        usage = answer.usage
        assert usage is not None
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        assert min(usage.input_tokens, usage.output_tokens) > 0
        assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (0, 0)
        assert answer.instructions == "You teach."
        self._check_events()

    def _check_events(self) -> None:
        if not self.events:
            return
        numbers = [event.sequence_number for event in self.events]
        assert numbers == list(range(len(numbers)))
        names = [event.type for event in self.events]
        assert (names[0], names[-1]) == ("response.created", "response.completed")


async def answer_to(client: openai.AsyncOpenAI, ask: Ask) -> Got:
    responses: Any = client.responses
    asked = ask.arguments()
    match ask.way:
        case "create" | "parse":
            raw = await getattr(responses.with_raw_response, ask.way)(**asked)
            return Got(ask, raw.headers, raw.parse())
        case "stream":
            raw = await responses.with_raw_response.create(stream=True, **asked)
            events = [event async for event in raw.parse()]
            return Got(ask, raw.headers, events[-1].response, events)
        case "helper":
            async with responses.stream(**asked) as stream:
                # the helper's own events beside the API's carry the same numbers
                events = [event async for event in stream]
                return Got(ask, stream._response.headers, await stream.get_final_response(), events)


async def answers_to(url: str, asks: Sequence[Ask]) -> list[Got]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        return await asyncio.gather(*(answer_to(client, ask) for ask in asks))


async def test_every_form_and_way_alone(standing: Served) -> None:
    """Each answer is upstream's own, and says why it was not merged."""
    ways: tuple[Way, ...] = ("create", "parse", "stream", "helper")
    asks = [Ask(form, way, WORDS[i % 3], f"{form}-{way}", together=False) for i, form in enumerate(FORMS) for way in ways]
    for got in await answers_to(standing.url, asks):
        got.check()
        assert (got.headers["x-lesson-merged"], got.headers["x-lesson-reason"]) == ("false", "alone")


@pytest.mark.parametrize("form", FORMS)
async def test_three_callers_get_their_own_lessons_out_of_one_batch(standing: Served, form: Form) -> None:
    """Under ids of their own, and nothing is stored."""
    asks = [Ask(form, way, word, f"{form}-{i}") for i, ways in enumerate(MIXES) for way, word in zip(ways, WORDS, strict=True)]
    answers = await answers_to(standing.url, asks)
    for got in answers:
        got.check()
        assert (got.headers["x-lesson-merged"], got.headers["x-lesson-batch-size"]) == ("true", "3")
        assert (got.answer.model_extra or {})["store"] is False
    batches = [{got.headers["x-lesson-batch-id"] for got in answers[i : i + 3]} for i in range(0, len(answers), 3)]
    assert [len(batch) for batch in batches] == [1] * len(MIXES)
    assert len({got.answer.id for got in answers}) == len({got.answer.output[0].id for got in answers}) == len(answers)


async def test_callers_of_both_apis_share_a_batch(standing: Served) -> None:
    """Each is answered in its own API, with its own lesson."""
    user = "both-apis"
    whole = asyncio.create_task(chat_call(standing.client, 0, chat_ask("lesson-model", 0, user=user)))
    streamed = asyncio.create_task(chat_call(standing.client, 1, chat_ask("lesson-model", 1, user=user, stream=True)))
    function = {"type": "function", **TOOL["tools"][0]["function"]}
    body = {
        "model": "lesson-model",
        "user": user,
        "input": chat_ask("lesson-model", 2)["messages"],
        "tools": [function],
        "tool_choice": {"type": "function", "name": "create_lesson"},
        "store": True,
    }
    third = await standing.client.post(PATH, json=body, headers={"x-lesson-expect": "3"})
    first, second = await whole, await streamed
    first.check_own()
    second.check_own()
    told = third.json()
    assert (third.headers["x-lesson-merged"], third.headers["x-lesson-batch-size"]) == ("true", "3")
    assert {first.headers["x-lesson-batch-id"], second.headers["x-lesson-batch-id"]} == {third.headers["x-lesson-batch-id"]}
    assert (told["object"], told["store"]) == ("response", False)
    lesson = orjson.loads(told["output"][0]["arguments"])
    assert [word for word in WORDS if word in str(lesson)] == [WORDS[2]]
    assert lesson["level"] == LEVELS[2]


async def test_going_on_from_a_merged_answer(standing: Served) -> None:
    """A clear 404; from then on that site's calls go alone, and what follows on from those works."""
    asks = [Ask("function", "create", word, "chains", model="named") for word in WORDS]
    async with openai.AsyncOpenAI(base_url=standing.url + "/v1", api_key="any", max_retries=0) as client:
        merged = await asyncio.gather(*(answer_to(client, ask) for ask in asks))
        assert {got.headers["x-lesson-merged"] for got in merged} == {"true"}
        with pytest.raises(openai.NotFoundError) as refused:
            await client.responses.create(model="named", previous_response_id=merged[0].answer.id, input="And a quiz.")
        assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(merged[0].answer.id)
        alone = await asyncio.gather(*(answer_to(client, ask) for ask in asks))
        for got in alone:
            got.check()
            assert (got.headers["x-lesson-merged"], got.headers["x-lesson-reason"]) == ("false", "previous_response_id")
        after = await client.responses.create(model="named", previous_response_id=alone[0].answer.id, input="And a quiz.")
        assert after.output_text
        other = [Ask("text", "create", word, "chains", model="named") for word in WORDS]
        assert {got.headers["x-lesson-merged"] for got in await asyncio.gather(*(answer_to(client, ask) for ask in other))} == {"true"}


# Callers that leave, and batches that fail


def body(model: str, i: int, *, stream: bool = False) -> Json:
    """Build the body of caller `i` of three; `fails` see what the model's name does."""
    text = make_user_text(request=f"Level: {LEVELS[i]}\nCreate a lesson about {WORDS[i]}.")
    function = {"type": "function", "name": "create_lesson", "parameters": LESSON}
    asked: Json = {"model": model, "user": "learner-1", "input": text, "tools": [function]}
    return asked | {"tool_choice": {"type": "function", "name": "create_lesson"}, "stream": stream}


def begin(failing: Failing, model: str, *, stream: bool) -> list[asyncio.Task[httpx.Response]]:
    said = [body(model, i, stream=stream) for i in range(3)]
    return [asyncio.create_task(failing.served.client.post(PATH, json=each, headers={"x-lesson-expect": "3"})) for each in said]


def lesson_of(answer: httpx.Response) -> Json:
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return orjson.loads(answer.json()["output"][0]["arguments"])
    blocks = [block.partition("\ndata: ")[2] for block in answer.text.split("\n\n") if block]
    last = orjson.loads(blocks[-1])
    assert last["type"] == "response.completed"
    return orjson.loads(last["response"]["output"][0]["arguments"])


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_one_that_leaves_costs_the_others_nothing(failing: Failing, *, stream: bool) -> None:
    calls = begin(failing, f"slow-r{stream:d}", stream=stream)
    while failing.slow.stats.completion_tokens == 0:  # noqa: ASYNC110 - counts have no event
        await asyncio.sleep(0.005)
    calls[0].cancel()
    for i, got in enumerate(await asyncio.gather(*calls[1:]), 1):
        assert WORDS[i] in str(lesson_of(got))
        assert got.headers["x-lesson-merged"] == "true"
    # whether its entry was written last, and so left unwritten, is the order in which they came
    assert failing.slow.stats.requests == 1


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_when_all_have_left_the_call_upstream_ends_at_once(failing: Failing, *, stream: bool) -> None:
    """Merged, and alone: the last one to leave stops it."""
    for model, running in ((f"slow-r{stream:d}", 1), (f"slow-r{stream:d}+400@batch", 3)):
        failing.slow.stats.reset()
        calls = begin(failing, model, stream=stream)
        while failing.slow.stats.open_requests < running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for one in calls:
            one.cancel()
        async with asyncio.timeout(1.0):
            await failing.served.until("lesson_proxy_upstream_slots_taken", 0)
            while failing.slow.stats.open_requests:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert failing.slow.stats.left == running


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
async def test_a_failed_entry_goes_alone_and_tells_what_the_batch_spent(failing: Failing, *, stream: bool) -> None:
    """By the same API upstream; its usage holds both."""
    answers = await asyncio.gather(*begin(failing, "any+missing", stream=stream))
    resent = [got for got in answers if got.headers["x-lesson-merged"] == "false"]
    assert [got.headers["x-lesson-reason"] for got in resent] == ["resent:missing"]
    for i, got in enumerate(answers):
        assert WORDS[i] in str(lesson_of(got))
    paths = failing.provider.stats.paths
    assert (paths["/v1/chat/completions"], paths[PATH]) == (1, 1)
    text = resent[0].text
    told = orjson.loads(text.strip().rpartition("data: ")[2])["response"]["usage"] if stream else resent[0].json()["usage"]
    alone = await failing.served.client.post(PATH, json=body("any", answers.index(resent[0])), headers={"x-lesson-merge": "off"})
    assert told["input_tokens"] > alone.json()["usage"]["input_tokens"]
    assert told["total_tokens"] == told["input_tokens"] + told["output_tokens"]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("quota", 429), ("401", 401), ("503", 503)])
async def test_upstreams_errors_reach_every_caller_in_openais_form(failing: Failing, fault: str, status: int) -> None:
    for got in await asyncio.gather(*begin(failing, f"any+{fault}", stream=True)):
        assert got.status_code in (status, 503)
        assert set(got.json()["error"]) == {"message", "type", "param", "code"}
