"""Brings litellm in, late and quiet, and takes its clients away again; the only file that names the package."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any, cast

_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai")
"""openai's is what litellm calls some providers with: it logs whole requests where the root logger shows debug lines."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_WORKER_STOP_S = 2.0


def load(settings: Mapping[str, Any]) -> Any:
    """Import litellm (seconds, the first time) and return the module with `settings` as its attributes.

    It is told to keep to its own price table and tokenizers (else it calls the network), to read no `.env`, and to log nothing: its
    messages quote prompts and addresses, and what happened is told by our own events.
    """
    # litellm reads these while it is imported, and takes them from nowhere else
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # noqa: TID251
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # noqa: TID251
    _keep_to_loopback()
    import litellm  # noqa: PLC0415 - 2 to 5 seconds and 170 MB: only where calls are really sent

    module: Any = litellm
    for name in _LOGGERS:
        _silence(logging.getLogger(name))
    module.suppress_debug_info = True
    module.turn_off_message_logging = True
    # for some models it would fetch a tokenizer from the network, with everybody waiting, to count what upstream didn't tell
    module.disable_hf_tokenizer_download = True
    for name, value in settings.items():
        setattr(module, name, value)
    return module


def has_responses(litellm: Any, provider: str, model: str, *, stream: bool) -> bool:
    """Tell whether litellm takes calls of the Responses API to this provider as they are; else it makes chat calls of them.

    Where it would only play a stream of an answer that came whole, a chat call is the better one.
    """
    known = litellm.utils.ProviderConfigManager.get_provider_responses_api_config(provider=provider, model=model)
    return known is not None and not known.should_fake_stream(model=model, stream=stream, custom_llm_provider=provider)


def _keep_to_loopback() -> None:
    """Let no HTTP proxy of the machine stand before its own loopback: a model server or the simulated provider may be there."""
    said = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # noqa: TID251 - litellm reads it from nowhere else
    missing = [host for host in _LOOPBACK if host not in said.split(",")]
    if said != "*" and missing:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*filter(None, [said]), *missing])  # noqa: TID251


def _silence(logger: logging.Logger) -> None:
    logger.handlers.clear()
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)


_open: set[object] = set()
"""Who uses litellm's clients in this process: they are shared, so only the last one closes them."""


def enter(user: object) -> None:
    """Say that `user` makes calls from now on."""
    _open.add(user)


async def leave(litellm: Any, user: object) -> None:
    """Say that `user` makes no calls any more; the last one closes litellm's clients and its background worker."""
    _open.discard(user)
    if not _open:
        await _put_away(litellm)


async def _put_away(litellm: Any) -> None:
    await litellm.close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()
    # Anthropic and others go by one that is in no cache; it is made anew where it is missed
    names = cast("dict[str, Any]", vars(litellm))
    client: Any = names.pop("module_level_aclient", None)
    if client is not None:
        await client.close()
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER  # noqa: PLC0415 - as above

    worker: Any = GLOBAL_LOGGING_WORKER
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.flush(), _WORKER_STOP_S)
    await worker.stop()
