"""From a file to settings: reads, resolves, validates, and reports every mistake at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pydantic import ValidationError

from proxy.settings.crosschecks import contradictions
from proxy.settings.document import ConfigError, Mistake, read_yaml, resolve
from proxy.settings.file import Settings
from proxy.settings.findings import mistakes_of
from proxy.settings.providers import CALLER_KEY

_PACKAGE: Final = Path(__file__).parent.parent
_UPSTREAM_OPTION: Final = "--upstream"


def default_file() -> Path:
    """Return the embedded default: beside the package in a checkout, inside it where a wheel is installed."""
    inside = _PACKAGE / "config" / "proxy.yaml"
    return inside if inside.exists() else _PACKAGE.parent / "config" / "proxy.yaml"


def load(path: Path | None, *, upstream: str | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of `path`, or of the embedded default.

    With `upstream` every model name goes to that address with the caller's own key: in place of the file's model_list, or
    with no file at all. Raises ConfigError with every mistake that was found.
    """
    if upstream is None:
        file = path or default_file()
        return parse(read_yaml(file), env=env, source=str(file))
    document = _mapping(read_yaml(path), str(path)) if path else {}
    return parse({**document, "model_list": [upstream_entry(upstream)]}, env=env, source=str(path or _UPSTREAM_OPTION))


def parse(document: Any, *, env: Mapping[str, str] | None = None, source: str = "") -> Settings:
    """Return the settings of an already read document; raises ConfigError with every mistake that was found."""
    # the one place where the environment is read
    variables = os.environ if env is None else env  # noqa: TID251
    values, missing = resolve(_mapping(document, source), variables)
    found: list[Mistake] = []
    try:
        settings = Settings.model_validate(values)
        broken: frozenset[str] = frozenset()
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        found = mistakes_of(errors, values)
        broken = frozenset(str(item["loc"][0]) for item in errors if item["loc"])
        settings = _sound_parts(values, broken)
    unresolved = {mistake.path for mistake in missing}
    mistakes = missing + [mistake for mistake in found if mistake.path not in unresolved]
    mistakes += contradictions(settings, broken=broken)
    if mistakes:
        raise ConfigError(tuple(mistakes), source)
    return settings


def upstream_entry(address: str) -> dict[str, Any]:
    """Return the one model entry that `--upstream ADDRESS` stands for; raises ConfigError for what is no HTTP address.

    An address without a path gets `/v1`, where OpenAI-compatible servers have their API; `/chat/completions` at its end is left out.
    """
    problem = _address_problem(address)
    if problem:
        raise ConfigError((Mistake(_UPSTREAM_OPTION, problem),), _UPSTREAM_OPTION)
    # the whole address of a call is what people copy from a provider's example
    base = address.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    base = base if urlsplit(base).path else f"{base}/v1"
    return {"model_name": "*", "litellm_params": {"model": "openai/*", "api_base": base, "api_key": CALLER_KEY}}


def _address_problem(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return "is not an address: it must be like https://host/v1"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "must be like https://host/v1"
    if parts.username or parts.password:
        return "must not hold a user or password"
    if parts.query or parts.fragment:
        return "must not hold a `?` or `#`"
    return None


def _mapping(document: Any, source: str) -> dict[str, Any]:
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError((Mistake("", "the file must be a mapping: `model_list:` and so on"),), source)
    return cast("dict[str, Any]", document)


def _sound_parts(values: Mapping[str, Any], broken: frozenset[str]) -> Settings:
    """Return settings of the parts that are sound, so that contradictions among these are told in the same go."""
    stand_in = {"model_list": [{"model_name": "stand-in", "litellm_params": {"model": "simulated/stand-in"}}]}
    return Settings.model_validate(stand_in | {key: value for key, value in values.items() if key not in broken})
