"""The official openai client takes the simulated provider for OpenAI: sync, async, streamed, parsed, and its errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar, Unpack, cast

import httpx
import openai
import pytest
from openai.lib.streaming.chat import ContentDoneEvent, FunctionToolCallArgumentsDoneEvent
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, Field

from proxy.simulated import Choices, Provider

T = TypeVar("T")


class Question(BaseModel):
    prompt: str
    choices: list[str] = Field(min_length=4, max_length=4)
    correct: int = Field(ge=0, le=3)
    hint: str | None


class Lesson(BaseModel):
    title: str
    content: str
    level: Literal["easy", "medium", "hard"]
    questions: list[Question]


TEXT = "Subject: Algebra 1\nTopic: Linear equations\nLevel: hard\nFor learner-7"
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a teacher. Write one short lesson."},
    {"role": "user", "content": TEXT},
]
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "create_lesson", "parameters": Lesson.model_json_schema()}}
]


@asynccontextmanager
async def client_of(**choices: Unpack[Choices]) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with (
        Provider.running(**choices) as provider,
        openai.AsyncOpenAI(base_url=provider.url, api_key="any", max_retries=0, timeout=10) as client,
    ):
        yield client


async def with_sync_client(use: Callable[[openai.OpenAI], T]) -> T:
    """Run a blocking client in a thread, beside the provider's loop."""
    async with Provider.running() as provider:

        def blocking() -> T:
            with openai.OpenAI(base_url=provider.url, api_key="any", max_retries=0, timeout=10) as client:
                return use(client)

        return await asyncio.to_thread(blocking)


async def test_a_completion_and_its_usage() -> None:
    async with client_of() as client:
        said = await client.chat.completions.create(model="lesson-model", messages=MESSAGES)
    assert said.choices[0].finish_reason == "stop"
    assert "learner-7" in (said.choices[0].message.content or "")
    assert said.usage is not None
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    assert said.model == "lesson-model"


async def test_the_sync_client_gets_and_streams() -> None:
    def use(client: openai.OpenAI) -> tuple[str | None, str]:
        whole = client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    whole, streamed = await with_sync_client(use)
    assert "learner-7" in (whole or "")
    assert "learner-7" in streamed


async def test_the_sync_client_parses() -> None:
    parsed = await with_sync_client(
        lambda client: client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Lesson).choices[0].message.parsed
    )
    assert parsed is not None
    assert parsed.level == "hard"


async def test_an_answer_is_parsed_into_the_model_that_was_asked_for() -> None:
    async with client_of() as client:
        said = await client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Lesson)
    lesson = said.choices[0].message.parsed
    assert lesson is not None
    assert lesson.level == "hard"
    assert "learner-7" in lesson.content


async def test_a_tool_is_called_and_parsed() -> None:
    async with client_of() as client:
        said = await client.chat.completions.parse(
            model="m", messages=MESSAGES, tools=[openai.pydantic_function_tool(Lesson)], tool_choice="required"
        )
    calls = said.choices[0].message.tool_calls
    assert calls is not None
    assert isinstance(calls[0].function.parsed_arguments, Lesson)
    assert said.choices[0].finish_reason == "tool_calls"


async def test_a_streamed_tool_call_is_put_together() -> None:
    async with client_of(delta_chars=5) as client:
        pieces = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="m",
                messages=MESSAGES,
                tools=TOOLS,
                tool_choice={"type": "function", "function": {"name": "create_lesson"}},
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    calls = [call for chunk in pieces for choice in chunk.choices for call in choice.delta.tool_calls or []]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert Lesson.model_validate_json(arguments).level == "hard"
    assert [call.function.name for call in calls if call.function and call.function.name] == ["create_lesson"]
    assert pieces[-1].usage is not None
    assert pieces[-2].choices[0].finish_reason == "stop"


