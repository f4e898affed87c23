"""The commands as an operator meets them: what they print, and their exit codes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.cli.serving import Start
from proxy.settings import ConfigError

OWN_KEY = "model_list: [{model_name: own, litellm_params: {model: openai/gpt-4o, api_key: sk-very-secret}}]\n"
CALLERS_KEY = 'model_list: [{model_name: "*", litellm_params: {model: "openai/*", api_key: caller}}]\n'
LOCAL = "model_list: [{model_name: a, litellm_params: {model: hosted_vllm/a, api_base: 'http://127.0.0.1:1/v1'}}]\n"
KEYS = "access: {mode: keys, keys: [{name: app-a, key: sk-app}]}\n"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - that it is not the loopback is the point


def command(*arguments: str | Path, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=standard_input)


def config(folder: Path, text: str) -> Path:
    file = folder / "proxy.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def start(folder: Path, text: str, **options: object) -> Start:
    return Start(config(folder, text), **options)  # type: ignore[arg-type]


def test_help_names_every_command() -> None:
    shown = command("--help")
    assert shown.exit_code == 0
    assert all(name in shown.output for name in ("serve", "demo", "check", "explain", "estimate", "simulate"))


def test_a_command_is_at_hand_before_anything_heavy_is_imported() -> None:
    code = "import sys, proxy.cli; sys.exit(bool({'litellm', 'starlette', 'uvicorn', 'aiohttp', 'tiktoken'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "proxy", "check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "simulated/lesson-model" in done.stdout


def test_several_workers_need_what_they_share_their_windows_through() -> None:
    done = command("serve", "--workers", "2")
    assert done.exit_code == 1
    assert "--workers: more than one process needs `redis.url`: through it they share their windows" in done.output


def test_serve_tells_every_mistake_and_does_not_start(tmp_path: Path) -> None:
    done = command("serve", "--config", config(tmp_path, "model_list: []\ncolour: red\n"))
    assert done.exit_code == 1
    assert "proxy.yaml: 2 mistakes" in done.output
    assert "  model_list: must hold at least 1" in done.output
    assert "  colour: unknown key" in done.output


def test_serve_refuses_an_upstream_that_is_no_address() -> None:
    done = command("serve", "--upstream", "nowhere")
    assert done.exit_code == 1
    assert "--upstream: must be like https://host/v1" in done.output


def test_beyond_the_loopback_nobody_spends_the_operators_key_unasked(tmp_path: Path) -> None:
    done = command("serve", "--host", EVERYWHERE, "--config", config(tmp_path, OWN_KEY))
    assert done.exit_code == 1
    assert f"access.mode: open on {EVERYWHERE}, while own spends your own key" in done.output
    assert "--allow-open" in done.output
    assert "sk-very-secret" not in done.output


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.0.0.1", "proxy.example"])
def test_open_with_the_operators_key_is_refused_on_every_address_but_the_loopback(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        start(tmp_path, OWN_KEY, host=host).settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_the_loopback_the_operators_key_may_stand_open(host: str, tmp_path: Path) -> None:
    assert start(tmp_path, OWN_KEY, host=host).settings()


@pytest.mark.parametrize("text", [CALLERS_KEY, LOCAL, OWN_KEY + KEYS])
def test_where_no_key_of_the_operators_stands_open_any_address_will_do(text: str, tmp_path: Path) -> None:
    assert start(tmp_path, text, host=EVERYWHERE).settings()


def test_an_operator_may_say_that_open_is_meant(tmp_path: Path) -> None:
    assert start(tmp_path, OWN_KEY, host=EVERYWHERE, allow_open=True).settings()


def test_a_reload_cannot_open_what_the_start_would_not(tmp_path: Path) -> None:
    """The server reads its settings through the same function at each reload."""
    began = start(tmp_path, OWN_KEY + KEYS, host=EVERYWHERE)
    assert began.settings()
    config(tmp_path, OWN_KEY)
    with pytest.raises(ConfigError):
        began.settings()


def test_check_shows_where_every_model_goes_and_no_key(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: a, litellm_params: {model: groq/x, api_key: sk-very-secret}}
  - {model_name: a, litellm_params: {model: cerebras/x, api_base: "https://me:pw@llm.example:8443/v1?token=t", api_key: sk-other}}
  - {model_name: here, litellm_params: {model: simulated/x}, model_info: {lessons: {force: none, max_output_tokens: 900}}}
  - {model_name: env, litellm_params: {model: openai/x}}
access: {mode: keys, keys: [{name: app-a, key: sk-app}]}
"""
    done = command("check", "--config", config(tmp_path, text))
    assert done.exit_code == 0
    assert "sk-" not in done.output
    assert "pw" not in done.output
    assert "token=" not in done.output
    for shown in (
        "groq/x",
        "https://llm.example:8443/v1",
        "in this process",
        "force: none, max_output_tokens: 900",
        "provider's variable",
        "app-a",
    ):
        assert shown in done.output


