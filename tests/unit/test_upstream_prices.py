"""Where the price of a model's tokens comes from: the operator, else litellm's map, and never a guess."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.model import Capability, Price
from proxy.upstream.prices import price
from proxy.upstream.providers import Resolved

OPENAI = "https://api.openai.com/v1"
LITELLM: Any = SimpleNamespace(
    model_cost={
        "gpt-x": {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6, "litellm_provider": "openai"},
        "groq/fast": {"input_cost_per_token": 2e-7, "output_cost_per_token": 6e-7, "litellm_provider": "groq"},
        "ollama/own": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "litellm_provider": "ollama"},
        "groq/half": {"input_cost_per_token": 2e-7, "litellm_provider": "groq"},
        "groq/odd": {"input_cost_per_token": "cheap", "output_cost_per_token": True, "litellm_provider": "groq"},
    }
)


@pytest.mark.parametrize(
    ("provider", "model", "base", "told", "expected"),
    [
        ("openai", "gpt-x", OPENAI, {}, Price(1e-6, 4e-6)),
        ("groq", "fast", None, {}, Price(2e-7, 6e-7)),
        # the operator's word goes first, each for itself
        ("groq", "fast", None, {"input_cost_per_token": 5e-7}, Price(5e-7, 6e-7)),
        ("groq", "half", None, {"output_cost_per_token": 1e-6}, Price(2e-7, 1e-6)),
        ("nobody", "own", None, {"input_cost_per_token": 1e-7, "output_cost_per_token": 2e-7}, Price(1e-7, 2e-7)),
        # another provider's model of this name is another price; so is a server of one's own that speaks OpenAI's API
        ("groq", "gpt-x", None, {}, None),
        ("openai", "gpt-x", "http://127.0.0.1:8000/v1", {}, None),
        # what costs nothing, and what isn't known whole
        ("ollama", "own", None, {}, None),
        ("groq", "half", None, {}, None),
        ("groq", "odd", None, {}, None),
        ("groq", "unknown", None, {}, None),
    ],
)
def test_the_operators_word_then_the_map_then_nothing(
    provider: str, model: str, base: str | None, told: dict[str, Any], expected: Price | None
) -> None:
    assert price(LITELLM, Resolved(provider, model, base, None, Capability()), told) == expected
