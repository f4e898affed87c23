"""`check`: a configuration as it will apply, or every mistake in it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from proxy.cli import screen
from proxy.policy import LessonPolicy, Rule, When, WindowPolicy
from proxy.settings import ConfigError, LitellmParams, Settings, dangers, default_file, load

_SHOWN_ITEMS = 6
_KEY_WORDS = {
    "caller": "caller's own",
    "set": "set",
    "environment": "provider's variable",
    "none": "none",
}


def run(config: Path | None) -> int:
    """Print what the file means and warn of what is dangerous; 1 where it can't be used."""
    try:
        settings = _sound(config)
    except ConfigError as error:
        screen.mistakes(error, stderr=False)
        return 1
    policy = settings.lesson_policy()
    out = screen.console()
    _print_models(settings)
    _print_rules(policy)
    screen.line(f"access: {_access(settings)}")
    screen.line(f"users: {_identity(policy)}")
    for mistake in dangers(settings):
        screen.warning(mistake)
    out.print(f"[bold green]{'ok'}[/] ", end="")
    screen.line(str(config or default_file()))
    return 0


def _sound(config: Path | None) -> Settings:
    settings = load(config)
    if not all(entry.litellm_params.is_simulated for entry in settings.model_list):
        from proxy.cli.providers import refused  # noqa: PLC0415 - litellm, which takes seconds: only where it knows more than we

        if mistakes := refused(settings):
            raise ConfigError(mistakes, str(config))
    return settings


def _print_models(settings: Settings) -> None:
    models = screen.table("Models", "alias", "goes to", "address", "key", "overrides")
    for entry in settings.model_list:
        params = entry.litellm_params
        overrides = ", ".join(f"{name}: {value}" for name, value in entry.model_info.lessons.given().items())
        screen.row(models, entry.model_name, params.model, _address(params), _KEY_WORDS[params.key_source], overrides or "-")
    screen.console().print(models)


def _address(params: LitellmParams) -> str:
    """Return the address without what may be a secret in it (a user, a query)."""
    if params.is_simulated:
        return "in this process"
    if not params.api_base:
        return "provider's own"
    parts = urlsplit(params.api_base)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _print_rules(policy: LessonPolicy) -> None:
    rules = screen.table(f"Rules (lessons.mode: {policy.mode})", "#", "rule", "when", "does", "window", "model")
    for number, rule in enumerate(policy.rules, start=1):
        screen.row(
            rules, str(number), rule.name, _conditions(rule.when), _effect(rule, policy), _window(rule, policy), rule.model or "as called"
        )
    screen.console().print(rules)


def _conditions(when: When) -> str:
    conditions = [f"{field.name}: {_shown(getattr(when, field.name))}" for field in fields(When) if getattr(when, field.name)]
    if when.schema_least == 1:
        conditions = [text for text in conditions if not text.startswith("schema_least")]
    return "\n".join(conditions) or "always"


def _shown(value: object) -> str:
    match value:
        case tuple():
            items = [str(item) for item in cast("tuple[object, ...]", value)]
            more = f", … ({len(items)})" if len(items) > _SHOWN_ITEMS else ""
            return ", ".join(items[:_SHOWN_ITEMS]) + more
        case dict():
            return ", ".join(f"{key}={item}" for key, item in cast("dict[str, object]", value).items())
        case _:
            return str(value)


def _effect(rule: Rule, policy: LessonPolicy) -> str:
    if not rule.merge_calls:
        return f"goes alone: {rule.reason or 'rule'}" + (" (guard)" if rule.guard else "")
    match policy.mode if policy.mode == "off" else rule.mode or policy.mode:
        case "on":
            return "merged" if rule.share >= 1 else f"merged: {rule.share:.4g} of the batch keys"
        case "off":
            return "off"
        case "dry_run":
            return "dry run"


def _window(rule: Rule, policy: LessonPolicy) -> str:
    if not rule.merge_calls:
        return "-"
    window: WindowPolicy = rule.window or policy.window
    most = "up to " if window.policy == "adaptive" else ""
    return f"{most}{window.max_wait_ms} ms ({window.hinted_max_wait_ms} announced), {window.max_size} lessons"


def _access(settings: Settings) -> str:
    names = ", ".join(key.name for key in settings.access.keys)
    return f"keys ({names})" if settings.access.mode == "keys" else "open"


def _identity(policy: LessonPolicy) -> str:
    identity = policy.identity
    sources = ", ".join(source if isinstance(source, str) else " + ".join(source) for source in identity.user)
    believed = "whoever holds a key is believed: strip these where browsers can set them"
    return f"{sources}; where none is named: {identity.when_missing} ({believed})"
