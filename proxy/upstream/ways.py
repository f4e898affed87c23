"""Where each model name leads, found with litellm once a name: its deployments, its address, the keys that may go with it.

It sends nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from proxy.errors import NotFoundError
from proxy.model import Deployment, Json
from proxy.upstream.address import Address
from proxy.upstream.config import UpstreamConfig, UpstreamConfigError
from proxy.upstream.deployments import Route, Routes, Target
from proxy.upstream.foreign import Secrets
from proxy.upstream.prices import price
from proxy.upstream.providers import Resolved, address, resolve

_KNOWN_WAYS = 1024
_LONGEST_ALIAS = 256
_SHORTEST_KEY = 8
"""Shorter ones are placeholders for servers that want none; cutting them out would maim messages."""


@dataclass(frozen=True, slots=True)
class Way:
    """All that is known of one model name, found once."""

    route: Route
    deployments: tuple[Deployment, ...]
    """In the order of the route's targets."""
    address: Address | None
    """Where raw bytes go; None: through litellm."""
    secrets: Secrets
    """The operator's keys that may go with its calls; None: the caller's own goes."""


class Ways:
    """The table of `Way`s; `open` before anything but `knows` is asked."""

    def __init__(self, config: UpstreamConfig) -> None:
        self.routes = Routes(config)
        self._targets = {target.id: target for targets in self.routes.groups().values() for target in targets}
        self._keys: frozenset[str] = frozenset()
        self._ways: dict[str, Way] = {}
        self._litellm: Any = None
        self._opened_at = 0

    def open(self, litellm: Any) -> None:
        """Find every name of the configuration; raises UpstreamConfigError where litellm knows no provider for one."""
        self._litellm = litellm
        self._opened_at = int(time.time())
        if wrong := [fault for name in self.routes.names() if (fault := self._fault(name)) is not None]:
            raise UpstreamConfigError(wrong)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the operator's keys that are known by now: no message may show them."""
        return tuple(self._keys)

    def knows(self, model: str) -> bool:
        """Tell whether the configuration has a deployment for this alias."""
        return model in self._ways or (len(model) <= _LONGEST_ALIAS and self.routes.find(model) is not None)

    def find(self, model: str) -> Way:
        """Return the way of an alias; raises NotFoundError where it has none."""
        found = self._ways.get(model)
        if found is not None:
            return found
        route = self.routes.find(model) if len(model) <= _LONGEST_ALIAS else None
        if route is None:
            raise NotFoundError(f"The model {model[:_LONGEST_ALIAS]!r} does not exist here.", code="model_not_found", param="model")
        try:
            way = self._found(route)
        except ValueError as error:
            raise NotFoundError(f"The model {model!r} does not exist here.", code="model_not_found", param="model") from error
        if len(self._ways) >= _KNOWN_WAYS:
            self._ways.clear()
        self._ways[model] = way
        return way

    def target(self, deployment: Deployment) -> Target:
        """Return the entry behind a deployment."""
        return self._targets[deployment.id]

    def goes_by_router(self, target: Target) -> bool:
        """Tell whether litellm.Router keeps count of how this entry does; a pattern's it never rests."""
        name = target.entry.model_name
        route = None if "*" in name else self.routes.find(name)
        return route is not None and route.routed

    def models(self) -> tuple[Json, ...]:
        """Return the model objects of `GET /v1/models`; patterns name no model and are left out."""
        return tuple(
            {"id": name, "object": "model", "created": self._opened_at, "owned_by": _owner(self.find(name))} for name in self.routes.names()
        )

    def _found(self, route: Route) -> Way:
        known = [(target, resolve(self._litellm, target.entry, route.model_of(target))) for target in route.targets]
        deployments = tuple(self._deployment(target, resolved) for target, resolved in known)
        place = None if route.routed else address(known[0][0].entry, known[0][1])
        self._keys |= {resolved.key for _, resolved in known if resolved.key and len(resolved.key) >= _SHORTEST_KEY}
        secrets = None if known[0][0].entry.api_key_is_callers else self.keys
        return Way(route, deployments, place, secrets)

    def _deployment(self, target: Target, resolved: Resolved) -> Deployment:
        # LiteLLM users write prices into litellm_params too
        told = {**target.entry.litellm_params, **target.entry.prices}
        return Deployment(target.id, resolved.model, resolved.provider, resolved.capability, price(self._litellm, resolved, told))

    def _fault(self, name: str) -> str | None:
        route = self.routes.find(name)
        try:
            if route is not None:
                self._found(route)
        except ValueError as error:
            return f"model_list: {error}"
        return None


def _owner(way: Way) -> str:
    return way.route.targets[0].entry.owned_by or way.deployments[0].provider
