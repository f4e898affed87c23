"""openai-python's program: `create`, `parse` and the stream helper, sync and async, of chat completions and of responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState
from program import KEY, SYSTEM, TOOL, Answer, Ask, Lesson, Way, serve

CREATE_LESSON = openai.pydantic_function_tool(Lesson, name=TOOL)
FORCED = {"tools": [CREATE_LESSON], "tool_choice": {"type": "function", "function": {"name": TOOL}}}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "create, tool": FORCED,
    "create, json_object": {"response_format": {"type": "json_object"}},
    "create, text": {},
    "parse, response_format": {"response_format": Lesson},
    "parse, tool": {"tools": [CREATE_LESSON]},
}
"""By the way's name: what is asked for beside the messages; `parse` streamed is the helper `stream`."""


@cache
def client_sync(url: str, retries: int, timeout_s: float) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=retries, timeout=timeout_s)


@cache
def client_async(url: str, retries: int, timeout_s: float) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=retries, timeout=timeout_s)


def asked(ask: Ask, form: str) -> dict[str, Any]:
    text = ask.json_text if "json_object" in form else ask.text
    return {"model": ask.model, "messages": ask.messages(text)} | ask.who | dict(FORMS[form])


def answer_of(completion: Any, form: str) -> Answer:
    message = completion.choices[0].message
    tokens = completion.usage.total_tokens if completion.usage else None
    match form:
        case "create, text":
            return Answer(message.content, tokens)
        case "create, json_object":
            return Answer(Lesson.model_validate_json(message.content), tokens)
        case "create, tool":
            return Answer(Lesson.model_validate_json(message.tool_calls[0].function.arguments), tokens)
        case "parse, response_format":
            assert isinstance(message.parsed, Lesson)
            return Answer(message.parsed, tokens)
        case _:
            parsed = message.tool_calls[0].function.parsed_arguments
            assert isinstance(parsed, Lesson)
            return Answer(parsed, tokens)


def chat_sync(form: str) -> Way:
    def one(ask: Ask) -> Answer:
        completions: Any = client_sync(*ask.settings).chat.completions
        if not ask.stream:
            method = completions.parse if form.startswith("parse") else completions.create
            return answer_of(method(**asked(ask, form)), form)
        if form.startswith("parse"):
            with completions.stream(**asked(ask, form)) as stream:
                return answer_of(stream.get_final_completion(), form)
        state = ChatCompletionStreamState[None]()
        for chunk in completions.create(**asked(ask, form), stream=True):
            state.handle_chunk(chunk)
        return answer_of(state.get_final_completion(), form)

    return in_thread(one)


def chat_async(form: str) -> Way:
    async def one(ask: Ask) -> Answer:
        completions: Any = client_async(*ask.settings).chat.completions
        if not ask.stream:
            method = completions.parse if form.startswith("parse") else completions.create
            return answer_of(await method(**asked(ask, form)), form)
        if form.startswith("parse"):
            async with completions.stream(**asked(ask, form)) as stream:
                return answer_of(await stream.get_final_completion(), form)
        state = ChatCompletionStreamState[None]()
        async for chunk in await completions.create(**asked(ask, form), stream=True):
            state.handle_chunk(chunk)
        return answer_of(state.get_final_completion(), form)

    return one


RESPONSES: Mapping[str, Mapping[str, Any]] = {
    "responses.create, tool": {
        "tools": [{"type": "function", "name": TOOL, "parameters": CREATE_LESSON["function"]["parameters"], "strict": True}],
        "tool_choice": {"type": "function", "name": TOOL},
    },
    "responses.create, text": {},
    "responses.parse, text_format": {"text_format": Lesson},
}


def response_async(form: str) -> Way:
    async def one(ask: Ask) -> Answer:
        responses: Any = client_async(*ask.settings).responses
        asked = {"model": ask.model, "instructions": SYSTEM, "input": ask.text} | ask.who | dict(RESPONSES[form])
        if form == "responses.parse, text_format":
            return await parsed(responses, asked, stream=ask.stream)
        if not ask.stream:
            response = await responses.create(**asked)
        else:
            events = [event async for event in await responses.create(**asked, stream=True)]
            response = events[-1].response
            pieces = "".join(event.delta for event in events if event.type.endswith(".delta"))
            assert pieces in (response.output_text, response.output[0].model_dump().get("arguments"))
        if form == "responses.create, text":
            return Answer(response.output_text, response.usage.total_tokens)
        return Answer(Lesson.model_validate_json(response.output[0].arguments), response.usage.total_tokens)

    return one


async def parsed(responses: Any, asked: Mapping[str, Any], *, stream: bool) -> Answer:
    if not stream:
        response = await responses.parse(**asked)
    else:
        async with responses.stream(**asked) as events:
            response = await events.get_final_response()
    assert isinstance(response.output_parsed, Lesson)
    return Answer(response.output_parsed, response.usage.total_tokens)


def in_thread(one: Callable[[Ask], Answer]) -> Way:
    async def way(ask: Ask) -> Answer:
        return await asyncio.to_thread(one, ask)

    return way


WAYS = {f"sync: {form}": chat_sync(form) for form in FORMS} | {f"async: {form}": chat_async(form) for form in FORMS}
WAYS |= {f"async: {form}": response_async(form) for form in RESPONSES}

if __name__ == "__main__":
    serve(WAYS)
