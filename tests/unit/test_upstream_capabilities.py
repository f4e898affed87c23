"""What each provider can do, and how an operator's word overrides it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from proxy.model import Capability
from proxy.upstream.capabilities import capability, faults


@pytest.mark.parametrize(
    ("provider", "model", "said"),
    [
        ("openai", "gpt-4o", {"force": "name", "strict": True, "parallel_tool_calls": True, "token_limit_field": None}),
        ("openai", "o3-mini", {"force": "name", "token_limit_field": "max_completion_tokens"}),
        ("openai", "GPT-5-mini", {"token_limit_field": "max_completion_tokens"}),
        ("azure", "my-deployment", {"force": "name", "strict": True, "strict_levels": 5, "strict_properties": 100}),
        ("groq", "llama-3.3-70b-versatile", {"force": "name", "loose_items": True, "json_schema": False}),
        ("groq", "openai/gpt-oss-120b", {"json_schema": True, "loose_items": True}),
        ("cerebras", "gpt-oss-120b", {"force": "required", "parallel_tool_calls": False}),
        ("deepinfra", "openai/gpt-oss-120b", {"force": "none", "json_schema": True, "parallel_tool_calls": False}),
        ("openai", "o4-mini", {"parallel_tool_calls": False}),
        ("openai", "gpt-4-turbo", {"json_schema": False, "strict": False}),
        ("openai", "gpt-4.1", {"json_schema": True, "strict": True, "strict_levels": 10}),
        ("openai", "o1-mini-2024-09-12", {"force": "none", "json_schema": False, "json_object": False}),
        ("anthropic", "claude-sonnet-4-5", {"force": "name", "strict": True, "force_while_thinking": False, "entries": "reference"}),
        ("anthropic", "claude-of-tomorrow", {"json_schema": False, "json_object": True}),
        ("gemini", "gemini-2.5-flash", {"force": "name", "parallel_tool_calls": False, "entries": "inline", "open_objects": False}),
        ("gemini", "gemini-2.5-flash", {"streamed_arguments": False, "streamed_format": True}),
        ("vertex_ai", "claude-sonnet-4-5", {"force_while_thinking": False, "entries": "reference"}),
        ("bedrock_converse", "anthropic.claude-3-haiku", {"force_while_thinking": False, "entries": "inline", "json_schema": False}),
        ("vertex_ai", "gemini-2.5-flash", {"force": "name"}),
        ("vertex_ai_beta", "gemini-2.5-flash", {"force": "name"}),
        ("mistral", "mistral-large-latest", {"force": "required", "usage_in_stream": False, "streamed_arguments": False}),
        ("hosted_vllm", "qwen", {"force": "name", "bounded_strings": False}),
        ("llamafile", "x", {"force": "required", "bounded_strings": True}),
        ("ollama_chat", "llama3", {"force": "none", "json_schema": True}),
        ("llama.cpp", "x", {"force": "required", "bounded_strings": True}),
        ("lm_studio", "x", {"force": "required", "json_object": False, "json_schema": True}),
        ("together_ai", "x", {"force": "name"}),
        ("fireworks_ai", "x", {"force": "name", "default_output_tokens": 2048}),
        ("moonshot", "kimi-k2", {"force": "none", "json_schema": False, "json_object": True}),
        ("cohere_chat", "command-a", {"force": "required", "json_schema": False, "json_object": False}),
        ("openrouter", "openai/gpt-4o", {"force": "name", "strict": False}),
        ("deepseek", "deepseek-chat", {"force": "name", "json_schema": False, "json_object": True}),
        ("deepseek", "deepseek-reasoner", {"force": "none"}),
    ],
)
def test_the_table(provider: str, model: str, said: dict[str, Any]) -> None:
    """One row a provider, refined by model."""
    told = asdict(capability(provider, model, {}))
    assert {name: told[name] for name in said} == said


@pytest.mark.parametrize("provider", ["", "never-heard-of", "custom_openai"])
def test_an_unknown_server_is_trusted_with_little(provider: str) -> None:
    """No named tool, no strict mode, no parameter that servers refuse."""
    assert capability(provider, "m", {}) == Capability(force="required", strict=False, parallel_tool_calls=False)


def test_the_operators_word_wins() -> None:
    """Over the table and over litellm's limits."""
    known = {"force": "required", "bounded_strings": True, "max_output_tokens": 5, "token_limit_field": "max_tokens"}
    told = capability("openai", "gpt-5", known, {"max_output_tokens": 100, "force": "none"})
    assert (told.force, told.bounded_strings, told.max_output_tokens, told.token_limit_field) == ("required", True, 5, "max_tokens")
    assert capability("openai", "gpt-5", {}, {"max_output_tokens": 100}).max_output_tokens == 100


def test_what_is_told_of_a_model_refines_the_row_of_its_provider() -> None:
    """A model that always thinks can't be forced, whatever its provider's others can."""
    assert capability("anthropic", "claude-opus-5-5", {}, {"force": "none"}).force == "none"


def test_a_server_can_be_like_a_provider_of_the_table() -> None:
    """Its rows hold, and what the operator says beside it."""
    assert capability("", "x", {"like": "llama.cpp"}) == capability("llama.cpp", "x", {})
    told = capability("", "gpt-5-mini", {"like": "openai", "strict": False})
    assert (told.force, told.token_limit_field, told.strict) == ("name", "max_completion_tokens", False)


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({"forced": "name"}, "forced: not known"),
        ({"force": "always"}, "force: must be one of"),
        ({"entries": "list"}, "entries: must be one of"),
        ({"strict": "yes"}, "strict: must be true or false"),
        ({"like": "nobody"}, "like: 'nobody' is no provider of the table"),
        ({"like": 5}, "like: 5 is no provider"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"strict_levels": 0}, "strict_levels"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"token_limit_field": 5}, "token_limit_field"),
    ],
)
def test_wrong_overrides_are_named(known: dict[str, Any], word: str) -> None:
    """Unknown fields and wrong values are faults, and never taken."""
    assert word in faults(known)[0]
    with pytest.raises(ValueError, match=word):
        capability("openai", "m", known)
