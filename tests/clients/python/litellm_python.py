"""litellm's program, as a client: `acompletion` and `completion` by the `openai/` prefix, with a tool, a model class and as text."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Mapping
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network for prices

import litellm
from program import KEY, TOOL, Answer, Ask, Lesson, Way, serve

# litellm reads its HTTP client with the first call; where that is several calls at once, in threads too, one finds it half read
importlib.import_module("httpx2")
CREATE_LESSON = {"type": "function", "function": {"name": TOOL, "parameters": Lesson.model_json_schema()}}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "tool": {"tools": [CREATE_LESSON], "tool_choice": {"type": "function", "function": {"name": TOOL}}},
    "response_format": {"response_format": Lesson},
    "text": {},
}


def asked(ask: Ask, form: str) -> dict[str, Any]:
    call = {
        "model": f"openai/{ask.model}",
        "api_base": ask.url,
        "api_key": KEY,
        "messages": ask.messages(),
        # its `user=` reaches the wire only with names of its own list of OpenAI's models
        "extra_body": ask.who,
        "max_retries": ask.retries,
        "timeout": ask.timeout_s,
    }
    return call | dict(FORMS[form]) | ({"stream": True, "stream_options": {"include_usage": True}} if ask.stream else {})


def answer_of(response: Any, form: str) -> Answer:
    message, tokens = response.choices[0].message, response.usage.total_tokens
    match form:
        case "tool":
            return Answer(Lesson.model_validate_json(message.tool_calls[0].function.arguments), tokens)
        case "response_format":
            return Answer(Lesson.model_validate_json(message.content), tokens)
        case _:
            return Answer(message.content, tokens)


def acompletion(form: str) -> Way:
    async def way(ask: Ask) -> Answer:
        response: Any = await litellm.acompletion(**asked(ask, form))
        if ask.stream:
            response = litellm.stream_chunk_builder([chunk async for chunk in response])
        return answer_of(response, form)

    return way


async def completion(ask: Ask) -> Answer:
    def one() -> Answer:
        response: Any = litellm.completion(**asked(ask, "tool"))
        return answer_of(litellm.stream_chunk_builder(list(response)) if ask.stream else response, "tool")

    return await asyncio.to_thread(one)


WAYS = {f"acompletion, {form}": acompletion(form) for form in FORMS} | {"completion, tool": completion}

if __name__ == "__main__":
    serve(WAYS)
