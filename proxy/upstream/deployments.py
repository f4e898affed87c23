"""Which entry answers for which model name: exact names, then patterns, the most specific first; it knows no provider."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from proxy.upstream.capabilities import faults
from proxy.upstream.config import Entry, UpstreamConfig

FALLBACK_SETTINGS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_OWN_SETTINGS = frozenset({"model_list", "num_retries", "timeout"})
"""Router settings that this room sets itself."""
LITELLM_SETTINGS = frozenset({"drop_params", "modify_params"})
"""Attributes of the litellm module that may be set; none of them hands prompts to others."""
_COUNTED = frozenset({"rpm", "tpm", "max_parallel_requests"})
"""`litellm_params` that the Router alone enforces."""
_RETRIES = ("num_retries", "max_retries")


@dataclass(frozen=True, slots=True)
class Target:
    """One entry with its place in the file."""

    id: str
    """Safe to log; unique."""
    entry: Entry

    @property
    def model(self) -> str:
        """Return litellm's name of the model, `*` included."""
        return self.entry.litellm_params["model"]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model name leads."""

    name: str
    """The entries' `model_name`: `alias` itself or the pattern that it matches."""
    alias: str
    targets: tuple[Target, ...]
    routed: bool
    """litellm.Router answers: several targets, fallbacks, or a rate that it keeps."""

    def model_of(self, target: Target) -> str:
        """Return litellm's name of the model for this alias, the pattern's stars filled in."""
        model = target.model
        found = _regex(self.name).fullmatch(self.alias)
        if "*" not in model or found is None:
            return model
        for part in found.groups():
            model = model.replace("*", part, 1)
        return model


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "(.*)"), re.DOTALL)


class Routes:
    """The table of model names."""

    def __init__(self, config: UpstreamConfig) -> None:
        groups: dict[str, list[Target]] = {}
        for place, entry in enumerate(config.entries):
            groups.setdefault(entry.model_name, []).append(Target(f"{entry.model_name}#{place}", entry))
        self._groups = {name: tuple(targets) for name, targets in groups.items()}
        self._falling = _falling(config.router_settings)
        patterns = [name for name in self._groups if "*" in name]
        # litellm's order: the longest pattern says most
        self._patterns = [(_regex(name), name) for name in sorted(patterns, key=len, reverse=True)]

    def names(self) -> tuple[str, ...]:
        """Return the names that a caller can use as they stand, patterns left out."""
        return tuple(name for name in self._groups if "*" not in name)

    def find(self, alias: str) -> Route | None:
        """Return where `alias` leads; None: nowhere."""
        if alias in self._groups and "*" not in alias:
            return self._route(alias, alias)
        return next((self._route(name, alias) for regex, name in self._patterns if regex.fullmatch(alias)), None)

    def groups(self) -> dict[str, tuple[Target, ...]]:
        """Return the targets by `model_name`."""
        return self._groups

    def routed(self) -> bool:
        """Tell whether any call needs litellm.Router."""
        return any(self._route(name, name).routed for name in self._groups)

    def falls_back(self, name: str) -> bool:
        """Tell whether calls to this `model_name` have fallbacks."""
        return not self._falling.isdisjoint((name, "*"))

    def _route(self, name: str, alias: str) -> Route:
        targets = self._groups[name]
        callers = targets[0].entry.api_key_is_callers
        several = len(targets) > 1 or not self._falling.isdisjoint((name, alias, "*"))
        routed = not callers and (several or any(not _COUNTED.isdisjoint(t.entry.litellm_params) for t in targets))
        return Route(name, alias, targets, routed)


def _falling(router_settings: dict[str, Any]) -> frozenset[str]:
    """Return the names whose calls may fall back; `*`: all."""
    names = {name for setting in FALLBACK_SETTINGS for rule in router_settings.get(setting) or () for name in rule}
    return frozenset(names | ({"*"} if router_settings.get("default_fallbacks") else set()))


def _fallback_targets(router_settings: dict[str, Any]) -> set[str]:
    lists: list[list[Any]] = [router_settings.get("default_fallbacks") or []]
    lists += [to for setting in FALLBACK_SETTINGS for rule in router_settings.get(setting) or () for to in rule.values()]
    return {name for names in lists for name in names if isinstance(name, str)}


def mistakes(config: UpstreamConfig) -> list[str]:
    """Return what can't work, one sentence each with its path in the file; needs no litellm and no network."""
    found = [f"router_settings.{name}: set it at its own place" for name in sorted(_OWN_SETTINGS & config.router_settings.keys())]
    found += [f"litellm_settings.{name}: not supported" for name in sorted(config.litellm_settings.keys() - LITELLM_SETTINGS)]
    for place, entry in enumerate(config.entries):
        found += [f"model_list[{place}].{fault}" for fault in _entry_faults(entry)]
    if found:
        return found
    routes = Routes(config)
    found += [f"router_settings: {name!r} is no model" for name in sorted(_unknown_names(config, routes))]
    for name, targets in routes.groups().items():
        found += _caller_faults(name, targets, routes, _fallback_targets(config.router_settings))
    return found


def _entry_faults(entry: Entry) -> list[str]:
    found = [f"model_info.lessons.{fault}" for fault in faults(entry.lessons)]
    model = entry.litellm_params.get("model")
    if not isinstance(model, str) or not model:
        return [*found, "litellm_params.model: a name is needed"]
    if model.count("*") > entry.model_name.count("*"):
        found.append("litellm_params.model: more stars than model_name has")
    found += [f"litellm_params.{name}: set router_settings.num_retries" for name in _RETRIES if name in entry.litellm_params]
    if entry.api_key_is_callers:
        found += [f"litellm_params.{name}: not with `api_key: caller`" for name in sorted(_COUNTED & entry.litellm_params.keys())]
    provider, _, rest = model.partition("/")
    if "*" in model and ("*" in provider or not rest) and not entry.litellm_params.get("custom_llm_provider"):
        # else a caller would choose the provider, and with it the host that the key goes to
        found.append("litellm_params.model: name the provider before the star, such as openai/*")
    return found


def _unknown_names(config: UpstreamConfig, routes: Routes) -> set[str]:
    return {name for name in _fallback_targets(config.router_settings) if routes.find(name) is None}


def _caller_faults(name: str, targets: tuple[Target, ...], routes: Routes, fallen_to: set[str]) -> list[str]:
    if not any(target.entry.api_key_is_callers for target in targets):
        return []
    found: list[str] = []
    if len(targets) > 1:
        found.append(f"model_list: {name!r} has an entry with `api_key: caller`, which can have no sibling")
    if routes.falls_back(name):
        found.append(f"router_settings: {name!r} goes with the caller's key, so it can have no fallback")
    if name in fallen_to:
        found.append(f"router_settings: {name!r} goes with the caller's key, so it can be no fallback")
    return found