def test_check_shows_the_rules_as_they_will_apply(tmp_path: Path) -> None:
    text = (
        LOCAL
        + """
lessons:
  mode: dry_run
  window: {max_wait_ms: 40}
  recognise:
    - {name: mine, when: {tool: make_*, headers: {x-app: tutor}}, mode: on, share: 0.25, window: {max_size: 3}, model: a}
    - {name: never, when: {}, merge_calls: false}
    - {name: asleep, when: {shape: [text]}, mode: off}
    - {name: trial, when: {shape: [tool]}}
  shipped_rules: false
identity: {user: [[header.x-tenant, header.x-user], body.user]}
"""
    )
    output = command("check", "--config", config(tmp_path, text)).output
    for shown in (
        "lessons.mode: dry_run",
        "headers: x-app=tutor",
        "merged: 0.25 of the batch keys",
        "40 ms (1000 announced), 3 lessons",
        "goes alone: rule",
        "off",
        "dry run",
        "header.x-tenant + header.x-user, body.user",
    ):
        assert shown in output
    assert "lesson tool or schema" not in output


def test_check_with_lessons_off_shows_every_rule_off(tmp_path: Path) -> None:
    text = LOCAL + "lessons: {mode: off, shipped_rules: false, recognise: [{name: mine, when: {tool: x}, mode: on}]}"
    output = command("check", "--config", config(tmp_path, text)).output
    assert "merged" not in output


def test_check_warns_of_what_is_dangerous(tmp_path: Path) -> None:
    done = command("check", "--config", config(tmp_path, OWN_KEY + "identity: {when_missing: api_key}\n"))
    assert done.exit_code == 0
    assert "warning: access.mode: open, while own spends your own key" in done.output
    assert "warning: identity.when_missing: api_key" in done.output


def test_check_tells_mistakes_and_fails(tmp_path: Path) -> None:
    done = command("check", "--config", config(tmp_path, LOCAL + "redis: {url: redis://h}\nlessons: {window: {max_size: 0}}\n"))
    assert done.exit_code == 1
    assert "  lessons.window.max_size: must be ≥ 1" in done.output
    assert "  redis.secret: is missing: with it lessons are encrypted before they leave the process" in done.output


def test_check_asks_litellm_for_the_providers(tmp_path: Path) -> None:
    """Without a call to any of them."""
    text = 'model_list: [{model_name: "*", litellm_params: {model: openai/*}}, {model_name: a, litellm_params: {model: opnai/a}}]'
    done = command("check", "--config", config(tmp_path, text))
    assert done.exit_code == 1
    assert "  model_list[1].litellm_params.model: opnai/a: litellm knows no provider of this name" in done.output
    assert "model_list[0]" not in done.output


@pytest.mark.parametrize("address", ["http://h:port", "not an address", "h/v1", "http://", "ftp://h", "http://h /v1", ""])
def test_check_refuses_an_address_that_is_none(address: str, tmp_path: Path) -> None:
    text = f"model_list: [{{model_name: a, litellm_params: {{model: openai/a, api_base: '{address}'}}}}]"
    done = command("check", "--config", config(tmp_path, text))
    assert done.exit_code == 1
    assert "  model_list[0].litellm_params.api_base: must be like https://host/v1\n" in done.output


@pytest.mark.parametrize(
    ("params", "router", "mistake"),
    [
        ("num_retries: 3", "{}", "model_list[0].litellm_params.num_retries: set router_settings.num_retries"),
        (
            "weight: 1",
            "{routing_strategy: latency-based-routing, routing_strategy_args: {ttl: soon}}",
            "router_settings: litellm.Router can't be built from these",
        ),
    ],
)
def test_check_tells_what_upstream_would_refuse_at_start(params: str, router: str, mistake: str, tmp_path: Path) -> None:
    entry = f"{{model_name: a, litellm_params: {{model: openai/a, api_key: sk-very-secret, {params}}}}}"
    done = command("check", "--config", config(tmp_path, f"model_list: [{entry}, {entry}]\nrouter_settings: {router}\n"))
    assert done.exit_code == 1
    assert mistake in done.output
    assert "sk-very-secret" not in done.output


def test_simulate_tells_its_dialects() -> None:
    told = command("simulate", "--dialect", "list")
    assert told.exit_code == 0
    assert "groq " in told.output
    unknown = command("simulate", "--dialect", "nobody")
    assert (unknown.exit_code, unknown.output) == (1, told.output)


@pytest.mark.parametrize("name", ["simulate", "serve"])
def test_a_port_that_is_taken_is_said_at_once(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command(name, "--port", str(port))
    assert done.exit_code == 1
    assert f"can't listen on 127.0.0.1:{port}: address already in use" in done.output.lower()


@pytest.mark.parametrize(
    ("host", "words"), [("no-such-host.invalid", "there is no such address"), ("192.0.2.1", "cannot assign requested address")]
)
def test_an_address_that_is_not_this_machines_is_said_at_once(host: str, words: str) -> None:
    done = command("serve", "--host", host, "--port", "0")
    assert done.exit_code == 1
    assert f"can't listen on {host}:0: {words}" in done.output
