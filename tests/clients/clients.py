"""Which clients are tried, and in which of their own ways; values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.clients.environments import HERE, Environment

Language = Literal["Python", "JavaScript"]


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a client asks for a lesson."""

    name: str
    """As its program knows it."""
    forms: Sequence[Literal["JSON", "stream"]] = ("JSON", "stream")
    text: bool = False
    """Plain text is asked for, not a lesson with fields."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client library and its program."""

    name: str
    language: Language
    environment: Environment
    program: Path
    packages: Sequence[str]
    """What its versions are told of."""
    ways: Sequence[Way]
    usual: str
    """The way in which it meets failures; asynchronous, for it must be able to leave."""
    repeats_timeouts: bool = True
    """It repeats a call that it has waited for too long."""

    @property
    def slug(self) -> str:
        """Return its name as it stands in names of models."""
        return self.name.replace("/", "-").replace("@", "").replace(" ", "-").lower()


def _openai_python() -> list[Way]:
    forms = ("create, tool", "create, json_object", "create, text", "parse, response_format", "parse, tool")
    responses = ("responses.create, tool", "responses.create, text", "responses.parse, text_format")
    chat = [Way(f"{how}: {form}", text=form.endswith("text")) for how in ("sync", "async") for form in forms]
    return [*chat, *(Way(f"async: {form}", text=form.endswith("text")) for form in responses)]


CLIENTS = (
    Client(
        "openai-python", "Python", "current", HERE / "python" / "openai_python.py", ["openai"],
        ways=_openai_python(),
        usual="async: parse, response_format",
    ),
    Client(
        "langchain-openai", "Python", "current", HERE / "python" / "langchain_python.py", ["langchain-openai", "openai"],
        ways=[
            Way("with_structured_output"),
            Way("with_structured_output, sync"),
            Way("with_structured_output, function_calling"),
            Way("with_structured_output, json_mode"),
            Way("bind_tools"),
            Way("text", text=True),
            Way("responses: with_structured_output"),
            Way("responses: with_structured_output, function_calling"),
        ],
        usual="with_structured_output",
    ),
    Client(
        "instructor", "Python", "instructor", HERE / "python" / "instructor_python.py", ["instructor", "openai"],
        ways=[Way("create"), Way("create, sync"), Way("create, JSON_SCHEMA"), Way("create, JSON")],
        usual="create",
    ),
    Client(
        "pydantic-ai", "Python", "current", HERE / "python" / "pydantic_ai_python.py", ["pydantic-ai-slim", "openai"],
        ways=[
            Way("output_type"),
            Way("NativeOutput"),
            Way("PromptedOutput"),
            Way("text", text=True),
            Way("responses: output_type"),
            Way("responses: NativeOutput"),
            Way("responses: text", text=True),
        ],
        usual="output_type",
    ),
    Client(
        "litellm", "Python", "project", HERE / "python" / "litellm_python.py", ["litellm", "openai"],
        ways=[
            Way("acompletion, tool"),
            Way("acompletion, response_format"),
            Way("acompletion, text", text=True),
            Way("completion, tool"),
        ],
        usual="acompletion, tool",
    ),
    Client(
        "openai-node", "JavaScript", "node", HERE / "node" / "openai.mjs", ["openai"],
        ways=[
            Way("create, tool"),
            Way("create, json_object"),
            Way("create, text", text=True),
            Way("parse, response_format"),
            Way("parse, tool"),
            Way("responses.create, tool"),
            Way("responses.create, text", text=True),
            Way("responses.parse, text"),
        ],
        usual="parse, response_format",
    ),
    Client(
        "Vercel ai", "JavaScript", "node", HERE / "node" / "vercel.mjs", ["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"],
        ways=[
            Way(f"{provider}, {form}", text=form == "text")
            for provider in ("openai", "openai.chat", "openai-compatible")
            for form in ("Output.object", "tool", "text")
        ],
        usual="openai.chat, Output.object",
        repeats_timeouts=False,
    ),
    Client(
        "LangChain JS", "JavaScript", "node", HERE / "node" / "langchain.mjs", ["@langchain/openai", "openai"],
        ways=[
            Way("withStructuredOutput"),
            Way("withStructuredOutput, functionCalling"),
            Way("withStructuredOutput, jsonMode"),
            Way("bindTools"),
            Way("text", text=True),
            Way("responses: withStructuredOutput"),
        ],
        usual="withStructuredOutput",
    ),
)  # fmt: skip
