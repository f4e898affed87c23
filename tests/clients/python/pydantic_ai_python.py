"""pydantic-ai's program: an agent's output by tool, natively and by prompt, and as text, `run` and `run_stream`."""

from __future__ import annotations

from functools import cache
from typing import Any

from openai import AsyncOpenAI
from program import KEY, SYSTEM, Answer, Ask, Lesson, Way, serve
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider


@cache
def provider(url: str, retries: int, timeout_s: float) -> OpenAIProvider:
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=url, api_key=KEY, max_retries=retries, timeout=timeout_s))


def chat(output: Any) -> Way:
    async def way(ask: Ask) -> Answer:
        model = OpenAIChatModel(ask.model, provider=provider(*ask.settings))
        settings = OpenAIChatModelSettings(openai_user=ask.user) if ask.user else None
        return await asked(Agent(model, output_type=output, system_prompt=SYSTEM, model_settings=settings), ask)

    return way


def response(output: Any) -> Way:
    """What the name `openai:` alone means."""

    async def way(ask: Ask) -> Answer:
        model = OpenAIResponsesModel(ask.model, provider=provider(*ask.settings))
        settings = OpenAIResponsesModelSettings(openai_user=ask.user) if ask.user else None
        return await asked(Agent(model, output_type=output, system_prompt=SYSTEM, model_settings=settings), ask)

    return way


async def asked(agent: Agent[None, Any], ask: Ask) -> Answer:
    if not ask.stream:
        result = await agent.run(ask.text)
        return Answer(result.output, result.usage.total_tokens)
    async with agent.run_stream(ask.text) as stream:
        lesson = await stream.get_output()
        return Answer(lesson, stream.usage.total_tokens)


WAYS = {
    "output_type": chat(Lesson),
    "NativeOutput": chat(NativeOutput(Lesson)),
    "PromptedOutput": chat(PromptedOutput(Lesson)),
    "text": chat(str),
    "responses: output_type": response(Lesson),
    "responses: NativeOutput": response(NativeOutput(Lesson)),
    "responses: text": response(str),
}

if __name__ == "__main__":
    serve(WAYS)
