"""Settings turned into the plain values that the rooms are built from; it opens nothing."""

from __future__ import annotations

from collections.abc import Callable

from proxy.access.keys import Access, NamedKey
from proxy.model import Secret
from proxy.routes.openpaths import NamedPath, OpenPaths
from proxy.settings import ModelEntry, Settings
from proxy.upstream.config import Entry, UpstreamConfig
from proxy.upstream.deployments import Routes

_SIMULATED = "simulated/"


def uses_simulated(settings: Settings) -> bool:
    """Tell whether a model of the configuration is answered by the provider inside this process."""
    return any(entry.litellm_params.is_simulated for entry in settings.model_list)


def upstream_config(settings: Settings, simulated: tuple[str, str] | None) -> UpstreamConfig:
    """Return what upstream is built from. `simulated`: address and key of the provider in this process, where there is one."""
    return UpstreamConfig(
        entries=tuple(_entry(entry, simulated) for entry in settings.model_list),
        num_retries=settings.num_retries,
        timeout_s=settings.timeout_s,
        router_settings=settings.router_settings.passed_on(),
        litellm_settings=settings.litellm_settings.passed_on(),
        slots=settings.bounds.upstream_slots,
    )


def _entry(entry: ModelEntry, simulated: tuple[str, str] | None) -> Entry:
    params = entry.litellm_params.in_clear()
    owner: str | None = None
    if entry.litellm_params.is_simulated and simulated is not None:
        address, key = simulated
        params |= {"model": "openai/" + params["model"].removeprefix(_SIMULATED), "api_base": address, "api_key": key}
        owner = "simulated"
    return Entry(entry.model_name, params, entry.model_info.lessons.given(), owner, entry.model_info.prices())


def access(settings: Settings, digest_key: bytes) -> Access:
    """Return who may call."""
    keys = None
    if settings.access.mode == "keys":
        keys = [NamedKey(key.name, Secret(key.key.get_secret_value())) for key in settings.access.keys]
    return Access(digest_key=digest_key, keys=keys, keep_bearer=_any_callers_own(settings))


def open_paths(settings: Settings, config: UpstreamConfig) -> OpenPaths:
    """Return which paths are open beyond the built-in ones."""
    named = tuple(NamedPath(path.path, path.methods, path.model) for path in settings.passthrough)
    return OpenPaths(named, _callers_own(config) if _any_callers_own(settings) else None)


def _callers_own(config: UpstreamConfig) -> Callable[[str], bool]:
    routes = Routes(config)

    def callers_own(alias: str) -> bool:
        route = routes.find(alias)
        return route is not None and all(target.entry.api_key_is_callers for target in route.targets)

    return callers_own


def _any_callers_own(settings: Settings) -> bool:
    return any(entry.litellm_params.key_source == "caller" for entry in settings.model_list)
