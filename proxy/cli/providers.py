"""What litellm makes of the configuration's models, without a call to any of them; importing it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.app.wiring import upstream_config
from proxy.model import Capability
from proxy.settings import Mistake, Settings
from proxy.upstream import library
from proxy.upstream.config import Entry, UpstreamConfig, UpstreamConfigError
from proxy.upstream.deployments import Routes, mistakes
from proxy.upstream.providers import resolve
from proxy.upstream.router import build

_NOWHERE = ("http://127.0.0.1:0/v1", "none")
"""In place of the simulated provider's address and key."""
_ANY_MODEL = "any"


@dataclass(frozen=True, slots=True)
class Found:
    """Where an alias leads."""

    model: str
    """As upstream knows it."""
    capability: Capability
    deployments: int
    """How many there are; this is the first of them."""


def find(alias: str, settings: Settings) -> Found | None:
    """Return the first deployment of an alias; None: no entry answers to it. Raises ValueError where litellm knows no provider."""
    route = Routes(_config(settings)).find(alias)
    if route is None:
        return None
    target = route.targets[0]
    resolved = resolve(library.load({}), target.entry, route.model_of(target))
    return Found(resolved.model, resolved.capability, len(route.targets))


def refused(settings: Settings) -> tuple[Mistake, ...]:
    """Return what upstream would refuse at start: entries that can't work, unknown providers, what the Router does not take."""
    config = _config(settings)
    if found := mistakes(config):
        return tuple(_placed(sentence) for sentence in found)
    if unknown := tuple(_unknown(config)):
        return unknown
    try:
        router = build(library.load({}), config, Routes(config))
    except UpstreamConfigError as error:
        return tuple(_placed(sentence) for sentence in error.mistakes)
    if router is not None:
        router.discard()
    return ()


def _placed(sentence: str) -> Mistake:
    path, _, message = sentence.partition(": ")
    return Mistake(path, message)


def _unknown(config: UpstreamConfig) -> Iterator[Mistake]:
    for index, entry in enumerate(config.entries):
        if problem := _problem(entry):
            yield Mistake(f"model_list[{index}].litellm_params.model", problem)


def _problem(entry: Entry) -> str | None:
    try:
        resolve(library.load({}), entry, str(entry.litellm_params["model"]).replace("*", _ANY_MODEL))
    except ValueError as error:
        return str(error)
    return None


def _config(settings: Settings) -> UpstreamConfig:
    return upstream_config(settings, _NOWHERE)
