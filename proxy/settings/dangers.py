"""What is legal but dangerous in a configuration: told by `check` and at start, never refused."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from proxy.policy import When, WindowPolicy
from proxy.settings.document import Mistake
from proxy.settings.file import Settings

_LONG_WAIT_MS: Final = 5_000
_MANY: Final = 10
_LONG_SECRET: Final = 24


def dangers(settings: Settings) -> tuple[Mistake, ...]:
    """Return what the operator should know before this goes to work."""
    return (
        *_access(settings),
        *_identity(settings),
        *_windows(settings),
        *_rules(settings),
        *_addresses(settings),
        *_redis(settings),
    )


def is_loopback(host: str) -> bool:
    """Tell whether `host` is reached from this machine alone."""
    if host.lower().rstrip(".") in {"localhost", "ip6-localhost"}:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _access(settings: Settings) -> Iterator[Mistake]:
    spending = settings.operator_key_aliases()
    if settings.access.mode == "open" and spending:
        named = ", ".join(spending)
        yield Mistake(
            "access.mode",
            f"open, while {named} spends your own key: whoever reaches the port spends it, and is believed when it names a user",
        )


def _identity(settings: Settings) -> Iterator[Mistake]:
    if settings.identity.when_missing == "api_key":
        yield Mistake(
            "identity.when_missing", "api_key: right only where each key is one learner's; else lessons of different learners share a batch"
        )
    if settings.identity.identical_across_users:
        yield Mistake(
            "identity.identical_across_users", "calls of different users share a batch where their bodies differ in nothing but the user"
        )


def _windows(settings: Settings) -> Iterator[Mistake]:
    yield from _window("lessons.window", settings.lessons.window)
    for index, rule in enumerate(settings.lessons.recognise):
        if rule.window is not None:
            yield from _window(f"lessons.recognise[{index}].window", rule.window)


def _window(path: str, window: WindowPolicy) -> Iterator[Mistake]:
    for name in ("max_wait_ms", "hinted_max_wait_ms"):
        wait_ms = getattr(window, name)
        if wait_ms > _LONG_WAIT_MS:
            yield Mistake(f"{path}.{name}", f"{wait_ms} ms: a learner may wait {wait_ms / 1000:g} s before anything is sent")
    if window.max_size > _MANY:
        yield Mistake(
            f"{path}.max_size", f"{window.max_size}: models write later lessons of a large batch shorter and worse, or stop early"
        )


def _rules(settings: Settings) -> Iterator[Mistake]:
    if settings.lessons.mode != "off" and not settings.lessons.rules():
        yield Mistake("lessons.recognise", "there is no rule at all: nothing will be merged")
    amended = {index for index, _ in settings.lessons.amendments}
    for index, rule in enumerate(settings.lessons.recognise):
        if rule.when == When() and rule.merge_calls and index not in amended:
            yield Mistake(
                f"lessons.recognise[{index}].when", "asks for nothing: every call that names a subject and a topic is taken for a lesson"
            )


def _addresses(settings: Settings) -> Iterator[Mistake]:
    for index, entry in enumerate(settings.model_list):
        params = entry.litellm_params
        address = urlsplit(params.api_base or "")
        if address.scheme == "http" and params.key_source in {"set", "caller"} and not is_loopback(address.hostname or ""):
            yield Mistake(f"model_list[{index}].litellm_params.api_base", "http: keys and prompts go over the network in clear")


def _redis(settings: Settings) -> Iterator[Mistake]:
    redis = settings.redis
    if redis.url is None:
        return
    address = urlsplit(redis.url.get_secret_value())
    clear = address.scheme.startswith("redis") and not address.scheme.startswith("rediss")
    if clear and not all(map(is_loopback, _hosts(address.netloc))):
        yield Mistake("redis.url", "no TLS: whoever is on the network sees the login, and can hold lessons up; use rediss://")
    if "ssl_cert_reqs=none" in address.query:
        yield Mistake("redis.url", "the server's certificate is not checked: anybody can be the server")
    if redis.secret is not None and len(redis.secret.get_secret_value()) < _LONG_SECRET:
        yield Mistake(
            "redis.secret", f"shorter than {_LONG_SECRET} characters: who reads the Redis can try until one opens (`openssl rand -hex 32`)"
        )
    if redis.timeout_ms >= settings.lessons.window.max_wait_ms:
        yield Mistake("redis.timeout_ms", f"a Redis that stops holds a call for {redis.timeout_ms} ms, as long as its whole window")


def _hosts(netloc: str) -> Iterator[str]:
    """Return the hosts of an address that may name several."""
    for host in netloc.rpartition("@")[2].split(","):
        yield urlsplit(f"//{host}").hostname or "localhost"
