"""What all Python client programs share: cases come in as lines of JSON, one a case, and each call's outcome goes out as one.

A program runs in its client's own environment and names its ways in a mapping of name → coroutine function. A case:
`{"case", "way", "stream", "url", "model", "calls": [{"word", "user"}], "retries", "timeout_s"}`; its calls start at once.
An outcome: `{"case", "call", "lesson", "tokens"}` or `{"case", "call", "error", "status"}`.
`{"leave": case, "calls": [0, 2]}` makes these calls leave in the middle.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

KEY = "sk-of-the-app"
TOOL = "create_lesson"
SYSTEM = "You are a teacher. Write one short lesson."
_MOST_AT_ONCE = 64


class Lesson(BaseModel):
    """One lesson."""

    title: str
    objectives: list[str]
    content: str = Field(description="The whole lesson in Markdown.")
    duration_minutes: int


@dataclass(frozen=True)
class Ask:
    """One call of one caller, and how its client is set up."""

    url: str
    model: str
    word: str
    user: str | None
    stream: bool
    retries: int
    timeout_s: float

    @property
    def text(self) -> str:
        return f"Create a lesson about {self.word}.\nSubject: Algebra 1\nTopic: Linear equations\nGrade: 9"

    @property
    def json_text(self) -> str:
        return self.text + '\nReturn JSON: {"title": string, "objectives": [string], "content": string, "duration_minutes": integer}'

    @property
    def who(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user}

    @property
    def settings(self) -> tuple[str, int, float]:
        """What an app would set a client up with once: address, retries, timeout."""
        return self.url, self.retries, self.timeout_s

    def messages(self, text: str | None = None) -> list[Any]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text or self.text}]


@dataclass(frozen=True)
class Answer:
    """What a client made of an answer: the lesson, or a text where no form was asked for."""

    lesson: Lesson | str
    tokens: int | None = None
    """All tokens of the usage that the client read; None where it was not asked for."""


Way = Callable[[Ask], Awaitable[Answer]]


class Program:
    """Runs cases until its standard input ends."""

    def __init__(self, ways: Mapping[str, Way]) -> None:
        self._ways = ways
        # what a library prints must not stand between the lines
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_MOST_AT_ONCE))
        lines = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        self._say(ready=True)
        while line := await lines.readline():
            self._heed(json.loads(line))
        await asyncio.gather(*self._running.values())

    def _say(self, **line: Any) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def _heed(self, line: dict[str, Any]) -> None:
        if "leave" in line:
            for call in line["calls"]:
                self._running[line["leave"], call].cancel()
            return
        for call, who in enumerate(line["calls"]):
            ask = Ask(line["url"], line["model"], who["word"], who["user"], line["stream"], line["retries"], line["timeout_s"])
            self._running[line["case"], call] = asyncio.create_task(self._one(line["case"], call, self._ways[line["way"]], ask))

    async def _one(self, case: str, call: int, way: Way, ask: Ask) -> None:
        try:
            answer = await way(ask)
        except asyncio.CancelledError:
            self._say(case=case, call=call, error="left", status=None)
        except Exception as error:  # noqa: BLE001 - whatever a client raises is the outcome
            status = getattr(error, "status_code", None)
            self._say(case=case, call=call, error=type(error).__name__, status=status, told=str(error)[:400])
        else:
            lesson = answer.lesson
            self._say(case=case, call=call, lesson=lesson if isinstance(lesson, str) else lesson.model_dump(), tokens=answer.tokens)


def serve(ways: Mapping[str, Way]) -> None:
    """Run a client's program."""
    warnings.simplefilter("ignore")
    logging.disable()
    asyncio.run(Program(ways).run())
