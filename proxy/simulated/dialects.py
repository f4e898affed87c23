"""The ways in which real providers differ from OpenAI's API, as their documents tell them; knows nothing of how each is done.

A model name `<dialect>+<anything>` is answered in that dialect, also with a fault behind it (`groq+llama+missing`); whoever
starts the provider may choose one for all other names (`lesson-proxy simulate --dialect groq`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

ErrorForm = Literal["openai", "flat", "detail", "mistral", "anthropic", "google"]

_ALL_CHOICES = frozenset({"auto", "none", "required", "name"})
_ALL_FORMATS = frozenset({"text", "json_object", "json_schema"})
_MISTRALS_FIELDS = frozenset(
    {
        "frequency_penalty", "max_tokens", "messages", "metadata", "model", "n", "parallel_tool_calls", "prediction", "presence_penalty",
        "prompt_mode", "random_seed", "reasoning_effort", "response_format", "safe_prompt", "stop", "stream", "temperature", "tool_choice",
        "tools", "top_p",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one provider reads requests and writes answers; the defaults are OpenAI's API where nobody looks closely."""

    says: str
    """What it does otherwise, for people."""
    choices: frozenset[str] = _ALL_CHOICES
    """The forms of `tool_choice` that it takes; `name`: an object that names the tool."""
    odd_choice: int = 400
    """The status for a `tool_choice` that it doesn't take."""
    refused: frozenset[str] = frozenset()
    """Body fields that it refuses."""
    fields: frozenset[str] | None = None
    """The only body fields that it knows; None: it ignores what it doesn't know."""
    formats: frozenset[str] = _ALL_FORMATS
    """The types of `response_format` that it takes."""
    schema_models: tuple[str, ...] = ("*",)
    """The models that take `json_schema`, with wildcards."""
    tools_or_format: bool = False
    """Tools and a `response_format` together are refused."""
    streams_formats: bool = True
    """A `response_format` can be streamed."""
    most_choices: int = 128
    strict: bool = False
    """`strict: true` has OpenAI's limits."""
    reasoning_models: tuple[str, ...] = ()
    """Models that think before they write, with wildcards."""
    reasoning: str = ""
    """The field that their thoughts come in, beside the answer; empty: they are only counted."""
    thinkers_limit: str = "max_tokens"
    """The name under which those models take their token limit."""
    bounded: bool = False
    """A string whose schema has no `maxLength` never ends."""
    checks_arguments: bool = False
    """An answer that breaks its tool's or response's schema is an error of the whole request."""
    thinks_when_asked: bool = False
    """A request may ask for thoughts (`reasoning_effort`)."""
    whole_arguments: bool = False
    """A streamed call's arguments come in one piece, when all is written."""
    finish_when_named: Literal["stop", "tool_calls"] = "stop"
    """The finish reason of a call that was forced by name."""
    always_usage: bool = False
    """The stream's last choice brings the usage, asked for or not."""
    default_limit: int | None = None
    """Output tokens of an answer where the request names no limit."""
    further: tuple[tuple[str, str], ...] = ()
    """Fields of its own in whole answers."""
    errors: ErrorForm = "openai"


_THINKERS = ("*gpt-oss*", "*qwen3*", "*reason*")

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "plain": Dialect("OpenAI's API, and nobody looks closely"),
        "openai": Dialect(
            "strict schemas have limits; reasoning models want max_completion_tokens",
            strict=True,
            reasoning_models=("o[1-9]*", "gpt-5*"),
            thinkers_limit="max_completion_tokens",
        ),
        "groq": Dialect(
            "arguments that break the tool's schema are 400 tool_use_failed (an error event where the answer streams); arguments come in "
            "one piece; response_format is never streamed, never beside tools, json_schema on few models; n is 1",
            schema_models=("*gpt-oss*", "*llama-4*", "*kimi-k2*"),
            tools_or_format=True,
            streams_formats=False,
            most_choices=1,
            checks_arguments=True,
            whole_arguments=True,
            finish_when_named="tool_calls",
            reasoning_models=_THINKERS,
            reasoning="reasoning",
            further=(("service_tier", "on_demand"),),
        ),
        "cerebras": Dialect(
            "refuses parallel_tool_calls and some more fields, and tools beside a response_format; flat errors",
            refused=frozenset({"frequency_penalty", "logit_bias", "parallel_tool_calls", "presence_penalty", "service_tier"}),
            tools_or_format=True,
            most_choices=1,
            finish_when_named="tool_calls",
            reasoning_models=_THINKERS,
            reasoning="reasoning",
            errors="flat",
        ),
        "deepinfra": Dialect(
            "no tool can be forced: tool_choice is auto or none",
            choices=frozenset({"auto", "none"}),
            reasoning_models=_THINKERS,
            reasoning="reasoning_content",
            errors="detail",
        ),
        "mistral": Dialect(
            "refuses every field that it doesn't know, stream_options too; `required` is spelled `any`; arguments come in one piece; "
            "tells the usage unasked",
            choices=frozenset({"auto", "none", "any", "name"}),
            fields=_MISTRALS_FIELDS,
            whole_arguments=True,
            finish_when_named="tool_calls",
            always_usage=True,
            errors="mistral",
        ),
        "vllm": Dialect(
            "errors are flat, with a number as their code; reasoning stands beside the call",
            reasoning_models=_THINKERS,
            reasoning="reasoning_content",
            errors="flat",
        ),
        "llama.cpp": Dialect(
            "a tool can't be forced by name; a string without maxLength never ends",
            choices=frozenset({"auto", "none", "required"}),
            odd_choice=500,
            bounded=True,
        ),
        "fireworks": Dialect("writes 2,048 tokens where no limit is named", default_limit=2048),
        "anthropic": Dialect(
            "its own API (/v1/messages): no forced tool beside thinking; limits in output schemas",
            thinks_when_asked=True,
            always_usage=True,
            finish_when_named="tool_calls",
            errors="anthropic",
        ),
        "gemini": Dialect(
            "its own API (/models/NAME:streamGenerateContent): tools in an OpenAPI subset without $ref; arguments come in one piece",
            whole_arguments=True,
            always_usage=True,
            errors="google",
        ),
    }
)
"""Name → dialect."""


def read_dialect(model: str, usual: str) -> tuple[str, Dialect]:
    """Return the model's name without the dialect that it begins with, and that one or the usual one."""
    name, plus, rest = model.partition("+")
    return (rest, DIALECTS[name]) if plus and name in DIALECTS else (model, DIALECTS[usual])
