"""Which entry answers for a model name, and which configurations can't work."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.upstream.config import Entry, UpstreamConfig, UpstreamConfigError
from proxy.upstream.deployments import Routes, mistakes


def entry(name: str, model: str = "openai/m", **params: Any) -> Entry:
    return Entry(name, {"model": model, **params})


def routes(*entries: Entry, **router_settings: Any) -> Routes:
    return Routes(UpstreamConfig(entries, router_settings=router_settings))


@pytest.mark.parametrize(
    ("alias", "model"),
    [
        ("exact", "openai/one"),
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("openai/org/deep", "openai/org/deep"),
        ("team/a/fast", "groq/a-fast"),
        ("whatever", "deepinfra/whatever"),
        ("two\nlines", "deepinfra/two\nlines"),
        ("exactly", "deepinfra/exactly"),
    ],
)
def test_exact_names_then_the_most_specific_pattern(alias: str, model: str) -> None:
    """Stars are filled with what they matched, in order."""
    table = routes(entry("*", "deepinfra/*"), entry("openai/*", "openai/*"), entry("team/*/*", "groq/*-*"), entry("exact", "openai/one"))
    route = table.find(alias)
    assert route is not None
    assert route.model_of(route.targets[0]) == model
    assert not route.routed


def test_a_pattern_is_no_name_and_nothing_else_matches() -> None:
    """`*` in a name that callers send is text; without a pattern an unknown name leads nowhere."""
    assert routes(entry("a")).find("b") is None
    assert routes(entry("a*b")).find("ab*") is None
    assert routes(entry("a.b")).find("axb") is None
    assert routes(entry("o/*"), entry("a")).names() == ("a",)


def test_the_router_is_for_groups_and_fallbacks_alone() -> None:
    """One deployment without fallbacks needs none of it."""
    table = routes(entry("g"), entry("g", "groq/m"), entry("f"), entry("to"), fallbacks=[{"f": ["to"]}])
    told = {alias: route.routed for alias in ("g", "f", "to") if (route := table.find(alias)) is not None}
    assert told == {"g": True, "f": True, "to": False}
    assert [t.id for t in (table.find("g") or pytest.fail("no route")).targets] == ["g#0", "g#1"]
    assert (routes(entry("a", rpm=5)).find("a") or pytest.fail("no route")).routed
    everything = routes(entry("a"), entry("to"), default_fallbacks=["to"]).find("a")
    assert everything is not None
    assert everything.routed


CALLERS = {"api_key": "caller"}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (UpstreamConfig((entry("a", **CALLERS), entry("a"))), "can have no sibling"),
        (UpstreamConfig((entry("a", **CALLERS), entry("b")), router_settings={"fallbacks": [{"a": ["b"]}]}), "can have no fallback"),
        (UpstreamConfig((entry("a", **CALLERS), entry("b")), router_settings={"fallbacks": [{"b": ["a"]}]}), "can be no fallback"),
        (UpstreamConfig((entry("a", **CALLERS), entry("b")), router_settings={"default_fallbacks": ["b"]}), "can have no fallback"),
        (UpstreamConfig((entry("b"),), router_settings={"context_window_fallbacks": [{"b": ["nowhere"]}]}), "'nowhere' is no model"),
        (UpstreamConfig((entry("*", "*"),)), "name the provider before the star"),
        (UpstreamConfig((entry("*", "*/m"),)), "name the provider before the star"),
        (UpstreamConfig((entry("a", "openai/*"),)), "more stars than model_name has"),
        (UpstreamConfig((entry("a", num_retries=1),)), "litellm_params.num_retries"),
        (UpstreamConfig((entry("a", rpm=1, **CALLERS),)), "litellm_params.rpm: not with"),
        (UpstreamConfig((Entry("a", {}),)), "litellm_params.model: a name is needed"),
        (UpstreamConfig((Entry("a", {"model": "openai/m"}, {"forse": "name"}),)), "model_list[0].model_info.lessons.forse"),
        (UpstreamConfig((entry("a"),), router_settings={"model_list": []}), "router_settings.model_list"),
        (UpstreamConfig((entry("a"),), litellm_settings={"success_callback": ["x"]}), "litellm_settings.success_callback: not supported"),
    ],
)
def test_what_cannot_work_is_named(config: UpstreamConfig, word: str) -> None:
    """Each mistake in a sentence of its own; the caller's key goes to one host alone."""
    assert any(word in mistake for mistake in mistakes(config)), mistakes(config)


def test_what_can_work_has_no_mistakes() -> None:
    """Groups, fallbacks, patterns and callers' keys side by side."""
    entries = (
        entry("g"),
        entry("g", "groq/m"),
        entry("b"),
        entry("*", "openai/*", **CALLERS),
        entry("c/*", "x*", custom_llm_provider="openai"),
    )
    config = UpstreamConfig(entries, router_settings={"fallbacks": [{"g": ["b"]}]}, litellm_settings={"drop_params": True})
    assert mistakes(config) == []


def test_no_repr_shows_a_key() -> None:
    """Entries and configurations may be printed."""
    secret = "sk-secret"
    config = UpstreamConfig((Entry("a", {"model": "m", "api_key": secret}),), router_settings={"redis_password": secret})
    assert secret not in repr(config)
    assert "b" in UpstreamConfigError(["a", "b"]).mistakes
