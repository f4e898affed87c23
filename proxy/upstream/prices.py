"""What a deployment's tokens cost: the operator's own word, else litellm's price map; it asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.model import Price
from proxy.upstream.providers import Resolved, is_openai

FIELDS = ("input_cost_per_token", "output_cost_per_token")
"""As LiteLLM names them; USD a token."""


def price(litellm: Any, resolved: Resolved, told: Mapping[str, Any]) -> Price | None:
    """Return the price of a deployment; None where no source knows both of its parts.

    `told`: `FIELDS` as the operator's file gives them; what is there goes before the map.
    """
    known = {**_mapped(litellm, resolved), **{name: told[name] for name in FIELDS if told.get(name) is not None}}
    parts = [known.get(name) for name in FIELDS]
    costs = [float(part) for part in parts if isinstance(part, int | float) and not isinstance(part, bool) and part >= 0]
    # what costs nothing is a model of one's own: there tokens are what is saved
    return Price(*costs) if len(costs) == len(FIELDS) and any(costs) else None


def _mapped(litellm: Any, resolved: Resolved) -> Mapping[str, Any]:
    """Look into the map itself: litellm's functions ask some providers' servers."""
    if resolved.provider == "openai" and not is_openai(resolved.base):
        return {}  # somebody's server that speaks OpenAI's API
    for name in (f"{resolved.provider}/{resolved.model}", resolved.model):
        found: Mapping[str, Any] | None = litellm.model_cost.get(name)
        if found and str(found.get("litellm_provider", "")).startswith(resolved.provider):
            return found
    return {}
