"""Asks litellm's provider table, once a model name: whose model it is, at which address, with which key, how long its answers get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from proxy.model import Capability
from proxy.upstream.address import Address
from proxy.upstream.capabilities import capability
from proxy.upstream.config import CALLER_KEY, Entry

_COMPATIBLE = (
    "openai custom_openai openai_like groq cerebras deepinfra together_ai fireworks_ai mistral openrouter deepseek hosted_vllm "
    "llamafile lm_studio xai nvidia_nim sambanova perplexity nebius hyperbolic novita moonshot featherless_ai lambda_ai nscale "
    "litellm_proxy baseten anyscale meta_llama wandb"
)
OPENAI_COMPATIBLE = frozenset(_COMPATIBLE.split())
"""Their chat API takes OpenAI's body as it is, with a bearer."""
_OPENAI_BASE = "https://api.openai.com/v1"
_OPENAI_HOSTS = ("api.openai.com", ".api.openai.com", ".openai.azure.com")
_NO_KEY = "fake-api-key"
"""What litellm answers where a local server needs none."""

_NATIVE_SCHEMAS = {
    "anthropic": "supports_native_structured_output",
    "gemini": "supports_response_schema",
    "vertex_ai": "supports_response_schema",
}
"""What litellm's table says of a model to which it hands a json_schema as such; to others it tells it in other ways, and breaks it."""

_SAYS_NOTHING_OF_THE_BODY = frozenset(
    {"model", "api_key", "api_base", "base_url", "custom_llm_provider", "organization", "extra_headers", "drop_params"}
    | {"weight", "order", "tags", "input_cost_per_token", "output_cost_per_token"}
)
"""`litellm_params` that leave a request as it is; any other keeps a call off the direct path."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """One deployment as litellm knows it."""

    provider: str
    model: str
    """As upstream knows it."""
    base: str | None
    key: str | None = field(repr=False)
    capability: Capability


def resolve(litellm: Any, entry: Entry, model: str) -> Resolved:
    """Return what is known of litellm's `model` under this entry's parameters; raises ValueError where no provider fits."""
    params = entry.litellm_params
    given_key = None if entry.api_key_is_callers else params.get("api_key")
    given_base = params.get("api_base") or params.get("base_url")
    try:
        name, provider, key, base = litellm.get_llm_provider(
            model=model, custom_llm_provider=params.get("custom_llm_provider"), api_base=given_base, api_key=given_key
        )
    except litellm.exceptions.BadRequestError as error:
        raise ValueError(f"{model}: litellm knows no provider of this name; write it as provider/model") from error
    base = given_base or base or (_default_base(litellm) if provider == "openai" else None)
    key = given_key or key or (_default_key(litellm) if provider == "openai" and not entry.api_key_is_callers else None)
    if entry.api_key_is_callers or key == _NO_KEY:
        key = None
    known_as = provider if provider != "openai" or is_openai(base) else ""
    return Resolved(provider, name, base, key, capability(known_as, name, entry.lessons, _told(litellm, name, provider)))


def _default_base(litellm: Any) -> str:
    secret = litellm.get_secret_str
    return litellm.api_base or secret("OPENAI_BASE_URL") or secret("OPENAI_API_BASE") or _OPENAI_BASE


def _default_key(litellm: Any) -> str | None:
    return litellm.api_key or litellm.openai_key or litellm.get_secret_str("OPENAI_API_KEY")


def is_openai(base: str | None) -> bool:
    """Tell whether an address is OpenAI's own, or its models' at Azure."""
    host = urlsplit(base or "").hostname or ""
    return host in _OPENAI_HOSTS or host.endswith(_OPENAI_HOSTS[1:])


def _told(litellm: Any, model: str, provider: str) -> dict[str, Any]:
    """Return what litellm's own table says of this very model, in fields of a capability."""
    told: dict[str, Any] = {}
    try:
        info: Mapping[str, Any] = litellm.get_model_info(model=model, custom_llm_provider=provider)
    except Exception:  # noqa: BLE001 - litellm's border: it raises bare Exception for a model that it doesn't know
        # Anthropic wants a limit named: litellm then names this one
        return {"default_output_tokens": litellm.constants.DEFAULT_ANTHROPIC_CHAT_MAX_TOKENS} if provider == "anthropic" else told
    limit = info.get("max_output_tokens")
    if isinstance(limit, int) and limit > 0:
        told["max_output_tokens"] = limit
    known: Mapping[str, Any] = litellm.model_cost.get(info.get("key") or model) or {}
    if known.get(_NATIVE_SCHEMAS.get(provider, "")) is True:
        told["json_schema"] = True
    if known.get("supports_forced_tool_use") is False:
        # a model that always thinks: litellm itself refuses to force a tool on it
        told["force"] = "none"
    return told


def address(entry: Entry, resolved: Resolved) -> Address | None:
    """Return where raw bytes can go; None: this provider or this entry needs litellm's translation."""
    params = entry.litellm_params
    if resolved.provider not in OPENAI_COMPATIBLE or not _SAYS_NOTHING_OF_THE_BODY.issuperset(params):
        return None
    if resolved.base is None or urlsplit(resolved.base).scheme not in ("http", "https"):
        return None
    headers = _extra_headers(params)
    key = resolved.key if params.get("api_key") != CALLER_KEY else None
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    base = resolved.base.rstrip("/").removesuffix("/chat/completions")
    return Address(base, resolved.model, key, headers, callers_key=entry.api_key_is_callers, proxy=_proxy(base))


def _proxy(base: str) -> str | None:
    """Return the machine's own HTTP proxy for this address, as the usual variables name it; litellm goes by them too."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    return None if proxy_bypass(host) else getproxies().get(parts.scheme)


def _extra_headers(params: Mapping[str, Any]) -> dict[str, str]:
    given: Mapping[str, Any] = params.get("extra_headers") or {}
    extra = {name.lower(): str(value) for name, value in given.items()}
    if organization := params.get("organization"):
        extra["openai-organization"] = str(organization)
    return extra
