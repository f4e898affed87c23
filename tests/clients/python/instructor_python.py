"""instructor's program: `create` and `create_partial` in its modes, sync and async."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import instructor
import openai
from program import KEY, Answer, Ask, Lesson, Way, serve


@cache
def client(url: str, retries: int, timeout_s: float, *, mode: instructor.Mode = instructor.Mode.TOOLS, sync: bool = False) -> Any:
    kind = openai.OpenAI if sync else openai.AsyncOpenAI
    return instructor.from_openai(kind(base_url=url, api_key=KEY, max_retries=retries, timeout=timeout_s), mode=mode)


def asked(ask: Ask) -> dict[str, Any]:
    """Build a call; `max_retries` here are askings anew after an answer that does not fit."""
    return {"model": ask.model, "messages": ask.messages(), "response_model": Lesson, "max_retries": 1} | ask.who


def whole(lesson: Any) -> Answer:
    """Make the last partial object, or the object, a lesson."""
    return Answer(Lesson.model_validate(lesson.model_dump()))


def create(mode: instructor.Mode) -> Way:
    async def way(ask: Ask) -> Answer:
        lessons = client(*ask.settings, mode=mode)
        if not ask.stream:
            return whole(await lessons.create(**asked(ask)))
        return whole([lesson async for lesson in lessons.create_partial(**asked(ask))][-1])

    return way


async def create_sync(ask: Ask) -> Answer:
    def one() -> Answer:
        lessons = client(*ask.settings, sync=True)
        return whole(list(lessons.create_partial(**asked(ask)))[-1] if ask.stream else lessons.create(**asked(ask)))

    return await asyncio.to_thread(one)


WAYS: dict[str, Way] = {
    "create": create(instructor.Mode.TOOLS),
    "create, sync": create_sync,
    "create, JSON_SCHEMA": create(instructor.Mode.JSON_SCHEMA),
    "create, JSON": create(instructor.Mode.JSON),
}

if __name__ == "__main__":
    serve(WAYS)
