"""What a configuration file may say, what it means, and how its mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from proxy.model import Capability
from proxy.policy import LessonPolicy
from proxy.settings import ConfigError, Settings, dangers, default_file, load, parse
from proxy.settings.__main__ import schema_text
from proxy.settings.document import parse_yaml
from proxy.settings.providers import CapabilityOverrides, ProviderName
from proxy.upstream.capabilities import faults

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
EXAMPLE_ENV = {
    name: f"secret-of-{name.lower()}"
    for name in (
        "OPENAI_API_KEY",
        "GROQ_API_KEY",
        "CEREBRAS_API_KEY",
        "DEEPINFRA_API_KEY",
        "APP_KEY",
        "APP_A_KEY",
        "APP_B_KEY",
        "LESSON_PROXY_REDIS_SECRET",
    )
} | {"LESSON_PROXY_REDIS_URL": "redis://valkey:6379/0"}
CALLER = {"model_name": "*", "litellm_params": {"model": "openai/*", "api_key": "caller"}}
OWN: dict[str, Any] = {"model_name": "own", "litellm_params": {"model": "openai/gpt-4o", "api_key": "sk-very-secret"}}


def document(text: str = "", **parts: Any) -> dict[str, Any]:
    written: dict[str, Any] = parse_yaml(text) or {}
    return {"model_list": [OWN]} | written | parts


def settings(text: str = "", *, env: dict[str, str] | None = None, **parts: Any) -> Settings:
    return parse(document(text, **parts), env=env or {})


def mistakes(text: str = "", *, env: dict[str, str] | None = None, **parts: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        settings(text, env=env, **parts)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


def test_the_embedded_default_needs_no_environment_and_answers_to_every_model_name() -> None:
    loaded = load(None, env={})
    assert [entry.model_name for entry in loaded.model_list] == ["lesson-model", "*"]
    assert all(entry.litellm_params.is_simulated for entry in loaded.model_list)
    assert loaded.operator_key_aliases() == ()
    assert dangers(loaded) == ()


def test_the_embedded_default_writes_down_the_defaults() -> None:
    """What the file says of each setting is what leaving it out would mean."""
    written = load(None, env={}).model_dump(exclude={"model_list", "router_settings"})
    bare = settings().model_dump(exclude={"model_list", "router_settings"})
    assert written == bare


def test_the_embedded_default_shows_every_setting() -> None:
    text = default_file().read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert f"\n{name}:" in text
    for part in ("lessons", "access", "bounds", "log", "redis"):
        assert set(parse_yaml(text)[part]) == set(Settings.model_fields[part].annotation.model_fields)  # type: ignore[union-attr]
    for name in CapabilityOverrides.model_fields:
        assert name in text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_sound(example: Path) -> None:
    assert load(example, env=EXAMPLE_ENV).model_list


def test_the_kept_schema_is_the_settings_schema() -> None:
    """Made by `python -m proxy.settings > config/schema.json`."""
    assert (ROOT / "config" / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_capability_overrides_are_the_fields_of_a_capability() -> None:
    assert tuple(CapabilityOverrides.model_fields) == ("like", *Capability.__dataclass_fields__)
    assert not [name for name in get_args(ProviderName) if faults({"like": name})]


def test_upstream_needs_no_file_and_sends_the_callers_key() -> None:
    (entry,) = load(None, upstream="https://llm.example/v1/", env={}).model_list
    assert (entry.model_name, entry.litellm_params.key_source) == ("*", "caller")
    assert entry.litellm_params.in_clear() == {"model": "openai/*", "api_base": "https://llm.example/v1", "api_key": "caller"}


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v1/chat/completions", "/v1/chat/completions/"])
def test_upstream_without_a_path_gets_the_usual_one_and_a_calls_whole_address_will_do(path: str) -> None:
    (entry,) = load(None, upstream=f"http://127.0.0.1:8000{path}", env={}).model_list
    assert entry.litellm_params.api_base == "http://127.0.0.1:8000/v1"


def test_the_upstream_example_is_what_the_option_does() -> None:
    by_option = load(None, upstream="https://api.openai.com/v1", env={})
    assert load(ROOT / "config" / "examples" / "upstream.yaml", env={}) == by_option


def test_upstream_stands_in_place_of_a_files_models(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text("model_list: [{model_name: a, litellm_params: {model: openai/a}}]\nlessons: {window: {max_size: 3}}")
    loaded = load(file, upstream="http://h/v1", env={})
    assert [entry.model_name for entry in loaded.model_list] == ["*"]
    assert loaded.lessons.window.max_size == 3


@pytest.mark.parametrize(
    "address", ["", "llm.example", "ftp://h/v1", "http://", "http://user:pw@h/v1", "http://h/v1?x=1", "http://h:port/v1"]
)
def test_an_upstream_that_is_no_address_is_refused_without_being_quoted(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, upstream=address, env={})
    assert caught.value.mistakes[0].path == "--upstream"
    assert "pw" not in str(caught.value)


def test_the_environment_is_read_anywhere_in_the_file() -> None:
    loaded = settings(
        """
        access: {mode: keys, keys: [{name: a, key: os.environ/KEY}]}
        identity: {user: [os.environ/SOURCE, [header.x-tenant-id, header.x-user-id]]}
        bounds: {waiting_calls: os.environ/MANY}
        """,
        env={"KEY": "k", "SOURCE": "header.x-learner", "MANY": "7"},
    )
    assert loaded.access.keys[0].key.get_secret_value() == "k"
    assert loaded.identity.user == ("header.x-learner", ("header.x-tenant-id", "header.x-user-id"))
    assert loaded.bounds.waiting_calls == 7


def test_missing_variables_are_named_with_their_places_all_at_once() -> None:
    found = mistakes(
        "{model_list: [{model_name: a, litellm_params: {model: openai/a, api_key: os.environ/ONE, deep: [{x: os.environ/TWO}]}}],"
        " bounds: {body_mb: os.environ/THREE}, log: {level: os.environ/not a name}}",
        env={"TWO": ""},
    )
    assert list(found) == [
        "model_list[0].litellm_params.api_key",
        "model_list[0].litellm_params.deep[0].x",
        "bounds.body_mb",
        "log.level",
    ]
    assert all(name in message for name, message in zip(("ONE", "TWO", "THREE"), found.values(), strict=False))


def test_the_process_environment_is_not_read_behind_the_files_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOG", "ACCESS", "LESSONS", "DRAIN_SECONDS", "log"):
        monkeypatch.setenv(name, '{"mode": "keys"}')
    assert parse(document()) == settings()


def test_every_mistake_is_told_at_once_with_its_place() -> None:
    found = mistakes(
        """
        model_list:
          - {model_name: a, litellm_params: {api_key: x}}
          - {model_name: "", litellm_params: {model: openai/a}, model_info: {lessons: {forced: name, stream: perhaps}, id: mine}}
        router_settings: {num_retries: -1, set_verbose: true}
        lessons:
          mode: sometimes
          window: {max_size: 0, max_wait_ms: 60001, colour: red}
          recognise: [{name: r, when: {tool: [x]}, share: 1.5}, {when: {}}]
          checks: {content: {min_words: few}}
        access: {mode: keys}
        drain_seconds: 0
        colour: red
        """
    )
    assert found == {
        "model_list[0].litellm_params.model": "is missing",
        "model_list[1].model_name": "must not be empty",
        "model_list[1].model_info.id": "unknown key",
        "model_list[1].model_info.lessons.forced": "unknown key",
        "model_list[1].model_info.lessons.stream": "must be true or false",
        "router_settings.num_retries": "must be ≥ 0",
        "router_settings.set_verbose": "unknown key",
        "lessons.mode": "must be 'on', 'off' or 'dry_run'",
        "lessons.window.max_size": "must be ≥ 1",
        "lessons.window.max_wait_ms": "must be ≤ 60000",
        "lessons.window.colour": "unknown key",
        "lessons.recognise[0].when.tool": "must be a string (in quotes, if it looks like a number)",
        "lessons.recognise[0].share": "must be ≤ 1",
        "lessons.recognise[1].name": "is missing",
        "lessons.checks.content.min_words": "must be a whole number",
        "drain_seconds": "must be > 0",
        "colour": "unknown key",
        "access.keys": "`mode: keys` needs at least one key",
    }


@pytest.mark.parametrize("word", ["on", "off", "dry_run", '"on"'])
def test_a_mode_needs_no_quotes(word: str) -> None:
    assert settings(f"lessons: {{mode: {word}}}").lesson_policy().mode == word.strip('"')


def test_a_value_of_several_kinds_has_one_place() -> None:
    assert list(mistakes("identity: {user: [5]}")) == ["identity.user[0]"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1", ""),
        ("a: 1\na: 2", "a"),
        ("a: {b: [{c: 1, c: 2}]}", "a.b[0].c"),
        ("a: &x [*x]", "a[0]"),
        ("a: !!python/object:os.system {}", ""),
        ("a: \x07", ""),
        ("? [b]\n: 1", ""),
        ("a: *nowhere", ""),
        pytest.param("a: " + "[" * 80 + "]" * 80, "a" + "[0]" * 63, id="deep"),
        pytest.param("a: " + "[" * 5_000 + "]" * 5_000, "", id="deeper than Python goes"),
    ],
)
def test_unsound_yaml_is_a_mistake(text: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text)
    assert caught.value.mistakes[0].path == place


def test_unsound_yaml_is_never_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("api_key: sk-very-secret\n  x: [")
    assert "sk-very-secret" not in str(caught.value)
    assert "line 2" in str(caught.value)


def test_yaml_words_that_1_1_would_change_stay_words() -> None:
    assert parse_yaml("[on, off, yes, no, 2024-02-01, true, False]") == ["on", "off", "yes", "no", "2024-02-01", True, False]


def test_merge_keys_and_anchors_work() -> None:
    assert parse_yaml("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\nc: [*x, *x]")["b"] == {"k": 1, "l": 3}


@pytest.mark.parametrize("text", ["[]", "5", "text"])
def test_a_file_that_is_no_mapping_is_a_mistake(text: str, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="mapping"):
        load(file, env={})


def test_an_empty_file_lacks_models(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="model_list: is missing"):
        load(file, env={})


def test_a_key_that_is_no_string_is_a_mistake() -> None:
    assert list(mistakes("lessons: {window: {1: x}}")) == ["lessons.window.1"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00x"])
def test_a_file_that_cant_be_read_is_a_mistake(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, env={})
    assert caught.value.source == str(file)


def test_no_secret_stands_in_a_repr_or_a_mistake() -> None:
    loaded = settings(
        access={"mode": "keys", "keys": [{"name": "a", "key": "sk-app"}]},
        model_list=[OWN | {"litellm_params": OWN["litellm_params"] | {"aws_secret_access_key": "sk-aws"}}],  # type: ignore[operator]
    )
    shown = f"{loaded!r} {loaded} {loaded.model_list[0]} {loaded.model_list[0].litellm_params}"
    assert "sk-" not in shown
    found = mistakes(access={"mode": "keys", "keys": [{"name": "a", "key": "sk-app"}, {"name": "a", "key": "sk-app", "limits": ["sk-x"]}]})
    assert "sk-" not in str(found)
    assert found


def test_what_upstream_gets_is_plain_and_in_clear() -> None:
    loaded = settings(
        """
        model_list:
          - model_name: a
            litellm_params: {model: openai/a, api_key: sk-1, rpm: 5, extra_headers: {x: y}}
            model_info: {lessons: {force: none, max_output_tokens: 900}, input_cost_per_token: 0.0000002}
        router_settings: {num_retries: 0, timeout: 30, routing_strategy: least-busy, fallbacks: [{a: [a]}], default_fallbacks: [a]}
        litellm_settings: {drop_params: true, num_retries: 5, request_timeout: 9}
        """
    )
    (entry,) = loaded.model_list
    assert entry.litellm_params.in_clear() == {"model": "openai/a", "api_key": "sk-1", "rpm": 5, "extra_headers": {"x": "y"}}
    assert entry.model_info.lessons.given() == {"force": "none", "max_output_tokens": 900}
    assert entry.model_info.prices() == {"input_cost_per_token": 0.0000002}
    assert loaded.router_settings.passed_on() == {
        "routing_strategy": "least-busy",
        "fallbacks": [{"a": ["a"]}],
        "default_fallbacks": ["a"],
    }
    assert loaded.litellm_settings.passed_on() == {"drop_params": True}
    assert (loaded.num_retries, loaded.timeout_s) == (0, 30)


@pytest.mark.parametrize(
    ("text", "retries", "timeout_s"),
    [
        ("", 2, None),
        ("litellm_settings: {num_retries: 5, request_timeout: 9}", 5, 9),
        ("router_settings: {num_retries: 1, timeout: 4}", 1, 4),
    ],
)
def test_retries_and_timeout_come_from_the_router_first(text: str, retries: int, timeout_s: float | None) -> None:
    loaded = settings(text)
    assert (loaded.num_retries, loaded.timeout_s) == (retries, timeout_s)


@pytest.mark.parametrize(
    ("params", "source"),
    [
        ({"model": "openai/a", "api_key": "caller"}, "caller"),
        ({"model": "openai/a", "api_key": "sk"}, "set"),
        ({"model": "bedrock/a", "aws_secret_access_key": "sk"}, "set"),
        ({"model": "openai/a", "max_tokens": 5}, "environment"),
        ({"model": "openai/a", "api_base": "http://h/v1"}, "environment"),
        ({"model": "openai/a", "base_url": "http://h/v1"}, "environment"),
        ({"model": "hosted_vllm/a", "api_base": "http://h/v1"}, "none"),
        ({"model": "ollama/a"}, "none"),
        ({"model": "openai/a", "api_base": "http://h/v1", "api_key": "EMPTY"}, "none"),
        ({"model": "simulated/a"}, "none"),
    ],
)
def test_whose_key_a_deployment_uses(params: dict[str, Any], source: str) -> None:
    (entry,) = settings(model_list=[{"model_name": "a", "litellm_params": params}]).model_list
    assert entry.litellm_params.key_source == source


def test_an_empty_file_of_lessons_means_the_policys_own_defaults() -> None:
    policy = settings().lesson_policy()
    assert policy == LessonPolicy(rules=policy.rules)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
parts = st.sampled_from([*Settings.model_fields, "other"])


@effort(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(parts, json_values, max_size=4))
def test_any_document_is_settings_or_mistakes_with_places(values: dict[str, Any]) -> None:
    places = outcome({"model_list": [OWN]} | values)
    assert places is None or places
    assert all(place.split(".")[0].split("[")[0] in {*Settings.model_fields, "other", ""} for place in places or ())


def outcome(values: dict[str, Any]) -> list[str] | None:
    try:
        parse(values, env={})
    except ConfigError as error:
        return [mistake.path for mistake in error.mistakes]
    return None


def test_the_schema_says_the_bounds_and_the_reasons() -> None:
    schema = json.loads(schema_text())
    assert schema["$defs"]["WindowPolicy"]["properties"]["max_size"] == {
        "default": 5,
        "maximum": 50,
        "minimum": 1,
        "title": "Max Size",
        "type": "integer",
    }
    assert "415" not in schema["properties"]["model_list"]["description"]
    assert schema["additionalProperties"] is False
