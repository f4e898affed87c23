"""What the operator says of upstream, as plain frozen values; it knows neither YAML nor the environment nor litellm.

Whoever builds these has validated the file and resolved `os.environ/NAME`: keys stand here in clear and stay out of every repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CALLER_KEY = "caller"
"""As `api_key`: the caller's own bearer goes upstream."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of `model_list`: one deployment, or a pattern (`*`, `openai/*`) that stands for many."""

    model_name: str
    """The alias that callers use; `*` in it matches anything."""
    litellm_params: dict[str, Any] = field(repr=False)
    """`model`, `api_key`, `api_base` and whatever else litellm takes for a call."""
    lessons: dict[str, Any] = field(default_factory=dict[str, Any])
    """What is known of the model, by field of `model.Capability`: overrides the capability table."""
    owned_by: str | None = None
    """As `GET /v1/models` names the owner; None: the provider."""
    prices: dict[str, float] = field(default_factory=dict[str, float])
    """`input_cost_per_token`, `output_cost_per_token` in USD, where the operator says; they go before litellm's map."""

    @property
    def api_key_is_callers(self) -> bool:
        """Tell whether calls go with the caller's own credential."""
        return self.litellm_params.get("api_key") == CALLER_KEY


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """All that upstream is built from."""

    entries: tuple[Entry, ...]
    num_retries: int = 2
    """How often a lone lesson is sent again on 429, 5xx and network failures."""
    timeout_s: float | None = None
    """The longest silence of upstream on a call that goes through as it is, and litellm's own timeout; None: 600 s."""
    router_settings: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Everything else that `litellm.Router` takes."""
    litellm_settings: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Attributes of the litellm module, such as `drop_params`."""
    slots: int = 1000
    """Calls upstream at one time; one more is refused at once (503)."""


class UpstreamConfigError(ValueError):
    """The configuration of upstream can't work; `mistakes` holds one sentence each, with its path in the file."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
