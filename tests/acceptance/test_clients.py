"""OpenAI's own client, sync and async, asking for lessons in its idiomatic ways: alone, and three at a time in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict

from tests.acceptance.conftest import Process, Served

Form = Literal["forced", "required", "auto", "schema", "object", "text"]
Way = Literal["create", "parse", "stream", "stream+usage", "helper", "helper+usage"]

FORMS: tuple[Form, ...] = ("forced", "required", "auto", "schema", "object", "text")
WAYS: tuple[Way, ...] = ("create", "parse", "stream", "stream+usage", "helper", "helper+usage")
WORDS = ("otter-11", "maple-22", "comet-33")
FINISH: Mapping[Form, str] = {"forced": "stop", "required": "tool_calls", "auto": "tool_calls"}
"""By the form; `stop` for all others."""


class Lesson(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str
    content: str
    key_points: list[str]


TOOL = openai.pydantic_function_tool(Lesson, name="create_lesson", description="Create one lesson.")
SYSTEM = "You write one lesson at a time for learners of a school, in plain words, with worked examples. " * 20
"""As long as apps write it: merging prompts of a few words saves nothing, and would soon rest."""


@dataclass(frozen=True)
class Ask:
    """One call of one caller."""

    form: Form
    way: Way
    word: str
    user: str
    together: bool
    model: str = "lesson-model"

    @property
    def name(self) -> str:
        return f"{self.form} {self.way} {self.word}"

    @property
    def usage_wanted(self) -> bool:
        return self.way in ("create", "parse") or self.way.endswith("+usage")

    def arguments(self) -> dict[str, Any]:
        text = f"Subject: Algebra 1\nTopic: Linear equations\nCreate a lesson about {self.word}."
        if self.form == "object":
            text += '\nReturn JSON: {"title": string, "content": string, "key_points": [string]}'
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        asked: dict[str, Any] = {"model": self.model, "user": self.user, "messages": messages}
        if self.together:
            asked["extra_headers"] = {"x-lesson-expect": "3"}
        if self.way.endswith("+usage"):
            asked["stream_options"] = {"include_usage": True}
        if self.way.startswith("stream"):
            asked["stream"] = True
        return asked | self._form()

    def _form(self) -> dict[str, Any]:
        match self.form:
            case "forced":
                return {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "create_lesson"}}}
            case "required" | "auto":
                return {"tools": [TOOL], "tool_choice": self.form}
            case "object":
                return {"response_format": {"type": "json_object"}}
            case "text":
                return {}
            case "schema" if self.way in ("create", "stream", "stream+usage"):
                # in the order in which the client itself writes it: an order of names is part of what is asked for
                schema = Lesson.model_json_schema()
                return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema, "name": "Lesson", "strict": True}}}
            case "schema":
                return {"response_format": Lesson}


@dataclass(frozen=True)
class Got:
    """What the client made of one answer."""

    ask: Ask
    headers: Mapping[str, str]
    answer: ChatCompletion
    """What the client returned, or joined from the chunks."""
    chunks: Sequence[ChatCompletionChunk] = ()


async def ask_async(client: openai.AsyncOpenAI, ask: Ask) -> Got:
    completions: Any = client.chat.completions
    asked = ask.arguments()
    match ask.way:
        case "create" | "parse":
            raw = await getattr(completions.with_raw_response, ask.way)(**asked)
            return Got(ask, raw.headers, raw.parse())
        case "stream" | "stream+usage":
            raw = await completions.with_raw_response.create(**asked)
            chunks = [chunk async for chunk in raw.parse()]
            return Got(ask, raw.headers, joined(chunks), chunks)
        case "helper" | "helper+usage":
            async with completions.stream(**asked) as stream:
                chunks = [event.chunk async for event in stream if event.type == "chunk"]
                return Got(ask, stream._response.headers, await stream.get_final_completion(), chunks)


def ask_sync(client: openai.OpenAI, ask: Ask) -> Got:
    completions: Any = client.chat.completions
    asked = ask.arguments()
    match ask.way:
        case "create" | "parse":
            raw = getattr(completions.with_raw_response, ask.way)(**asked)
            return Got(ask, raw.headers, raw.parse())
        case "stream" | "stream+usage":
            raw = completions.with_raw_response.create(**asked)
            chunks = list[ChatCompletionChunk](raw.parse())
            return Got(ask, raw.headers, joined(chunks), chunks)
        case "helper" | "helper+usage":
            with completions.stream(**asked) as stream:
                chunks = [event.chunk for event in stream if event.type == "chunk"]
                return Got(ask, stream._response.headers, stream.get_final_completion(), chunks)


def joined(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion:
    """Join chunks as the client's own helper does."""
    state = ChatCompletionStreamState[None]()
    for chunk in chunks:
        state.handle_chunk(chunk)
    return state.get_final_completion()


def check(got: Got) -> None:
    """An answer is whole, its caller's own, and in the form that was asked for."""
    ask, choice = got.ask, got.answer.choices[0]
    assert len(got.answer.choices) == 1, ask.name
    assert choice.finish_reason == FINISH.get(ask.form, "stop"), ask.name
    text = lesson_text(got)
    assert ask.word in text, ask.name
    assert not [word for word in WORDS if word != ask.word and word in text], ask.name
    if ask.form != "text":
        assert Lesson.model_validate_json(text).content, ask.name
    check_usage(got)
    if got.chunks:
        check_chunks(got)