async def test_the_streaming_helper_follows_to_the_end() -> None:
    """It checks every chunk against what came before."""
    async with client_of(delta_chars=9) as client:
        async with client.chat.completions.stream(model="m", messages=MESSAGES, response_format=Lesson) as stream:
            done = [event async for event in stream if isinstance(event, ContentDoneEvent)]
        tool = openai.pydantic_function_tool(Lesson)
        async with client.chat.completions.stream(model="m", messages=MESSAGES, tools=[tool]) as stream:
            called = [event async for event in stream if isinstance(event, FunctionToolCallArgumentsDoneEvent)]
    assert isinstance(done[0].parsed, Lesson)
    assert isinstance(called[0].parsed_arguments, Lesson)


async def test_text_completions_models_and_embeddings() -> None:
    async with client_of(models=("a", "b")) as client:
        text = await client.completions.create(model="a", prompt=TEXT, max_tokens=40)
        stream = await client.completions.create(model="a", prompt=TEXT, stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
        models = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("a+429")
        vectors = await client.embeddings.create(model="a", input=["x", "y"], dimensions=16)
    assert text.choices[0].finish_reason == "length"
    assert "learner-7" in streamed
    assert (models, one.id) == (["a", "b"], "a+429")
    assert [len(item.embedding) for item in vectors.data] == [16, 16]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("400", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
        ("413", openai.APIStatusError),
        ("429", openai.RateLimitError),
        ("quota", openai.RateLimitError),
        ("context_length", openai.BadRequestError),
        ("500", openai.InternalServerError),
        ("503", openai.InternalServerError),
        ("html", openai.InternalServerError),
        ("nonsense", openai.NotFoundError),
    ],
)
async def test_a_fault_is_the_clients_own_error(fault: str, error: type[openai.APIStatusError]) -> None:
    async with client_of() as client:
        with pytest.raises(error) as raised:
            await client.chat.completions.create(model=f"m+{fault}", messages=MESSAGES)
    if fault != "html":
        assert isinstance(raised.value.body, dict)
        assert set(cast("dict[str, Any]", raised.value.body)) == {"message", "type", "param", "code"}


async def test_a_retrying_client_gets_its_answer_after_one_500() -> None:
    async with client_of() as client:
        patient = client.with_options(max_retries=1)
        said = await patient.chat.completions.create(model="m+500_once", messages=MESSAGES)
    assert said.choices[0].message.content


async def test_a_broken_stream_and_an_error_in_a_stream_raise() -> None:
    async with client_of() as client:
        with pytest.raises(httpx.HTTPError):
            await _text(client, "broken")
        with pytest.raises(openai.APIError, match="while writing"):
            await _text(client, "stream_error")


async def _text(client: openai.AsyncOpenAI, fault: str) -> str:
    stream = await client.chat.completions.create(model=f"m+{fault}", messages=MESSAGES, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_a_refusal_and_a_cut_off_answer_are_told_by_parse() -> None:
    async with client_of() as client:
        refused = await client.chat.completions.parse(model="m+refusal@all", messages=MESSAGES, response_format=Lesson)
        with pytest.raises(openai.LengthFinishReasonError):
            await client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Lesson, max_tokens=10)
        with pytest.raises(openai.ContentFilterFinishReasonError):
            await client.chat.completions.parse(model="m+content_filter@all", messages=MESSAGES, response_format=Lesson)
    assert refused.choices[0].message.refusal
    assert refused.choices[0].message.parsed is None


async def test_many_clients_at_once_each_get_their_own() -> None:
    async with client_of() as client:

        async def ask(i: int) -> Any:
            messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"Write a lesson for learner-{i}x"}]
            said = await client.chat.completions.create(model="m", messages=messages, response_format={"type": "json_object"})
            return json.loads(said.choices[0].message.content or "")

        lessons = await asyncio.gather(*(ask(i) for i in range(40)))
    assert all(f"learner-{i}x" in lesson["content"] for i, lesson in enumerate(lessons))
