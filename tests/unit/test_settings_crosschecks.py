"""What is refused though every value is of its type, and what is only warned of."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings import ConfigError, Settings, dangers, entries_for, is_loopback, parse
from proxy.settings.document import parse_yaml

OWN = "{model_name: own, litellm_params: {model: openai/gpt-4o, api_key: sk}}"
CALLER = '{model_name: "*", litellm_params: {model: "openai/*", api_key: caller}}'
HERE = "{model_name: here, litellm_params: {model: simulated/a}}"


def settings(models: str, text: str = "{}") -> Settings:
    values: dict[str, Any] = parse_yaml(text)
    return parse({"model_list": parse_yaml(models)} | values, env={})


def refused(models: str, text: str = "{}") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(models, text)
    return [f"{mistake.path}: {mistake.message}" for mistake in caught.value.mistakes]


def warned(models: str, text: str = "{}") -> list[str]:
    return [mistake.path for mistake in dangers(settings(models, text))]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("limits: {requests_per_minute: 5}", "limits"),
        ("access: {mode: keys, keys: [{name: a, key: k, limits: {concurrent: 1}}]}", "access.keys[0].limits"),
    ],
)
def test_what_is_not_built_is_refused_by_its_name(text: str, place: str) -> None:
    (mistake,) = refused(f"[{OWN}]", text)
    assert mistake.startswith(f"{place}: ")
    assert "is not built in this release" in mistake
    assert "pw" not in mistake


@pytest.mark.parametrize("text", ["redis: {url: null}", "limits: {}", "access: {mode: keys, keys: [{name: a, key: k, limits: null}]}"])
def test_not_asking_for_what_is_not_built_is_fine(text: str) -> None:
    assert settings(f"[{OWN}]", text)


def test_a_callers_key_has_no_sibling() -> None:
    twin = CALLER.replace("openai/*", "groq/*").replace("api_key: caller", "api_key: sk")
    (mistake,) = refused(f"[{CALLER}, {twin}]")
    assert mistake.startswith("model_list[0].model_name: `api_key: caller` allows no sibling")


def test_a_callers_key_excludes_keys_of_the_proxys_own() -> None:
    (mistake,) = refused(f"[{CALLER}]", "access: {mode: keys, keys: [{name: a, key: k}]}")
    assert mistake.startswith("model_list[0].litellm_params.api_key: `caller` excludes `access.mode: keys`")


def test_a_rule_never_leads_a_callers_key_elsewhere() -> None:
    (mistake,) = refused(f"[{CALLER}, {OWN}]", "lessons: {recognise: [{name: a, when: {}, model: gpt-5}]}")
    assert mistake.startswith("lessons.recognise[0].model: 'gpt-5' goes with the caller's key")


@pytest.mark.parametrize(
    ("router", "place"),
    [
        ('fallbacks: [{"*": [own]}]', "router_settings.fallbacks[0].*"),
        ("fallbacks: [{own: [gpt-5]}]", "router_settings.fallbacks[0].own"),
        ("fallbacks: [{gpt-5: [own]}]", "router_settings.fallbacks[0].gpt-5"),
        ("context_window_fallbacks: [{own: [own]}, {gpt-5: [own]}]", "router_settings.context_window_fallbacks[1].gpt-5"),
        ("content_policy_fallbacks: [{gpt-5: [own]}]", "router_settings.content_policy_fallbacks[0].gpt-5"),
        ("default_fallbacks: [own]", "router_settings.default_fallbacks[0]"),
    ],
)
def test_a_callers_key_has_no_fallback_and_is_none(router: str, place: str) -> None:
    found = refused(f"[{CALLER}, {OWN}]", f"router_settings: {{{router}}}")
    assert {mistake.split(": ")[0] for mistake in found} == {place}
    assert "a caller's key goes to one host alone" in found[0]


def test_a_callers_key_beside_other_aliases_with_fallbacks_of_their_own_is_fine() -> None:
    named = CALLER.replace('model_name: "*"', "model_name: mine/*")
    assert settings(f"[{named}, {OWN}, {HERE}]", "router_settings: {fallbacks: [{own: [here]}]}")


@pytest.mark.parametrize("router", ["fallbacks: [{own: [nobody]}]", "default_fallbacks: [nobody]"])
def test_a_fallback_must_be_a_model(router: str) -> None:
    assert any("no entry of model_list answers to 'nobody'" in mistake for mistake in refused(f"[{OWN}]", f"router_settings: {{{router}}}"))


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("a", "openai/*", "has a `*` that `model_name` has not"),
        ('"x*"', "openai/*-*", "has a `*` that `model_name` has not"),
        ('"*"', '"*"', "name the provider before the `*`"),
        ('"*"', '"*/gpt"', "name the provider before the `*`"),
    ],
)
def test_wildcards_that_make_no_sense_or_let_callers_choose_the_host(name: str, model: str, words: str) -> None:
    assert words in refused(f"[{{model_name: {name}, litellm_params: {{model: {model}}}}}]")[0]


@pytest.mark.parametrize(("name", "model"), [('"*"', "openai/gpt"), ('"a/*"', '"openai/*"'), ('"*-*"', '"openai/*-*"'), ("a", "openai/a")])
def test_wildcards_that_make_sense(name: str, model: str) -> None:
    assert settings(f"[{{model_name: {name}, litellm_params: {{model: {model}}}}}]")


@pytest.mark.parametrize(("alias", "expected"), [("own", ["own"]), ("gpt-5", ["gpt-*"]), ("x", ["*"]), ("*", ["*"]), ("gpt?", ["*"])])
def test_an_alias_leads_to_its_own_entry_or_the_longest_wildcard(alias: str, expected: list[str]) -> None:
    models = f'[{CALLER}, {{model_name: "gpt-*", litellm_params: {{model: openai/a}}}}, {OWN}]'
    assert [entry.model_name for entry in entries_for(settings(models).model_list, alias)] == expected


def test_an_alias_that_nobody_answers_to() -> None:
    assert entries_for(settings(f"[{OWN}]").model_list, "other") == ()


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("access: {mode: keys}", "access.keys: `mode: keys` needs at least one key"),
        ("access: {keys: [{name: a, key: k}]}", "access.keys: nobody is asked for these while `access.mode` is open"),
        ("access: {mode: keys, keys: [{name: a, key: k}, {name: a, key: l}]}", "access.keys[1].name: 'a' stands twice"),
        ("access: {mode: keys, keys: [{name: a, key: k}, {name: b, key: k}]}", "access.keys[1].key: stands twice"),
        ('access: {mode: keys, keys: [{name: a, key: "k\\n"}]}', "access.keys[0].key: can't be sent as a header"),
        ("access: {mode: keys, keys: [{name: a, key: schlüssel}]}", "access.keys[0].key: can't be sent as a header"),
        ("lessons: {recognise: [{name: a, when: {}}, {name: a, when: {}}]}", "lessons.recognise[1].name: 'a' stands twice"),
        ("lessons: {recognise: [{name: a, when: {}, model: x}]}", "lessons.recognise[0].model: no entry of model_list answers to 'x'"),
        ("lessons: {recognise: [{name: a, when: {prompt_none: [fine, 'ab*']}}]}", "lessons.recognise[0].when.prompt_none[1]: phrase 'ab*'"),
        ("lessons: {recognise: [{name: a, when: {}, guard: true}]}", "lessons.recognise[0].guard: only a rule with `merge_calls: false`"),
        ("lessons: {recognise: [{name: a, when: {}, despite: ['*', b]}]}", "lessons.recognise[0].despite[1]: no rule is called 'b'"),
        (
            r'lessons: {recognise: [{name: a, when: {}, merge_calls: false, reason: "b\nc: d"}]}',
            "lessons.recognise[0].reason: callers are told",
        ),
        ("lessons: {recognise: [{name: a, when: {}, merge_calls: false, reason: läuft}]}", "lessons.recognise[0].reason: callers are told"),
        ("lessons: {checks: {a: {min_words: 5, max_words: 4}}}", "lessons.checks.a.max_words: must be ≥ min_words (5)"),
        (
            "lessons: {recognise: [{name: a, when: {}, checks: {b: {min_words: 2, max_words: 1}}}]}",
            "lessons.recognise[0].checks.b.max_words: must be ≥ min_words (2)",
        ),
        ("lessons: {subject: [header.x, heder.x]}", "lessons.subject[1]: must be one of header.NAME"),
        ("lessons: {topic: [json.]}", "lessons.topic[0]: must be one of header.NAME"),
        ("identity: {user: [header.x, [body.user, user]]}", "identity.user[1]: must be one of header.NAME"),
        ("identity: {user: [[]]}", "identity.user[0]: must be one of header.NAME"),
        ("passthrough: [{path: /v1/files, model: x}]", "passthrough[0].model: no entry of model_list answers to 'x'"),
        ("passthrough: [{path: /v1/chat/completions, model: own}]", "passthrough[0].path: the proxy answers this path itself"),
        ("passthrough: [{path: /v1/models/x, methods: [DELETE], model: own}]", "passthrough[0].path: the proxy answers this path itself"),
        ("passthrough: [{path: /v1/a, model: own}, {path: /v1/a, model: own}]", "passthrough[1].path: '/v1/a' stands twice"),
        ("passthrough: [{path: /files, model: own}]", "passthrough[0].path: must match"),
        ("passthrough: [{path: /v1/../files, model: own}]", "passthrough[0].path: must be in its plain form: /files"),
        ("bounds: {body_mb: 32, bodies_mb: 31}", "bounds.bodies_mb: must be ≥ body_mb (32)"),
        ("{drain_grace_seconds: 9, drain_seconds: 8}", "drain_grace_seconds: must be ≤ drain_seconds (8)"),
    ],
)
def test_contradictions(text: str, mistake: str) -> None:
    assert refused(f"[{OWN}]", text)[0].startswith(mistake)


@pytest.mark.parametrize(
    ("param", "place"),
    [
        (r'api_key: "sk-secret\n"', "api_key"),
        (r'organization: "secret\n"', "organization"),
        (r'extra_headers: {x-a: fine, x-b: "secret\r\nx-c: d"}', "extra_headers.x-b"),
    ],
)
def test_what_of_an_operators_cant_be_a_header_is_refused_unquoted(param: str, place: str) -> None:
    """As files and shells leave it: every call would fail at the header."""
    (told,) = refused(f"[{{model_name: a, litellm_params: {{model: openai/a, {param}}}}}]", "{}")
    assert told.startswith(f"model_list[0].litellm_params.{place}: can't be sent as a header")
    assert "secret" not in told


@pytest.mark.parametrize(
    ("param", "meant"),
    [
        ("api_kay", "api_key"),
        ("apikey", "api_key"),
        ("api_bas", "api_base"),
        ("organisation", "organization"),
        ("extra_header", "extra_headers"),
    ],
)
def test_a_misspelt_parameter_is_refused_for_litellm_would_send_it_upstream(param: str, meant: str) -> None:
    (told,) = refused(f"[{{model_name: a, litellm_params: {{model: openai/a, {param}: sk-secret}}}}]", "{}")
    assert told == f"model_list[0].litellm_params.{param}: unknown key: `{meant}` is meant?"


def test_parameters_that_litellm_knows_and_we_do_not_are_none_of_our_business() -> None:
    more = "aws_region_name: x, vertex_ai_project: x, top_k: 3, azure_ad_token: x, keep_alive: 5, stream_timeout: 5"
    assert parse(parse_yaml(f"model_list: [{{model_name: a, litellm_params: {{model: openai/a, api_key: k, {more}}}}}]"), env={})


def test_an_address_ends_where_the_api_begins() -> None:
    """litellm puts the path behind it: lone calls would work, and no merged one."""
    entry = "{model_name: a, litellm_params: {model: openai/a, api_key: k, api_base: 'https://h/v1/chat/completions'}}"
    (told,) = refused(f"[{entry}]", "{}")
    assert told.startswith("model_list[0].litellm_params.api_base: leave out `/chat/completions`")


@pytest.mark.parametrize(
    ("models", "text", "places"),
    [
        (HERE, "{}", []),
        (CALLER, "{}", []),
        (OWN, "{}", ["access.mode"]),
        (OWN, "access: {mode: keys, keys: [{name: a, key: k}]}", []),
        (HERE, "identity: {when_missing: api_key}", ["identity.when_missing"]),
        (HERE, "identity: {identical_across_users: true}", ["identity.identical_across_users"]),
        (HERE, "lessons: {window: {max_wait_ms: 5001}}", ["lessons.window.max_wait_ms"]),
        (
            HERE,
            "lessons: {recognise: [{name: r, when: {tool: x}, window: {hinted_max_wait_ms: 9000, max_size: 20}}]}",
            ["lessons.recognise[0].window.hinted_max_wait_ms", "lessons.recognise[0].window.max_size"],
        ),
        (HERE, "lessons: {shipped_rules: false}", ["lessons.recognise"]),
        (HERE, "lessons: {shipped_rules: false, mode: off}", []),
        (HERE, "lessons: {recognise: [{name: r, when: {}}]}", ["lessons.recognise[0].when"]),
        (HERE, "lessons: {recognise: [{name: r, when: {}, merge_calls: false}]}", []),
        (CALLER.replace("api_key", "api_base: http://llm.example, api_key"), "{}", ["model_list[0].litellm_params.api_base"]),
        (CALLER.replace("api_key", "api_base: http://localhost:1, api_key"), "{}", []),
    ],
)
def test_what_is_legal_but_dangerous_is_warned_of(models: str, text: str, places: list[str]) -> None:
    assert warned(f"[{models}]", text) == places


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),  # noqa: S104 - that it is not the loopback is the point
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_which_addresses_are_this_machines_alone(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


REDIS = "redis: {url: '%s', secret: a-secret-that-is-long-enough, timeout_ms: 40}"


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("redis: {url: redis://h}", ["redis.secret: is missing"]),
        ("redis: {secret: s}", ["redis.secret: does nothing without `redis.url`"]),
        ("redis: {url: http://:sesame@h, secret: s}", ["redis.url: must begin with one of redis://, rediss://, unix://"]),
        ("redis: {url: redis://:sesame@h:port, secret: s}", ["redis.url: is no address"]),
        ("redis: {url: redis://h, secret: ''}", ["redis.secret: must hold at least 1"]),
        ("redis: {url: redis://h, secret: s, timeout_ms: 2}", ["redis.timeout_ms: must be ≥ 5"]),
    ],
)
def test_what_sharing_needs_is_asked_for(text: str, mistakes: list[str]) -> None:
    told = refused(f"[{OWN}]", text)
    assert len(told) == len(mistakes)
    assert all(one.startswith(mistake) for one, mistake in zip(told, mistakes, strict=True)), told
    assert "sesame" not in repr(told)


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("redis://127.0.0.1:6379/0", []),
        ("rediss://u:p@far.example.com", []),
        ("rediss+cluster://a,b:7001", []),
        ("unix:///run/redis.sock", []),
        ("redis://u:p@far.example.com", ["redis.url"]),
        ("redis+cluster://127.0.0.1:1,localhost", []),
        ("redis+cluster://127.0.0.1:1,b", ["redis.url"]),
        ("redis+cluster://a,127.0.0.1:1", ["redis.url"]),
        ("rediss://far.example.com?ssl_cert_reqs=none", ["redis.url"]),
    ],
)
def test_a_redis_that_others_can_reach_is_warned_of(url: str, places: list[str]) -> None:
    assert warned(f"[{HERE}]", REDIS % url) == places


def test_a_short_secret_and_a_long_timeout_are_warned_of() -> None:
    text = "redis: {url: redis://localhost, secret: short, timeout_ms: 100}"
    assert warned(f"[{HERE}]", text) == ["redis.secret", "redis.timeout_ms"]
