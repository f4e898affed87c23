"""Which processes share their windows, as their configurations say it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.app.sharing import Shared, fingerprint
from proxy.settings import Settings, parse
from proxy.settings.document import parse_yaml

CONFIG = """
model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: sk-one}}]
access: {mode: keys, keys: [{name: app, key: sk-app}]}
redis: {url: redis://h, secret: s}
"""


def settings(text: str = "", config: str = CONFIG) -> Settings:
    values: dict[str, Any] = parse_yaml(config) | (parse_yaml(text) or {})
    return parse(values, env={})


@pytest.mark.parametrize(
    "text",
    [
        "redis: {url: redis://elsewhere, secret: s, timeout_ms: 70}",
        "bounds: {body_mb: 3}",
        "log: {level: debug}",
        "drain_seconds: 7",
        "lessons: {window: {max_wait_ms: 100}}",
    ],
)
def test_processes_that_differ_in_what_is_each_ones_own_share_windows(text: str) -> None:
    assert fingerprint(settings(text)) == fingerprint(settings())


@pytest.mark.parametrize(
    "text",
    [
        "model_list: [{model_name: a, litellm_params: {model: openai/b, api_key: sk-one}}]",
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: sk-two}}]",
        "model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: caller}}]\naccess: {mode: open}",
        "lessons: {window: {max_wait_ms: 101}}",
        "lessons: {checks: {content: {min_words: 5}}}",
        "lessons: {recognise: [{name: r, when: {tool: x}}]}",
        "lessons: {shipped_rules: false}",
        "identity: {user: [header.x-user-id]}",
        "router_settings: {num_retries: 7}",
        "access: {mode: keys, keys: [{name: app, key: sk-other}]}",
    ],
)
def test_processes_to_which_a_lesson_means_something_else_share_nothing(text: str) -> None:
    assert fingerprint(settings(text)) != fingerprint(settings())


def test_without_an_address_nothing_is_shared() -> None:
    assert Shared.of(settings("redis: {url: null}")) is None


def test_digests_of_api_keys_are_equal_where_the_secret_is_and_tell_nothing() -> None:
    one, same, other = (Shared.of(settings(f"redis: {{url: redis://{host}, secret: {s}}}")) for host, s in ("at", "bt", "au"))
    assert one
    assert same
    assert other
    assert one.digest_key() == same.digest_key() != other.digest_key()
    assert "redis://" not in repr(one)
