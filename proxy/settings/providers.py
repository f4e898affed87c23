"""The parts of the file that LiteLLM users know: model_list, router_settings, litellm_settings, with their meaning there.

It knows the settings' shapes alone; neither litellm nor what upstream makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from proxy.settings.section import Name, Seconds, Section

CALLER_KEY = "caller"
"""As `api_key`: the caller's own bearer goes upstream."""

KeySource = Literal["caller", "set", "environment", "none"]
"""Whose credential a deployment's calls go with.

`environment`: the entry names no key, so the provider's usual variable is read, wherever the address leads; `none`: nothing
needs one.
"""

_CREDENTIAL = re.compile(r"(?:key|token|secret|password|credential)", re.IGNORECASE)
_NOT_CREDENTIALS = frozenset({"max_tokens", "max_completion_tokens"})
_PLACEHOLDERS = frozenset({"none", "empty", "no-key", "not-needed", "sk-no-key-required"})
"""What people write as the key of a server that asks for none, since client libraries want one."""
_KEYLESS = frozenset({"simulated", "hosted_vllm", "vllm", "ollama", "ollama_chat", "lm_studio", "llamafile"})
"""Providers on machines of one's own, which ask for no key. The others get their variable's even at an address that is given."""


ProviderName = Literal[
    "anthropic", "azure", "bedrock", "cerebras", "cohere", "deepinfra", "deepseek", "fireworks_ai", "gemini", "groq", "hosted_vllm",
    "llama.cpp", "llamafile", "lm_studio", "mistral", "moonshot", "ollama", "openai", "openrouter", "perplexity", "together_ai",
    "vertex_ai", "vllm", "xai",
]  # fmt: skip


class CapabilityOverrides(Section):
    """What we know of a model, against the built-in table: the fields of a capability, each left out where the table is right."""

    like: ProviderName | None = None
    """The provider of the built-in table that the server behaves like, where `openai/` and an address say nothing."""
    force: Literal["name", "required", "none"] | None = None
    """How a tool can be forced: by its name, by `required`, not at all."""
    force_while_thinking: bool | None = None
    """A tool can be forced too where the request asks for thinking."""
    json_schema: bool | None = None
    """`response_format: json_schema` is understood."""
    json_object: bool | None = None
    """`response_format: json_object` is understood."""
    entries: Literal["reference", "inline", "array"] | None = None
    """How a batch's schema lays out the lessons: a property a lesson that refers to the one schema (`$ref` into `$defs`), a
    property a lesson with the schema in each, or keyed items of an array."""
    open_objects: bool | None = None
    """A schema may hold an object without naming its members."""
    strict: bool | None = None
    """Schemas go with `strict: true` and its limits where the caller asked for it."""
    strict_levels: Annotated[int, Field(ge=1)] | None = None
    """The most levels of objects and arrays in a strict schema."""
    strict_properties: Annotated[int, Field(ge=1)] | None = None
    """The most properties in a strict schema."""
    bounded_strings: bool | None = None
    """Every string needs a `maxLength` and every property must be required (llama.cpp's grammars)."""
    loose_items: bool | None = None
    """The provider checks arguments itself and fails the whole call: send loose schemas, check here."""
    stream: bool | None = None
    """Answers can be streamed."""
    streamed_arguments: bool | None = None
    """A tool's arguments are streamed as they are written; else they come in one piece when all is written."""
    streamed_format: bool | None = None
    """The same of content that a `response_format` asks for."""
    usage_in_stream: bool | None = None
    """`stream_options.include_usage` is accepted and answered."""
    parallel_tool_calls: bool | None = None
    """The parameter `parallel_tool_calls` is accepted."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The name under which the token limit must go."""
    default_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens that the provider writes where a request names no limit."""
    responses: bool | None = None
    """It has the Responses API; left out: the server's own answer tells."""
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens that the model writes in one answer."""

    def given(self) -> dict[str, Any]:
        """Return the fields that the file sets."""
        return self.model_dump(exclude_none=True)


class LitellmParams(BaseModel):
    """What litellm takes for a call to this deployment; keys that we don't know go to it as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True, use_attribute_docstrings=True)

    model: Name
    """`provider/model`; `*` stands for what the caller's `*` matched; `simulated/…` is the provider inside this process."""
    api_key: SecretStr | None = None
    """`os.environ/NAME`, or `caller`: the caller's own key goes upstream."""
    api_base: str | None = None
    """The provider's address, where it isn't the usual one."""

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the model alone: any other parameter may be a secret."""
        yield "model", self.model

    def in_clear(self) -> dict[str, Any]:
        """Return all that the file sets, the key in clear: for upstream alone."""
        given = self.model_dump(exclude_unset=True)
        if self.api_key is not None:
            given["api_key"] = self.api_key.get_secret_value()
        return given

    @property
    def key_source(self) -> KeySource:
        """Tell whose credential goes upstream, without showing it."""
        if self.api_key is not None:
            return _source_of(self.api_key.get_secret_value())
        further = self.model_extra or {}
        if any(_CREDENTIAL.search(name) for name in further if name not in _NOT_CREDENTIALS):
            return "set"
        return "none" if self.model.partition("/")[0] in _KEYLESS else "environment"

    @property
    def is_simulated(self) -> bool:
        """Tell whether the deployment is the provider inside this process."""
        return self.model.startswith("simulated/")


def _source_of(key: str) -> KeySource:
    if key == CALLER_KEY:
        return "caller"
    return "none" if key.lower() in _PLACEHOLDERS else "set"


Cost = Annotated[float, Field(ge=0, le=1)]


class ModelInfo(Section):
    """What is known of a deployment."""

    lessons: CapabilityOverrides = CapabilityOverrides()
    """What the model can do, where the built-in table is wrong or doesn't know it."""
    input_cost_per_token: Cost | None = None
    """USD a token of the prompt, where litellm's price map is wrong or doesn't know the model."""
    output_cost_per_token: Cost | None = None

    def prices(self) -> dict[str, float]:
        """Return the prices that the file sets, by their names."""
        return self.model_dump(exclude_none=True, include={"input_cost_per_token", "output_cost_per_token"})