def lesson_text(got: Got) -> str:
    message: Any = got.answer.choices[0].message
    if got.ask.form not in FINISH:
        assert not message.tool_calls, got.ask.name
        if got.ask.form == "schema" and got.ask.way in ("parse", "helper", "helper+usage"):
            assert isinstance(message.parsed, Lesson), got.ask.name
        return message.content
    (call,) = message.tool_calls
    assert (call.type, call.function.name, message.content) == ("function", "create_lesson", None), got.ask.name
    if got.ask.way in ("parse", "helper", "helper+usage"):
        assert isinstance(call.function.parsed_arguments, Lesson), got.ask.name
    return call.function.arguments


def check_usage(got: Got) -> None:
    usage = got.answer.usage
    if not got.ask.usage_wanted:
        assert usage is None, got.ask.name
        return
    assert usage is not None, got.ask.name
    assert min(usage.prompt_tokens, usage.completion_tokens) > 0, got.ask.name
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, got.ask.name
    assert {type(count) for count in (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)} == {int}, got.ask.name


def check_chunks(got: Got) -> None:
    name, chunks = got.ask.name, list(got.chunks)
    assert {chunk.id for chunk in chunks} == {got.answer.id}, name
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}, name
    if got.ask.usage_wanted:
        last = chunks.pop()
        assert (last.choices, last.usage is not None) == ([], True), name
    assert all(len(chunk.choices) == 1 and chunk.choices[0].index == 0 and chunk.usage is None for chunk in chunks), name
    assert chunks[0].choices[0].delta.role == "assistant", name
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert [bool(piece.id and piece.type) for piece in pieces] == [True, *[False] * (len(pieces) - 1)][: len(pieces)], name
    assert [chunk.choices[0].finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False], name


def check_distinct(answers: Sequence[Got]) -> None:
    assert len({got.answer.id for got in answers}) == len(answers)
    assert len({got.headers["x-request-id"] for got in answers}) == len(answers)
    calls = [call.id for got in answers for call in got.answer.choices[0].message.tool_calls or ()]
    assert len(set(calls)) == len(calls)


def asks_alone(how: str) -> list[Ask]:
    """One caller for every form in every way; words in turn."""
    pairs = list(product(FORMS, WAYS))
    return [Ask(form, way, WORDS[i % 3], f"{how}-alone-{i}", together=False) for i, (form, way) in enumerate(pairs)]


MIXES: tuple[tuple[Way, Way, Way], ...] = (
    *((way, way, way) for way in WAYS),
    ("create", "stream", "helper+usage"),
    ("stream+usage", "parse", "helper"),
)
"""The ways of three callers of one batch."""


def asks_together(how: str, form: Form) -> list[Ask]:
    """Three callers of one learner for each mix, in their order."""
    return [
        Ask(form, way, word, f"{how}-{form}-{i}", together=True)
        for i, ways in enumerate(MIXES)
        for way, word in zip(ways, WORDS, strict=True)
    ]


async def answers_async(url: str, asks: Sequence[Ask]) -> list[Got]:
    """Ask all at once, in one event loop."""
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        return await asyncio.gather(*(ask_async(client, ask) for ask in asks))


def answers_sync(url: str, asks: Sequence[Ask]) -> list[Got]:
    """Ask all at once, each in a thread."""
    with openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client, ThreadPoolExecutor(len(asks)) as pool:
        return [answer.result() for answer in [pool.submit(ask_sync, client, ask) for ask in asks]]


def check_alone(answers: Sequence[Got]) -> None:
    """Each answer is the caller's own, and says why it was not merged."""
    for got in answers:
        check(got)
        assert (got.headers["x-lesson-merged"], got.headers["x-lesson-reason"]) == ("false", "alone"), got.ask.name
    check_distinct(answers)


def check_together(answers: Sequence[Got]) -> None:
    """Every three answers came out of one batch, each under ids of its own."""
    for got in answers:
        check(got)
        merged = got.headers["x-lesson-merged"], got.headers["x-lesson-batch-size"], got.headers.get("x-lesson-reason")
        assert merged == ("true", "3", None), got.ask.name
    batches = [{got.headers["x-lesson-batch-id"] for got in answers[i : i + 3]} for i in range(0, len(answers), 3)]
    assert [len(batch) for batch in batches] == [1] * len(MIXES)
    check_distinct(answers)


async def test_every_form_and_way_alone_async(standing: Served) -> None:
    check_alone(await answers_async(standing.url, asks_alone("async")))


def test_every_form_and_way_alone_sync(standing_process: Process) -> None:
    check_alone(answers_sync(standing_process.url, asks_alone("sync")))


@pytest.mark.parametrize("form", FORMS)
async def test_three_callers_get_their_own_lessons_out_of_one_batch_async(standing: Served, form: Form) -> None:
    check_together(await answers_async(standing.url, asks_together("async", form)))


@pytest.mark.parametrize("form", FORMS)
def test_three_callers_get_their_own_lessons_out_of_one_batch_sync(standing_process: Process, form: Form) -> None:
    check_together(answers_sync(standing_process.url, asks_together("sync", form)))


@pytest.mark.parametrize("way", ["create", "parse", "helper"])
async def test_an_error_has_the_clients_own_type_whatever_way_was_asked(standing: Served, way: Way) -> None:
    asks = [Ask("required", way, word, f"denied-{way}", together=True, model="lesson-model+401") for word in WORDS]
    async with openai.AsyncOpenAI(base_url=standing.url + "/v1", api_key="any", max_retries=0) as client:
        answers = await asyncio.gather(*(ask_async(client, ask) for ask in asks), return_exceptions=True)
    assert [type(answer) for answer in answers] == [openai.AuthenticationError] * 3
