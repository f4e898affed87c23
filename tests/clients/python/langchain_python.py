"""langchain-openai's program: structured output by its three methods, bound tools and plain text, `invoke` and `stream`, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from program import KEY, TOOL, Answer, Ask, Lesson, Way, serve

Method = Literal["json_schema", "function_calling", "json_mode"]


def chat(ask: Ask, *, responses: bool = False) -> ChatOpenAI:
    return ChatOpenAI(
        model=ask.model,
        base_url=ask.url,
        api_key=KEY,
        max_retries=ask.retries,
        timeout=ask.timeout_s,
        stream_usage=True,
        model_kwargs=ask.who,
        use_responses_api=responses,
    )


async def asked(runnable: Any, ask: Ask, text: str, *, sync: bool = False) -> Any:
    """Ask in the way that is wanted; of a stream's objects the last is the whole one, and its chunks add up."""
    messages = ask.messages(text)
    if not ask.stream:
        return await (asyncio.to_thread(runnable.invoke, messages) if sync else runnable.ainvoke(messages))
    got = await asyncio.to_thread(list, runnable.stream(messages)) if sync else [part async for part in runnable.astream(messages)]
    return sum(got[1:], got[0]) if isinstance(got[0], AIMessageChunk) else got[-1]


def structured(method: Method, *, sync: bool = False, responses: bool = False) -> Way:
    async def way(ask: Ask) -> Answer:
        runnable = chat(ask, responses=responses).with_structured_output(Lesson, method=method)
        lesson = await asked(runnable, ask, ask.json_text if method == "json_mode" else ask.text, sync=sync)
        assert isinstance(lesson, Lesson)
        return Answer(lesson)

    return way


async def bound_tool(ask: Ask) -> Answer:
    create_lesson = {"type": "function", "function": {"name": TOOL, "parameters": Lesson.model_json_schema()}}
    message = await asked(chat(ask).bind_tools([create_lesson], tool_choice=TOOL), ask, ask.text)
    (call,) = message.tool_calls
    assert call["name"] == TOOL
    return Answer(Lesson.model_validate(call["args"]), message.usage_metadata["total_tokens"])


async def text(ask: Ask) -> Answer:
    message = await asked(chat(ask), ask, ask.text)
    return Answer(message.text, message.usage_metadata["total_tokens"])


WAYS: dict[str, Way] = {
    "with_structured_output": structured("json_schema"),
    "with_structured_output, sync": structured("json_schema", sync=True),
    "with_structured_output, function_calling": structured("function_calling"),
    "with_structured_output, json_mode": structured("json_mode"),
    "bind_tools": bound_tool,
    "text": text,
    "responses: with_structured_output": structured("json_schema", responses=True),
    "responses: with_structured_output, function_calling": structured("function_calling", responses=True),
}

if __name__ == "__main__":
    serve(WAYS)