class ModelEntry(Section):
    """One deployment. Several with one model_name are balanced, and stand in for each other."""

    model_name: Name
    """The alias that callers use; `*` in it matches anything."""
    litellm_params: LitellmParams
    model_info: ModelInfo = ModelInfo()


Fallbacks = tuple[dict[str, tuple[str, ...]], ...]
"""As LiteLLM writes them: `[{alias: [alias, …]}]`."""
FALLBACK_SETTINGS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


class RouterSettings(Section):
    """The supported settings of litellm.Router, meaning what they mean there."""

    _ours: ClassVar[frozenset[str]] = frozenset({"num_retries", "timeout"})

    num_retries: Annotated[int, Field(ge=0, le=10)] | None = None
    """How often a call that failed upstream is sent again; 2 where nothing says otherwise."""
    timeout: Seconds | None = None
    """Seconds for a call; 600 where nothing says otherwise."""
    routing_strategy: (
        Literal["simple-shuffle", "least-busy", "latency-based-routing", "cost-based-routing", "usage-based-routing-v2"] | None
    ) = None
    """How one of several deployments is chosen."""
    routing_strategy_args: dict[str, Any] | None = None
    fallbacks: Fallbacks = ()
    """Aliases that a failed lone call is tried with."""
    context_window_fallbacks: Fallbacks = ()
    content_policy_fallbacks: Fallbacks = ()
    default_fallbacks: tuple[str, ...] = ()
    max_fallbacks: Annotated[int, Field(ge=0, le=20)] | None = None
    allowed_fails: Annotated[int, Field(ge=0)] | None = None
    """Failures in a minute after which one of several deployments rests."""
    cooldown_time: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """Seconds for which it rests."""
    disable_cooldowns: bool | None = None
    retry_after: Annotated[int, Field(ge=0, le=3600)] | None = None
    """Least seconds before a call is sent again."""
    enable_pre_call_checks: bool | None = None

    def passed_on(self) -> dict[str, Any]:
        """Return what the file sets for litellm.Router, less what the proxy does itself (retries and timeouts)."""
        given = self.model_dump(exclude_unset=True, exclude_none=True, exclude=set(self._ours))
        for name in FALLBACK_SETTINGS:
            if name in given:
                given[name] = [{alias: list(others) for alias, others in entry.items()} for entry in given[name]]
        if "default_fallbacks" in given:
            given["default_fallbacks"] = list(given["default_fallbacks"])
        return given


class LitellmSettings(Section):
    """The supported settings of the litellm module, meaning what they mean there."""

    drop_params: bool | None = None
    """Leave out parameters that a provider doesn't know (calls that litellm translates)."""
    modify_params: bool | None = None
    """Let litellm change messages that a provider wouldn't take."""
    num_retries: Annotated[int, Field(ge=0, le=10)] | None = None
    """As in router_settings, which goes first."""
    request_timeout: Seconds | None = None
    """Seconds; router_settings.timeout goes first."""

    def passed_on(self) -> dict[str, Any]:
        """Return what is to be set on the litellm module."""
        return self.model_dump(exclude_none=True, include={"drop_params", "modify_params"})
