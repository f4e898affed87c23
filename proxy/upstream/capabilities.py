"""What each provider can do, as far as merging needs to know: our own table, for litellm's is wrong for some; it asks nobody.

A row matches by provider and upstream model name (wildcards); later rows refine earlier ones; what no row says is `_GENERIC`.
What stands here is what a provider documents, and what litellm makes of a request on its way there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any

from proxy.model import Capability

LIKE = "like"
"""Among an operator's overrides: the provider whose rows hold, for a server that only speaks OpenAI's API."""

_GENERIC = Capability(force="required", strict=False, parallel_tool_calls=False)
"""An OpenAI-compatible server that nobody described: with one tool `required` is as good as its name, and more servers know it."""

_Row = tuple[str, str, dict[str, Any]]

_NAMED: dict[str, Any] = {"force": "name", "parallel_tool_calls": True}
_NO_TOOLS: dict[str, Any] = {"force": "none"}
_OLD: dict[str, Any] = {"json_schema": False, "strict": False}
_OPENAI = _NAMED | {"strict": True, "strict_levels": 10, "strict_properties": 5000, "responses": True}
# reasoning models refuse `max_tokens`, the older ones `parallel_tool_calls` too
_O_SERIES: dict[str, Any] = {"token_limit_field": "max_completion_tokens", "parallel_tool_calls": False}
_GPT_5: dict[str, Any] = {"token_limit_field": "max_completion_tokens"}
# `$ref` is written out on the way (Gemini's OpenAPI subset has none); measured, the object with the schema in each lesson loses
# no lesson where the array, which holds it once, loses three of ten; an object must name its members; json_schema: where litellm
# knows that the model takes it; arguments arrive whole, content doesn't
_GEMINI: dict[str, Any] = {
    "force": "name", "entries": "inline", "open_objects": False, "json_schema": False, "streamed_arguments": False,
}  # fmt: skip
_CLAUDE: dict[str, Any] = {"force": "name", "force_while_thinking": False}

_TABLE: tuple[_Row, ...] = (
    ("openai", "*", _OPENAI),
    ("openai", "gpt-3.5*", _OLD),
    ("openai", "gpt-4", _OLD),
    ("openai", "gpt-4-*", _OLD),
    ("openai", "gpt-4o-2024-05-13", _OLD),
    ("openai", "o[1-9]*", _O_SERIES),
    ("openai", "o1-mini*", _NO_TOOLS | {"json_schema": False, "json_object": False}),
    ("openai", "o1-preview*", _NO_TOOLS | {"json_schema": False, "json_object": False}),
    ("openai", "gpt-5*", _GPT_5),
    ("azure", "*", _OPENAI | {"strict_levels": 5, "strict_properties": 100}),
    ("azure", "o[1-9]*", _O_SERIES),
    ("azure", "gpt-5*", _GPT_5),
    # checks arguments itself and fails the whole call (`tool_use_failed`); a call's arguments come in one piece, and no
    # response_format is streamed; json_schema on few models
    ("groq", "*", _NAMED | {"loose_items": True, "json_schema": False, "streamed_arguments": False, "streamed_format": False}),
    ("groq", "openai/gpt-oss*", {"json_schema": True}),
    ("groq", "meta-llama/llama-4*", {"json_schema": True}),
    ("groq", "moonshotai/kimi-k2*", {"json_schema": True}),
    ("groq", "*compound*", _NO_TOOLS),
    # 400 on `parallel_tool_calls`
    ("cerebras", "*", {"force": "required", "strict_levels": 10, "strict_properties": 500}),
    # tool_choice knows auto and none alone
    ("deepinfra", "*", _NO_TOOLS),
    # strict tools and schemas bear no bounds, and no open object; json_schema: where litellm knows that the model takes it
    ("anthropic", "*", _CLAUDE | {"parallel_tool_calls": True, "strict": True, "json_schema": False}),
    ("bedrock*", "*", {"force": "name", "json_schema": False, "json_object": False, "entries": "inline"}),
    ("bedrock*", "*claude*", _CLAUDE),
    ("gemini", "*", _GEMINI),
    ("vertex_ai*", "*", _GEMINI),
    ("vertex_ai*", "claude*", _CLAUDE | {"entries": "reference", "strict": True, "open_objects": True, "streamed_arguments": True}),
    # refuses fields that it does not know, `stream_options` among them, and tells the usage anyway; arguments arrive whole
    ("mistral", "*", {"force": "required", "parallel_tool_calls": True, "usage_in_stream": False, "streamed_arguments": False}),
    ("hosted_vllm", "*", _NAMED),
    ("vllm", "*", _NAMED),
    # llama.cpp's grammar: no named tool, and a string without a bound may never end
    ("llama.cpp", "*", {"force": "required", "bounded_strings": True}),
    ("llamafile", "*", {"force": "required", "bounded_strings": True}),
    ("lm_studio", "*", {"force": "required", "json_object": False}),
    ("ollama*", "*", _NO_TOOLS),
    ("together_ai", "*", {"force": "name"}),
    ("fireworks_ai", "*", {"force": "name", "default_output_tokens": 2048}),
    ("openrouter", "*", {"force": "name"}),
    ("openrouter", "anthropic/*", _CLAUDE),
    ("xai", "*", {"force": "name"}),
    ("deepseek", "*", {"force": "name", "json_schema": False, "default_output_tokens": 4096}),
    ("deepseek", "deepseek-reasoner*", _NO_TOOLS),
    ("moonshot", "*", _NO_TOOLS | {"json_schema": False}),
    ("perplexity", "*", _NO_TOOLS | {"json_object": False}),
    # litellm hands it no response_format
    ("cohere*", "*", {"force": "required", "json_schema": False, "json_object": False}),
)

_FIELDS = frozenset(f.name for f in fields(Capability))
_CHOICES: dict[str, tuple[str, ...]] = {"force": ("name", "required", "none"), "entries": ("reference", "inline", "array")}
_COUNTS = frozenset({"default_output_tokens", "max_output_tokens", "strict_levels", "strict_properties"})


def capability(provider: str, model: str, known: Mapping[str, Any], told: Mapping[str, Any] | None = None) -> Capability:
    """Return what `provider` can do with `model` (its upstream name); `known` is the operator's own word and wins.

    `provider` is litellm's name, or empty for an OpenAI-compatible server that isn't known; `told`: what litellm knows of
    this very model, in fields of Capability, which refines the table. Raises ValueError where `known` is wrong (see `faults`).
    """
    if wrong := faults(known):
        raise ValueError("; ".join(wrong))
    said: dict[str, Any] = {}
    provider = known.get(LIKE, provider)
    for row_provider, row_model, row in _TABLE:
        if fnmatchcase(provider, row_provider) and fnmatchcase(model.lower(), row_model):
            said |= row
    return replace(_GENERIC, **(said | dict(told or {}) | {name: value for name, value in known.items() if name != LIKE}))


def faults(known: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an entry's overrides, one sentence each."""
    return [fault for name, value in known.items() if (fault := _fault(name, value))]


def _fault(name: str, value: Any) -> str | None:
    if name == LIKE:
        good = isinstance(value, str) and any(fnmatchcase(value, row_provider) for row_provider, _, _ in _TABLE)
        return None if good else f"like: {value!r} is no provider of the table"
    if name not in _FIELDS:
        return f"{name}: not known; known are {', '.join(sorted((LIKE, *_FIELDS)))}"
    if name in _CHOICES:
        return None if value in _CHOICES[name] else f"{name}: must be one of {', '.join(_CHOICES[name])}"
    if name == "token_limit_field":
        return None if value is None or isinstance(value, str) else "token_limit_field: must be a name or null"
    if name in _COUNTS:
        good = value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)
        return None if good else f"{name}: must be a whole number above 0 or null"
    return None if isinstance(value, bool) else f"{name}: must be true or false"
